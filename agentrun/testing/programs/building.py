"""The agents, models, guardrails, hooks and sessions of a program, made from its plans."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import anyio.lowlevel

from agentrun.core.errors import ModelError
from agentrun.core.events import TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, Item, ToolCall, ToolOutput
from agentrun.core.model import ModelEvent, ModelRequest, ResponseEnded
from agentrun.core.results import RunResult
from agentrun.core.usage import Usage
from agentrun.runtime.agent import Agent
from agentrun.runtime.guardrails import Trip, input_guardrail, output_guardrail
from agentrun.runtime.hooks import RunHooks
from agentrun.sessions.memory import MemorySession
from agentrun.testing.programs.bodies import play_body
from agentrun.testing.programs.ledger import Code, Ledger
from agentrun.testing.programs.plans import (
    AgentPlan,
    Garbage,
    GuardPlan,
    HooksPlan,
    ModelFails,
    SessionPlan,
    StreamPart,
    ToolPlan,
)
from agentrun.testing.programs.thread_bodies import play_guard_in_thread, play_in_thread
from agentrun.testing.scripted import Call, Hang, Say, Wait, _cut
from agentrun.tools.context import RunContext
from agentrun.tools.function import FunctionTool, tool

__all__ = ["PlannedModel", "build_agent", "build_hooks", "build_session"]


class PlannedModel:
    """A model that says what its agent's plan says; beyond that, "Very well."."""

    def __init__(self, plan: AgentPlan, ledger: Ledger, *, nested: bool) -> None:
        self.name: str = f"model of {plan.name}"
        self.requests: list[ModelRequest] = []
        self.open_streams: int = 0
        self._plan = plan
        self._ledger = ledger
        self._nested = nested
        self._call_numbers = itertools.count(1)

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncGenerator[ModelEvent]]:
        """Play the next turn."""
        plan = self._plan
        turn = plan.turns[len(self.requests)] if len(self.requests) < len(plan.turns) else (Say("Very well."),)
        self.requests.append(request)
        code = Code(self._ledger, plan.name, nested=self._nested)
        with code.piece("stream"):
            await code.pause(plan.opening)
            self.open_streams += 1
            events = self._play(turn, code)
            raised: BaseException | None = None
            try:
                yield events
            except BaseException as exc:
                raised = exc
                code.note(exc)
                raise
            finally:
                self.open_streams -= 1
                try:
                    await events.aclose()
                    await code.clean_up(plan.closing, raised)
                finally:
                    del raised

    async def _play(self, turn: Sequence[StreamPart], code: Code) -> AsyncGenerator[ModelEvent]:
        called = False
        for part in turn:
            if isinstance(part, Say):
                for piece in _cut(part.text, part.chunks):
                    await code.pause(part.delay)
                    yield TextDelta(piece)
                yield AssistantMessage(part.text)
            elif isinstance(part, Call):
                await anyio.lowlevel.checkpoint()
                name = f"{self._plan.name}_" if self._nested else ""
                call_id = part.call_id if part.call_id is not None else f"{name}call_{next(self._call_numbers)}"
                text = part.arguments if isinstance(part.arguments, str) else json.dumps(dict(part.arguments))
                yield ToolCallDelta(call_id, part.name, text)
                yield ToolCall(call_id, part.name, text)
                called = True
            elif isinstance(part, Wait):
                await code.pause(part.seconds)
            elif isinstance(part, Hang):
                await code.pause(float("inf"))
            elif isinstance(part, ModelFails):
                await anyio.lowlevel.checkpoint()
                error = ModelError("the model is down") if part.expected else code.broken("stream")
                if part.expected:
                    code.raising(error, "stream")
                raise error
            else:
                await anyio.lowlevel.checkpoint()
                yield cast("Any", Garbage.__name__)
        yield ResponseEnded(usage=Usage(output_tokens=1), finish_reason="tool_calls" if called else "stop")


def build_agent(
    plan: AgentPlan, ledger: Ledger, act: Callable[[str], object], *, nested: bool = False
) -> Agent[Any, Any]:
    """The agent of a plan, and all below it.

    Args:
        plan: The plan.
        ledger: Where its user code leaves its marks.
        act: Does something to the run (the outermost one).
        nested: Whether it is one that is asked by another.
    """
    experts = [build_agent(expert, ledger, act, nested=True).as_tool(name=expert.name) for expert in plan.experts]
    return Agent(
        plan.name,
        tools=[*(_build_tool(each, ledger, act, nested) for each in plan.tools), *experts],
        model=PlannedModel(plan, ledger, nested=nested),
        input_guardrails=[
            _build_guard(f"{plan.name} {index}", guard, ledger, nested)
            for index, guard in enumerate(plan.guards, 1)
            if guard.kind == "input"
        ],
        output_guardrails=[
            _build_guard(f"{plan.name} {index}", guard, ledger, nested)
            for index, guard in enumerate(plan.guards, 1)
            if guard.kind == "output"
        ],
        handoffs=[build_agent(other, ledger, act, nested=nested) for other in plan.handoffs],
    )


