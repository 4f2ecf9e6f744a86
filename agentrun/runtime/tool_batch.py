"""The tool calls of one turn, side by side.

The batch decides everything in the order of the calls, whatever order the scheduler runs their tasks in: which call
starts next, whose end is told, what enters the history. A call's task runs nothing but the user's code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextvars import copy_context

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from agentrun.core.events import ApprovalRequested, ToolEnded, ToolStarted
from agentrun.core.items import ToolCall
from agentrun.runtime.own_context import InContext
from agentrun.runtime.run import CUT_REASON, UNBORN_AFTER, Run
from agentrun.runtime.task_pool import PooledTask, TaskPool
from agentrun.runtime.tool_run import ToolRun

__all__ = ["ToolBatch"]


class ToolBatch:
    """Runs the calls of a turn. ``await batch.run()`` returns when each has its output and all cleanup is done."""

    __slots__ = (
        "_alone",
        "_handoffs",
        "_limit",
        "_pooled",
        "_run",
        "_tools",
        "calls",
        "task_group",
        "wake",
    )

    _pooled: list[tuple[PooledTask, ToolRun]]  # those that are in a task of the pool
    task_group: TaskGroup  # of the calls that need several tasks; none if there are none

    def __init__(self, run: Run, calls: Sequence[ToolCall]) -> None:
        self._run = run
        self._tools, self._handoffs = run.agent.tool_map, run.agent.handoff_map
        if run.offered is not None:
            # A tool that the model was not offered does not exist for it, should it guess the name.
            self._tools = {name: tool for name, tool in self._tools.items() if name in run.offered}
            self._handoffs = {name: handoff for name, handoff in self._handoffs.items() if name in run.offered}
        self._limit = run.config.max_parallel_tools
        self.calls: list[ToolRun] = [ToolRun(run, self, call, self._tools.get(call.name)) for call in calls]
        # The only call of a turn that needs no task of its own, nor anything to wait for, runs in the driver's.
        self._alone = len(calls) == 1 and self.calls[0].needs_no_wait
        self.wake: Callable[[], None] = run.wake

    @property
    def tool_names(self) -> str:
        """The tools that the model may call, for it to read."""
        return ", ".join(sorted({*self._tools, *self._handoffs})) or "none"

    async def run(self) -> None:
        """Run them all. Does not raise what a tool raises: a fatal error goes to ``Run.fail``. A checkpoint."""
        run = self._run
        run.tools = self.calls
        if run.machine.ending:
            self._cancel_all(run.stop_reason)
        elif run.machine.inbox.wants_now:
            self._cancel_all(CUT_REASON)
        try:
            if self._alone:
                await self._run_alone(self.calls[0])
            else:
                await self._run_side_by_side()
        finally:
            for tool in self.calls:
                if not tool.told:  # something has come in between, perhaps without an exception
                    self._advance()
                    break
            run.tools = ()
            for tool in self.calls:
                tool.release()
            self.calls = []

    async def _run_alone(self, tool: ToolRun) -> None:
        """Run the only call, which needs no task of its own and waits for nothing: it goes from phase to phase here."""
        self._prepare(tool)
        self._settle_those_that_never_ran()
        if tool.phase == "queued":
            self._start(tool)
            cell = self._run.steps.cell
            cell.enter_again()
            tool.begin_in(cell)
            # It is cancelled, timed out and contained as in a task of its own, and has its own context variables.
            await InContext(copy_context(), tool.execute())
        if tool.fatal is not None:
            self._collect_fatal()
        self._tell_end(tool)

    async def _run_side_by_side(self) -> None:
        self._pooled = []
        try:
            if all(tool.needs_one_task for tool in self.calls):
                await self._until_all_have_ended()
            else:
                async with anyio.create_task_group() as self.task_group:
                    await self._until_all_have_ended()
        finally:
            self._pooled = []  # each leads back to here

    async def _until_all_have_ended(self) -> None:
        try:
            while not self._advance():
                await self._run.wait_for_news()
        except BaseException:
            # The driver's task was cancelled natively. The calls have shields of their own, and must be told.
            self._cancel_all("the run was cancelled")
            await self._outlive_pooled()
            raise

    async def _outlive_pooled(self) -> None:
        """Wait, whatever happens, for the calls in tasks of the pool, as a task group does for its own."""
        steps = 0
        while not all(tool.ended for _, tool in self._pooled):
            try:
                if steps < UNBORN_AFTER:
                    steps += 1
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                else:
                    for task, _ in self._pooled:
                        if not task.begun:
                            task.give_up()
                    await self._run.wait_for_news()
            except BaseException:  # noqa: BLE001 - cancelled once more; the first cancellation goes on afterwards
                continue

    def _cancel_all(self, reason: str) -> None:
        for tool in self.calls:
            tool.request_cancel(reason)

    def _advance(self) -> bool:
        """Move every call as far as it goes, in the order of the calls. Returns whether all have ended."""
        run = self._run
        fatal = False
        for tool in self.calls:
            self._prepare(tool)
            fatal |= tool.fatal is not None
            if tool.phase == "waiting for approval" and not tool.asked and tool.cancel_reason is None:
                tool.asked = True
                run.publish(ApprovalRequested(tool.call.call_id, tool.call.name, tool.call.arguments))
        if fatal:
            self._collect_fatal()
        self._settle_those_that_never_ran()
        queued = self._start_those_that_may()
        for tool in self._ends_to_tell():
            self._tell_end(tool)
            if queued:
                queued = self._start_those_that_may()
        if run.end_on_approval:
            self._end_for_approval()
        return all([tool.told for tool in self.calls])  # noqa: C419 - of the few that there are, a list costs less

    def _prepare(self, tool: ToolRun) -> None:
        if tool.phase == "new" and tool.cancel_reason is None:
            if tool.call.name in self._handoffs:
                self._hand_over(tool)
            elif tool.prepare() == "checking":
                tool.begin(tool.check_approval)

    def _collect_fatal(self) -> None:
        fatal: list[BaseException] = []
        for tool in self.calls:
            if tool.fatal is not None and tool.ended:
                fatal.append(tool.fatal)
                tool.fatal = None
        if len(fatal) == 1:
            self._run.fail(fatal[0])
        elif fatal:
            self._run.fail(BaseExceptionGroup("several tools failed", fatal))

    def _settle_those_that_never_ran(self) -> None:
        """A cancelled call that no task works on ends here."""
        for tool in self.calls:
            if tool.cancel_reason is not None and tool.phase in ("new", "waiting for approval", "queued"):
                tool.end("cancelled", tool.cancel_text())

    def _start_those_that_may(self) -> bool:
        """Start calls, in order, as far as there is a place for them. Returns whether some are left waiting for one."""
        queued: list[ToolRun] = []
        at_work: list[ToolRun] = []
        for tool in self.calls:
            if tool.phase == "queued":
                queued.append(tool)
            # A call takes up its place until its end has been told: watchers never see more at work than may be.
            elif tool.started and not tool.told:
                at_work.append(tool)
        if not queued:
            return False
        running = len(at_work)
        exclusive = any(tool.tool is not None and not tool.tool.parallel for tool in at_work)
        for tool in queued:
            spec = tool.tool
            assert spec is not None
            # One that wants to be alone waits for the others, and those behind it do not overtake.
            if exclusive or (running and not spec.parallel) or (self._limit is not None and running >= self._limit):
                return True
            running += 1
            exclusive = not spec.parallel
            self._start(tool)
            if tool.needs_one_task:
                self._begin_in_pool(tool)
            else:
                tool.begin(tool.execute)
        return False

    def _start(self, tool: ToolRun) -> None:
        tool.phase = "running"
        tool.started = True
        self._run.publish(ToolStarted(tool.call.call_id, tool.call.name, tool.call.arguments))

    def _begin_in_pool(self, tool: ToolRun) -> None:
        run = self._run
        if run.task_pool is None:
            run.task_pool = TaskPool(run)
        task = run.task_pool.take()
        self._pooled.append((task, tool))
        tool.begin_in(task.cell)
        task.start(tool)

    def _ends_to_tell(self) -> list[ToolRun]:
        """Calls whose end is to be told, in order: an end is told when it happens, but cancelled calls end in the order
        of the calls.

        The cancelled ones come last, since one that a sibling has cancelled always ends after that sibling went on,
        whichever of the two the scheduler lets run first then.
        """
        ended = [tool for tool in self.calls if tool.cancel_reason is None and tool.ended and not tool.told]
        for tool in self.calls:
            if tool.cancel_reason is not None:
                if not tool.ended:
                    break
                if not tool.told:
                    ended.append(tool)
        return ended

    def _tell_end(self, tool: ToolRun) -> None:
        tool.told = True
        output = tool.result
        if output.status == "cancelled" and tool.started:
            self._run.reports.teardown.cancelled_tools.append(f"{tool.call.name} ({tool.call.call_id})")
        self._run.publish(ToolEnded(output.call_id, tool.call.name, output.status, output.output))
        self._run.machine.tool_ended(output)

    def _end_for_approval(self) -> None:
        """Nobody can approve: once only approvals are left, the run ends, to be resumed."""
        waiting = [tool for tool in self.calls if not tool.ended]
        if waiting and all(tool.phase == "waiting for approval" for tool in waiting):
            self._run.interrupt("approval required", "immediate", None)

    def _hand_over(self, tool: ToolRun) -> None:
        """A handoff is a tool call that changes the agent, once all calls of the turn have ended."""
        if self._run.next_agent is not None:
            tool.end("failed", "Error: only one handoff per turn is possible; the first one was carried out.")
            return
        handoff = self._handoffs[tool.call.name]
        try:
            valid = isinstance(json.loads(tool.call.arguments.strip() or "{}"), dict)
        except (ValueError, RecursionError):  # the latter of thousands of brackets in one another
            valid = False
        if not valid:  # nobody reads them, but a call that was carried out must be one that providers take back
            tool.end("failed", "Error: the arguments are not a JSON object.")
            return
        tool.end("completed", f"The conversation was handed over to {handoff.agent.name}.")
        self._run.next_agent = handoff.agent
