"""What a sweep finds: violations, and what the checks are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from agentrun.core.errors import UserError
from agentrun.testing.places import Place

__all__ = ["CHECKS", "Check", "SweepRefused", "Violation"]

Check: TypeAlias = Literal[
    "task",
    "thread",
    "asyncgen",
    "resource",
    "fd",
    "subprocess",
    "swallowed",
    "exception",
    "grace",
    "livelock",
    "deadlock",
    "oracle",
    "diverged",
    "law",
]

CHECKS: Final[dict[Check, str]] = {
    "task": "a task was left behind",
    "thread": "a thread was left behind",
    "asyncgen": "an asynchronous generator was left behind",
    "resource": "something was left open",
    "fd": "a file descriptor was left open",
    "subprocess": "a process was left behind",
    "swallowed": "a cancellation was swallowed",
    "exception": "an unexpected exception",
    "grace": "the teardown took too long",
    "livelock": "livelock",
    "deadlock": "deadlock",
    "oracle": "the oracle's verdict",
    "diverged": "not the same as the baseline",
    "law": "a law of the run is broken",
}
"""What each check is called in messages."""


class SweepRefused(UserError):
    """A sweep cannot do this scenario; the message says what is in its way and what to do instead."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that was wrong after, or during, one run of the scenario.

    Attributes:
        check: Which check found it.
        message: What it found.
        place: The line it is about, if there is one.
    """

    check: Check
    message: str
    place: Place | None = None

    def __str__(self) -> str:
        where = f" {self.place}" if self.place is not None else ""
        return f"{CHECKS[self.check]}: {self.message}{where}"
