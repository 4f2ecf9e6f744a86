"""Law 4: the history is valid after every ending, in memory and in the session store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import (
    ActiveRun,
    Agent,
    AssistantMessage,
    Reasoning,
    RunConfig,
    RunContext,
    RunResult,
    SystemMessage,
    ToolCall,
    ToolOutput,
    UserMessage,
    events,
    open_run,
    run,
)
from agentrun.core.events import ReasoningDelta, TextDelta, ToolCallDelta
from agentrun.core.model import ResponseEnded
from agentrun.events import Event
from agentrun.items import FilePart, ImagePart, Item, TextPart, dump_items, items_from_json, items_to_json
from agentrun.testing import Call, Fail, Hang, Say, ScriptedModel, assert_valid_history

from .support import check_ended, checkpoints, watch


class StrictSession:
    """A store in which an invalid history is never found, not even for a moment: each write is checked."""

    def __init__(self, items: Sequence[Item] = ()) -> None:
        self.items: list[Item] = list(items)
        self.writes = 0

    async def load(self) -> Sequence[Item]:
        await anyio.lowlevel.checkpoint()
        return tuple(self.items)

    async def append(self, items: Sequence[Item]) -> None:
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        assert items, "an empty write"
        self.items.extend(items)
        self.writes += 1
        assert_valid_history(self.items, what="session")
        await anyio.lowlevel.checkpoint()


class Events:
    """A model whose streams are lists of model events, with a checkpoint after each."""

    def __init__(self, *turns: Sequence[Any]) -> None:
        self._turns = list(turns)
        self.requests: list[Any] = []
        self.open_streams = 0

    def stream(self, request: Any) -> Any:
        return _Stream(self, request)

    def next_turn(self) -> Sequence[Any]:
        return self._turns.pop(0)


class _Stream:
    def __init__(self, model: Events, request: Any) -> None:
        self._model = model
        self._request = request

    async def __aenter__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        self._model.requests.append(self._request)
        self._model.open_streams += 1
        return self._play(self._model.next_turn())

    async def __aexit__(self, *exc: object) -> None:
        self._model.open_streams -= 1
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()

    async def _play(self, turn: Sequence[Any]) -> Any:
        for event in turn:
            await anyio.lowlevel.checkpoint()
            yield event


def rich_model() -> Events:
    """Reasoning, text, and interleaved pieces of two tool calls; then an answer in pieces."""
    return Events(
        [
            ReasoningDelta("hm"),
            Reasoning("hm", {"id": "rs_1"}),
            TextDelta("Let me "),
            TextDelta("look."),
            AssistantMessage("Let me look.", provider_data={"id": "msg_1"}),
            ToolCallDelta("a", "quick", '{"n"'),
            ToolCallDelta("b", "slow", "{}"),
            ToolCallDelta("a", "quick", ": 1}"),
            ToolCall("a", "quick", '{"n": 1}', {"id": "fc_1"}),
            ToolCall("b", "slow", "{}"),
            ResponseEnded(finish_reason="tool_calls"),
        ],
        [TextDelta("All "), TextDelta("is "), TextDelta("well."), ResponseEnded(finish_reason="stop")],
        [TextDelta("More."), ResponseEnded(finish_reason="stop")],
        [TextDelta("And more."), ResponseEnded(finish_reason="stop")],
    )


def rich_agent(model: Any) -> Agent[Any, Any]:
    async def quick(n: int) -> dict[str, int]:
        await checkpoints(1)
        return {"n": n}

    async def slow() -> str:
        try:
            await checkpoints(5)
            return "slow indeed"
        finally:
            await checkpoints(2)

    return Agent("a", "be brief", tools=[quick, slow], model=model)


async def go_on_from(result: RunResult[Any], session: StrictSession | None) -> None:
    """Whatever the ending, a new run goes on from what is left."""
    model = ScriptedModel([Say("and on")])
    agent = rich_agent(model)
    # The JSON form is as good as the items.
    history = items_from_json(items_to_json(result.history))
    assert tuple(history) == result.history
    assert tuple(items_from_json(json.dumps(dump_items(result.history)))) == result.history
    after = await run(agent, [*history, UserMessage("go on")])
    assert after.output == "and on"
    assert_valid_history(model.requests[0].items, what="request")
    assert after.history[: len(history)] == result.history
    resumed = await run(agent.clone(model=ScriptedModel([Say("resumed")])), "go on", resume_from=result.snapshot())
    assert resumed.output == "resumed"
    if session is not None:
        assert tuple(session.items) == result.history
        model = ScriptedModel([Say("and on")])
        again = await run(agent.clone(model=model), "go on", session=session)
        assert again.history == (*result.history, UserMessage("go on"), AssistantMessage("and on"))
        assert tuple(session.items) == again.history


async def sweep(end: Callable[[ActiveRun[Any], anyio.CancelScope], Any], *, with_session: bool) -> set[str]:
    """End the rich run after 0, 1, 2, ... steps, until it ends by itself; returns the statuses seen."""
    statuses: set[str] = set()
    for steps in range(400):
        model, session = rich_model(), StrictSession([UserMessage("before"), AssistantMessage("hello")])
        seen: list[Event] = []

        async def act(live: ActiveRun[Any], scope: anyio.CancelScope, steps: int = steps) -> None:
            await checkpoints(steps)
            end(live, scope)

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                try:
                    async with open_run(
                        rich_agent(model),
                        "go",
                        session=session if with_session else None,
                        config=RunConfig(max_turns=4),
                    ) as live:
                        group.start_soon(watch, live, seen)
                        group.start_soon(act, live, scope)
                        await live.wait()
                except Broken:
                    pass
        result = check_ended(live, None, seen)
        assert model.open_streams == 0
        for request in model.requests:
            assert_valid_history(request.items, what="request")
        statuses.add(result.status)
        if model.requests:
            assert result.history[0] == UserMessage("before" if with_session else "go")
        if model.requests:
            await go_on_from(result, session if with_session else None)
        if result.status == "completed" and steps > 60:
            return statuses
    raise AssertionError("the run never ended by itself")


class Broken(Exception):
    pass


def interrupt_now(live: ActiveRun[Any], scope: anyio.CancelScope) -> None:
    live.interrupt("stop")


def interrupt_after_turn(live: ActiveRun[Any], scope: anyio.CancelScope) -> None:
    live.interrupt("stop", mode="after_turn")


def interrupt_in_steps(live: ActiveRun[Any], scope: anyio.CancelScope) -> None:
    live.interrupt("stop", mode="after_turn")
    live.interrupt("stop now")


def cancel(live: ActiveRun[Any], scope: anyio.CancelScope) -> None:
    scope.cancel()


def interrupt_one_tool(live: ActiveRun[Any], scope: anyio.CancelScope) -> None:
    for child in live.state().scope.children:
        if child.kind == "tool":
            live.interrupt_tool(child.id, "that one")
            return


def cut_in(live: ActiveRun[Any], scope: anyio.CancelScope) -> None:
    if live.result is None:
        live.inject("wait", deliver="now")


@pytest.mark.parametrize("with_session", [False, True])
@pytest.mark.parametrize(
    ("end", "statuses"),
    [
        (interrupt_now, {"interrupted", "completed"}),
        (interrupt_after_turn, {"interrupted", "completed"}),
        (interrupt_in_steps, {"interrupted", "completed"}),
        (cancel, {"cancelled", "completed"}),
        (interrupt_one_tool, {"completed"}),
        (cut_in, {"completed"}),
    ],
)
async def test_the_history_is_valid_whenever_the_run_is_ended(end: Any, statuses: set[str], with_session: bool) -> None:
    assert await sweep(end, with_session=with_session) == statuses


async def test_the_stored_history_is_valid_even_while_the_run_is_at_work() -> None:
    session = StrictSession()
    looked: list[int] = []

    async def look(ctx: RunContext[Any]) -> str:
        # In the middle of the response that made this very call.
        assert_valid_history(session.items, what="session")
        assert not any(isinstance(item, ToolCall) for item in session.items)
        looked.append(len(session.items))
        return "looked"

    model = ScriptedModel([[Say("hm"), Call("look")], Say("done")])
    result = await run(Agent("a", tools=[look], model=model), "go", session=session)
    assert looked == [1]
    assert tuple(session.items) == result.history
    assert session.writes == 3  # the input, the turn with the tool, the answer


# What is kept and what is dropped --------------------------------------------------------------------------------


async def interrupted_at(model: Any, agent: Agent[Any, Any], moment: Callable[[Event], bool]) -> RunResult[Any]:
    async with open_run(agent, "go", config=RunConfig(cleanup_grace=0.2)) as live:
        async for event in live.events():
            if moment(event):
                live.interrupt("stop")
    return check_ended(live)


async def test_partial_text_is_kept_and_marked_incomplete() -> None:
    model = Events([TextDelta("So "), TextDelta("far "), TextDelta("so good"), TextDelta("never")])
    result = await interrupted_at(model, Agent("a", model=model), lambda e: getattr(e, "text", "") == "far ")
    [said] = result.items
    assert isinstance(said, AssistantMessage)
    assert said.status == "incomplete"
    assert said.text.startswith("So far ")
    assert result.text == said.text


async def test_half_streamed_tool_calls_and_lone_reasoning_are_dropped() -> None:
    model = Events(
        [
            ReasoningDelta("hm"),
            Reasoning("hm", {"id": "rs_1"}),
            TextDelta("Let me look."),
            AssistantMessage("Let me look.", provider_data={"id": "msg_1"}),
            ToolCall("a", "quick", '{"n": 1}'),
            ToolCallDelta("b", "slow", '{"x'),
            ToolCallDelta("b", "slow", "never"),
        ]
    )
    result = await interrupted_at(model, rich_agent(model), lambda e: getattr(e, "arguments", "") == '{"x')
    assert result.items == (AssistantMessage("Let me look."),)


async def test_a_stream_cut_before_its_first_word_leaves_nothing() -> None:
    model = Events([ReasoningDelta("hm"), TextDelta(""), ReasoningDelta("never")])
    result = await interrupted_at(model, Agent("a", model=model), lambda e: isinstance(e, events.TextDelta))
    assert result.items == ()
    assert result.history == (UserMessage("go"),)


async def test_what_finished_before_the_interrupt_is_kept() -> None:
    async def quick() -> str:
        return "quick"

    async def slow() -> str:
        await anyio.sleep_forever()
        return "never"

    model = ScriptedModel([[Call("slow", call_id="s"), Call("quick", call_id="q")]])
    result = await interrupted_at(
        model, Agent("a", tools=[quick, slow], model=model), lambda e: isinstance(e, events.ToolEnded)
    )
    assert result.items == (
        ToolCall("s", "slow", "{}"),
        ToolCall("q", "quick", "{}"),
        ToolOutput("s", "Cancelled before it finished: stop.", "cancelled"),
        ToolOutput("q", "quick"),
    )


async def test_a_failed_stream_keeps_what_was_said() -> None:
    model = ScriptedModel([[Say("so far so good"), Call("quick"), Fail(Broken("line cut"))]])
    with pytest.raises(Broken):
        async with open_run(rich_agent(model), "go") as live:
            await live.wait()
    result = check_ended(live, model)
    assert result.status == "failed"
    assert result.items == (AssistantMessage("so far so good"),)


async def test_a_body_that_raises_leaves_a_valid_history() -> None:
    model = ScriptedModel([[Say("hm"), Call("slow")], Hang()])
    with pytest.raises(Broken):
        async with open_run(rich_agent(model), "go") as live:
            async for event in live.events():
                if isinstance(event, events.ToolStarted):
                    raise Broken
    result = check_ended(live, model)
    assert result.status == "interrupted"
    assert result.interrupt is not None
    assert result.interrupt.reason == "the run block raised Broken"


async def test_call_ids_that_a_server_uses_twice_are_made_unique() -> None:
    model = Events(
        [
            ToolCall("call_0", "quick", '{"n": 1}'),
            ToolCall("call_0", "quick", '{"n": 2}'),
            ToolCall("", "quick", '{"n": 3}'),
        ],
        [ToolCall("call_0", "quick", '{"n": 4}')],
        [TextDelta("done")],
    )
    result = await run(rich_agent(model), "go")
    assert_valid_history(result.history)
    calls = [item for item in result.items if isinstance(item, ToolCall)]
    outputs = {item.call_id: item.output for item in result.items if isinstance(item, ToolOutput)}
    assert len({call.call_id for call in calls}) == 4
    assert [outputs[call.call_id] for call in calls] == [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]


async def test_invalid_arguments_unknown_tools_and_odd_names_leave_a_valid_history() -> None:
    model = Events(
        [
            ToolCall("a", "quick", "{not json"),
            ToolCall("b", "quick", '["a list"]'),
            ToolCall("c", "quick", '{"n": "many"}'),
            ToolCall("d", "no such tool!", "{}"),
            ToolCall("e", "quick", ""),
        ],
        [TextDelta("done")],
    )
    result = await run(rich_agent(model), "go")
    assert_valid_history(result.history)
    assert [item.status for item in result.items if isinstance(item, ToolOutput)] == ["failed"] * 5


async def test_empty_messages_of_the_model_are_not_kept() -> None:
    model = Events([TextDelta(""), AssistantMessage(""), ToolCall("a", "quick", '{"n": 1}')], [AssistantMessage("")])
    result = await run(rich_agent(model), "go")
    assert_valid_history(result.history)
    assert result.output == ""


async def test_reasoning_that_leads_to_nothing_is_not_kept() -> None:
    model = Events([Reasoning("hm", {"id": "rs_1"}), ResponseEnded(finish_reason="length")])
    result = await run(Agent("a", model=model), "go")
    assert_valid_history(result.history)


async def test_a_limit_on_tool_calls_answers_the_calls_it_forbids() -> None:
    from agentrun.errors import ToolCallLimitExceeded

    model = ScriptedModel([[Call("quick", {"n": 1}), Call("quick", {"n": 2})]])
    seen: list[Event] = []
    with pytest.raises(ToolCallLimitExceeded):
        async with open_run(rich_agent(model), "go", config=RunConfig(max_tool_calls=1)) as live:
            await watch(live, seen)
    result = check_ended(live, model, seen)
    assert [item.status for item in result.items if isinstance(item, ToolOutput)] == ["cancelled", "cancelled"]
    assert not [event for event in seen if isinstance(event, events.ToolStarted)]


# Sessions that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [0, 1, 2])
async def test_a_session_that_fails_fails_the_run_and_the_result_has_everything(write: int) -> None:
    class Failing(StrictSession):
        async def append(self, items: Sequence[Item]) -> None:
            if self.writes == write:
                raise Broken("disk full")
            await super().append(items)

    session = Failing()
    model = ScriptedModel([[Say("hm"), Call("quick", {"n": 1})], Say("done")])
    with pytest.raises(Broken, match="disk full"):
        async with open_run(rich_agent(model), "go", session=session) as live:
            await live.wait()
    result = check_ended(live, model)
    assert result.status == "failed"
    assert result.output is None  # not even if the answer was accepted, and only storing it has failed
    assert result.teardown.expired_graces == []
    assert_valid_history(session.items, what="session")
    assert result.history[: len(session.items)] == tuple(session.items)


async def test_a_session_whose_history_is_broken_fails_the_run_by_name_and_is_not_written_to() -> None:
    from agentrun import UserError

    session = StrictSession([UserMessage("hi"), ToolCall("x", "quick", "{}")])
    with pytest.raises(UserError, match="'x'"):
        await run(rich_agent(ScriptedModel([])), "go", session=session)
    assert len(session.items) == 2
    assert session.writes == 0


async def test_a_slow_session_may_finish_its_write_within_the_grace_of_an_interrupt() -> None:
    writing = anyio.Event()

    class Slow(StrictSession):
        async def append(self, items: Sequence[Item]) -> None:
            writing.set()
            await anyio.sleep(0.02)
            await super().append(items)

    session = Slow()
    model = ScriptedModel([Say("done")])
    async with open_run(Agent("a", model=model), "go", session=session, config=RunConfig(cleanup_grace=5)) as live:
        await writing.wait()
        live.interrupt("stop")
        result = await live.wait()
    assert result.status == "interrupted"
    assert tuple(session.items) == result.history


# The validator itself --------------------------------------------------------------------------------------------


CALL = ToolCall("a", "quick", "{}")


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([UserMessage("")], r"history\[0\]: the user message is empty"),
        ([UserMessage(())], r"history\[0\]: the user message is empty"),
        ([UserMessage((TextPart(""),))], r"history\[0\]: a text part is empty"),
        ([UserMessage((ImagePart("file:///etc"),))], r"history\[0\]: the image"),
        ([UserMessage((FilePart("x"),))], r"history\[0\]: a file part"),
        ([SystemMessage("")], r"history\[0\]: the system message is empty"),
        ([AssistantMessage("")], r"history\[0\]: the model's message is empty"),
        ([AssistantMessage("x", "broken")], r"history\[0\]: status 'broken'"),  # type: ignore[arg-type]
        ([UserMessage("x"), Reasoning("hm")], r"history\[1\]: reasoning must be followed"),
        ([Reasoning("hm"), UserMessage("x")], r"history\[0\]: reasoning must be followed"),
        ([CALL], r"history\[0\]: tool call 'a' has no output"),
        ([CALL, UserMessage("x"), ToolOutput("a", "y")], r"history\[1\]: a UserMessage comes before the output"),
        ([CALL, ToolOutput("a", "y"), ToolOutput("a", "y")], r"history\[2\]: a second output"),
        ([ToolOutput("a", "y")], r"history\[0\]: a stray output"),
        ([CALL, ToolOutput("a", "y"), CALL, ToolOutput("a", "y")], r"history\[2\]: call id 'a' was used at 0"),
        (
            [CALL, ToolCall("b", "q"), ToolOutput("a", "y"), AssistantMessage("x"), ToolOutput("b", "y")],
            r"history\[3\]",
        ),
        ([ToolCall("", "quick"), ToolOutput("", "y")], r"history\[0\]: the tool call has no id"),
        ([ToolCall("a", "no name"), ToolOutput("a", "y")], r"history\[0\]: tool name 'no name'"),
        ([ToolCall("a", "q", "{"), ToolOutput("a", "y")], r"history\[0\]: arguments '{' are not a JSON object"),
        ([ToolCall("a", "q", "[]"), ToolOutput("a", "y")], r"history\[0\]: arguments"),
        ([CALL, ToolOutput("a", object())], r"history\[1\]: the output is not JSON"),
        ([CALL, ToolOutput("a", float("nan"))], r"history\[1\]: the output is not JSON"),
        ([CALL, ToolOutput("a", "x", "lost")], r"history\[1\]: status 'lost'"),  # type: ignore[arg-type]
        (["text"], r"history\[0\]: 'text' is not an item"),
    ],
)
def test_the_validator_names_the_position_of_what_breaks_a_rule(items: Any, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        assert_valid_history(items)


def test_the_validator_accepts_what_providers_accept() -> None:
    assert_valid_history(
        [
            SystemMessage("be brief"),
            UserMessage((TextPart("look"), ImagePart("https://example.org/x.png"), FilePart("x", file_id="f"))),
            Reasoning(""),
            AssistantMessage("hm"),
            CALL,
            ToolCall("b", "slow", ""),
            ToolOutput("b", {"x": [1, None]}),
            ToolOutput("a", "", "cancelled"),
            ToolCall("c", "odd name", "{"),
            ToolOutput("c", "Error", "failed"),
            AssistantMessage("", refusal="no"),
            UserMessage("ok"),
            UserMessage("hello?"),
            AssistantMessage("so f", "incomplete"),
        ]
    )
    assert_valid_history([])
