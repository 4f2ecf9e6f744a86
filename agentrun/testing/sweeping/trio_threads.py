"""Virtual threads on trio: those of ``trio.to_thread`` and ``anyio.to_thread``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from agentrun.testing.sweeping.baton import VirtualThread, current_thread
from agentrun.testing.sweeping.crew import Crew
from agentrun.testing.sweeping.relay import TaskRecord
from agentrun.testing.sweeping.thread_patches import wait_until

if TYPE_CHECKING:
    from agentrun.testing.sweeping.points import Trial

__all__ = ["TrioCrew", "asked_from", "virtual_worker_threads"]


class TrioCrew(Crew):
    """Threads that a system task lets take their steps, each one; so trio's scheduler decides about their order, too.

    Attributes:
        starting: The record of the thread whose task is being spawned.
    """

    def __init__(self, trial: Trial, records: Mapping[Any, TaskRecord]) -> None:
        """Args:
        trial: The trial.
        records: Those of its tasks.
        """
        super().__init__(trial)
        self._tasks = records
        self.starting: TaskRecord | None = None
        self._woken: dict[VirtualThread, Any] = {}

    def start(self, fn: Callable[[], Any], deliver: Callable[[Any], object], name: str | None) -> None:
        """What trio asks of its cache of threads: have ``deliver`` called with what came of ``fn``, in a thread."""
        import outcome
        import trio

        asked_by = self._tasks.get(trio.lowlevel.current_task())
        thread = self.make(
            lambda: deliver(outcome.capture(fn)), name or "trio worker thread", _inside(fn), asked_by, self._wake
        )
        self.starting = self.record(thread)
        try:
            trio.lowlevel.spawn_system_task(self._drive, thread, name=name)
        finally:
            self.starting = None

    def _wake(self, thread: VirtualThread, pause: int) -> None:
        if thread.pauses == pause:
            self._woken[thread].set()

    async def _drive(self, thread: VirtualThread) -> None:
        import trio

        while self._trial.active and thread.alive:
            self.resume(thread)
            if thread.alive:
                self._woken[thread] = woken = trio.Event()
                with trio.move_on_after(thread.seconds if thread.seconds is not None else float("inf")):
                    await woken.wait()


def _inside(fn: Any) -> Any:
    """The function that was asked for: trio has one of its own around it, and so has anyio."""
    for name in ("sync_fn", "func"):
        names: tuple[str, ...] = getattr(getattr(fn, "__code__", None), "co_freevars", ())
        if name in names:
            fn = fn.__closure__[names.index(name)].cell_contents
    return fn


class _Answer:
    """What a thread has asked the event loop for."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._wake: Callable[[], object] | None = None

    def put_nowait(self, item: Any) -> None:
        """The answer. In the event loop."""
        self._items.append(item)
        if self._wake is not None:
            self._wake()

    def get(self) -> Any:
        """Wait for the answer. In the thread."""
        wait_until(lambda: bool(self._items), self._remember, None)
        return self._items.pop()

    def _remember(self, wake: Callable[[], object]) -> None:
        self._wake = wake


def asked_from(coro: Any) -> VirtualThread | None:
    """The thread that has asked the event loop to run this, if it is the task of an async function of that kind."""
    from trio import _threads

    internals: Any = _threads
    if getattr(coro, "cr_code", None) is not internals.Run.run_system.__code__:
        return None
    thread: VirtualThread | None = getattr(coro.cr_frame.f_locals["self"], "_asked_from", None)
    return thread


@contextlib.contextmanager
def virtual_worker_threads(crew: Callable[[], TrioCrew | None]) -> Generator[None]:
    """Make trio's worker threads virtual, inside this block.

    Args:
        crew: The crew of the trial if the task that runs now is one of a scenario's.
    """
    from trio import _threads
    from trio._core._thread_cache import ThreadCache

    threads: Any = _threads
    cache: Any = ThreadCache
    start, send = cache.start_thread_soon, threads._send_message_to_trio

    def start_thread_soon(self: Any, fn: Any, deliver: Any, name: str | None = None) -> None:
        ours = crew()
        if ours is None:
            start(self, fn, deliver, name)
        else:
            ours.start(fn, deliver, name)

    def send_message_to_trio(trio_token: Any, message_to_trio: Any) -> Any:
        if (thread := current_thread()) is not None:
            object.__setattr__(message_to_trio, "queue", _Answer())  # it is frozen
            object.__setattr__(message_to_trio, "_asked_from", thread)
        return send(trio_token, message_to_trio)

    cache.start_thread_soon, threads._send_message_to_trio = start_thread_soon, send_message_to_trio
    try:
        yield
    finally:
        cache.start_thread_soon, threads._send_message_to_trio = start, send
