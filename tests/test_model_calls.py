"""What a call of the model is given, and what is told of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
import anyio.lowlevel
import pydantic
import pytest
from laws.support import check_ended, watch

from agentrun import (
    Agent,
    AgentRunError,
    AssistantMessage,
    ModelSettings,
    RunConfig,
    RunContext,
    RunSnapshot,
    ToolCall,
    Usage,
    events,
    input_guardrail,
    open_run,
    run,
)
from agentrun.core.model import ModelRequest, OutputSchema, ResponseEnded
from agentrun.errors import ModelBehaviorError, ModelError
from agentrun.events import Event, TextDelta
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Fail, Hang, Say, ScriptedModel


class Broken(Exception):
    pass


async def work() -> str:
    return "worked"


async def told(agent: Agent[Any, Any], **options: Any) -> tuple[Any, list[Event]]:
    """The run of an agent, and what was told of it."""
    seen: list[Event] = []
    async with open_run(agent, "go", **options) as live:
        await watch(live, seen)
    return live, seen


# The request ------------------------------------------------------------------------------------------------------


async def test_a_request_holds_what_the_agent_and_the_configuration_say() -> None:
    @dataclass
    class Answer:
        text: str

    model = ScriptedModel([Say('{"text": "hi"}')])
    agent = Agent(
        "a",
        "Be brief.",
        tools=[work],
        model=model,
        model_settings=ModelSettings(temperature=0.5, max_tokens=10),
        output_type=Answer,
    )
    result = await run(agent, "go", config=RunConfig(model_settings=ModelSettings(max_tokens=20, seed=1)))
    output: Any = result.output
    assert output == Answer("hi")
    [request] = model.requests
    assert request.instructions == "Be brief."
    assert [spec.name for spec in request.tools] == ["work"]
    assert request.settings == ModelSettings(temperature=0.5, max_tokens=20, seed=1)
    assert request.output_schema == OutputSchema("Answer", pydantic.TypeAdapter(Answer).json_schema(), strict=False)


async def test_a_request_of_an_agent_that_answers_in_text_has_no_schema() -> None:
    model = ScriptedModel([Say("hi")])
    await run(Agent("a", model=model), "go")
    assert model.requests[0].output_schema is None


@pytest.mark.parametrize(
    ("output_type", "name"),
    [
        (pydantic.create_model("Answer", text=(str, ...)), "Answer"),
        (list[int], "list"),
        (int | None, "output"),
        (pydantic.create_model("", text=(str, ...)), "output"),
        (pydantic.create_model("Déjà-vu" + 80 * "x", text=(str, ...)), "D_j_vu" + 58 * "x"),
    ],
)
def test_an_output_schema_has_a_name_that_providers_take(output_type: Any, name: str) -> None:
    schema = Agent("a", output_type=output_type).output_schema
    assert schema is not None
    assert (schema.name, schema.strict) == (name, False)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("choice", [None, "auto", "none", "required", "work"])
async def test_a_choice_that_forces_a_call_stands_until_a_tool_was_called(choice: str | None, reset: bool) -> None:
    settings = ModelSettings(tool_choice=choice, temperature=0.5)
    model = ScriptedModel([Call("work"), Call("work"), Say("done")])
    await run(Agent("a", tools=[work], model=model, model_settings=settings, reset_tool_choice=reset), "go")
    later = None if reset and choice in ("required", "work") else choice
    assert [request.settings.tool_choice for request in model.requests] == [choice, later, later]
    assert {request.settings.temperature for request in model.requests} == {0.5}


async def test_a_choice_that_forces_a_call_stands_while_no_tool_was_called() -> None:
    model = ScriptedModel([Say("hm"), Say("done")])
    agent = Agent("a", tools=[work], model=model, model_settings=ModelSettings(tool_choice="required"))
    async with open_run(agent, "go") as live:
        live.inject("and?", deliver="idle")
        await live.wait()
    assert [request.settings.tool_choice for request in model.requests] == ["required", "required"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_input_filter_decides_what_is_sent(is_async: bool) -> None:
    def brief(request: ModelRequest) -> ModelRequest:
        return replace(request, instructions="Be brief.")

    async def brief_async(request: ModelRequest) -> ModelRequest:
        await anyio.lowlevel.checkpoint()
        return brief(request)

    model = ScriptedModel([Say("done")])
    await run(Agent("a", model=model), "go", config=RunConfig(input_filter=brief_async if is_async else brief))
    assert [request.instructions for request in model.requests] == ["Be brief."]


async def test_an_input_filter_that_returns_no_request_fails_the_run_by_name() -> None:
    config = RunConfig(input_filter=lambda request: "nonsense")  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=r"RunConfig\.input_filter must return a ModelRequest, not str"):
        await run(Agent("a", model=ScriptedModel([Say("done")])), "go", config=config)


async def test_instructions_may_be_none_at_all() -> None:
    model = ScriptedModel([Say("done")])
    await run(Agent("a", lambda ctx: None, model=model), "go")  # type: ignore[arg-type, return-value]
    assert [request.instructions for request in model.requests] == [None]


async def test_instructions_that_are_no_text_fail_the_run_by_name() -> None:
    agent: Any = Agent("a", lambda ctx: 5, model=ScriptedModel([Say("done")]))  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="the instructions function of agent 'a' returned int"):
        await run(agent, "go")


async def test_instructions_that_let_a_foreign_cancellation_out_fail_the_run_by_name() -> None:
    async def instructions(ctx: RunContext[Any]) -> str:
        raise anyio.get_cancelled_exc_class().__new__(anyio.get_cancelled_exc_class())

    with pytest.raises(AgentRunError, match="preparing the call of agent 'a' let a cancellation out"):
        await run(Agent("a", instructions, model=ScriptedModel([Say("done")])), "go")


@pytest.mark.parametrize("how", ["cuts in", "interrupts", "keeps the interrupt to itself"])
async def test_no_call_is_made_with_instructions_that_were_cut(how: str) -> None:
    model = ScriptedModel([Say("done")])

    async def instructions(ctx: RunContext[Any]) -> str:
        if how == "cuts in":
            ctx.run.inject("now", deliver="now")
            await anyio.lowlevel.checkpoint()
            return "Be brief."
        ctx.run.interrupt("stop")
        try:
            await anyio.sleep_forever()
        except BaseException:
            if how == "interrupts":
                raise
        return "Be brief."

    async with open_run(Agent("a", instructions, model=model), "go") as live:
        result = await live.wait()
    if how == "cuts in":
        assert [len(request.items) for request in model.requests] == [2]
        assert result.output == "done"
    else:
        assert model.requests == []
        assert result.status == "interrupted"
        swallowed = ["run preparing a"] if how == "keeps the interrupt to itself" else []
        assert result.teardown.swallowed_cancellations == swallowed


# What is told -----------------------------------------------------------------------------------------------------


async def test_what_is_told_of_a_call_says_which_turn_it_was_who_was_called_and_how_it_ended() -> None:
    model = ScriptedModel([Call("work", call_id="c"), Say("done")], name="oracle")
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[work], model=model), "go") as live:
        injection = live.inject("and?", deliver="next")
        await watch(live, seen)
    kinds = (
        events.RunStarted,
        events.TurnStarted,
        events.InputDelivered,
        events.ModelCallStarted,
        events.ModelCallEnded,
    )
    assert [event for event in seen if isinstance(event, kinds)] == [
        events.RunStarted(live.id, "a"),
        events.TurnStarted(1, "a"),
        events.InputDelivered(injection.id, 1),
        events.ModelCallStarted(1, "oracle"),
        events.ModelCallEnded(1, "completed", Usage(output_tokens=1), "tool_calls"),
        events.TurnStarted(2, "a"),
        events.ModelCallStarted(2, "oracle"),
        events.ModelCallEnded(2, "completed", Usage(output_tokens=1), "stop"),
    ]


@pytest.mark.parametrize(
    ("part", "status", "error"),
    [(Fail(Broken()), "failed", Broken), (Hang(), "interrupted", None)],
    ids=["failed", "interrupted"],
)
async def test_the_end_of_a_call_that_did_not_complete_says_so(part: Any, status: Any, error: Any) -> None:
    seen: list[Event] = []

    async def stop(live: Any) -> None:
        async for event in live.events():
            if isinstance(event, TextDelta) and error is None:
                live.interrupt("stop")

    model = ScriptedModel([[Say("hm"), part]])
    async with anyio.create_task_group() as group:
        try:
            async with open_run(Agent("a", model=model), "go") as live:
                group.start_soon(stop, live)
                await watch(live, seen)
        except Broken:
            assert error is Broken
    [ended] = [event for event in seen if isinstance(event, events.ModelCallEnded)]
    assert ended == events.ModelCallEnded(1, status, None, None)


async def test_a_foreign_cancellation_in_the_stream_is_a_call_that_failed() -> None:
    class Foreign:
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[Any]]:
            raise anyio.get_cancelled_exc_class().__new__(anyio.get_cancelled_exc_class())
            yield

    seen: list[Event] = []
    with pytest.raises(ModelError, match="^the model's stream let a cancellation out that agentrun did not ask for$"):
        async with open_run(Agent("a", model=Foreign()), "go") as live:
            await watch(live, seen)
    assert [event.status for event in seen if isinstance(event, events.ModelCallEnded)] == ["failed"]


ODD_EVENTS: dict[str, Any] = {
    "an object for arguments": ToolCall("c", "work", {"a": 1}),  # type: ignore[arg-type]  # pyright: ignore
    "a number for an id": ToolCall(7, "work"),  # type: ignore[arg-type]  # pyright: ignore
    "a list for a name": ToolCall("c", ["work"]),  # type: ignore[arg-type]  # pyright: ignore
    "a number for text": TextDelta(5),  # type: ignore[arg-type]  # pyright: ignore
    "a word for a count": ResponseEnded(Usage(input_tokens="many")),  # type: ignore[arg-type]  # pyright: ignore
}


@pytest.mark.parametrize("odd", ODD_EVENTS)
async def test_what_a_model_should_never_have_said_fails_the_run_by_name_and_leaves_the_history_valid(odd: str) -> None:
    class Odd:
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[Any]]:
            async def play() -> AsyncGenerator[Any]:
                yield TextDelta("so far")
                yield ODD_EVENTS[odd]

            async with aclosing(play()) as events_of_it:
                yield events_of_it

    session, seen = MemorySession(), list[Event]()
    with pytest.raises(
        ModelBehaviorError, match=r"^the model's stream yielded something odd: \w+\.\w+ is of type \w+; it must be"
    ):
        async with open_run(Agent("a", tools=[work], model=Odd()), "go", session=session) as live:
            await watch(live, seen)
    result = check_ended(live, None, seen)
    assert result.text == "so far"
    assert tuple(session.items) == result.history
    assert RunSnapshot.from_json(result.snapshot().to_json()).history == result.history


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"name": "one", "model": "two"}, "one"),
        ({"name": "", "model": "two"}, "two"),
        ({"name": 5, "model": "two"}, "two"),
        ({"model": "two"}, "two"),
        ({"name": 5, "model": 5}, "Plain"),
        ({}, "Plain"),
    ],
)
async def test_a_model_is_called_what_it_calls_itself_or_by_its_class(attributes: dict[str, Any], name: str) -> None:
    class Plain:
        def __init__(self) -> None:
            self.__dict__.update(attributes)

        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[Any]]:
            yield ScriptedModel([Say("hi")])._play([Say("hi")])

    _, seen = await told(Agent("a", model=Plain()))
    assert [event.model for event in seen if isinstance(event, events.ModelCallStarted)] == [name]


async def test_a_stream_that_never_waits_does_not_keep_the_event_loop_to_itself() -> None:
    steps = 0
    at: list[int] = []

    class Quick:
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[Any]]:
            async def play() -> AsyncGenerator[Any]:
                for _ in range(400):
                    yield TextDelta("x")
                    at.append(steps)
                yield ResponseEnded()

            yield play()

    async def count() -> None:
        nonlocal steps
        while True:
            await anyio.lowlevel.checkpoint()
            steps += 1

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        result = await run(Agent("a", model=Quick()), "go")
        group.cancel_scope.cancel()
    assert result.output == "x" * 400
    assert at[0] < at[199] < at[399]
    assert len(set(at)) < 20  # and it does not wait at each delta


async def test_the_settings_of_the_configuration_count_for_an_agent_that_has_none() -> None:
    model = ScriptedModel([Say("hi")])
    await run(Agent("a", model=model), "go", config=RunConfig(model_settings=ModelSettings(temperature=0.5)))
    assert model.requests[0].settings == ModelSettings(temperature=0.5)


async def test_a_stream_that_swallows_its_cancellation_was_cut_all_the_same() -> None:
    class Stubborn(ScriptedModel):
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncGenerator[Any]]:
            async def play() -> AsyncGenerator[Any]:
                yield TextDelta("half")
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    pass
                yield ResponseEnded()

            if self.requests:
                async with super().stream(request) as events:
                    yield events
            else:
                self.requests.append(request)
                yield play()

    seen: list[Event] = []
    model = Stubborn([Say("never"), Say("done")])
    with anyio.fail_after(10):
        async with open_run(Agent("a", model=model), "go") as live:
            async for event in live.events():
                seen.append(event)
                if isinstance(event, TextDelta) and event.text == "half":
                    live.inject("at once", deliver="now")
            result = await live.wait()
    assert [event.status for event in seen if isinstance(event, events.ModelCallEnded)][0] == "interrupted"
    assert result.items[0] == AssistantMessage("half", status="incomplete")


async def test_a_run_that_is_to_stop_after_its_turn_while_blocking_guardrails_look_calls_no_model() -> None:
    @input_guardrail(blocking=True)
    async def looks(ctx: RunContext[Any], items: Any) -> None:
        ctx.run.interrupt("enough", mode="after_turn")

    model = ScriptedModel([Say("never")])
    agent = Agent("a", model=model, input_guardrails=[looks])
    async with open_run(agent, "go") as live:
        result = await live.wait()
    assert (result.status, len(model.requests)) == ("interrupted", 0)
