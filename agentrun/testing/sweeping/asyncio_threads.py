"""Virtual threads on asyncio: those of ``anyio.to_thread``, ``asyncio.to_thread``, ``loop.run_in_executor(None)``."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, cast

from agentrun.testing.sweeping.baton import VirtualThread
from agentrun.testing.sweeping.crew import Crew
from agentrun.testing.sweeping.relay import TaskRecord

if TYPE_CHECKING:
    from agentrun.testing.sweeping.points import Trial

__all__ = ["AsyncioCrew", "virtual_worker_threads"]


class AsyncioCrew(Crew):
    """Threads whose steps are callbacks of the loop."""

    def __init__(self, trial: Trial, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(trial)
        self._loop = loop

    def start(self, target: Callable[[], object], name: str, function: Any) -> None:
        """Start a thread for a function, in a step of the loop after this one."""
        asked_by: TaskRecord | None = getattr(asyncio.current_task(), "record", None)
        thread = self.make(target, name, function, asked_by, self._wake)
        self._loop.call_soon(self._step, thread, 0)

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Call a function in a thread, as a thread pool would. The future tells what came of it."""
        promise: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def in_thread() -> None:
            if promise.set_running_or_notify_cancel():
                try:
                    value = function(*args)
                except BaseException as exc:  # noqa: BLE001 - told
                    promise.set_exception(exc)
                else:
                    promise.set_result(value)

        self.start(in_thread, "asyncio", function)
        return asyncio.wrap_future(promise, loop=self._loop)

    def _wake(self, thread: VirtualThread, pause: int) -> None:
        self._loop.call_soon(self._step, thread, pause)

    def _step(self, thread: VirtualThread, pause: int) -> None:
        trial = self._trial
        if not trial.active or thread.pauses != pause or thread.state not in ("new", "paused"):
            return  # it was woken for another reason, or the scenario has ended: nothing moves any more
        record = self.record(thread)
        trial.before_step(record)
        self.resume(thread)
        if thread.state == "paused" and thread.seconds is not None:
            self._loop.call_later(thread.seconds, self._step, thread, thread.pauses)
        if trial.active:
            trial.after_step(record, not thread.alive)


class _Loop(Protocol):
    crew: AsyncioCrew


class _OneItem:
    """The queue of a worker thread that gets one piece of work, and is told to stop then."""

    def __init__(self, start: Callable[[Any], object]) -> None:
        self._items: list[Any] = []
        self._start = start

    def put_nowait(self, item: Any) -> None:
        """The work; or ``None``, which would stop the thread: it stops anyway."""
        if item is not None:
            self._items = [None, item]
            self._start(item[1])  # the function

    def get(self) -> Any:
        """The work, then ``None``."""
        return self._items.pop()

    def task_done(self) -> None:
        """Nobody waits for that."""


@contextlib.contextmanager
def virtual_worker_threads(is_ours: Callable[[object], bool]) -> Generator[None]:
    """Make the worker threads of anyio virtual, inside this block.

    Args:
        is_ours: Whether a loop is one of a trial.
    """
    from anyio._backends import _asyncio as backend

    worker: Any = backend.WorkerThread
    own = worker.__dict__.get("start")

    def start(self: Any) -> None:
        if not is_ours(self.loop):
            (own.__get__(self) if own is not None else cast("Any", super(worker, self)).start)()
            return
        self.stopping = True  # so that it does not count as idle afterwards: each call has a thread of its own
        crew = cast("_Loop", self.loop).crew
        self.queue = _OneItem(lambda function: crew.start(self.run, self.name, function))

    worker.start = start
    try:
        yield
    finally:
        if own is not None:
            worker.start = own
        else:
            del worker.start
