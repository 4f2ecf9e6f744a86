"""The running event loop's own kinds of scope, event and clock, looked up once for each kind of event loop.

``anyio.CancelScope()``, ``anyio.Event()`` and ``anyio.current_time()`` find out each time which event loop is running,
and initialise twice what they make. A run needs some three dozen of them.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.lowlevel
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
        checkpoint_if_cancelled: Its `anyio.lowlevel.checkpoint_if_cancelled`.
        current_task: The current task of asyncio; ``None`` on trio.
        native_loop: Gives the event loop that is running, as itself or, on trio, as its token.
        innermost: Gives an object and the name of its attribute that holds, at any time, which scope the current task
            is in; ``None`` in place of the object if that cannot be known.
    """

    __slots__ = (
        "cancelled",
        "checkpoint",
        "checkpoint_if_cancelled",
        "clock",
        "current_task",
        "event",
        "innermost",
        "native_loop",
        "scope",
        "task_group",
        "time",
        "wake_up",
    )

    def __init__(self, cancelled: type[BaseException]) -> None:
        self.cancelled: type[BaseException] = cancelled
        self.scope: type[anyio.CancelScope] = type(anyio.CancelScope())
        self.event: type[anyio.Event] = type(anyio.Event())
        self.wake_up: Callable[[], WakeUp]
        self.task_group: type[TaskGroup] = type(anyio.create_task_group())
        self.time: Callable[[], float]
        self.clock: Callable[[], Callable[[], float]]
        self.checkpoint: Callable[[], Awaitable[object]]
        of_anyio: Any = anyio.lowlevel.current_token().backend_class
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]] = of_anyio.checkpoint_if_cancelled
        self.current_task: Callable[[], Any]
        self.native_loop: Callable[[], object]
        self.innermost: Callable[[], tuple[Any, str]]
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
        self.native_loop = trio.lowlevel.current_trio_token
        self.innermost = _innermost_by(trio.lowlevel.current_task, "_cancel_status")

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
        self.current_task = current = loaded.current_task
        self.native_loop = running_loop
        states: Any = getattr(sys.modules.get("anyio._backends._asyncio"), "_task_states", None)
        self.innermost = _innermost_by(lambda: states[current()], "cancel_scope")


def _no_task() -> None:
    return None


def _innermost_by(find: Callable[[], Any], attribute: str) -> Callable[[], tuple[Any, str]]:
    """For `Backend.innermost`. Neither anyio nor trio tells in public which scope a task is in.

    Where a version of theirs keeps that is nothing to rely on: if it is not there, it is not known.
    """

    def innermost() -> tuple[Any, str]:
        try:
            return find(), attribute
        except Exception:  # noqa: BLE001 - whatever a private name may do in another version
            return None, attribute

    return innermost


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
