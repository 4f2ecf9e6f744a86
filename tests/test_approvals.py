"""Tool calls that wait for a decision."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from laws.support import check_ended, checkpoints, watch

from agentrun import (
    ActiveRun,
    Agent,
    RunConfig,
    RunContext,
    RunResult,
    RunSnapshot,
    ToolOutput,
    UserError,
    events,
    open_run,
    run,
    tool,
)
from agentrun.errors import CallCancelled
from agentrun.events import Event
from agentrun.testing import Call, Say, ScriptedModel, assert_valid_history


class Till:
    """Tools whose effects can be counted."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def pay(self, **options: Any) -> Any:
        async def pay(amount: int) -> str:
            await anyio.lowlevel.checkpoint()
            self.paid.append(amount)
            return f"paid {amount}"

        return tool(pay, **options)


def outputs(items: Any) -> dict[str, tuple[str, Any]]:
    return {item.call_id: (item.status, item.output) for item in items if isinstance(item, ToolOutput)}


def paying(*amounts: int, then: str = "done") -> ScriptedModel:
    return ScriptedModel([[Call("pay", {"amount": amount}, call_id=f"p{amount}") for amount in amounts], Say(then)])


async def decide(live: Any, decisions: dict[str, Any], seen: list[Event] | None = None) -> None:
    """Decide each request when it is asked."""
    async for event in live.events():
        if seen is not None:
            seen.append(event)
        if isinstance(event, events.ApprovalRequested) and event.call_id in decisions:
            decision = decisions[event.call_id]
            assert live.approve(event.call_id) if decision is True else live.reject(event.call_id, decision)


async def test_approved_and_rejected_calls_of_one_turn() -> None:
    till, model = Till(), paying(1, 2, 3)
    seen: list[Event] = []
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=[till.pay(needs_approval=True)], model=model), "go") as live:
            group.start_soon(decide, live, {"p1": True, "p2": "too much", "p3": None}, seen)
            result = await live.wait()
    check_ended(live, model, seen)
    assert till.paid == [1]
    assert outputs(result.items) == {
        "p1": ("completed", "paid 1"),
        "p2": ("rejected", "too much"),
        "p3": ("rejected", "The call was rejected."),
    }
    asked = [event for event in seen if isinstance(event, events.ApprovalRequested)]
    assert [(event.call_id, event.name, event.arguments) for event in asked] == [
        (f"p{n}", "pay", f'{{"amount": {n}}}') for n in (1, 2, 3)
    ]
    started = [event.call_id for event in seen if isinstance(event, events.ToolStarted)]
    assert started == ["p1"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_decides_which_calls_need_approval(is_async: bool) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def needs(ctx: RunContext[Any], arguments: dict[str, Any]) -> bool:
        asked.append((ctx.call_id, arguments))
        return bool(arguments["amount"] > ctx.deps)

    async def needs_async(ctx: RunContext[Any], arguments: dict[str, Any]) -> bool:
        await checkpoints(2)
        return needs(ctx, arguments)

    till, model = Till(), paying(5, 50)
    pay = till.pay(needs_approval=needs_async if is_async else needs)
    seen: list[Event] = []
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=[pay], model=model), "go", deps=10) as live:
            group.start_soon(decide, live, {"p50": True}, seen)
            result = await live.wait()
    check_ended(live, model, seen)
    assert sorted(till.paid) == [5, 50]
    assert sorted(asked) == [("p5", {"amount": 5}), ("p50", {"amount": 50})]
    assert [event.call_id for event in seen if isinstance(event, events.ApprovalRequested)] == ["p50"]
    assert {status for status, _ in outputs(result.items).values()} == {"completed"}


