"""What a sweep finds: violations, and what the checks are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from agentrun.core.errors import UserError
from agentrun.testing.sweeping.places import Place

__all__ = ["CHECKS", "BrokenLaw", "Check", "SweepRefused", "Violation", "hidden_in_pytest"]


def hidden_in_pytest(excinfo: Any) -> bool:
    """For ``__tracebackhide__``, which pytest asks for each frame of a failure.

    What a sweep has to say is about the test that called it, whose line shall be seen. Anything else that is raised is
    a bug of ours, with all lines.
    """
    return isinstance(excinfo.value, (UserError, AssertionError))


__tracebackhide__ = hidden_in_pytest

Check: TypeAlias = Literal[
    "task",
    "thread",
    "asyncgen",
    "resource",
    "fd",
    "subprocess",
    "swallowed",
    "exception",
    "unhandled",
    "grace",
    "livelock",
    "deadlock",
    "oracle",
    "diverged",
    "aftermath",
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
    "unhandled": "an exception that reached nobody",
    "grace": "the teardown took too long",
    "livelock": "livelock",
    "deadlock": "deadlock",
    "oracle": "the oracle's verdict",
    "diverged": "not the same as the baseline",
    "aftermath": "a later run is not the same, so the sweep ends here",
    "law": "a law of the run is broken",
}
"""What each check is called in messages."""


class BrokenLaw(AssertionError):
    """A law of a run that one has broken. An oracle may raise it, too, to say which law it is about.

    Attributes:
        law: Its number.
        evidence: What was seen.
    """

    def __init__(self, law: int, evidence: str) -> None:
        super().__init__(law, evidence)
        self.law = law
        self.evidence = evidence

    def __str__(self) -> str:
        return f"law {self.law}: {self.evidence}"


class SweepRefused(UserError):
    """A sweep cannot do this scenario; the message says what is in its way and what to do instead."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that was wrong after, or during, one run of the scenario.

    Attributes:
        check: Which check found it.
        message: What it found.
        place: The line it is about, if there is one.
        law: Number of the law of a run that is broken by it, if the scenario was a run; see "The semantics of a run".
    """

    check: Check
    message: str
    place: Place | None = None
    law: int | None = None

    def __str__(self) -> str:
        law = f"law {self.law}: " if self.law is not None else ""
        what = "" if self.check == "law" else f"{CHECKS[self.check]}: "
        where = f" {self.place}" if self.place is not None else ""
        return f"{law}{what}{self.message}{where}"
