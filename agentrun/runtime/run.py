"""The state that the parts of one run share, and the requests that may come from any task.

Everything here is synchronous. The driver (`agentrun.runtime.driver`) moves the run forward; `interrupt`, `inject` and
the others only change what the turn machine knows, cut what has to be cut, and wake the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskGroup

from agentrun.core.config import RunConfig
from agentrun.core.error_text import describe_error
from agentrun.core.errors import UserError
from agentrun.core.events import Event, InputInjected, InterruptRequested
from agentrun.core.inbox import Delivery
from agentrun.core.interrupts import InterruptMode
from agentrun.core.item_json import parse_input
from agentrun.core.items import RunInput, ToolCall
from agentrun.core.model import Model
from agentrun.core.results import (
    GuardrailResult,
    RunResult,
    RunState,
    ScopeState,
)
from agentrun.core.snapshot import UndeliveredInput
from agentrun.core.turns import Effect, TurnMachine
from agentrun.runtime.backend import Backend, WakeUp
from agentrun.runtime.ctrl_c import uninterruptible
from agentrun.runtime.event_loop import EventLoop
from agentrun.runtime.hub import EventHub
from agentrun.runtime.injection import Injection
from agentrun.runtime.reports import Reports
from agentrun.runtime.steps import Steps
from agentrun.sessions.protocol import Session
from agentrun.tools.context import CallServices, RunContext

if TYPE_CHECKING:
    from agentrun.runtime.agent import Agent
    from agentrun.runtime.guard_race import GuardRace
    from agentrun.runtime.handle import ActiveRun
    from agentrun.runtime.hooks import RunHooks
    from agentrun.runtime.task_pool import TaskPool
    from agentrun.runtime.tool_run import ToolRun

__all__ = ["Run"]

CUT_REASON: Final = "cut short by new input"

UNBORN_AFTER: Final = 3
"""A task that has not begun after so many steps of the others was cancelled natively, and never will.