@pytest.mark.parametrize("policy", ["model", "raise"])
async def test_a_function_that_fails_to_decide_permits_nothing(policy: Any) -> None:
    def needs(ctx: RunContext[Any], arguments: dict[str, Any]) -> bool:
        raise LookupError("no list of rights")

    till, model = Till(), paying(1)
    agent = Agent("a", tools=[till.pay(needs_approval=needs, on_error=policy)], model=model)
    if policy == "raise":
        with pytest.raises(LookupError, match="no list of rights"):
            await run(agent, "go")
    else:
        result = await run(agent, "go")
        assert outputs(result.items) == {"p1": ("failed", "Error: LookupError: no list of rights")}
    assert till.paid == []


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_function_that_does_not_decide_in_time_permits_nothing(swallow: bool) -> None:
    async def needs(ctx: RunContext[Any], arguments: dict[str, Any]) -> bool:
        try:
            await anyio.sleep_forever()
        except BaseException:
            if not swallow:
                raise
        return False

    till, model = Till(), paying(1)
    agent = Agent("a", tools=[till.pay(needs_approval=needs, timeout=0.05)], model=model)
    result = await run(agent, "go", config=RunConfig(cleanup_grace=0.2))
    assert till.paid == []
    assert outputs(result.items) == {
        "p1": ("failed", "Error: ToolError: the approval check of tool pay (p1) did not finish")
    }


async def test_a_call_that_is_cancelled_while_it_is_checked_has_not_started_and_only_the_check_is_told() -> None:
    checking, told = anyio.Event(), list[str]()

    async def needs(ctx: RunContext[Any], arguments: dict[str, Any]) -> bool:
        checking.set()
        try:
            await anyio.sleep_forever()
        finally:
            try:
                ctx.check_cancelled()
            except CallCancelled as exc:
                told.append(str(exc))
        return False

    till, model = Till(), paying(1)
    agent = Agent("a", tools=[till.pay(needs_approval=needs, on_cancel=lambda: told.append("on_cancel"))], model=model)
    async with open_run(agent, "go", config=RunConfig(cleanup_grace=0.2)) as live:
        await checking.wait()
        live.interrupt_tool("p1", "no more")
        result = await live.wait()
    assert till.paid == []
    assert told == ["no more"]
    assert outputs(result.items) == {"p1": ("cancelled", "Cancelled before it started: no more.")}
    assert (result.status, result.output) == ("completed", "done")


async def test_invalid_arguments_are_not_shown_for_approval() -> None:
    till = Till()
    model = ScriptedModel([Call("pay", {"amount": "much"}, call_id="p"), Say("done")])
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[till.pay(needs_approval=True)], model=model), "go") as live:
        await watch(live, seen)
    check_ended(live, model, seen)
    assert not any(isinstance(event, events.ApprovalRequested) for event in seen)


async def test_deciding_twice_or_too_late_says_so() -> None:
    till, model = Till(), paying(1)
    async with open_run(Agent("a", tools=[till.pay(needs_approval=True)], model=model), "go") as live:
        async for event in live.events():
            if isinstance(event, events.ApprovalRequested):
                assert live.approve("p1") is True
                assert live.approve("p1") is False
                assert live.reject("p1") is False
        await live.wait()
        assert live.approve("p1") is False
        with pytest.raises(UserError, match="no tool call with the id 'p2'"):
            live.approve("p2")
    assert till.paid == [1]


async def test_a_sync_tool_waits_for_approval_like_any_other() -> None:
    ran: list[int] = []

    def pay(amount: int) -> str:
        ran.append(amount)
        return "paid"

    model = paying(1)
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=[tool(pay, needs_approval=True)], model=model), "go") as live:
            group.start_soon(decide, live, {"p1": True})
            await live.wait()
    assert ran == [1]


async def test_an_interrupt_while_a_call_waits_leaves_it_pending() -> None:
    till, model = Till(), paying(1)
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[till.pay(needs_approval=True)], model=model), "go") as live:
        async for event in live.events():
            seen.append(event)
            if isinstance(event, events.ApprovalRequested):
                live.interrupt("closing time")
                assert live.approve("p1") is False
    result = check_ended(live, model, seen)
    assert result.status == "interrupted"
    assert [call.call_id for call in result.pending_approvals] == ["p1"]
    assert outputs(result.items) == {"p1": ("cancelled", "Cancelled before it started: closing time.")}
    assert till.paid == []


@pytest.mark.parametrize("how", ["interrupt_tool", "now"])
async def test_a_waiting_call_that_is_called_off_while_the_run_goes_on_is_not_pending(how: str) -> None:
    till, model = Till(), paying(1)
    async with open_run(Agent("a", tools=[till.pay(needs_approval=True)], model=model), "go") as live:
        async for event in live.events():
            if isinstance(event, events.ApprovalRequested):
                if how == "now":
                    live.inject("never mind", deliver="now")
                else:
                    assert live.interrupt_tool("p1", "never mind")
        result = await live.wait()
    check_ended(live, model)
    assert result.status == "completed"
    assert result.pending_approvals == ()
    assert till.paid == []
    assert outputs(result.items)["p1"][0] == "cancelled"


