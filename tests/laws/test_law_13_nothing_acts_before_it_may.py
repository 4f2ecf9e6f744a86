"""Law 13: nothing acts before it may."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import (
    Agent,
    InputGuardrailTripped,
    OutputGuardrailTripped,
    RunConfig,
    RunContext,
    RunHooks,
    ToolOutput,
    Trip,
    UserError,
    UserMessage,
    events,
    input_guardrail,
    open_run,
    output_guardrail,
    run,
    tool,
)
from agentrun.errors import CallCancelled
from agentrun.events import Event
from agentrun.testing import Call, Hang, Say, ScriptedModel

from .support import check_ended, checkpoints, watch

QUICK = RunConfig(cleanup_grace=0.2)


class Broken(Exception):
    pass


class Gate:
    """A guardrail that answers when it is told to, and what a tool did meanwhile."""

    def __init__(self, verdict: Any = None) -> None:
        self.verdict = verdict
        self.entered = anyio.Event()
        self.open = anyio.Event()
        self.saw: list[Any] = []
        self.cleaned = 0

    async def guard(self, ctx: RunContext[Any], value: Any) -> Any:
        self.saw.append(value)
        self.entered.set()
        try:
            await self.open.wait()
        finally:
            await anyio.lowlevel.checkpoint()
            self.cleaned += 1
        if isinstance(self.verdict, BaseException):
            raise self.verdict
        return self.verdict


class Worker:
    def __init__(self) -> None:
        self.ran: list[str] = []

    def tool(self, name: str = "work", **options: Any) -> Any:
        async def work() -> str:
            self.ran.append(name)
            return "worked"

        return tool(work, name=name, **options)


def texts(value: Any) -> list[str]:
    return [item.text for item in value if isinstance(item, UserMessage)]


# Racing guardrails -----------------------------------------------------------------------------------------------


async def test_the_model_runs_beside_an_input_guardrail_but_tools_wait_for_it() -> None:
    gate, worker = Gate(), Worker()
    model = ScriptedModel([[Say("hm"), Call("work")], Say("done")])
    seen: list[Event] = []
    agent = Agent("a", tools=[worker.tool()], model=model, input_guardrails=[gate.guard])
    async with anyio.create_task_group() as group, open_run(agent, "go") as live:
        group.start_soon(watch, live, seen)
        while not any(isinstance(event, events.ModelCallEnded) for event in seen):
            await anyio.lowlevel.checkpoint()
        await checkpoints(20)
        assert worker.ran == []
        assert live.state().phase == "guardrails"
        gate.open.set()
        result = await live.wait()
    check_ended(live, model, seen)
    assert worker.ran == ["work"]
    assert texts(gate.saw[0]) == ["go"]
    names = [type(event).__name__ for event in seen]
    assert names.index("ModelCallEnded") < names.index("GuardrailEnded") < names.index("ToolStarted")
    assert [(r.name, r.kind, r.outcome) for r in result.guardrail_results] == [("guard", "input", "passed")]


async def test_no_answer_counts_before_the_input_guardrails_have_passed() -> None:
    gate = Gate(Trip("no"))
    model = ScriptedModel([Say("secret")])
    agent = Agent("a", model=model, input_guardrails=[gate.guard])
    with pytest.raises(InputGuardrailTripped):
        async with open_run(agent, "go") as live:
            async for event in live.events():
                if isinstance(event, events.ModelCallEnded):
                    await checkpoints(10)
                    assert live.result is None
                    gate.open.set()
            await live.wait()
    assert check_ended(live, model).output is None


async def test_a_trip_stops_the_stream_at_once_and_is_raised_when_the_stream_has_closed() -> None:
    gate, worker = Gate(Trip("not that", data={"score": 0.9})), Worker()
    closed: list[int] = []

    class Model:
        def stream(self, request: Any) -> Any:
            return self

        async def __aenter__(self) -> Any:
            return self._play()

        async def __aexit__(self, *exc: object) -> None:
            await checkpoints(5)
            closed.append(1)

        async def _play(self) -> Any:
            yield events.TextDelta("so far")
            await anyio.sleep_forever()

    agent = Agent("a", tools=[worker.tool()], model=Model(), input_guardrails=[gate.guard])
    seen: list[Event] = []
    with pytest.raises(InputGuardrailTripped) as caught:
        async with open_run(agent, "go", config=QUICK) as live:
            async for event in live.events():
                seen.append(event)
                if isinstance(event, events.TextDelta):
                    gate.open.set()
                if isinstance(event, events.RunEnded):
                    assert closed == [1]
            await live.wait()
    error = caught.value
    assert closed == [1]
    assert str(error) == "input guardrail 'guard' tripped: not that"
    assert error.guardrail == "guard"
    assert error.data == {"score": 0.9}
    result = check_ended(live, None, seen)
    assert error.result is result
    assert result.status == "failed"
    assert result.text == "so far"
    [answer] = result.guardrail_results
    assert (answer.outcome, answer.message, answer.data) == ("tripped", "not that", {"score": 0.9})
    ended = [event for event in seen if isinstance(event, events.ModelCallEnded)]
    assert [event.status for event in ended] == ["interrupted"]


async def test_a_trip_that_comes_while_a_hook_holds_the_run_up_is_not_missed() -> None:
    worker = Worker()
    for turn in (Call("work"), Say("answer")):
        seen: list[Event] = []
        gate = Gate(Trip("no"))

        class Opening(RunHooks):
            async def on_model_end(self, ctx: Any, status: str) -> None:
                gate.open.set()  # noqa: B023 - called before the loop goes on
                await checkpoints(20)

        agent = Agent("a", tools=[worker.tool()], model=ScriptedModel([turn]), input_guardrails=[gate.guard])
        with pytest.raises(InputGuardrailTripped):
            async with open_run(agent, "go", hooks=Opening()) as live:
                await watch(live, seen)
        check_ended(live, None, seen)
        assert worker.ran == []


@pytest.mark.parametrize("steps", range(12))
async def test_no_tool_starts_before_a_trip_whatever_comes_first(steps: int) -> None:
    worker = Worker()

    async def guard(items: Any) -> Trip:
        await checkpoints(steps)
        return Trip("no")

    model = ScriptedModel([[Say("hm", chunks=2), Call("work")], Say("done")])
    seen: list[Event] = []
    with pytest.raises(InputGuardrailTripped):
        async with open_run(Agent("a", tools=[worker.tool()], model=model, input_guardrails=[guard]), "go") as live:
            await watch(live, seen)
    check_ended(live, model, seen)
    assert worker.ran == []
    assert not any(isinstance(event, events.ToolStarted) for event in seen)


async def test_the_first_guardrail_of_the_list_that_does_not_pass_is_the_one_that_counts() -> None:
    gate = Gate()
    answered: list[str] = []

    async def first(items: Any) -> Trip:
        await gate.open.wait()
        answered.append("first")
        return Trip("first")

    async def second(items: Any) -> Trip:
        await gate.open.wait()
        answered.append("second")
        return Trip("second")

    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[first, second])
    seen: list[Event] = []
    with pytest.raises(InputGuardrailTripped, match="first"):
        async with open_run(agent, "go") as live:
            async for event in live.events():
                seen.append(event)
                if isinstance(event, events.ModelCallStarted):
                    gate.open.set()
    result = check_ended(live, None, seen)
    assert [r.message for r in result.guardrail_results] == ["first", "second"]
    assert [e.name for e in seen if isinstance(e, events.GuardrailEnded)] == ["first", "second"]
    assert sorted(answered) == ["first", "second"]
    assert [type(error) for error in result.errors] == [InputGuardrailTripped]  # the second's is kept


async def test_a_trip_cancels_the_guardrails_that_are_still_at_work_and_they_clean_up() -> None:
    slow = Gate()

    async def quick(items: Any) -> Trip:
        await slow.entered.wait()
        return Trip("no")

    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[slow.guard, quick])
    with pytest.raises(InputGuardrailTripped, match="'quick'"):
        async with open_run(agent, "go", config=QUICK) as live:
            await live.wait()
    result = check_ended(live)
    assert slow.cleaned == 1
    assert [(r.name, r.outcome) for r in result.guardrail_results] == [("guard", "cancelled"), ("quick", "tripped")]


# Blocking guardrails ---------------------------------------------------------------------------------------------


async def test_a_blocking_guardrail_keeps_the_model_from_being_called() -> None:
    gate = Gate("a message will do")
    model = ScriptedModel([Say("never")])
    agent = Agent("a", model=model, input_guardrails=[input_guardrail(blocking=True)(gate.guard)])
    with pytest.raises(InputGuardrailTripped, match="a message will do") as caught:
        async with open_run(agent, "go") as live:
            await gate.entered.wait()
            await checkpoints(10)
            assert model.requests == []
            gate.open.set()
            await live.wait()
    result = check_ended(live, model)
    assert model.requests == []
    assert result.turns == 0
    assert result.usage.requests == 0
    assert result.history == (UserMessage("go"),)
    assert caught.value.data is None


async def test_blocking_guardrails_pass_first_then_the_others_race() -> None:
    order: list[str] = []

    async def racing(items: Any) -> None:
        order.append("racing")

    async def blocking(items: Any) -> None:
        await checkpoints(3)
        order.append("blocking")

    model = ScriptedModel([Say("done")])
    agent = Agent("a", model=model, input_guardrails=[racing, input_guardrail(blocking=True)(blocking)])
    result = await run(agent, "go")
    assert order == ["blocking", "racing"]
    assert [r.name for r in result.guardrail_results] == ["blocking", "racing"]


async def test_input_that_replaces_other_input_while_it_is_looked_at_is_looked_at_too() -> None:
    looked: list[list[str]] = []

    async def guard(ctx: RunContext[Any], items: Any) -> Trip | None:
        looked.append(texts(items))
        if texts(items) == ["harmless"]:
            assert harmless is not None
            assert harmless.withdraw()
            ctx.run.inject("harmful")
        return Trip("harmful") if "harmful" in texts(items) else None

    harmless: Any = None

    async def work(ctx: RunContext[Any]) -> str:
        nonlocal harmless
        harmless = ctx.run.inject("harmless")
        return "worked"

    model = ScriptedModel([Call("work"), Say("never")])
    agent = Agent("a", tools=[work], model=model, input_guardrails=[input_guardrail(blocking=True)(guard)])
    with pytest.raises(InputGuardrailTripped, match="harmful"):
        await run(agent, "go")
    assert looked == [["go"], ["harmless"], ["harmful"]]
    assert len(model.requests) == 1


async def test_what_comes_while_the_blocking_guardrails_look_is_looked_at_and_nothing_twice() -> None:
    looked: list[list[str]] = []
    handles: list[Any] = []

    async def guard(items: Any) -> None:
        looked.append(texts(items))
        if len(looked) <= 2:
            handles[0].inject(f"more {len(looked)}")
        await checkpoints(1)

    model = ScriptedModel([Say("done")])
    agent = Agent("a", model=model, input_guardrails=[input_guardrail(blocking=True)(guard)])
    async with open_run(agent, "go") as live:
        handles.append(live)
        result = await live.wait()
    assert looked == [["go"], ["more 1"], ["more 2"]]
    assert texts(result.history) == ["go", "more 1", "more 2"]
    assert result.output == "done"
    assert len(model.requests) == 1


# Injected input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("deliver", ["next", "now", "idle"])
async def test_injected_input_is_checked_like_any_other(deliver: Any, blocking: bool) -> None:
    async def guard(items: Any) -> Trip | None:
        await checkpoints(2)
        return Trip("no") if "bad words" in texts(items) else None

    worker = Worker()

    async def talk(ctx: RunContext[Any]) -> str:
        ctx.run.inject("bad words", deliver=deliver)
        return "talked"

    guards = [input_guardrail(blocking=blocking)(guard)]
    turns: list[Any] = [Call("talk"), *([Say("hm")] if deliver == "idle" else []), Call("work"), Say("done")]
    model = ScriptedModel(turns)
    agent = Agent("a", tools=[talk, worker.tool()], model=model, input_guardrails=guards)
    seen: list[Event] = []
    with pytest.raises(InputGuardrailTripped):
        async with open_run(agent, "go", config=QUICK) as live:
            await watch(live, seen)
    result = check_ended(live, model, seen)
    assert worker.ran == []
    calls_before = 2 if deliver == "idle" else 1
    assert len(model.requests) == (calls_before if blocking else calls_before + 1)
    assert ("bad words" in texts(result.history)) is not blocking
    assert [r.outcome for r in result.guardrail_results] == ["passed", "tripped"]
    assert bool(result.undelivered) is blocking


async def test_input_that_cuts_in_leaves_the_guardrails_of_what_came_before_it_at_work() -> None:
    gate = Gate(Trip("no"))
    model = ScriptedModel([[Say("hm"), Hang()], Hang()])
    agent = Agent("a", model=model, input_guardrails=[gate.guard])
    with pytest.raises(InputGuardrailTripped):
        async with open_run(agent, "go") as live:
            await gate.entered.wait()
            live.inject("and quickly", deliver="now")
            while len(model.requests) < 2:
                await anyio.lowlevel.checkpoint()
            gate.open.set()
            await live.wait()
    assert [texts(value) for value in gate.saw] == [["go"], ["and quickly"]]
    assert live.result is not None
    assert live.result.guardrail_results[0].outcome == "tripped"


async def test_each_input_is_checked_once() -> None:
    looked: list[list[str]] = []

    async def guard(items: Any) -> None:
        looked.append(texts(items))

    async def talk(ctx: RunContext[Any]) -> str:
        ctx.run.inject(f"more {ctx.usage.requests}")
        return "talked"

    model = ScriptedModel([Call("talk"), Call("talk"), Say("done")])
    await run(Agent("a", tools=[talk], model=model, input_guardrails=[guard]), "go")
    assert looked == [["go"], ["more 1"], ["more 2"]]


# What is not a pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_guardrail_that_raises_fails_the_run_with_its_own_error(blocking: bool) -> None:
    gate = Gate(Broken("detector down"))
    gate.open.set()
    worker = Worker()
    guard = input_guardrail(blocking=blocking)(gate.guard)
    agent = Agent("a", tools=[worker.tool()], model=ScriptedModel([Call("work")]), input_guardrails=[guard])
    with pytest.raises(Broken, match="detector down"):
        async with open_run(agent, "go") as live:
            await live.wait()
    result = check_ended(live)
    assert worker.ran == []
    [answer] = result.guardrail_results
    assert (answer.outcome, answer.message) == ("failed", "Broken: detector down")


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_guardrail_that_does_not_answer_in_time_trips(blocking: bool) -> None:
    gate, worker = Gate(), Worker()
    guard = input_guardrail(blocking=blocking, timeout=0.05)(gate.guard)
    agent = Agent("a", tools=[worker.tool()], model=ScriptedModel([Call("work")]), input_guardrails=[guard])
    with pytest.raises(InputGuardrailTripped, match=r"did not answer within 0\.05 seconds"):
        async with open_run(agent, "go", config=QUICK) as live:
            await live.wait()
    result = check_ended(live)
    assert worker.ran == []
    assert gate.cleaned == 1
    assert [r.outcome for r in result.guardrail_results] == ["tripped"]


async def test_the_configured_timeout_holds_for_guardrails_without_one_of_their_own() -> None:
    gate = Gate()
    agent = Agent("a", model=ScriptedModel([Say("hi")]), output_guardrails=[gate.guard])
    with pytest.raises(OutputGuardrailTripped, match=r"did not answer within 0\.04 seconds"):
        await run(agent, "go", config=RunConfig(guardrail_timeout=0.04, cleanup_grace=0.2))


@pytest.mark.parametrize("verdict", [True, False, 0, "", {"tripped": False}, ["x"]])
async def test_a_verdict_that_could_mean_anything_does_not_pass(verdict: Any) -> None:
    gate = Gate(verdict)
    gate.open.set()
    agent = Agent("a", model=ScriptedModel([Say("hi")]), input_guardrails=[gate.guard])
    with pytest.raises(UserError, match=r"guardrail 'guard' returned .*; return None to pass, or Trip"):
        await run(agent, "go")


async def test_an_interrupt_cancels_guardrails_and_they_do_not_count_as_tripped() -> None:
    gate = Gate(Trip("too late"))
    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[gate.guard])
    seen: list[Event] = []
    async with anyio.create_task_group() as group, open_run(agent, "go", config=QUICK) as live:
        group.start_soon(watch, live, seen)
        await gate.entered.wait()
        live.interrupt("stop")
        result = await live.wait()
    check_ended(live, None, seen)
    assert result.status == "interrupted"
    assert gate.cleaned == 1
    assert [r.outcome for r in result.guardrail_results] == ["cancelled"]


async def test_tools_that_a_guardrail_held_back_are_told_before_the_guardrail_when_the_run_stops() -> None:
    gate, worker = Gate(), Worker()
    model = ScriptedModel([[Call("work", call_id="c"), Call("work", call_id="d")]])
    seen: list[Event] = []
    agent = Agent("a", tools=[worker.tool()], model=model, input_guardrails=[gate.guard])
    async with anyio.create_task_group() as group, open_run(agent, "go") as live:
        group.start_soon(watch, live, seen)
        while live.state().phase != "guardrails":
            await anyio.lowlevel.checkpoint()
        live.interrupt("stop")
        await live.wait()
    check_ended(live, model, seen)
    assert worker.ran == []
    assert gate.cleaned == 1
    names = [type(event).__name__ for event in seen]
    assert names[names.index("InterruptRequested") :] == [
        "InterruptRequested",
        "ToolEnded",
        "ToolEnded",
        "GuardrailEnded",
        "RunEnded",
    ]


# Sync guardrails -------------------------------------------------------------------------------------------------


async def test_sync_guardrails_run_in_threads_and_hold_nothing_up() -> None:
    release, worker = threading.Event(), Worker()
    threads: list[str] = []

    def guard(items: Any) -> None:
        threads.append(threading.current_thread().name)
        assert release.wait(10)

    model = ScriptedModel([[Say("hm"), Call("work")], Say("done")])
    agent = Agent("a", tools=[worker.tool()], model=model, input_guardrails=[guard], output_guardrails=[lambda o: None])
    async with open_run(agent, "go") as live:
        async for event in live.events():
            if isinstance(event, events.ModelCallEnded) and event.turn == 1:
                assert worker.ran == []  # the loop was free all the time
                release.set()
        result = await live.wait()
    assert worker.ran == ["work"]
    assert threads
    assert threads[0] != threading.current_thread().name
    assert [r.outcome for r in result.guardrail_results] == ["passed", "passed"]


async def test_a_sync_guardrail_that_trips_stops_the_stream() -> None:
    def guard(ctx: RunContext[Any], items: Any) -> str:
        return f"{ctx.agent.name} may not"

    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[guard])
    with pytest.raises(InputGuardrailTripped, match="a may not"):
        await run(agent, "go")


async def test_a_sync_guardrail_can_look_whether_it_is_still_needed() -> None:
    looking = threading.Event()
    left: list[str] = []

    def guard(ctx: RunContext[Any], items: Any) -> None:
        looking.set()
        try:
            while True:
                ctx.check_cancelled()
        except CallCancelled as exc:
            left.append(str(exc))
            raise

    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[guard])
    async with open_run(agent, "go", config=RunConfig(cleanup_grace=10)) as live:
        while not looking.is_set():
            await anyio.sleep(0.001)
        live.interrupt("stop")
        result = await live.wait()
    assert left == ["stop"]
    assert result.teardown.clean
    assert result.errors == ()


async def test_a_sync_guardrail_whose_time_is_up_is_told() -> None:
    left: list[str] = []

    def guard(ctx: RunContext[Any], items: Any) -> None:
        try:
            while True:
                ctx.check_cancelled()
        except CallCancelled as exc:
            left.append(str(exc))
            raise

    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[input_guardrail(timeout=0.05)(guard)])
    with pytest.raises(InputGuardrailTripped, match="did not answer") as caught:
        await run(agent, "go", config=RunConfig(cleanup_grace=10))
    assert left == ["it took too long, or its answer is no longer needed"]
    assert caught.value.result is not None
    assert caught.value.result.teardown.clean


async def test_a_sync_guardrail_that_never_looks_is_named_and_does_not_pass() -> None:
    release = threading.Event()
    try:

        def guard(items: Any) -> None:
            release.wait(30)

        agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[input_guardrail(timeout=0.05)(guard)])
        with pytest.raises(InputGuardrailTripped) as caught:
            await run(agent, "go", config=RunConfig(cleanup_grace=0.05))
        assert caught.value.result is not None
        [abandoned] = caught.value.result.teardown.abandoned_threads
        assert abandoned.startswith("input guardrail guard in thread ")
    finally:
        release.set()


# Output guardrails -----------------------------------------------------------------------------------------------


async def test_an_output_guardrail_sees_the_parsed_output_and_the_run_waits_for_it() -> None:
    gate = Gate()
    model = ScriptedModel([Say('{"n": 7}')])
    agent: Agent[Any, Any] = Agent("a", model=model, output_type=dict[str, int], output_guardrails=[gate.guard])
    async with open_run(agent, "go") as live:
        await gate.entered.wait()
        await checkpoints(10)
        assert live.result is None
        gate.open.set()
        result = await live.wait()
    assert gate.saw == [{"n": 7}]
    assert result.output == {"n": 7}


@pytest.mark.parametrize("verdict", [Trip("rude", data=3), "rude"])
async def test_an_output_guardrail_that_trips_fails_the_run_with_its_data(verdict: Any) -> None:
    gate = Gate(verdict)
    gate.open.set()
    model = ScriptedModel([Say("you fool")])
    agent = Agent("a", model=model, output_guardrails=[output_guardrail(name="manners")(gate.guard)])
    seen: list[Event] = []
    with pytest.raises(OutputGuardrailTripped, match="output guardrail 'manners' tripped: rude") as caught:
        async with open_run(agent, "go") as live:
            await watch(live, seen)
    result = check_ended(live, model, seen)
    assert caught.value.data == (3 if isinstance(verdict, Trip) else None)
    assert caught.value.guardrail == "manners"
    assert caught.value.result is result
    assert result.output is None
    assert result.text == "you fool"


async def test_an_output_guardrail_that_raises_or_answers_nonsense_does_not_pass() -> None:
    for verdict, error in ((Broken("down"), Broken), (True, UserError)):
        gate = Gate(verdict)
        gate.open.set()
        with pytest.raises(error):
            await run(Agent("a", model=ScriptedModel([Say("hi")]), output_guardrails=[gate.guard]), "go")


async def test_an_interrupt_during_an_output_guardrail_gives_no_output() -> None:
    gate = Gate()
    model = ScriptedModel([Say("answer")])
    async with open_run(Agent("a", model=model, output_guardrails=[gate.guard]), "go", config=QUICK) as live:
        await gate.entered.wait()
        live.interrupt("stop")
        result = await live.wait()
    check_ended(live, model)
    assert result.status == "interrupted"
    assert result.output is None
    assert result.text == "answer"
    assert gate.cleaned == 1


async def test_an_answer_that_had_passed_is_no_output_of_a_run_that_went_on_and_did_not_complete() -> None:
    gate, model = Gate(), ScriptedModel([Say("one"), Hang()])
    agent = Agent("a", model=model, output_guardrails=[gate.guard])
    async with open_run(agent, "go") as live:
        await gate.entered.wait()
        live.inject("and more")
        gate.open.set()
        while len(model.requests) < 2:
            await anyio.lowlevel.checkpoint()
        live.interrupt("stop")
        result = await live.wait()
    assert result.status == "interrupted"
    assert [r.outcome for r in result.guardrail_results] == ["passed"]
    assert result.output is None


async def test_only_the_last_word_is_shown_to_the_output_guardrails_of_the_agent_at_work() -> None:
    first, second = Gate(), Gate()
    first.open.set()
    second.open.set()
    inner = Agent("inner", model=ScriptedModel([Say("the end")]), output_guardrails=[second.guard])
    model = ScriptedModel([[Say("over to you"), Call("transfer_to_inner")]])
    outer = Agent("outer", model=model, handoffs=[inner], output_guardrails=[first.guard])
    result = await run(outer, "go")
    assert result.agent == "inner"
    assert first.saw == []
    assert second.saw == ["the end"]


# Approvals -------------------------------------------------------------------------------------------------------


async def test_a_tool_that_waits_for_approval_has_not_run() -> None:
    worker = Worker()
    model = ScriptedModel([[Call("danger", call_id="d"), Call("safe", call_id="s")], Say("done")])
    tools = [worker.tool("danger", needs_approval=True), worker.tool("safe")]
    seen: list[Event] = []
    async with anyio.create_task_group() as group, open_run(Agent("a", tools=tools, model=model), "go") as live:
        group.start_soon(watch, live, seen)
        while worker.ran != ["safe"]:
            await anyio.lowlevel.checkpoint()
        await checkpoints(20)
        assert worker.ran == ["safe"]
        [scope] = live.state().scope.children
        assert (scope.id, scope.status) == ("d", "waiting for approval")
        assert live.approve("d")
        await live.wait()
    check_ended(live, model, seen)
    assert worker.ran == ["safe", "danger"]
    names = [(type(event).__name__, getattr(event, "call_id", "")) for event in seen]
    assert names.index(("ApprovalRequested", "d")) < names.index(("ToolStarted", "d"))


async def test_no_approval_is_asked_for_before_the_guardrails_have_passed() -> None:
    gate, worker = Gate(Trip("no")), Worker()
    asked: list[Any] = []

    def ask(ctx: RunContext[Any], arguments: Any) -> bool:
        asked.append(arguments)
        return True

    model = ScriptedModel([[Call("one"), Call("two")]])
    tools = [worker.tool("one", needs_approval=ask), worker.tool("two", needs_approval=True)]
    agent = Agent("a", tools=tools, model=model, input_guardrails=[gate.guard])
    seen: list[Event] = []
    with pytest.raises(InputGuardrailTripped):
        async with open_run(agent, "go") as live:
            async for event in live.events():
                seen.append(event)
                if isinstance(event, events.ModelCallEnded):
                    gate.open.set()
    result = check_ended(live, model, seen)
    assert asked == worker.ran == []
    assert not any(isinstance(event, events.ApprovalRequested) for event in seen)
    assert result.pending_approvals == ()


async def test_tools_that_may_not_run_beside_others_wait_their_turn() -> None:
    running: set[str] = set()
    together: list[set[str]] = []

    def make(name: str, parallel: bool) -> Any:
        async def work() -> str:
            running.add(name)
            together.append(set(running))
            await checkpoints(3)
            running.discard(name)
            return name

        return tool(work, name=name, parallel=parallel)

    tools = [make("a", True), make("b", True), make("alone", False), make("c", True), make("d", True)]
    model = ScriptedModel([[Call(name) for name in ("a", "b", "alone", "c", "d")], Say("done")])
    result = await run(Agent("x", tools=tools, model=model), "go")
    assert result.status == "completed"
    for names in together:
        assert names == {"alone"} or "alone" not in names
    assert any(names == {"a", "b"} for names in together)
    assert any(names == {"c", "d"} for names in together)
    assert together.index({"alone"}) == 2


async def test_a_call_that_is_cancelled_while_it_waits_for_its_turn_never_starts_and_lets_nobody_pass() -> None:
    started, release = list[str](), anyio.Event()

    def make(name: str, parallel: bool) -> Any:
        async def work() -> str:
            started.append(name)
            await release.wait()
            return name

        return tool(work, name=name, parallel=parallel)

    model = ScriptedModel([[Call(name, call_id=name) for name in ("alone", "beside", "last")], Say("done")])
    agent = Agent("x", tools=[make("alone", False), make("beside", True), make("last", True)], model=model)
    seen: list[Event] = []
    async with anyio.create_task_group() as group, open_run(agent, "go") as live:
        group.start_soon(watch, live, seen)
        while not started:
            await anyio.lowlevel.checkpoint()
        assert live.interrupt_tool("last", "not needed")
        await checkpoints(10)
        assert started == ["alone"]
        release.set()
        result = await live.wait()
    check_ended(live, model, seen)
    assert started == ["alone", "beside"]
    assert [event.call_id for event in seen if isinstance(event, events.ToolStarted)] == ["alone", "beside"]
    assert {item.call_id: item.output for item in result.items if isinstance(item, ToolOutput)} == {
        "alone": "alone",
        "beside": "beside",
        "last": "Cancelled before it started: not needed.",
    }
    assert result.teardown.cancelled_tools == []
