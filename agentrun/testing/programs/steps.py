"""What the body of a tool is made of, and its cleanup."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from agentrun.core.errors import UserError
from agentrun.testing.programs.rendering import Plan

__all__ = [
    "Cleanup",
    "Critical",
    "Enter",
    "Group",
    "Look",
    "LoopCall",
    "Native",
    "OnCleanup",
    "Progress",
    "Raise",
    "Request",
    "Shielded",
    "Sleep",
    "Step",
    "Swallow",
    "ThreadStep",
    "Timeout",
    "UntilInterrupted",
    "check_seconds",
]


def check_seconds(plan: Any, *names: str) -> None:
    """Refuse what is no number of seconds.

    Raises:
        UserError: It names the argument.
    """
    for name in names:
        value = getattr(plan, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value < 0:
            raise UserError(f"{type(plan).__name__}.{name} must be 0 or more seconds, not {value!r}")


class _Step(Plan):
    __slots__ = ()

    def misbehaves(self, grace: float) -> bool:
        """Whether the teardown may have something to say about it."""
        return False


@dataclass(frozen=True, slots=True, repr=False)
class Cleanup(Plan):
    """What a ``finally`` does.

    Attributes:
        seconds: How long it takes: a checkpoint, half of the time, the other half.
        shielded: Whether it shields itself.
        raises: Whether it raises in the end.
    """

    seconds: float = 0.0
    shielded: bool = False
    raises: bool = False

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")


@dataclass(frozen=True, slots=True, repr=False)
class Sleep(_Step):
    """Sleep. ``float("inf")`` is a tool that hangs. A sync tool does not look at its cancellation meanwhile."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")


@dataclass(frozen=True, slots=True, repr=False)
class Shielded(_Step):
    """Sleep in a shield."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")


@dataclass(frozen=True, slots=True, repr=False)
class Critical(_Step):
    """Sleep in ``ctx.critical(most)``."""

    seconds: float = 0.0
    most: float = 60.0

    def __post_init__(self) -> None:
        check_seconds(self, "seconds", "most")

    def misbehaves(self, grace: float) -> bool:
        """It may take too long."""
        return self.seconds >= self.most


@dataclass(frozen=True, slots=True, repr=False)
class Swallow(_Step):
    """Sleep, swallow a cancellation that comes meanwhile, and go on."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")

    def misbehaves(self, grace: float) -> bool:
        """That is what it is for."""
        return True


@dataclass(frozen=True, slots=True, repr=False)
class Raise(_Step):
    """Raise: an error, a `ToolError` (``"fatal"``), or a foreign cancellation (``"cancellation"``; asyncio only).

    Attributes:
        what: Which.
        times: Only in so many attempts; 0 means in each.
    """

    what: Literal["error", "fatal", "cancellation"] = "error"
    times: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Group(_Step):
    """Wait for the tasks of a task group.

    Attributes:
        tasks: How many.
        seconds: How long each of them sleeps.
        cleanup: What the ``finally`` of each does.
        fails: Whether the last one raises in the end.
    """

    tasks: int = 2
    seconds: float = 0.0
    cleanup: Cleanup | None = None
    fails: bool = False

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")

    def misbehaves(self, grace: float) -> bool:
        """An error of one of its tasks may come together with the cancellation."""
        return self.fails or (self.cleanup is not None and self.cleanup.raises)

    @property
    def tasks_fail_together(self) -> bool:
        """Whether more than one of its tasks may raise in the same moment, unless the first cuts the others."""
        return self.tasks > 1 and self.cleanup is not None and self.cleanup.raises and not self.cleanup.shielded

    @property
    def may_outlast_a_cancellation(self) -> bool:
        """Whether its tasks may all return although it was cancelled: a shield of their own has kept it from them."""
        return self.cleanup is not None and self.cleanup.shielded and not self.cleanup.raises and not self.fails


@dataclass(frozen=True, slots=True, repr=False)
class Native(_Step):
    """Sleep in asyncio's own ``gather``, ``wait_for``, ``timeout``, ``TaskGroup`` or ``shield`` (whose inner task is
    cancelled and awaited in the end). On trio it just sleeps."""

    how: Literal["gather", "wait_for", "timeout", "TaskGroup", "shield"] = "gather"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")

    @property
    def may_swallow(self) -> bool:
        """``wait_for`` did before Python 3.12: a cancellation that comes as what it waits for ends."""
        return self.how == "wait_for" and sys.version_info < (3, 12)

    def misbehaves(self, grace: float) -> bool:
        """It may swallow a cancellation."""
        return self.may_swallow


@dataclass(frozen=True, slots=True, repr=False)
class Timeout(_Step):
    """Sleep for ``longer`` in a timeout of its own of ``seconds``, and go on."""

    seconds: float = 0.1
    longer: float = 1.0

    def __post_init__(self) -> None:
        check_seconds(self, "seconds", "longer")


@dataclass(frozen=True, slots=True, repr=False)
class OnCleanup(_Step):
    """``ctx.on_cleanup(...)``."""

    seconds: float = 0.0
    raises: bool = False

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")

    def misbehaves(self, grace: float) -> bool:
        """It raises, or takes too long."""
        return self.raises or self.seconds >= grace


@dataclass(frozen=True, slots=True, repr=False)
class Enter(_Step):
    """``await ctx.enter_async_context(...)`` of something that takes ``entering`` and ``leaving`` seconds."""

    entering: float = 0.0
    leaving: float = 0.0
    raises: bool = False

    def __post_init__(self) -> None:
        check_seconds(self, "entering", "leaving")

    def misbehaves(self, grace: float) -> bool:
        """It raises, or takes too long."""
        return self.raises or self.leaving >= grace


@dataclass(frozen=True, slots=True, repr=False)
class Progress(_Step):
    """``ctx.progress(...)`` so many times."""

    count: int = 1


@dataclass(frozen=True, slots=True, repr=False)
class UntilInterrupted(_Step):
    """``await ctx.wait_interrupted()``, for at most so long."""

    most: float = 1.0

    def __post_init__(self) -> None:
        check_seconds(self, "most")


@dataclass(frozen=True, slots=True, repr=False)
class Request(_Step):
    """Do something to the run from inside of the tool."""

    action: Literal["interrupt", "after_turn", "inject_next", "inject_now", "inject_idle"] = "inject_next"


@dataclass(frozen=True, slots=True, repr=False)
class Look(_Step):
    """Of a sync tool: sleep ``times`` times ``each`` seconds, and look at ``ctx.check_cancelled()`` before and after
    each."""

    each: float = 0.1
    times: int = 1

    def __post_init__(self) -> None:
        check_seconds(self, "each")


@dataclass(frozen=True, slots=True, repr=False)
class LoopCall(_Step):
    """Of a sync tool: have the event loop sleep, and wait for it (``anyio.from_thread.run``)."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")


ThreadStep: TypeAlias = Sleep | Look | Raise | OnCleanup | Progress | LoopCall | Request
"""What the body of a sync tool may do, in its thread."""

Step: TypeAlias = (
    Sleep
    | Shielded
    | Critical
    | Swallow
    | Raise
    | Group
    | Native
    | Timeout
    | OnCleanup
    | Enter
    | Progress
    | UntilInterrupted
    | Request
    | Look
    | LoopCall
)
"""What the body of a tool may do. A sync one may do what is a `ThreadStep`, and only that; an async one all but `Look`
and `LoopCall`."""