async def test_an_after_turn_interrupt_waits_for_the_decision() -> None:
    till, model = Till(), paying(1)
    async with open_run(Agent("a", tools=[till.pay(needs_approval=True)], model=model), "go") as live:
        async for event in live.events():
            if isinstance(event, events.ApprovalRequested):
                live.interrupt("soon", mode="after_turn")
                await checkpoints(10)
                assert live.status == "interrupting"
                assert live.approve("p1")
    result = check_ended(live, model)
    assert result.status == "interrupted"
    assert till.paid == [1]
    assert result.pending_approvals == ()


# Ending for approval, and going on --------------------------------------------------------------------------------


async def ended_for_approval(till: Till, *, json: bool) -> Any:
    """A run that ended since nobody could approve; what to resume from."""
    model = ScriptedModel(
        [[Say("Paying."), Call("look", call_id="l"), *[Call("pay", {"amount": n}, call_id=f"p{n}") for n in (1, 2)]]]
    )

    async def look() -> str:
        return "looked"

    agent = Agent("a", tools=[look, till.pay(needs_approval=True)], model=model)
    result = await run(agent, "go")
    assert result.status == "interrupted"
    assert result.interrupt is not None
    assert result.interrupt.reason == "approval required"
    assert [call.call_id for call in result.pending_approvals] == ["p1", "p2"]
    assert_valid_history(result.history)
    assert outputs(result.items)["l"] == ("completed", "looked")
    assert till.paid == []
    return RunSnapshot.from_json(result.snapshot().to_json()) if json else result


# anyio does not close the coroutine of a task that was cancelled natively before its first step.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_a_resumed_run_that_never_takes_a_step_answers_the_calls_that_were_left_for_it(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    till = Till()
    left = await ended_for_approval(till, json=False)
    agent = Agent("a", tools=[till.pay(needs_approval=True)], model=ScriptedModel([]))
    handles: list[ActiveRun[Any]] = []

    async def host() -> None:
        async with open_run(agent, resume_from=left) as live:
            handles.append(live)
            for task in asyncio.all_tasks():
                if task.get_name() == f"agentrun {live.id}":
                    task.cancel()  # it has been started, and has not begun
            await live.wait()

    with anyio.fail_after(10):
        await asyncio.wait([asyncio.create_task(host())])
    [live] = handles
    gc.collect()
    result = check_ended(live)
    assert result.status == "cancelled"
    text = "Cancelled before it finished: the run was cancelled."
    told = outputs(result.history)
    assert (told["p1"], told["p2"]) == (("cancelled", text), ("cancelled", text))
    assert till.paid == []


@pytest.mark.parametrize("json", [False, True])
async def test_run_ends_for_approval_and_a_new_run_goes_on_from_there(json: bool) -> None:
    till = Till()
    left = await ended_for_approval(till, json=json)
    model = ScriptedModel([Say("paid one")])
    agent = Agent("a", tools=[till.pay(needs_approval=True)], model=model)
    seen: list[Event] = []
    async with anyio.create_task_group() as group, open_run(agent, resume_from=left) as live:
        group.start_soon(decide, live, {"p1": True, "p2": "no"}, seen)
        result = await live.wait()
    assert_valid_history(result.history)
    assert till.paid == [1]
    assert result.output == "paid one"
    assert outputs(result.history) == {
        "l": ("completed", "looked"),
        "p1": ("completed", "paid 1"),
        "p2": ("rejected", "no"),
    }
    # Nothing is there twice, and the model was called once, with all of it.
    assert len(result.history) == 1 + 1 + 3 + 3 + 1
    assert model.requests[0].items == result.history[:-1]


