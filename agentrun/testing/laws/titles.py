"""The laws of a run by number, and which of them each check of a sweep is about."""

from __future__ import annotations

from typing import Final

from agentrun.testing.sweeping.verdicts import Check

__all__ = ["LAWS", "LAWS_OF_CHECKS"]

LAWS: Final[dict[int, str]] = {
    1: "nothing outlives its run",
    2: "one ending, told once",
    3: "interrupted is a result; cancelled is an exception",
    4: "the history is valid after every ending",
    5: "no input is lost, none is doubled",
    6: "teardown is ordered and bounded",
    7: "ordinary cleanup works",
    8: "no piece of user code can take another down by accident",
    9: "errors surface once, as themselves",
    10: "a slow watcher never holds an interrupt",
    11: "both backends agree",
    12: "every start has its end",
    13: "nothing acts before it may",
}
"""The laws of a run: number and title. The page "The semantics of a run" says what each means."""

LAWS_OF_CHECKS: Final[dict[Check, int]] = {
    "task": 1,
    "thread": 1,
    "asyncgen": 1,
    "resource": 1,
    "fd": 1,
    "subprocess": 1,
    "swallowed": 3,
    "exception": 9,
    "unhandled": 9,
    "grace": 6,
    "livelock": 6,
    "deadlock": 6,
    "diverged": 11,
    "aftermath": 1,
}
"""What is found in any program, as the law that it breaks if the program is a run."""
