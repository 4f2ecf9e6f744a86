"""The calls of one turn: how many are at work at once, and what is told of each."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from laws.support import check_ended, checkpoints, structural, watch

from agentrun import Agent, RunConfig, ToolCall, ToolOutput, open_run, run, tool
from agentrun.events import ApprovalRequested, Event, ToolEnded, ToolStarted
from agentrun.runtime.tool_run import ToolRun
from agentrun.testing import Call, Say, ScriptedModel

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire


class Bench:
    """A tool whose calls wait until they are released."""

    def __init__(self) -> None:
        self.at_work: list[int] = []
        self.release = anyio.Event()

    async def work(self, n: int) -> str:
        self.at_work.append(n)
        await self.release.wait()
        return f"worked {n}"


@pytest.mark.parametrize("limit", [1, 2, 3, None])
async def test_as_many_calls_are_at_work_as_may(limit: int | None) -> None:
    bench = Bench()
    model = ScriptedModel([[Call("work", {"n": n}) for n in range(4)], Say("done")])
    config = RunConfig(max_parallel_tools=limit)
    async with open_run(Agent("a", tools=[bench.work], model=model), "go", config=config) as live:
        while live.state().phase != "tools":
            await anyio.lowlevel.checkpoint()
        await checkpoints(10)
        assert sorted(bench.at_work) == list(range(limit or 4))
        bench.release.set()
        await live.wait()
    assert sorted(bench.at_work) == list(range(4))


async def test_a_call_that_was_approved_starts_beside_those_at_work() -> None:
    bench = Bench()
    model = ScriptedModel([[Call("work", {"n": 0}), Call("ask", {"n": 1}, call_id="ask")], Say("done")])
    tools: list[Any] = [bench.work, tool(bench.work, name="ask", needs_approval=True)]
    async with open_run(Agent("a", tools=tools, model=model), "go") as live:
        while not bench.at_work:
            await anyio.lowlevel.checkpoint()
        assert live.approve("ask")
        await checkpoints(10)
        assert bench.at_work == [0, 1]
        bench.release.set()
        await live.wait()


async def test_what_is_told_of_a_call_names_it_and_what_was_passed_and_returned() -> None:
    bench = Bench()
    bench.release.set()
    model = ScriptedModel([Call("ask", '{"n": 7}', call_id="c"), Say("done")])
    seen: list[Event] = []
    agent = Agent("a", tools=[tool(bench.work, name="ask", needs_approval=True)], model=model)
    async with anyio.create_task_group() as group, open_run(agent, "go") as live:
        group.start_soon(watch, live, seen)
        while not any(isinstance(event, ApprovalRequested) for event in seen):
            await anyio.lowlevel.checkpoint()
        live.approve("c")
        await live.wait()
    check_ended(live, model, seen)
    told: list[Any] = [e for e in structural(seen) if isinstance(e, (ApprovalRequested, ToolStarted, ToolEnded))]
    assert told == [
        ApprovalRequested("c", "ask", '{"n": 7}'),
        ToolStarted("c", "ask", '{"n": 7}'),
        ToolEnded("c", "ask", "completed", "worked 7"),
    ]


async def test_a_call_of_a_tool_that_does_not_exist_is_answered_with_those_that_do() -> None:
    async def look() -> str:
        return "looked"

    model = ScriptedModel([Call("peek", call_id="p"), Say("done")])
    agent = Agent("a", tools=[look, Bench().work], handoffs=[Agent("other", model=model)], model=model)
    result = await run(agent, "go")
    [output] = [item.output for item in result.items if isinstance(item, ToolOutput)]
    assert output == "Error: there is no tool named 'peek'. Available tools: look, transfer_to_other, work."


@pytest.mark.parametrize("beside_others", [False, True])
@pytest.mark.parametrize("what", ["bug", "cancellation"])
async def test_a_calls_task_that_breaks_between_two_pieces_of_user_code_still_ends_its_call(
    what: str, beside_others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a bug of the runtime's own, which fails the run, or cancelled natively at that very moment."""
    cancelled = anyio.get_cancelled_exc_class()
    problem = RuntimeError("a bug") if what == "bug" else cancelled.__new__(cancelled)
    settle = ToolRun._settle

    async def breaks(call: ToolRun, outcome: Any) -> None:
        if call.call.call_id == "c":
            raise problem
        await settle(call, outcome)

    monkeypatch.setattr(ToolRun, "_settle", breaks)

    async def work() -> str:
        return "worked"

    calls = [Call("work", call_id="c"), Call("work", call_id="d")]
    model = ScriptedModel([calls if beside_others else calls[:1], Say("done")])
    async with open_run(Agent("a", tools=[work], model=model), "go") as live:
        if what == "bug":
            with pytest.raises(RuntimeError, match="a bug"):
                await live.wait()
        else:
            await live.wait()
    result = check_ended(live, model)
    assert result.status == ("failed" if what == "bug" else "completed")
    assert result.error is (problem if what == "bug" else None)
    outputs = {item.call_id: (item.status, item.output) for item in result.items if isinstance(item, ToolOutput)}
    assert outputs["c"] == ("cancelled", "Cancelled before it finished: its task was cancelled.")


@pytest.mark.parametrize("calls", [1, 2])
async def test_the_start_of_a_call_is_told_with_its_name_and_arguments(calls: int) -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    asked = [Call("add", {"a": number, "b": 1}) for number in range(calls)]
    agent = Agent("a", tools=[add], model=ScriptedModel([asked, Say("Done.")]))
    async with open_run(agent, "Go.") as live:
        told = [event async for event in live.events() if isinstance(event, ToolStarted)]
        calls_made = [item for item in (await live.wait()).items if isinstance(item, ToolCall)]
    assert [(e.call_id, e.name, e.arguments) for e in told] == [(c.call_id, c.name, c.arguments) for c in calls_made]
    assert [(e.name, json.loads(e.arguments)) for e in told] == [("add", {"a": n, "b": 1}) for n in range(calls)]