async def test_a_run_that_is_resumed_in_a_later_turn_keeps_what_came_before_as_it_was() -> None:
    till = Till()

    async def look() -> str:
        return "looked"

    model = ScriptedModel(
        [[Say("Looking."), Call("look", call_id="l")], [Say("Paying."), Call("pay", {"amount": 1}, call_id="p1")]]
    )
    tools = [look, till.pay(needs_approval=True)]
    left = await run(Agent("a", tools=tools, model=model), "go")
    assert [call.call_id for call in left.pending_approvals] == ["p1"]
    model = ScriptedModel([Say("paid one")])
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=tools, model=model), resume_from=left) as live:
            group.start_soon(decide, live, {"p1": True})
            result = await live.wait()
    assert result.history[:6] == left.history[:6]
    assert result.history[6] == ToolOutput("p1", "paid 1")
    assert [getattr(item, "text", "") for item in result.history[7:]] == ["paid one"]


@pytest.mark.parametrize("before", [1, 2, 3, 4])
@pytest.mark.parametrize("said", [True, False])
async def test_a_run_resumes_with_just_the_calls_that_were_made_together(before: int, said: bool) -> None:
    till = Till()

    async def look() -> str:
        return "looked"

    tools = [look, till.pay(needs_approval=True)]
    together: list[Any] = [*([Say("Paying.")] if said else []), *(Call("look", call_id=f"l{n}") for n in range(before))]
    model = ScriptedModel([Call("look", call_id="earlier"), [*together, Call("pay", {"amount": 1}, call_id="p1")]])
    left = await run(Agent("a", tools=tools, model=model), "go")
    assert [call.call_id for call in left.pending_approvals] == ["p1"]
    model = ScriptedModel([Say("paid one")])
    seen: list[Event] = []
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=tools, model=model), resume_from=left) as live:
            group.start_soon(decide, live, {"p1": True}, seen)
            await live.wait()
    result = check_ended(live, model)
    assert till.paid == [1]
    assert list(result.history[: len(left.history) - 1]) == list(left.history[:-1])
    assert [event.call_id for event in seen if isinstance(event, events.ToolStarted)] == ["p1"]
    assert_valid_history(result.history)


async def test_a_run_resumed_where_nobody_can_approve_ends_for_approval_again() -> None:
    till = Till()
    left = await ended_for_approval(till, json=True)
    agent = Agent("a", tools=[till.pay(needs_approval=True)], model=ScriptedModel([]))
    again = await run(agent, resume_from=left)
    assert again.status == "interrupted"
    assert [call.call_id for call in again.pending_approvals] == ["p1", "p2"]
    assert again.history == left.history
    assert again.turns == 0
    assert till.paid == []


@pytest.mark.parametrize("by", ["interrupt_tool", "injection"])
async def test_a_call_that_was_called_off_just_before_the_run_was_interrupted_waits_for_no_approval(by: str) -> None:
    till = Till()
    model = paying(1, 2)
    async with open_run(Agent("a", tools=[till.pay(needs_approval=True)], model=model), "go") as live:
        async for event in live.events():
            if isinstance(event, events.ApprovalRequested) and event.call_id == "p2":
                if by == "injection":
                    live.inject("something else", deliver="now")
                else:
                    live.interrupt_tool("p1", "not this one")
                live.interrupt("stop")
    result = check_ended(live, model)
    assert [call.call_id for call in result.pending_approvals] == ([] if by == "injection" else ["p2"])
    why = "cut short by new input" if by == "injection" else "not this one"
    assert outputs(result.items)["p1"] == ("cancelled", f"Cancelled before it started: {why}.")


def handing_over(asks: Any, takes_over: Any, model: ScriptedModel) -> Agent[Any, Any]:
    """An agent with the tool ``asks`` that may hand over to another with the tool ``takes_over``."""
    other = Agent("b", tools=[takes_over], model=model)
    return Agent("a", tools=[asks], handoffs=[other], model=model)


async def left_while_handing_over(tills: tuple[Till, Till]) -> RunResult[Any]:
    model = ScriptedModel([[*(Call("pay", {"amount": n}, call_id=f"p{n}") for n in (1, 2)), Call("transfer_to_b")]])
    agent = handing_over(tills[0].pay(needs_approval=True), tills[1].pay(), model)
    left = await run(agent, "go")
    assert (left.agent, left.asked_by) == ("b", "a")
    assert [call.call_id for call in left.pending_approvals] == ["p1", "p2"]
    return left


