"""What stands between the event loop and a task's coroutine, and sees the cancellations that go in.

A cancellation of the harness carries a token that nothing else does, so there is no doubt whether a task was told of
it; and whether the task then *returned*, as if it had not been told, is seen here as well.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio

from agentrun.testing.sweeping.judging import leaves
from agentrun.testing.sweeping.places import Place, has_begun, where

__all__ = ["Relay", "TaskRecord", "keep_for_ever"]

_MOST_DELIVERIES = 20  # a cancellation is delivered again at each await; the first ones tell the story


@dataclass(slots=True, eq=False)
class TaskRecord:
    """One task of a trial, or one thread.

    Attributes:
        number: 1 for the scenario's root, then in the order of their creation.
        name: Name of the task, or of its function.
        coro: Its coroutine, until it has ended; of a thread, the thread.
        ending: How it ended; ``"running"`` before.
        deliveries: Where it stood when the harness's cancellation was delivered to it.
        cuts: Where it stood when a cancellation, whosever it was, was delivered to it, since the injection; of a
            thread, where it stood when something was injected.
        kind: What it is.
        may_be_left: Whether it is no news that it is still alive in the end.
        raised_cancelled: Whether it ended with a cancellation, among what else it raised.
        outside: Trio's cancel status at the beginning of what `Backend.begin_watching` was called for; on trio only.
        told_of_outside: Whether its tasks have raised in it a cancellation that comes from out there.
        begins_at: Where it stands before its first step, if that is not the first line of its coroutine.
        works_for: The thread that has asked for it, and that waits for it; ``None`` if that is not known.
    """

    number: int
    name: str
    coro: Any
    ending: Literal["running", "returned", "raised"] = "running"
    deliveries: list[Place] = field(default_factory=list[Place])
    cuts: list[Place] = field(default_factory=list[Place])
    kind: Literal["task", "thread"] = "task"
    may_be_left: bool = False
    raised_cancelled: bool = False
    outside: Any = None
    told_of_outside: bool = False
    works_for: Any = None
    begins_at: Place | None = None

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.kind} {self.number} ({self.name})"

    def place(self) -> Place:
        """Where it stands."""
        if self.begins_at is not None and not has_begun(self.coro):
            return self.begins_at
        return where(self.coro)

    def cancelled(self, ours: bool) -> None:
        """A cancellation is about to go in: the harness's, or another."""
        if ours and len(self.deliveries) < _MOST_DELIVERIES:
            self.deliveries.append(self.place())
        if len(self.cuts) < _MOST_DELIVERIES:
            self.cuts.append(self.place())


def keep_for_ever(record: TaskRecord) -> None:
    """Keep a coroutine that nothing could end from being freed.

    Freeing it would close it. Code that swallows every exception goes on then, and since its event loop is gone, each
    of its awaits raises at once: it would never come back, not even at the end of the process.
    """
    if record.coro is not None and record.kind == "task":
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(record.coro))
        record.coro = None


class Relay(Coroutine[Any, Any, Any]):
    """Passes each step of a task on to its coroutine. The event loop takes it for the coroutine itself."""

    __slots__ = ("_coro", "_is_ours", "_record")

    def __init__(self, record: TaskRecord, is_ours: Callable[[BaseException], bool]) -> None:
        self._coro = record.coro
        self._record = record
        self._is_ours = is_ours

    def send(self, value: Any) -> Any:
        """One step. trio hands a cancellation in as a value: an ``outcome.Error``."""
        if value is not None:
            error = getattr(value, "error", None)
            if isinstance(error, anyio.get_cancelled_exc_class()):
                self._record.cancelled(self._is_ours(error))
        try:
            return self._coro.send(value)
        except BaseException as exc:
            self._ended(exc)
            raise

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """One step with an exception. asyncio throws a cancellation in."""
        exc = typ if val is None else val
        if isinstance(exc, asyncio.CancelledError):
            self._record.cancelled(self._is_ours(exc))
        try:
            return self._coro.throw(exc)
        except BaseException as raised:
            self._ended(raised)
            raise

    def _ended(self, exc: BaseException) -> None:
        record = self._record
        if isinstance(exc, StopIteration):
            record.ending = "returned"
        else:
            record.ending = "raised"
            record.raised_cancelled = any(isinstance(leaf, anyio.get_cancelled_exc_class()) for leaf in leaves(exc))
        record.coro = None  # its frame is gone, and what it held shall go, too

    def close(self) -> None:
        """Close the coroutine."""
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        generator: Generator[Any, Any, Any] = self._coro.__await__()
        return generator

    # What the event loops, anyio and inspect look at.

    @property
    def cr_frame(self) -> Any:
        """The coroutine's."""
        return self._coro.cr_frame

    @property
    def cr_running(self) -> bool:
        """The coroutine's."""
        return bool(self._coro.cr_running)

    @property
    def cr_suspended(self) -> bool:
        """The coroutine's."""
        return bool(self._coro.cr_suspended)

    @property
    def cr_await(self) -> Any:
        """The coroutine's."""
        return self._coro.cr_await

    @property
    def cr_code(self) -> Any:
        """The coroutine's."""
        return self._coro.cr_code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coro, name)  # such as its name, which a class cannot have as a property
