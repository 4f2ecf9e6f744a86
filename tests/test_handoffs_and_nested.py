"""Agents that hand over to others, and agents that are tools of others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from laws.support import check_ended, check_events, checkpoints, watch

from agentrun import (
    Agent,
    Handoff,
    ModelSettings,
    RunConfig,
    RunContext,
    ToolOutput,
    UserError,
    events,
    open_run,
    run,
    tool,
)
from agentrun.core.model import ModelRequest
from agentrun.events import Event
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Hang, Say, ScriptedModel


class Broken(Exception):
    pass


def outputs(items: Any) -> dict[str, ToolOutput]:
    return {item.call_id: item for item in items if isinstance(item, ToolOutput)}


# Handoffs --------------------------------------------------------------------------------------------------------


async def test_a_handoff_changes_the_agent_at_work_and_keeps_the_conversation() -> None:
    second_model = ScriptedModel([Say("this is billing")])
    billing = Agent("Billing desk", "You bill.", model=second_model, description="Knows about money.")
    model = ScriptedModel([[Say("one moment"), Call("transfer_to_billing_desk", call_id="h")]])
    seen: list[Event] = []
    async with open_run(Agent("front", "You greet.", model=model, handoffs=[billing]), "my bill?") as live:
        await watch(live, seen)
    result = check_ended(live, model, seen)
    assert result.output == "this is billing"
    assert result.agent == "Billing desk"
    assert [event for event in seen if isinstance(event, events.AgentChanged)] == [
        events.AgentChanged("front", "Billing desk")
    ]
    [spec] = model.requests[0].tools
    assert spec.name == "transfer_to_billing_desk"
    assert spec.description == "Hand the conversation over to Billing desk. Knows about money."
    [request] = second_model.requests
    assert request.instructions == "You bill."
    assert request.items == result.history[:-1]
    assert outputs(result.items)["h"].output == "The conversation was handed over to Billing desk."
    turns = [event.agent for event in seen if isinstance(event, events.TurnStarted)]
    assert turns == ["front", "Billing desk"]


async def test_other_tools_of_the_turn_run_with_the_agent_that_asked_for_them() -> None:
    agents: list[str] = []

    async def look(ctx: RunContext[Any]) -> str:
        await checkpoints(3)
        agents.append(ctx.agent.name)
        return "looked"

    other = Agent("other", model=ScriptedModel([Say("done")]))
    model = ScriptedModel([[Call("transfer_to_other"), Call("look")]])
    result = await run(Agent("first", tools=[look], model=model, handoffs=[other]), "go")
    assert agents == ["first"]
    assert result.agent == "other"
    assert result.output == "done"


async def test_only_the_first_of_two_handoffs_in_a_turn_is_carried_out() -> None:
    one = Agent("one", model=ScriptedModel([Say("I am one")]))
    two = Agent("two", model=ScriptedModel([Say("I am two")]))
    model = ScriptedModel([[Call("transfer_to_two", call_id="a"), Call("transfer_to_one", call_id="b")]])
    result = await run(Agent("first", model=model, handoffs=[one, two]), "go")
    assert result.output == "I am two"
    told = {call_id: (output.status, output.output) for call_id, output in outputs(result.items).items()}
    assert told == {
        "a": ("completed", "The conversation was handed over to two."),
        "b": ("failed", "Error: only one handoff per turn is possible; the first one was carried out."),
    }


@pytest.mark.parametrize("arguments", ["[1]", "5", "{reason", "nobody knows", pytest.param("[" * 100_000, id="deep")])
async def test_a_handoff_whose_arguments_no_provider_takes_back_is_not_carried_out(arguments: str) -> None:
    other = Agent("other", model=ScriptedModel([Say("never")]))
    model = ScriptedModel([Call("transfer_to_other", arguments, call_id="h"), Say("still me")])
    result = await run(Agent("first", model=model, handoffs=[other]), "go")
    assert result.output == "still me"
    output = outputs(result.items)["h"]
    assert (output.status, output.output) == ("failed", "Error: the arguments are not a JSON object.")


@pytest.mark.parametrize("arguments", ["", " ", "{}", '{"reason": "angry"}'])
async def test_a_handoff_needs_no_arguments_and_reads_none(arguments: str) -> None:
    other = Agent("other", model=ScriptedModel([Say("taken over")]))
    model = ScriptedModel([Call("transfer_to_other", arguments)])
    result = await run(Agent("first", model=model, handoffs=[other]), "go")
    assert result.output == "taken over"


async def test_only_the_handoffs_that_the_input_filter_left_can_be_carried_out() -> None:
    one = Agent("one", model=ScriptedModel([Say("I am one")]))
    two = Agent("two", model=ScriptedModel([Say("I am two")]))
    model = ScriptedModel([Call("transfer_to_one", call_id="a"), Call("transfer_to_two")])

    def leave_two(request: ModelRequest) -> ModelRequest:
        return replace(request, tools=tuple(spec for spec in request.tools if spec.name == "transfer_to_two"))

    agent = Agent("first", model=model, handoffs=[one, two])
    result = await run(agent, "go", config=RunConfig(input_filter=leave_two))
    assert outputs(result.items)["a"].status == "failed"
    assert result.output == "I am two"


async def test_a_handoff_may_have_a_name_and_a_description_of_its_own() -> None:
    other = Agent("other", model=ScriptedModel([Say("hi")]))
    model = ScriptedModel([Call("escalate")])
    result = await run(Agent("first", model=model, handoffs=[Handoff(other, "escalate", "When angry.")]), "go")
    assert result.agent == "other"
    assert [(spec.name, spec.description) for spec in model.requests[0].tools] == [("escalate", "When angry.")]


async def test_agents_may_hand_over_in_circles() -> None:
    ping = Agent("ping", model=ScriptedModel([Call("transfer_to_pong"), Say("enough")]))
    pong = Agent("pong", model=ScriptedModel([Call("transfer_to_ping")]), handoffs=[ping])
    ping = ping.clone()
    first = Agent("first", model=ScriptedModel([Call("transfer_to_pong")]), handoffs=[pong])
    result = await run(first, "go")
    assert result.agent == "ping"
    # The ping that pong knows has no handoffs of its own: the model is told so, and goes on.
    assert [output.status for output in outputs(result.items).values()] == ["completed", "completed", "failed"]
    assert result.output == "enough"


async def test_the_agent_that_takes_over_brings_its_own_tools_guardrails_and_output_type() -> None:
    seen: list[Any] = []

    def check(output: Any) -> None:
        seen.append(output)

    def price() -> int:
        return 7

    model = ScriptedModel([Call("price", call_id="p"), Say('{"total": 7}')])
    other: Agent[Any, Any] = Agent(
        "other", tools=[price], model=model, output_type=dict[str, int], output_guardrails=[check]
    )
    first: Agent[Any, Any] = Agent("first", model=ScriptedModel([Call("transfer_to_other")]), handoffs=[other])
    result = await run(first, "go")
    assert result.output == {"total": 7}
    assert seen == [{"total": 7}]
    assert outputs(result.items)["p"].output == 7


async def test_an_interrupt_right_after_a_handoff_is_resumed_by_the_agent_that_took_over() -> None:
    other_model = ScriptedModel([Hang()])
    other = Agent("other", model=other_model)
    first = Agent("first", model=ScriptedModel([Call("transfer_to_other")]), handoffs=[other])
    async with open_run(first, "go") as live:
        async for event in live.events():
            if isinstance(event, events.AgentChanged):
                live.interrupt("stop")
    result = check_ended(live)
    assert result.agent == "other"
    resumed_model = ScriptedModel([Say("here I am")])
    again = Agent("first", model=ScriptedModel([]), handoffs=[other.clone(model=resumed_model)])
    after = await run(again, "go on", resume_from=result.snapshot())
    assert after.output == "here I am"
    assert after.agent == "other"


# Nested runs -----------------------------------------------------------------------------------------------------


async def test_an_agent_as_a_tool_is_a_run_in_a_run() -> None:
    async def look(ctx: RunContext[Any]) -> str:
        return f"looked with {ctx.deps}"

    inner_model = ScriptedModel([[Say("hm"), Call("look", call_id="x")], Say("inner answer")])
    inner = Agent("Inner One", tools=[look], model=inner_model, description="Looks things up.")
    model = ScriptedModel([Call("inner_one", {"input": "what?"}, call_id="c"), Say("outer answer")])
    seen: list[Event] = []
    async with open_run(Agent("outer", tools=[inner.as_tool()], model=model), "go", deps="eyes") as live:
        await watch(live, seen)
    result = check_ended(live, model, seen)
    assert result.output == "outer answer"
    assert outputs(result.items)["c"].output == "inner answer"
    assert [spec.name for spec in model.requests[0].tools] == ["inner_one"]
    assert model.requests[0].tools[0].description == "Looks things up."
    assert inner_model.requests[0].items[0].text == "what?"  # type: ignore[union-attr]
    assert inner_model.requests[1].items[-1].output == "looked with eyes"  # type: ignore[union-attr]
    nested = [event for event in seen if event.path]
    assert {event.path for event in nested} == {("c",)}
    assert isinstance(nested[0], events.RunStarted)
    assert isinstance(nested[-1], events.RunEnded)
    # All of it happens while the call is at work.
    started = seen.index(next(e for e in seen if isinstance(e, events.ToolStarted) and not e.path))
    ended = seen.index(next(e for e in seen if isinstance(e, events.ToolEnded) and not e.path))
    assert all(started < seen.index(event) < ended for event in nested)
    assert result.usage.requests == 4
    assert result.usage.tool_calls == 2
    assert result.turns == 2


async def test_runs_three_deep_carry_their_whole_path() -> None:
    deep = Agent("deep", model=ScriptedModel([Say("from the deep")]))
    middle = Agent(
        "middle", tools=[deep.as_tool()], model=ScriptedModel([Call("deep", {"input": "d"}, call_id="m"), Say("m")])
    )
    model = ScriptedModel([Call("middle", {"input": "m"}, call_id="o"), Say("o")])
    seen: list[Event] = []
    async with open_run(Agent("outer", tools=[middle.as_tool()], model=model), "go") as live:
        await watch(live, seen)
    check_ended(live, model, seen)
    texts = {event.path: event.text for event in seen if isinstance(event, events.TextDelta)}
    assert texts == {("o", "m"): "from the deep", ("o",): "m", (): "o"}


async def test_an_interrupt_tears_nested_runs_down_inside_out() -> None:
    order: list[str] = []
    working = anyio.Event()

    async def work() -> str:
        try:
            working.set()
            await anyio.sleep_forever()
        finally:
            await checkpoints(3)
            order.append("innermost tool")
        return "never"

    async def around(ctx: RunContext[Any]) -> str:
        try:
            async with open_run(inner, "nested", deps=ctx.deps) as nested:
                result = await nested.wait()
            return str(result.output)
        finally:
            assert nested.result is not None
            await anyio.lowlevel.checkpoint()
            order.append(f"outer tool, nested {nested.result.status}")

    inner = Agent("inner", tools=[work], model=ScriptedModel([Call("work", call_id="w")]))
    model = ScriptedModel([Call("around", call_id="c")])
    seen: list[Event] = []
    config = RunConfig(cleanup_grace=2)
    async with anyio.create_task_group() as group:
        async with open_run(Agent("outer", tools=[around], model=model), "go", config=config) as live:
            group.start_soon(watch, live, seen)
            await working.wait()
            tree = live.state().scope
            [call] = tree.children
            [nested_scope] = call.children
            assert (nested_scope.kind, nested_scope.name) == ("run", "inner")
            assert [child.id for child in nested_scope.children] == ["w"]
            assert "tool work w" in live.state().tree()
            live.interrupt("stop")
    result = check_ended(live, model, seen)
    assert result.status == "interrupted"
    assert result.teardown.clean
    assert order == ["innermost tool", "outer tool, nested cancelled"]
    ends = [
        (event.path, type(event).__name__) for event in seen if isinstance(event, (events.RunEnded, events.ToolEnded))
    ]
    assert ends == [(("c",), "ToolEnded"), (("c",), "RunEnded"), ((), "ToolEnded"), ((), "RunEnded")]


async def test_a_nested_run_can_be_interrupted_alone() -> None:
    inner = Agent("inner", model=ScriptedModel([[Say("so far"), Hang()]]))
    model = ScriptedModel([Call("ask", call_id="c"), Say("went on")])

    async def ask() -> str:
        async with open_run(inner, "x") as nested:
            async for event in nested.events():
                if isinstance(event, events.TextDelta):
                    nested.interrupt("enough of that")
            result = await nested.wait()
        return f"{result.status}: {result.text}"

    seen: list[Event] = []
    async with open_run(Agent("outer", tools=[ask], model=model), "go") as live:
        await watch(live, seen)
    result = check_ended(live, model, seen)
    assert outputs(result.items)["c"].output == "interrupted: so far"
    assert result.output == "went on"


async def test_interrupting_the_call_of_an_agent_tool_stops_its_run_only() -> None:
    inner_model = ScriptedModel([Hang()])
    inner = Agent("inner", model=inner_model)
    model = ScriptedModel([[Call("inner", {"input": "x"}, call_id="c")], Say("went on")])
    seen: list[Event] = []
    async with open_run(Agent("outer", tools=[inner.as_tool()], model=model), "go") as live:
        async for event in live.events():
            seen.append(event)
            if isinstance(event, events.ModelCallStarted) and event.path:
                assert live.interrupt_tool("c", "not that")
    result = check_ended(live, model, seen)
    assert result.output == "went on"
    assert outputs(result.items)["c"] == ToolOutput("c", "Cancelled before it finished: not that.", "cancelled")
    assert inner_model.open_streams == 0


async def test_parallel_nested_runs_each_have_their_path() -> None:
    def make(name: str) -> Any:
        return Agent(name, model=ScriptedModel([Say(f"I am {name}", chunks=3)])).as_tool()

    model = ScriptedModel([[Call(n, {"input": "x"}, call_id=f"c{n}") for n in ("a", "b", "c")], Say("done")])
    seen: list[Event] = []
    async with open_run(Agent("outer", tools=[make(n) for n in ("a", "b", "c")], model=model), "go") as live:
        await watch(live, seen)
    result = check_ended(live, model, seen)
    for name in ("a", "b", "c"):
        mine = [event for event in seen if event.path == (f"c{name}",)]
        assert "".join(event.text for event in mine if isinstance(event, events.TextDelta)) == f"I am {name}"
        assert isinstance(mine[0], events.RunStarted)
        assert isinstance(mine[-1], events.RunEnded)
    assert [output.output for output in outputs(result.items).values()] == ["I am a", "I am b", "I am c"]
    assert result.usage.requests == 5


async def test_a_run_that_is_opened_beside_another_is_not_nested_in_it() -> None:
    seen: list[Event] = []
    async with open_run(Agent("one", model=ScriptedModel([Say("1")])), "go") as live:
        other = await run(Agent("two", model=ScriptedModel([Say("2")])), "go")
        await watch(live, seen)
    assert other.output == "2"
    check_events(seen)
    assert not any(event.path for event in seen)


async def test_a_run_is_nested_though_another_event_loop_had_runs_since_the_outer_one_began(
    anyio_backend_name: str,
) -> None:
    def inner() -> Agent[Any, Any]:
        return Agent("inner", model=ScriptedModel([Say("said")]))

    def elsewhere() -> str:
        anyio.run(run, inner(), "go", backend=anyio_backend_name)
        return "done"

    async def nested(ctx: RunContext[Any]) -> str:
        result = await run(inner(), "go")
        assert [child.kind for child in ctx.run.state().scope.children] == ["tool"]
        return str(result.output)

    model = ScriptedModel([Call("elsewhere"), Call("nested", call_id="n"), Say("done")])
    async with open_run(Agent("outer", tools=[elsewhere, nested], model=model), "go") as live:
        paths = {event.path async for event in live.events()}
        result = await live.wait()
    assert paths == {(), ("n",)}  # what runs elsewhere is part of no run here
    assert result.usage.requests == 3 + 1


async def test_the_usage_of_a_nested_run_counts_also_when_it_fails() -> None:
    from agentrun.testing import Fail

    inner = Agent("inner", model=ScriptedModel([Call("nothing"), Fail(Broken("line cut"))]))
    model = ScriptedModel([Call("inner", {"input": "x"}), Say("done")])
    result = await run(Agent("outer", tools=[inner.as_tool()], model=model), "go")
    assert result.usage.requests == 4
    assert result.usage.tool_calls == 2


async def nested_config(config: RunConfig | None) -> RunConfig:
    """What a run has for settings in a run that has ``config``."""
    seen: list[RunConfig] = []

    async def look(ctx: RunContext[Any]) -> str:
        seen.append(ctx.run._run.config)
        return "looked"

    inner = Agent("inner", tools=[look], model=ScriptedModel([Call("look"), Say("inner done")]))
    model = ScriptedModel([Call("inner", {"input": "go"}), Say("done")])
    if config is not None and config.model is not None:
        inner = inner.clone(model=None)
        config = replace(config, model=BothInOne(model))
    result = await run(Agent("outer", tools=[inner.as_tool()], model=model), "go", config=config)
    assert result.output == "done"
    return seen[0]


class BothInOne:
    """A model that stands in for those of the inner and of the outer agent."""

    def __init__(self, outer: ScriptedModel) -> None:
        self.outer = outer
        self.inner = ScriptedModel([Call("look"), Say("inner done")])

    def stream(self, request: ModelRequest) -> Any:
        return (self.inner if request.tools[0].name == "look" else self.outer).stream(request)


def no_change(request: ModelRequest) -> ModelRequest:
    return request


async def test_a_nested_run_has_the_settings_of_the_run_that_it_is_nested_in() -> None:
    config = RunConfig(
        model=ScriptedModel([]),
        model_settings=ModelSettings(temperature=0.5),
        max_parallel_tools=3,
        tool_timeout=20.0,
        guardrail_timeout=7.0,
        cleanup_grace=2.0,
        input_filter=no_change,
        max_pending_injections=8,
    )
    nested = await nested_config(config)
    assert isinstance(nested.model, BothInOne)
    assert replace(nested, model=config.model) == config


async def test_a_nested_run_does_without_what_concerns_the_outer_run_alone() -> None:
    config = RunConfig(
        model_settings=ModelSettings(temperature=0.5, tool_choice="inner"),
        max_turns=3,
        max_seconds=50.0,
        on_approval="wait",
    )
    nested = await nested_config(config)
    assert nested == RunConfig(model_settings=ModelSettings(temperature=0.5))
    assert await nested_config(None) == RunConfig()


async def test_a_nested_run_may_use_what_the_outer_run_has_left() -> None:
    nested = await nested_config(RunConfig(max_tool_calls=5, max_tokens=1000))
    assert (nested.max_tool_calls, nested.max_tokens) == (4, 999)  # one of each was used to call it
    assert (await nested_config(RunConfig(max_tool_calls=1))).max_tool_calls == 1  # the least that can be


@pytest.mark.agentrun_virtual_time
async def test_the_grace_of_a_run_is_that_of_the_runs_in_it() -> None:
    started = anyio.Event()

    async def stubborn() -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(3)
        return "never"

    inner = Agent("inner", tools=[stubborn], model=ScriptedModel([Call("stubborn")]))
    agent = Agent("outer", tools=[inner.as_tool()], model=ScriptedModel([Call("inner", {"input": "go"})]))
    async with open_run(agent, "go", config=RunConfig(cleanup_grace=0.2)) as live:
        await started.wait()
        before = anyio.current_time()
        live.interrupt()
        await live.wait()
        assert anyio.current_time() - before == pytest.approx(0.2, abs=0.05)


async def test_what_a_nested_run_left_over_is_in_the_report_of_the_outer_run() -> None:
    started = anyio.Event()

    async def stubborn(ctx: RunContext[Any]) -> str:
        def broken() -> None:
            raise Broken("cleanup")

        ctx.on_cleanup(broken)
        started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 - on purpose
            pass
        return "never mind"

    inner = Agent("inner", tools=[stubborn], model=ScriptedModel([Call("stubborn", call_id="s")]))
    agent = Agent("outer", tools=[inner.as_tool()], model=ScriptedModel([Call("inner", {"input": "go"}, call_id="i")]))
    async with open_run(agent, "go") as live:
        await started.wait()
        live.interrupt()
        result = await live.wait()
    report = result.teardown
    assert report.swallowed_cancellations == ["tool stubborn (s), in tool inner (i)"]
    assert report.cleanup_errors == ["cleanup of tool stubborn (s): Broken: cleanup, in tool inner (i)"]
    assert report.cancelled_tools == ["inner (i)"]
    assert (report.abandoned_threads, report.killed_processes, report.expired_graces) == ([], [], [])


async def test_each_kind_of_what_a_nested_run_left_over_is_reported_as_what_it_is() -> None:
    from agentrun.core.results import TeardownReport

    kinds = ["swallowed_cancellations", "abandoned_threads", "killed_processes", "expired_graces", "cleanup_errors"]
    async with open_run(Agent("a", model=ScriptedModel([Say("hi")])), "go") as live:
        for kind in kinds:
            report = TeardownReport(cancelled_tools=["t"])
            setattr(report, kind, [kind])
            live._run.reports.note_nested(report, "there")
        live._run.reports.note_nested(TeardownReport(cancelled_tools=["t"]), "there")
        result = await live.wait()
    assert {kind: getattr(result.teardown, kind) for kind in kinds} == {kind: [f"{kind}, in there"] for kind in kinds}
    assert result.teardown.cancelled_tools == []


async def test_an_agent_tool_takes_the_options_of_any_tool() -> None:
    inner = Agent("inner", model=ScriptedModel([Hang()]))
    slow = inner.as_tool(name="ask_inner", description="Asks.", timeout=0.05)
    model = ScriptedModel([Call("ask_inner", {"input": "x"}, call_id="c"), Say("done")])
    result = await run(Agent("outer", tools=[slow], model=model), "go")
    assert outputs(result.items)["c"].status == "timed_out"
    assert model.requests[0].tools[0].description == "Asks."
    with pytest.raises(UserError, match=r"as_tool\(name=\.\.\.\)"):
        Agent("日本").as_tool()


async def test_a_nested_run_has_a_history_and_a_session_of_its_own() -> None:
    session = MemorySession()

    async def ask(ctx: RunContext[Any]) -> str:
        return str((await run(inner, "inner question", session=session)).output)

    inner = Agent("inner", model=ScriptedModel([Say("inner answer")]))
    model = ScriptedModel([Call("ask"), Say("done")])
    outer_session = MemorySession()
    result = await run(Agent("outer", tools=[tool(ask, on_error="raise")], model=model), "go", session=outer_session)
    assert [getattr(item, "text", None) for item in session.items] == ["inner question", "inner answer"]
    assert tuple(outer_session.items) == result.history