@pytest.mark.parametrize("json", [False, True])
async def test_what_an_agent_asked_for_before_it_handed_over_is_carried_out_with_its_own_tools(json: bool) -> None:
    tills = Till(), Till()
    left = await left_while_handing_over(tills)
    snapshot = RunSnapshot.from_json(left.snapshot().to_json()) if json else left
    model = ScriptedModel([Say("done")])
    agent = handing_over(tills[0].pay(needs_approval=True), tills[1].pay(), model)
    seen: list[Event] = []
    async with anyio.create_task_group() as group:
        async with open_run(agent, resume_from=snapshot) as live:
            group.start_soon(decide, live, {"p1": True, "p2": True}, seen)
            await live.wait()
    result = check_ended(live, model)
    assert (sorted(tills[0].paid), tills[1].paid) == ([1, 2], [])
    assert (result.agent, result.asked_by) == ("b", None)
    changes = [(event.previous, event.agent) for event in seen if isinstance(event, events.AgentChanged)]
    assert changes == [("a", "b")]
    assert [event.agent for event in seen if isinstance(event, events.TurnStarted)] == ["b"]


async def test_a_handoff_waits_for_the_last_of_the_approvals_however_often_the_run_is_resumed() -> None:
    tills = Till(), Till()
    result = await left_while_handing_over(tills)
    for decided, waiting in (("p1", ["p2"]), ("p2", [])):
        agent = handing_over(tills[0].pay(needs_approval=True), tills[1].pay(), ScriptedModel([Say("done")]))
        async with open_run(agent, resume_from=result.snapshot()) as live:
            async for event in live.events():
                if isinstance(event, events.ApprovalRequested) and event.call_id == decided:
                    live.approve(decided)
                elif isinstance(event, events.ToolEnded) and event.call_id == decided and waiting:
                    live.interrupt("the other one later")
        assert live.result is not None
        result = live.result
        assert [call.call_id for call in result.pending_approvals] == waiting
        assert (result.agent, result.asked_by) == ("b", "a" if waiting else None)
    assert (tills[0].paid, tills[1].paid) == ([1, 2], [])


async def test_without_the_approvals_the_agent_that_was_handed_over_to_goes_on() -> None:
    tills = Till(), Till()
    snapshot = (await left_while_handing_over(tills)).snapshot()
    snapshot.pending_approvals = ()
    agent = handing_over(tills[0].pay(needs_approval=True), tills[1].pay(), ScriptedModel([Say("done")]))
    result = await run(agent, "never mind", resume_from=snapshot)
    assert (result.status, result.agent, result.asked_by) == ("completed", "b", None)


async def test_approvals_of_an_agent_that_cannot_be_reached_are_refused_by_name() -> None:
    tills = Till(), Till()
    left = await left_while_handing_over(tills)
    alone = Agent("b", tools=[tills[1].pay()], model=ScriptedModel([]))
    with pytest.raises(UserError) as refused:
        open_run(alone, resume_from=left)
    assert str(refused.value) == (
        "resume_from has tool calls of agent 'a' that wait for approval, and 'b' cannot reach that agent; "
        "pass the agent that the run was started with"
    )


async def test_input_injected_before_the_end_is_delivered_once_the_approvals_are_decided() -> None:
    till = Till()

    async def look(ctx: RunContext[Any]) -> str:
        ctx.run.inject("and hurry", deliver="now") if ctx.usage.requests > 1 else ctx.run.inject("and hurry")
        return "looked"

    first = ScriptedModel([[Call("look", call_id="l"), Call("pay", {"amount": 1}, call_id="p1")]])
    pay = till.pay(needs_approval=True)
    left = await run(Agent("a", tools=[look, pay], model=first), "go")
    assert left.status == "interrupted"
    assert len(left.undelivered) == 1
    model = ScriptedModel([Say("done")])
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=[look, pay], model=model), resume_from=left.snapshot()) as live:
            group.start_soon(decide, live, {"p1": True})
            result = await live.wait()
    assert till.paid == [1]
    assert [getattr(item, "text", None) for item in result.history[-2:]] == ["and hurry", "done"]
    assert result.undelivered == ()