def _build_tool(plan: ToolPlan, ledger: Ledger, act: Callable[[str], object], nested: bool) -> FunctionTool:
    attempts: Counter[tuple[str, str]] = Counter()
    handled = plan.retries > 0 or plan.on_error == "answers"
    if plan.approval != "no" and not nested:
        ledger.record.needing_approval.add(plan.name)

    def code_of(ctx: RunContext[Any]) -> Code:
        return Code(ledger, plan.name, run=ctx.run.id, nested=nested, call_id=ctx.call_id, handled=handled)

    async def body(ctx: RunContext[Any], n: int = 0, input: str = "") -> str:
        attempts[ctx.run.id, ctx.call_id] += 1
        return await play_body(plan, code_of(ctx), ctx, attempts[ctx.run.id, ctx.call_id], act)

    def sync_body(ctx: RunContext[Any], n: int = 0, input: str = "") -> str:
        attempts[ctx.run.id, ctx.call_id] += 1
        return play_in_thread(plan, code_of(ctx), ctx, attempts[ctx.run.id, ctx.call_id], act)

    async def needs_approval(ctx: RunContext[Any], arguments: dict[str, Any]) -> bool:
        code = code_of(ctx)
        with code.piece("approval"):
            await code.pause(0.1)
            if plan.approval == "fails":
                raise code.broken("approval")
        return True

    async def on_error(ctx: RunContext[Any], error: Exception) -> str:
        await anyio.lowlevel.checkpoint()
        if plan.on_error == "fails":
            raise code_of(ctx).broken("error handler")
        return "handled"

    async def on_cancel(ctx: RunContext[Any]) -> None:
        code = code_of(ctx)
        with code.piece("on_cancel"):
            await anyio.sleep(0.3 if plan.on_cancel == "slow" else 0)
            if plan.on_cancel == "raises":
                raise code.broken("cancellation hook")

    approvals: dict[str, Any] = {"no": False, "yes": True, "asks": needs_approval, "fails": needs_approval}
    errors: dict[str, Any] = {"model": "model", "raise": "raise", "answers": on_error, "fails": on_error}
    function: Callable[..., Any] = sync_body if plan.sync else body
    return tool(
        function,
        name=plan.name,
        description="A tool.",
        timeout=plan.timeout,
        retries=plan.retries,
        parallel=plan.parallel,
        needs_approval=approvals[plan.approval],
        on_error=errors[plan.on_error],
        on_cancel=on_cancel if plan.on_cancel else None,
    )


def _build_guard(name: str, plan: GuardPlan, ledger: Ledger, nested: bool) -> Any:
    async def guard(ctx: RunContext[Any], subject: Any) -> Any:
        code = Code(ledger, name, run=ctx.run.id, nested=nested)
        raised: BaseException | None = None
        with code.piece("guardrail"):
            try:
                await code.pause(plan.seconds)
                if plan.verdict == "raise":
                    raise code.broken("guardrail")
            except BaseException as exc:
                raised = exc
                raise
            finally:
                try:
                    await code.clean_up(plan.cleanup, raised)
                finally:
                    del raised
        return answer

    def sync_guard(ctx: RunContext[Any], subject: Any) -> Any:
        play_guard_in_thread(plan, Code(ledger, name, run=ctx.run.id, nested=nested))
        return answer

    answer: Any = {"trip": Trip(f"{name} trips"), "nonsense": 42}.get(plan.verdict)
    function: Any = sync_guard if plan.sync else guard
    if plan.kind == "input":
        return input_guardrail(name=name, blocking=plan.blocking)(function)
    return output_guardrail(name=name)(function)


def build_hooks(plan: HooksPlan | None, ledger: Ledger) -> RunHooks | None:
    """The hooks of a plan."""
    return _PlannedHooks(plan, ledger) if plan is not None else None


class _PlannedHooks(RunHooks):
    def __init__(self, plan: HooksPlan, ledger: Ledger) -> None:
        self._plan = plan
        self._ledger = ledger

    async def _play(self, name: str, ctx: RunContext[Any]) -> None:
        plan = self._plan
        code = Code(self._ledger, name, run=ctx.run.id, call_id=ctx.call_id)
        raised: BaseException | None = None
        with code.piece("hook", planned=plan.seconds):
            try:
                await code.pause(plan.seconds)
                if plan.raises == name:
                    raise code.broken("hook")
            except BaseException as exc:
                raised = exc
                raise
            finally:
                try:
                    if name.endswith("start"):
                        await code.clean_up(plan.cleanup, raised)
                finally:
                    del raised

    async def on_run_start(self, ctx: RunContext[Any]) -> None:
        await self._play("on_run_start", ctx)

    async def on_run_end(self, ctx: RunContext[Any], result: RunResult[Any]) -> None:
        await self._play("on_run_end", ctx)

    async def on_model_start(self, ctx: RunContext[Any], request: ModelRequest) -> None:
        await self._play("on_model_start", ctx)

    async def on_model_end(self, ctx: RunContext[Any], status: str) -> None:
        await self._play("on_model_end", ctx)

    async def on_tool_start(self, ctx: RunContext[Any], call: ToolCall) -> None:
        await self._play("on_tool_start", ctx)

    async def on_tool_end(self, ctx: RunContext[Any], call: ToolCall, output: ToolOutput) -> None:
        await self._play("on_tool_end", ctx)


def build_session(plan: SessionPlan | None, ledger: Ledger) -> MemorySession | None:
    """The session of a plan."""
    return _PlannedSession(plan, ledger) if plan is not None else None


class _PlannedSession(MemorySession):
    def __init__(self, plan: SessionPlan, ledger: Ledger) -> None:
        super().__init__()
        self._plan = plan
        self._ledger = ledger

    async def load(self) -> Sequence[Item]:
        await self._play("load")
        return tuple(self.items)

    async def append(self, items: Sequence[Item]) -> None:
        await self._play("append")
        self.items.extend(items)

    async def _play(self, name: str) -> None:
        plan = self._plan
        code = Code(self._ledger, name)
        with code.piece("session", planned=plan.seconds):
            await code.pause(plan.seconds)
            if plan.fails == name:
                raise code.broken(f"session {name}")
