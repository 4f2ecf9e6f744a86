"""Synchronous user code in worker threads, with a cancellation that threads can see.

Python cannot stop a thread. When the call is cancelled, the thread is told through a flag (``ctx.check_cancelled()``
raises), and awaited for as long as the grace lasts: what it returns in that time counts. A thread that does not look
is then left behind, and named in the teardown report.

What else was considered: waiting for ever (an interrupt could then take for ever), and anyio's own
``from_thread.check_cancelled`` (its view of the cancellation ends when the shield of the grace goes up).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from agentrun.core.errors import CallCancelled
from agentrun.runtime.ctrl_c import uninterruptible

__all__ = ["ThreadCall"]

_T = TypeVar("_T")


class ThreadCall(Generic[_T]):
    """One call in a worker thread.

    Attributes:
        abandoned: The grace ended before the thread did; what it does now, nobody knows.
        thread_name: Name of the thread, once it has begun.
    """

    def __init__(self, function: Callable[[], _T], on_cancel: Callable[[], None]) -> None:
        """Args:
        function: What to call.
        on_cancel: Called when the cancellation has reached the task that waits for the thread.
        """
        self._function = function
        self._on_cancel = on_cancel
        self._value: _T | None = None
        self._error: BaseException | None = None
        self._finished = False
        self._cancelled = False
        self.abandoned: bool = False
        self.thread_name: str = "not started"

    async def run(self, task_group: TaskGroup) -> _T:
        """Call the function and return what it returns, or raise what it raises.

        Args:
            task_group: Where the task that owns the thread lives. It must outlive this call.

        A checkpoint.
        """
        done = anyio.Event()
        scope = anyio.CancelScope(shield=True)

        @uninterruptible
        async def own_thread() -> None:
            try:
                with scope:
                    await anyio.to_thread.run_sync(self._in_thread, abandon_on_cancel=True, limiter=_unlimited())
            finally:
                done.set()

        task_group.start_soon(own_thread, name="agentrun thread")
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            self._cancelled = True
            self._on_cancel()
            try:
                # The first cancellation has raised the shield of the grace: this waits for the thread to look.
                await done.wait()
            except BaseException:
                self.abandoned = not self._finished
                scope.cancel()
                raise
            if not self._finished or isinstance(self._error, CallCancelled):
                raise
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def _in_thread(self) -> None:
        if self._cancelled:
            return  # while the thread was being started: the function is not called at all
        self.thread_name = threading.current_thread().name
        try:
            self._value = self._function()
        except BaseException as exc:  # noqa: BLE001 - handed to the task that waits; StopIteration could not cross otherwise
            self._error = exc
        self._finished = True


def _unlimited() -> anyio.CapacityLimiter:
    # Not the backend's default of 40 threads: abandoned ones would use it up on trio, and starve other code of the
    # application on asyncio. The run's own max_parallel_tools is the bound.
    return anyio.CapacityLimiter(math.inf)