It happens when an event loop cancels all its tasks, as ``asyncio.run`` does when its main function has returned.
"""


class Run:
    """One run, from inside. Users hold an `ActiveRun`."""

    __slots__ = (
        "__weakref__",
        "_done",
        "_news",
        "_waiter",
        "agent",
        "asked_by",
        "backend",
        "checked",
        "clock",
        "config",
        "deps",
        "driving",
        "end_on_approval",
        "first_input_checked",
        "guardrail_results",
        "guards",
        "handle",
        "hooks",
        "hub",
        "id",
        "loop",
        "machine",
        "model_hooks",
        "models",
        "next_agent",
        "offered",
        "output",
        "parent",
        "pending_approvals",
        "phase",
        "publish",
        "reports",
        "result",
        "saved",
        "session",
        "session_failed",
        "started_at",
        "started_hooks",
        "steps",
        "task_group",
        "task_pool",
        "teardown_started_at",
        "timers",
        "tools",
    )

    def __init__(
        self,
        run_id: str,
        agent: Agent[Any, Any],
        models: dict[int, Model],
        machine: TurnMachine,
        config: RunConfig,
        deps: Any,
        session: Session | None,
        hooks: Sequence[RunHooks],
        end_on_approval: bool,
        next_agent: Agent[Any, Any] | None,
        parent: ToolRun | None,
        backend: Backend,
        loop: EventLoop,
    ) -> None:
        self.id: str = run_id
        self.agent: Agent[Any, Any] = agent
        self.next_agent: Agent[Any, Any] | None = next_agent  # takes over once all calls of the turn have ended
        self.models: dict[int, Model] = models
        self.machine: TurnMachine = machine
        self.config: RunConfig = config
        self.deps: Any = deps
        self.session: Session | None = session
        self.hooks: Sequence[RunHooks] = hooks
        self.end_on_approval: bool = end_on_approval
        self.parent: ToolRun | None = parent
        self.backend: Backend = backend
        self.clock: Callable[[], float] = backend.clock()
        self.hub: EventHub = (
            EventHub(self.backend, None, (), loop)
            if parent is None
            else EventHub(self.backend, parent.run.hub, (parent.call.call_id,), loop)
        )
        self.publish: Callable[[Event], None] = self.hub.publish  # tell the watchers
        self.reports: Reports = Reports(self)
        self.steps: Steps = Steps(self)
        # Tuples, here and below: most runs have none of these, and an empty list for each would be a tenth of what the
        # garbage collector has to walk of a run.
        self.guardrail_results: tuple[GuardrailResult, ...] = ()
        self.pending_approvals: tuple[ToolCall, ...] = ()
        self.asked_by: str | None = None  # who asked for them, if another agent has taken over since
        self.phase: str = "starting"
        self.result: RunResult[Any] | None = None
        self.output: Any = None
        self.saved: int = 0  # items of the transcript that the session has
        self.session_failed: bool = False
        self.started_hooks: tuple[RunHooks, ...] = ()  # those that were told of the start, and will be told of the end
        self.model_hooks: tuple[RunHooks, ...] = ()
        self.first_input_checked: bool = False
        self.checked: frozenset[str] = frozenset()  # injections that the blocking guardrails have passed
        self.handle: ActiveRun[Any]
        self.guards: GuardRace
        self.task_group: TaskGroup
        self.task_pool: TaskPool | None = None  # most runs need none
        self.tools: Sequence[ToolRun] = ()  # of the turn under way, in the order of the calls
        self.offered: frozenset[str] | None = None  # names of the tools that the last request offered; None: all
        self.driving: bool = False  # the driver has taken its first step
        self.loop: EventLoop = loop
        self.started_at: float = self.clock()
        self.teardown_started_at: float | None = None
        self.timers: tuple[anyio.CancelScope, ...] = ()
        # Made by those who wait: most runs end without anybody waiting, and an event is a good part of a small run.
        self._done: anyio.Event | None = None
        self._waiter: WakeUp | None = None  # of the driver
        self._news = False

    # Steering: called from any task of the loop ----------------------------------------------------------------

    @property
    def status(self) -> str:
        """``"running"``, ``"interrupting"``, or how it ended."""
        if self.result is not None:
            return self.result.status
        if self.machine.ending or self.machine.interrupts.current is not None:
            return "interrupting"
        return "running"

    @uninterruptible
    def interrupt(self, reason: str | None, mode: InterruptMode, escalate_after: float | None) -> bool:
        """See `ActiveRun.interrupt`."""
        changed, effect = self.machine.interrupt(reason, mode)
        if changed:
            current = self.machine.interrupts.current
            assert current is not None
            self.publish(InterruptRequested(current.reason, current.mode))
            for tool in self.tools:
                tool.notify_interrupt()
            self.apply(effect)
        if escalate_after is not None and mode == "after_turn" and self.result is None and not self.machine.ending:
            self.start_timer(escalate_after, lambda: self.interrupt(reason, "immediate", None))
        return changed

    @uninterruptible
    def cancel(self) -> None:
        """A cancellation from outside has reached the task that runs the block."""
        if self.machine.cancel():
            self.apply("stop")

    @uninterruptible
    def fail(self, error: BaseException) -> None:
        """Let the run fail with ``error``; kept among the other errors if the ending is decided already."""
        if self.machine.fail(error):
            self.apply("stop")
        elif error is not self.machine.failure:
            self.reports.error(error)

    @uninterruptible
    def inject(self, value: RunInput, deliver: Delivery) -> Injection:
        """See `ActiveRun.inject`."""
        items = tuple(parse_input(value, what="inject: input"))
        entry, effect = self.machine.inject(items, deliver)
        self.publish(InputInjected(entry.id, deliver, items))
        self.apply(effect)
        return Injection(self.machine.inbox, entry, self.loop)

    @uninterruptible
    def interrupt_tool(self, call_id: str, reason: str | None) -> bool:
        """See `ActiveRun.interrupt_tool`."""
        tool = self._tool(call_id)
        if tool is None or not tool.request_cancel(reason or "the call was interrupted"):
            return False
        self.publish(InterruptRequested(reason, "immediate", call_id))
        self.wake()
        return True

    @uninterruptible
    def decide(self, call_id: str, approved: bool, message: str | None) -> bool:
        """See `ActiveRun.approve` and `ActiveRun.reject`."""
        tool = self._tool(call_id)
        if tool is None or not tool.decide(approved, message):
            return False
        self.wake()
        return True

    def _tool(self, call_id: str) -> ToolRun | None:
        for tool in self.tools:
            if tool.call.call_id == call_id:
                return tool
        if self.machine.has_called(call_id):
            return None
        raise UserError(f"the run has no tool call with the id {call_id!r}; events and state() show the ids")

    # Cutting and waking ----------------------------------------------------------------------------------------

    def apply(self, effect: Effect) -> None:
        """Cut what runs (``"cut"``), for good (``"stop"``), or do nothing (``"none"``)."""
        if effect == "none":
            return
        stop = effect == "stop"
        if stop and self.teardown_started_at is None:
            self.teardown_started_at = self.clock()
        if stop:
            self.steps.stop()
            self.guards.cancel()
        else:
            self.steps.cut()
            self.guards.drop_output()
        reason = self.stop_reason if stop else CUT_REASON
        for tool in self.tools:
            if tool.request_cancel(reason) and stop and tool.phase == "waiting for approval":
                self.pending_approvals += (tool.call,)  # not what somebody has stopped before
        self.wake()

    @property
    def stop_reason(self) -> str:
        """Why the run stops, for the outputs of cancelled calls."""
        machine = self.machine
        if machine.failure is not None:
            return f"the run failed: {describe_error(machine.failure)}"
        if machine.cancelled:
            return "the run was cancelled"
        current = machine.interrupts.current
        return (current.reason if current is not None else None) or "the run was interrupted"

    def wake(self) -> None:
        """Let the driver look again."""
        self._news = True
        if self._waiter is not None:
            self.backend.wake(self._waiter)

    async def wait_for_news(self) -> None:
        """Wait until `wake` was called since the last time this returned. A checkpoint."""
        if self._news:
            await self.backend.checkpoint()
        else:
            self._waiter = self.backend.wake_up()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._news = False

    def tell_done(self) -> None:
        """All has ended: let those go on who wait for it."""
        if self._done is not None:
            self._done.set()

    async def wait_done(self) -> None:
        """Wait until the run has ended. A checkpoint."""
        if self.result is not None:
            await self.backend.checkpoint()
            return
        if self._done is None:
            self._done = self.backend.event()
        await self._done.wait()

    def start_timer(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call ``callback`` in ``seconds``, unless the run ends before."""
        scope = anyio.CancelScope(shield=True)
        self.timers += (scope,)

        @uninterruptible
        async def timer() -> None:
            with scope:
                await anyio.sleep(seconds)
                callback()

        self.task_group.start_soon(timer, name=f"agentrun timer {self.id}")

    # For user code ---------------------------------------------------------------------------------------------

    def context(self, services: CallServices, call_id: str = "", tool_name: str = "") -> RunContext[Any]:
        """A context for user code."""
        return RunContext(
            deps=self.deps,
            agent=self.agent,
            usage=self.machine.usage,
            run=self.handle,
            services=services,
            call_id=call_id,
            tool_name=tool_name,
        )

    def post(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` in the run's event loop, now if this is its thread, or else soon.

        Does nothing when the loop has ended meanwhile: what an abandoned thread has to say concerns nobody any more.
        """
        try:
            self.loop.call(callback)
        except anyio.RunFinishedError:
            pass

    @uninterruptible
    def release(self) -> None:
        """The run has ended and all its tasks have: let go of what refers back to it.

        Reference counting can then free it at once. A thousand runs that wait for the garbage collector are a pause.
        """
        del self.handle, self.guards, self.task_pool, self.steps
        self.reports.release()

    # What the run looks like -----------------------------------------------------------------------------------

    def undelivered(self) -> tuple[UndeliveredInput, ...]:
        """The inputs that wait, as plain data."""
        return tuple(UndeliveredInput(e.id, e.items, e.deliver) for e in self.machine.inbox.pending)

    def state(self) -> RunState:
        """See `ActiveRun.state`."""
        now = self.clock()
        machine = self.machine
        children: list[ScopeState] = []
        if self.result is None:
            if (step := self.steps.state(now)) is not None:
                children.append(step)
            children.extend(self.guards.scopes(now))
            children.extend(tool.state(now) for tool in self.tools if not tool.ended)
        return RunState(
            run_id=self.id,
            status=self.status,
            phase="ended" if self.result is not None else self.phase,
            agent=self.agent.name,
            turn=machine.turn,
            inbox=self.undelivered(),
            usage=machine.usage.copy(),
            interrupt=machine.interrupts.current,
            blocked_on_watchers=self.hub.waiting,
            scope=ScopeState("run", self.agent.name, self.id, self.status, now - self.started_at, tuple(children)),
        )
