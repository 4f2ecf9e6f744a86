"""Ended runs as plain data, and going on from them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from laws.support import check_ended

from agentrun import (
    Agent,
    AssistantMessage,
    RunConfig,
    RunContext,
    RunHooks,
    RunSnapshot,
    ToolCall,
    UserError,
    UserMessage,
    events,
    open_run,
    run,
)
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Fail, Hang, Say, ScriptedModel, assert_valid_history


class Broken(Exception):
    pass


def texts(items: Any) -> list[str]:
    return [getattr(item, "text", type(item).__name__) for item in items]


async def interrupted() -> Any:
    """A run that was stopped in its second answer, with two inputs that came too late."""

    async def look() -> str:
        return "looked"

    class Hooks(RunHooks):
        async def on_run_end(self, ctx: Any, result: Any) -> None:
            ctx.run.inject("late one")
            ctx.run.inject("late two", deliver="idle")

    model = ScriptedModel([[Say("let me"), Call("look", call_id="c")], [Say("so far"), Hang()]])
    async with open_run(Agent("a", tools=[look], model=model), "go", hooks=Hooks()) as live:
        async for event in live.events():
            if isinstance(event, events.TextDelta) and event.text == "so far":
                live.interrupt("stop")
    return check_ended(live, model)


async def test_a_snapshot_is_json_and_comes_back_as_it_was() -> None:
    result = await interrupted()
    snapshot = result.snapshot()
    text = snapshot.to_json(indent=2)
    assert RunSnapshot.from_json(text) == snapshot
    assert RunSnapshot.from_json(text.encode()) == snapshot
    assert RunSnapshot.from_dict(json.loads(text)) == snapshot
    data = json.loads(text)
    assert data["version"] == 1
    assert data["status"] == "interrupted"
    assert data["agent"] == "a"
    assert [entry["deliver"] for entry in data["undelivered"]] == ["next", "idle"]
    assert snapshot.history == result.history
    assert snapshot.usage == result.usage
    assert snapshot.usage is not result.usage


@pytest.mark.parametrize("form", ["result", "snapshot", "json"])
async def test_a_run_goes_on_where_another_was_stopped(form: str) -> None:
    result = await interrupted()
    source: Any = {
        "result": result,
        "snapshot": result.snapshot(),
        "json": RunSnapshot.from_json(result.snapshot().to_json()),
    }[form]
    model = ScriptedModel([Say("and on")])
    after = await run(Agent("a", model=model), "go on", resume_from=source)
    assert after.output == "and on"
    assert_valid_history(after.history)
    assert after.history[: len(result.history)] == result.history
    # New input comes first, then what nobody had seen, in its order.
    assert texts(after.history[len(result.history) :]) == ["go on", "late one", "late two", "and on"]
    assert texts(after.items) == ["late one", "late two", "and on"]
    assert after.undelivered == ()
    assert after.run_id != result.run_id


async def test_a_run_may_go_on_without_new_input() -> None:
    result = await interrupted()
    model = ScriptedModel([Say("and on")])
    async with open_run(Agent("a", model=model), resume_from=result) as live:
        after = await live.wait()
    check_ended(live, model)
    assert texts(after.history[len(result.history) :]) == ["late one", "late two", "and on"]


async def test_usage_and_turns_of_the_resumed_run_are_its_own() -> None:
    result = await interrupted()
    after = await run(
        Agent("a", model=ScriptedModel([Say("and on")])), resume_from=result, config=RunConfig(max_turns=1)
    )
    assert after.turns == 1
    assert after.usage.requests == 1


async def test_call_ids_stay_unique_over_resumed_runs() -> None:
    async def look() -> str:
        return "looked"

    history: Any = "go"
    for _ in range(3):
        # Each of these models numbers its calls from 1, as some servers do.
        model = ScriptedModel([Call("look", call_id="call_1"), Say("done")])
        result = await run(Agent("a", tools=[look], model=model), history)
        assert_valid_history(result.history)
        history = [*result.history, UserMessage("again")]
    ids = [item.call_id for item in result.history if isinstance(item, ToolCall)]
    assert ids == ["call_1", "call_1_2", "call_1_3"]


async def test_a_failed_and_a_cancelled_run_can_be_resumed_too() -> None:
    with pytest.raises(Broken):
        async with open_run(Agent("a", model=ScriptedModel([[Say("so far"), Fail(Broken("line cut"))]])), "go") as live:
            await live.wait()
    failed = check_ended(live)
    after = await run(Agent("a", model=ScriptedModel([Say("better now")])), "retry", resume_from=failed.snapshot())
    assert texts(after.history) == ["go", "so far", "retry", "better now"]


async def test_a_snapshot_beside_a_session_brings_its_inputs_and_the_session_its_history() -> None:
    session = MemorySession()

    class Hooks(RunHooks):
        async def on_run_end(self, ctx: Any, result: Any) -> None:
            ctx.run.inject("late")

    agent = Agent("a", model=ScriptedModel([Say("one")]), hooks=Hooks())
    first = await run(agent, "go", session=session)
    assert texts(session.items) == ["go", "one"]
    after = await run(Agent("a", model=ScriptedModel([Say("two")])), resume_from=first.snapshot(), session=session)
    assert texts(after.history) == ["go", "one", "late", "two"]
    assert tuple(session.items) == after.history


async def test_what_is_resumed_is_checked_by_the_input_guardrails_as_far_as_it_is_new() -> None:
    result = await interrupted()
    looked: list[str] = []

    def guard(items: Any) -> None:
        looked.extend(texts(items))

    agent = Agent("a", model=ScriptedModel([Say("and on")]), input_guardrails=[guard])
    await run(agent, "go on", resume_from=result)
    assert looked == ["go on", "late one", "late two"]


async def test_more_undelivered_inputs_than_the_inbox_takes_are_refused_at_once() -> None:
    from agentrun import InboxFull

    result = await interrupted()
    with pytest.raises(InboxFull):
        open_run(Agent("a", model=ScriptedModel([])), resume_from=result, config=RunConfig(max_pending_injections=1))


async def test_a_snapshot_that_holds_what_cannot_be_injected_is_refused_at_once() -> None:
    from agentrun.core.snapshot import UndeliveredInput

    snapshot = (await interrupted()).snapshot()
    snapshot.undelivered = (UndeliveredInput("injection-1", (AssistantMessage("I said"),), "next"),)
    with pytest.raises(UserError, match="AssistantMessage"):
        open_run(Agent("a", model=ScriptedModel([])), resume_from=snapshot)


async def test_the_history_of_a_result_is_input_like_any_other() -> None:
    result = await interrupted()
    model = ScriptedModel([Say("and on")])
    after = await run(Agent("a", model=model), [*result.history, {"role": "user", "content": "go on"}])
    assert texts(after.items) == ["and on"]
    assert model.requests[0].items == after.history[:-1]


async def test_a_view_of_a_request_does_not_change_while_the_run_goes_on() -> None:
    async def look(ctx: RunContext[Any]) -> str:
        return "looked"

    model = ScriptedModel([Call("look"), Call("look"), Say("done")])
    result = await run(Agent("a", tools=[look], model=model), "go")
    assert [len(request.items) for request in model.requests] == [1, 3, 5]
    for request in model.requests:
        assert tuple(request.items) == result.history[: len(request.items)]
        assert request.items[-1] == result.history[len(request.items) - 1]
