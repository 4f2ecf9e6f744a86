"""Tasks that a run keeps from one tool call to the next.

A task for each call costs more than all the rest of a small call. Here a task that has done its call waits for another
one, in its cell, until the run is over. Every call has context variables of its own, as in a task of its own.

Calls that may start further tasks, such as those with a cancel hook or in a thread, do not come here, so that a hook
that cancels "its" task natively can never meet another call in it.
"""

from __future__ import annotations

from contextvars import Context, copy_context
from typing import TYPE_CHECKING

from agentrun.runtime.backend import WakeUp
from agentrun.runtime.cancellations import only_cancellations
from agentrun.runtime.cell import Cell
from agentrun.runtime.ctrl_c import uninterruptible
from agentrun.runtime.own_context import InContext

if TYPE_CHECKING:
    from agentrun.runtime.run import Run
    from agentrun.runtime.tool_run import ToolRun

__all__ = ["PooledTask", "TaskPool"]


class TaskPool:
    """The tasks of one run. They live in the run's group, each in a shield of its own."""

    __slots__ = ("_count", "closed", "idle", "run")

    def __init__(self, run: Run) -> None:
        self.run: Run = run
        self.idle: list[PooledTask] = []
        self.closed: bool = False
        self._count = 0

    def take(self) -> PooledTask:
        """A task that has nothing to do; a new one if all are at work. Give it a call at once."""
        if self.idle:
            return self.idle.pop()
        self._count += 1
        task = PooledTask(self)
        self.run.task_group.start_soon(task.work, name=f"agentrun {self.run.id} tools {self._count}")
        return task

    def close(self) -> None:
        """Let the tasks end. Synchronous: they end in the next step that they take."""
        self.closed = True
        for task in self.idle:
            self.run.backend.wake(task.wake)
        self.idle = []


class PooledTask:
    """A task, and the cell that it is in."""

    __slots__ = ("_call", "_context", "_pool", "begun", "cell", "wake")

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool
        # A shield, because an outside cancellation reaches calls in order, through the driver.
        self.cell: Cell = Cell(True, pool.run.backend)
        self.wake: WakeUp
        self.begun: bool = False
        self._call: ToolRun | None = None
        self._context: Context

    def start(self, call: ToolRun) -> None:
        """Have the task execute ``call``, in a copy of the current context."""
        self._call = call
        self._context = copy_context()
        if self.begun:
            self._pool.run.backend.wake(self.wake)

    @uninterruptible
    async def work(self) -> None:
        """Execute calls until the pool is closed. The task itself; never raises."""
        pool, cell = self._pool, self.cell
        self.begun = True
        cell.enter()
        try:
            while self._call is not None:
                call = self._call
                await InContext(self._context, call.execute())
                self._call = None
                del call, self._context
                if pool.closed or cell.broken:
                    break
                cell.renew()  # the call may have been cancelled before its first step
                cell.enter_again()
                self.wake = pool.run.backend.wake_up()
                pool.idle.append(self)
                await self.wake
        except BaseException as exc:  # noqa: BLE001 - the task was cancelled natively between two calls, or Ctrl-C on trio
            if self in pool.idle:
                pool.idle.remove(self)
            if not only_cancellations(exc):
                pool.run.fail(exc)
        finally:
            self.give_up()
            cell.leave()

    def give_up(self) -> None:
        """The task will not execute what it has been given: it was cancelled natively before the first step of that."""
        call, self._call = self._call, None
        if call is not None:
            call.lose_task()