async def test_what_was_injected_to_cut_in_does_not_call_off_approvals_when_resumed() -> None:
    from agentrun import UserMessage
    from agentrun.core.snapshot import UndeliveredInput

    till = Till()
    left = (await ended_for_approval(till, json=False)).snapshot()
    left.undelivered = (UndeliveredInput("injection-1", (UserMessage("now!"),), "now"),)
    model = ScriptedModel([Say("done")])
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=[till.pay(needs_approval=True)], model=model), resume_from=left) as live:
            group.start_soon(decide, live, {"p1": True, "p2": True})
            result = await live.wait()
    assert sorted(till.paid) == [1, 2]
    assert [getattr(item, "text", None) for item in result.history[-2:]] == ["now!", "done"]


async def test_resuming_approvals_with_new_input_or_a_session_is_refused_by_name() -> None:
    from agentrun.sessions import MemorySession

    till = Till()
    left = await ended_for_approval(till, json=False)
    agent = Agent("a", tools=[till.pay(needs_approval=True)], model=ScriptedModel([]))
    with pytest.raises(UserError) as with_input:
        open_run(agent, "more", resume_from=left)
    assert str(with_input.value) == (
        "resume_from has tool calls that wait for approval, so input must wait until they are decided: "
        "leave input out, and inject it"
    )
    with pytest.raises(UserError) as with_session:
        open_run(agent, resume_from=left, session=MemorySession())
    assert str(with_session.value) == (
        "resume_from has tool calls that wait for approval, and a session stores them as cancelled; "
        "resume without the session, or without the approvals"
    )


async def test_the_configuration_decides_whether_the_run_waits_or_ends() -> None:
    till, model = Till(), paying(1)
    agent = Agent("a", tools=[till.pay(needs_approval=True)], model=model)
    async with open_run(agent, "go", config=RunConfig(on_approval="end")) as live:
        result = await live.wait()
    assert [call.call_id for call in result.pending_approvals] == ["p1"]

    model = paying(1)
    with anyio.move_on_after(0.05) as scope:
        await run(agent.clone(model=model), "go", config=RunConfig(on_approval="wait"))
    assert scope.cancelled_caught
    assert till.paid == []


async def test_the_run_ends_for_approval_only_when_all_else_has_ended() -> None:
    till = Till()
    ended: list[str] = []

    async def slow() -> str:
        await checkpoints(10)
        ended.append("slow")
        return "slow"

    model = ScriptedModel([[Call("pay", {"amount": 1}, call_id="p1"), Call("slow", call_id="s")]])
    result = await run(Agent("a", tools=[slow, till.pay(needs_approval=True)], model=model), "go")
    assert ended == ["slow"]
    assert outputs(result.items)["s"] == ("completed", "slow")
    assert [call.call_id for call in result.pending_approvals] == ["p1"]


async def test_a_nested_run_that_needs_approval_says_so_to_the_outer_model() -> None:
    till = Till()
    inner = Agent("inner", tools=[till.pay(needs_approval=True)], model=paying(1))
    model = ScriptedModel([Call("inner", {"input": "pay"}, call_id="i"), Say("done")])
    result = await run(Agent("outer", tools=[inner.as_tool()], model=model), "go")
    assert outputs(result.items)["i"] == ("completed", "Stopped before it was done: approval required")
    assert till.paid == []


async def test_what_an_approval_check_registers_is_cleaned_up_before_anybody_is_asked() -> None:
    log: list[str] = []

    async def check(ctx: RunContext[Any], amount: int) -> bool:
        ctx.on_cleanup(lambda: log.append("cleaned up"))
        return True

    till = Till()
    agent = Agent("a", tools=[till.pay(needs_approval=check)], model=paying(1))
    async with open_run(agent, "go") as live:
        async for event in live.events():
            if isinstance(event, events.ApprovalRequested):
                log.append("asked")
                live.reject(event.call_id)
        await live.wait()
    assert log == ["cleaned up", "asked"]


async def test_what_the_cleanup_of_a_cancelled_approval_check_raises_is_told_once() -> None:
    broken, started = ValueError("in cleanup"), anyio.Event()

    async def check(ctx: RunContext[Any], amount: int) -> bool:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise broken

    till = Till()
    async with open_run(Agent("a", tools=[till.pay(needs_approval=check)], model=paying(1)), "go") as live:
        await started.wait()
        live.interrupt("enough")
        result = await live.wait()
    assert result.errors == (broken,)
