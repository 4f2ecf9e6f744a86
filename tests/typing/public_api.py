"""The public API as a user would write it. Never run: mypy and pyright read it in their strict modes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import assert_type

import agentrun
from agentrun import (
    ActiveRun,
    Agent,
    FunctionTool,
    Handoff,
    Injection,
    InputGuardrail,
    Interrupt,
    OutputGuardrail,
    RunConfig,
    RunContext,
    RunHooks,
    RunResult,
    RunSnapshot,
    RunState,
    TeardownReport,
    Trip,
    Usage,
    input_guardrail,
    open_run,
    output_guardrail,
    run,
    run_sync,
    tool,
)
from agentrun.errors import AgentRunError, ModelError
from agentrun.events import Event, RunEnded, RunStatus, TextDelta, ToolEnded, event_from_dict, event_to_dict
from agentrun.items import AssistantMessage, Item, ToolCall, UserMessage, items_from_json, items_to_json
from agentrun.models import Model, ModelEvent, ModelRequest, ModelSettings, ResponseEnded
from agentrun.sessions import MemorySession, Session
from agentrun.testing import Call, Say, ScriptedModel


@dataclass
class Deps:
    city: str


@dataclass
class Weather:
    celsius: float


# Tools keep the signatures of their functions ----------------------------------------------------------------------


@tool
async def get_weather(ctx: RunContext[Deps], city: str) -> Weather:
    """Current weather in a city."""
    assert_type(ctx.deps, Deps)
    assert_type(ctx.usage, Usage)
    assert_type(ctx.run.id, str)
    ctx.progress({"asked": city})
    ctx.on_cleanup(lambda: None)
    resource = await ctx.enter_async_context(open_resource())
    assert_type(resource, int)
    async with ctx.critical(2.0):
        assert_type(await ctx.wait_interrupted(), str | None)
    return Weather(0.0)


@tool(name="add_up", timeout=2.0, parallel=False, needs_approval=True, isolation="thread")
def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


@asynccontextmanager
async def open_resource() -> AsyncGenerator[int]:
    yield 1


def check_tools() -> None:
    assert_type(add(1, 2), int)
    plain: FunctionTool[..., int] = add
    assert_type(plain.name, str)
    made = tool(len, description="Length.")
    assert_type(made("abc"), int)


# Guardrails, hooks, models, sessions -------------------------------------------------------------------------------


@input_guardrail
async def polite(ctx: RunContext[Deps], items: tuple[Item, ...]) -> Trip | None:
    return Trip("no") if ctx.deps.city in str(items) else None


@input_guardrail(blocking=True, timeout=1.0)
def short(items: tuple[Item, ...]) -> str | None:
    return "too long" if len(items) > 3 else None


@output_guardrail(name="plausible")
async def plausible(output: Weather) -> None:
    assert_type(output.celsius, float)


class Counting(RunHooks):
    async def on_run_start(self, ctx: RunContext[Deps]) -> None:
        assert_type(ctx.deps, Deps)

    async def on_run_end(self, ctx: RunContext[Deps], result: RunResult[Weather]) -> None:
        assert_type(result.output, Weather | None)

    async def on_tool_start(self, ctx: RunContext[Deps], call: ToolCall) -> None:
        assert_type(call.name, str)


class Echo:
    """A model needs no base class."""

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        async def events() -> AsyncIterator[ModelEvent]:
            yield TextDelta(str(request.items[-1]))
            yield ResponseEnded(Usage(input_tokens=1))

        yield events()


class Store:
    """Nor does a session."""

    async def load(self) -> Sequence[Item]:
        return ()

    async def append(self, items: Sequence[Item]) -> None: ...


echo: Model = Echo()
sessions: list[Session] = [Store(), MemorySession()]


# Agents carry the types of their dependencies and of their output ---------------------------------------------------


def instruct(ctx: RunContext[Deps]) -> str:
    return ctx.deps.city


plain_agent = Agent("plain", instructions="Be brief.", tools=[get_weather, add, len], model="openai:gpt-5.1-mini")
weather_agent = Agent[Deps, Weather](
    "weather",
    instructions=instruct,
    tools=[get_weather],
    model=echo,
    model_settings=ModelSettings(temperature=0.0),
    output_type=Weather,
    input_guardrails=[polite, short],
    output_guardrails=[plausible],
    handoffs=[plain_agent, Handoff(plain_agent, description="For the rest.")],
    hooks=Counting(),
)


def check_guardrails() -> None:
    assert_type(polite, InputGuardrail)
    assert_type(plausible, OutputGuardrail)


async def check_output_types() -> None:
    assert_type((await run(plain_agent, "Hi")).output, str | None)
    assert_type(await run(weather_agent, "Hi", deps=Deps("Oslo")), RunResult[Weather])
    assert_type((await run(weather_agent, "Hi", deps=Deps("Oslo"))).output, Weather | None)
    assert_type(run_sync(weather_agent, "Hi", deps=Deps("Oslo"), backend="trio"), RunResult[Weather])
    async with open_run(weather_agent, [{"role": "user", "content": "Hi"}], deps=Deps("Oslo")) as live:
        assert_type(live, ActiveRun[Weather])
        assert_type(await live.wait(), RunResult[Weather])
        assert_type(live.result, RunResult[Weather] | None)


# Steering ----------------------------------------------------------------------------------------------------------


async def check_steering(session: Session) -> None:
    config = RunConfig(max_turns=3, cleanup_grace=1.0, on_approval="wait", model="local")
    async with open_run(plain_agent, UserMessage("Hi"), session=session, config=config, hooks=[Counting()]) as live:
        async for event in live.events(buffer=10, overflow="drop"):
            check_event(event)
        injection = live.inject("More.", deliver="now")
        assert_type(injection, Injection)
        assert_type(injection.withdraw(), bool)
        assert_type(await injection.wait() == "delivered", bool)
        assert_type(live.interrupt("enough", mode="after_turn", escalate_after=2.0), bool)
        assert_type(live.interrupt_tool("call_1"), bool)
        assert_type(live.approve("call_1"), bool)
        assert_type(live.reject("call_1", "No."), bool)
        assert_type(live.from_thread.interrupt("enough"), bool)
        assert_type(live.from_thread.state(), RunState)
        print(live.state().tree())
    assert live.result is not None
    check_result(live.result)


def check_event(event: Event) -> None:
    match event:
        case TextDelta(text=text):
            assert_type(text, str)
        case ToolEnded(call_id=call_id, path=path):
            assert_type(call_id, str)
            assert_type(path, tuple[str, ...])
        case RunEnded(status=status):
            assert_type(status, RunStatus)
        case _:
            pass
    assert_type(event_from_dict(event_to_dict(event)), Event)


def check_result(result: RunResult[str]) -> None:
    assert_type(result.interrupt, Interrupt | None)
    assert_type(result.teardown, TeardownReport)
    assert_type(result.items, tuple[Item, ...])
    assert_type(result.pending_approvals, tuple[ToolCall, ...])
    assert_type(result.snapshot(), RunSnapshot)
    assert_type(RunSnapshot.from_json(result.snapshot().to_json()), RunSnapshot)
    assert_type(items_from_json(items_to_json(result.history)), list[Item])
    for item in result.history:
        if isinstance(item, AssistantMessage):
            assert_type(item.text, str)


async def check_going_on(result: RunResult[Weather], snapshot: RunSnapshot) -> None:
    await run(weather_agent, result.history, deps=Deps("Oslo"))
    await run(weather_agent, resume_from=result)
    await run(weather_agent, resume_from=snapshot)


async def check_errors() -> None:
    try:
        await run(plain_agent, "Hi")
    except ModelError as exc:
        assert_type(exc.status, int | None)
        assert_type(exc.retryable, bool)
    except AgentRunError as exc:
        if exc.result is not None:
            assert_type(exc.result.status, RunStatus)


def check_scripts() -> None:
    model = ScriptedModel([[Say("Let me look.", chunks=2), Call("get_weather", {"city": "Oslo"})], Say("Rain.")])
    assert_type(model.requests, list[ModelRequest])
    assert_type(model.open_streams, int)
    agentrun.Agent("scripted", model=model)
