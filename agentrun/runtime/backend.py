"""The running event loop's own kinds of scope, event and clock, looked up once for each kind of event loop.

``anyio.CancelScope()``, ``anyio.Event()`` and ``anyio.current_time()`` find out each time which event loop is running,
and initialise twice what they make. A run needs some three dozen of them.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from agentrun.runtime.ctrl_c import activate_on_trio

if TYPE_CHECKING:
    import asyncio

__all__ = ["Backend", "WakeUp", "running_backend"]


WakeUp: TypeAlias = Awaitable[object]
"""What one task awaits, once, until `Backend.wake` is called for it: an event for that task alone, and cheaper.

A checkpoint, unless that was called before.
"""


class Backend:
    """What is different on each kind of event loop.

    Attributes:
        cancelled: Its class of cancellations.
        scope: Its `anyio.CancelScope`.
        event: Its `anyio.Event`.
        task_group: Its kind of `anyio.abc.TaskGroup`.
        wake_up: Makes a `WakeUp`.
        wake: Ends the wait for one. May be called any number of times.
        time: Its `anyio.current_time`.
        clock: Gives the same for the running event loop alone: what does not look for it each time.
        checkpoint: Its `anyio.lowlevel.checkpoint`.
        checkpoint_if_cancelled: Its `anyio.lowlevel.checkpoint_if_cancelled`.
        current_task: The current task of asyncio; ``None`` on trio.
        in_task: Whether a task of its is running here.
        native_loop: Gives the event loop that is running, as itself or, on trio, as its token.
        innermost: Gives an object and the name of its attribute that holds, at any time, which scope the current task
            is in, which is to be given as `current_task` gives it; ``None`` in place of the object if that cannot be
            known.
    """

    __slots__ = (
        "cancelled",
        "checkpoint",
        "checkpoint_if_cancelled",
        "clock",
        "current_task",
        "event",
        "in_task",
        "innermost",
        "native_loop",
        "scope",
        "task_group",
        "time",
        "wake",
        "wake_up",
    )

    def __init__(self, cancelled: type[BaseException]) -> None:
        self.cancelled: type[BaseException] = cancelled
        self.scope: type[anyio.CancelScope] = type(anyio.CancelScope())
        self.event: type[anyio.Event] = type(anyio.Event())
        self.wake_up: Callable[[], WakeUp]
        self.wake: Callable[[Any], None]
        self.task_group: type[TaskGroup] = type(anyio.create_task_group())
        self.time: Callable[[], float]
        self.clock: Callable[[], Callable[[], float]]
        self.checkpoint: Callable[[], Awaitable[object]]
        of_anyio: Any = anyio.lowlevel.current_token().backend_class
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]] = of_anyio.checkpoint_if_cancelled
        self.current_task: Callable[[], Any]
        self.in_task: Callable[[], bool]
        self.native_loop: Callable[[], object]
        self.innermost: Callable[[Any], tuple[Any, str]]
        if cancelled.__module__.startswith("asyncio"):
            self._use_asyncio()
        else:
            self._use_trio()

    def _use_trio(self) -> None:
        trio: Any = sys.modules["trio"]
        activate_on_trio()
        self.wake_up, self.wake = _wake_ups_of_trio(trio.lowlevel)
        self.time = trio.current_time
        self.clock = lambda: trio.current_time
        self.checkpoint = trio.lowlevel.checkpoint
        self.current_task = _no_task
        self.in_task = trio.lowlevel.in_trio_task
        self.native_loop = trio.lowlevel.current_trio_token
        self.innermost = _innermost_by(lambda _: trio.lowlevel.current_task(), "_cancel_status")

    def _use_asyncio(self) -> None:
        loaded: Any = sys.modules["asyncio"]
        running_loop: Callable[[], Any] = loaded.get_running_loop
        sleep: Callable[[float], Awaitable[object]] = loaded.sleep
        self.wake_up, self.wake = loaded.Future, _wake_future  # `anyio.Event` has two more objects and a deque
        self.time = lambda: running_loop().time()
        self.clock = lambda: running_loop().time
        self.checkpoint = lambda: sleep(0)
        self.current_task = current = loaded.current_task
        self.in_task = lambda: _is_some(current)
        self.native_loop = running_loop
        states: Any = getattr(sys.modules.get("anyio._backends._asyncio"), "_task_states", None)
        self.innermost = _innermost_by(lambda task: states[task], "cancel_scope")


def _no_task() -> None:
    return None


def _is_some(current_task: Callable[[], object]) -> bool:
    try:
        return current_task() is not None  # there is none in the steps of a trio that is a guest of asyncio's
    except RuntimeError:
        return False


def _wake_future(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _nothing() -> Generator[None, None, None]:
    yield from ()


def _wake_ups_of_trio(lowlevel: Any) -> tuple[Callable[[], WakeUp], Callable[[Any], None]]:
    current_task, wait_task_rescheduled = lowlevel.current_task, lowlevel.wait_task_rescheduled
    reschedule, succeeded = lowlevel.reschedule, lowlevel.Abort.SUCCEEDED

    class ParkedTask:
        """The task alone, where `trio.Event` has a set of them."""

        __slots__ = ("_task", "_woken")

        def __init__(self) -> None:
            self._task: Any = None
            self._woken = False

        def wake(self) -> None:
            self._woken = True
            if self._task is not None:
                task, self._task = self._task, None
                reschedule(task)

        def __await__(self) -> Generator[Any, Any, object]:
            if self._woken:
                return _nothing()
            self._task = current_task()
            waiting: Generator[Any, Any, object] = wait_task_rescheduled(self._give_up).__await__()
            return waiting

        def _give_up(self, _raise_cancel: object) -> Any:
            self._task = None
            return succeeded

    return ParkedTask, ParkedTask.wake


def _innermost_by(find: Callable[[Any], Any], attribute: str) -> Callable[[Any], tuple[Any, str]]:
    """For `Backend.innermost`. Neither anyio nor trio tells in public which scope a task is in.

    Where a version of theirs keeps that is nothing to rely on: if it is not there, it is not known.
    """

    def innermost(task: Any) -> tuple[Any, str]:
        try:
            return find(task), attribute
        except Exception:  # noqa: BLE001 - whatever a private name may do in another version
            return None, attribute

    return innermost


_known: dict[type[BaseException], Backend] = {}
_last: Backend | None = None  # nearly all programs have one kind, and anyio looks at more before it knows


def running_backend() -> Backend:
    """That of the running event loop.

    Raises:
        NoEventLoopError: None is running.
    """
    global _last
    last = _last
    if last is not None and last.in_task():
        return last
    cancelled = anyio.get_cancelled_exc_class()
    backend = _known.get(cancelled)
    if backend is None:
        backend = _known[cancelled] = Backend(cancelled)
    _last = backend
    return backend
