"""The running event loop's own kinds of scope, event and clock, looked up once for each kind of event loop.

``anyio.CancelScope()``, ``anyio.Event()`` and ``anyio.current_time()`` find out each time which event loop is running,
and initialise twice what they make. A run needs some three dozen of them.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.abc import TaskGroup

from agentrun.runtime.ctrl_c import activate_on_trio

if TYPE_CHECKING:
    import asyncio

__all__ = ["Backend", "WakeUp", "running_backend"]


class WakeUp(Protocol):
    """Wakes one task, once. An event that costs less, and that only the task that made it may wait for."""

    def set(self) -> None:
        """Wake the task. May be called any number of times."""
        ...

    def wait(self) -> Awaitable[object]:
        """Wait for `set`. A checkpoint, unless that was called before."""
        ...


class Backend:
    """What is different on each kind of event loop.

    Attributes:
        cancelled: Its class of cancellations.
        scope: Its `anyio.CancelScope`.
        event: Its `anyio.Event`.
        task_group: Its kind of `anyio.abc.TaskGroup`.
        wake_up: Its `WakeUp`.
        time: Its `anyio.current_time`.
        clock: Gives the same for the running event loop alone: what does not look for it each time.
        checkpoint: Its `anyio.lowlevel.checkpoint`.
        current_task: The current task of asyncio; ``None`` on trio.
    """

    __slots__ = ("cancelled", "checkpoint", "clock", "current_task", "event", "scope", "task_group", "time", "wake_up")

    def __init__(self, cancelled: type[BaseException]) -> None:
        self.cancelled: type[BaseException] = cancelled
        self.scope: type[anyio.CancelScope] = type(anyio.CancelScope())
        self.event: type[anyio.Event] = type(anyio.Event())
        self.wake_up: Callable[[], WakeUp]
        self.task_group: type[TaskGroup] = type(anyio.create_task_group())
        self.time: Callable[[], float]
        self.clock: Callable[[], Callable[[], float]]
        self.checkpoint: Callable[[], Awaitable[object]]
        self.current_task: Callable[[], Any]
        if cancelled.__module__.startswith("asyncio"):
            self._use_asyncio()
        else:
            self._use_trio()

    def _use_trio(self) -> None:
        trio: Any = sys.modules["trio"]
        activate_on_trio()
        self.wake_up = trio.Event
        self.time = trio.current_time
        self.clock = lambda: trio.current_time
        self.checkpoint = trio.lowlevel.checkpoint
        self.current_task = _no_task

    def _use_asyncio(self) -> None:
        loaded: Any = sys.modules["asyncio"]
        running_loop: Callable[[], Any] = loaded.get_running_loop
        future: Callable[[], asyncio.Future[None]] = loaded.Future

        class FutureWakeUp:
            """A future alone, where `anyio.Event` has two objects, a deque and a future."""

            __slots__ = ("_future",)

            def __init__(self) -> None:
                self._future = future()

            def set(self) -> None:
                if not self._future.done():
                    self._future.set_result(None)

            def wait(self) -> Awaitable[object]:
                return self._future

        sleep: Callable[[float], Awaitable[object]] = loaded.sleep
        self.wake_up = FutureWakeUp
        self.time = lambda: running_loop().time()
        self.clock = lambda: running_loop().time
        self.checkpoint = lambda: sleep(0)
        self.current_task = loaded.current_task


def _no_task() -> None:
    return None


_known: dict[type[BaseException], Backend] = {}


def running_backend() -> Backend:
    """That of the running event loop.

    Raises:
        NoEventLoopError: None is running.
    """
    cancelled = anyio.get_cancelled_exc_class()
    backend = _known.get(cancelled)
    if backend is None:
        backend = _known[cancelled] = Backend(cancelled)
    return backend
