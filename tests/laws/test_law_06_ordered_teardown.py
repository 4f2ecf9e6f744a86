"""Law 6: teardown goes in a known order, and each piece of user code gets its grace and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agentrun import Agent, RunConfig, RunContext, RunHooks, input_guardrail, open_run, tool
from agentrun.core.model import ModelRequest
from agentrun.events import Event, ModelCallEnded, RunEnded, ToolEnded, ToolStarted
from agentrun.items import ToolCall, ToolOutput
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Hang, Say, ScriptedModel

from .support import check_ended, checkpoints, collect

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire


class Diary(RunHooks):
    """Notes who ends when."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, what: str) -> None:
        """Something has ended."""
        self.notes.append(what)

    async def on_run_end(self, ctx: RunContext[Any], result: Any) -> None:
        """The last thing before the terminal event."""
        await checkpoints(2)
        assert ctx.run.result is None
        self.note("run hook")

    async def on_model_end(self, ctx: RunContext[Any], status: str) -> None:
        """The stream is closed."""
        await checkpoints(2)
        self.note(f"model hook {status}")


class NotingSession(MemorySession):
    """Notes when it stores."""

    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self._diary = diary

    async def append(self, items: Any) -> None:
        """Store."""
        await checkpoints(2)
        await super().append(items)
        self._diary.note("session")


class NotingModel(ScriptedModel):
    """Notes when its streams are closed."""

    def __init__(self, turns: Any, diary: Diary, name: str) -> None:
        super().__init__(turns, name=name)
        self._diary = diary

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
        """Play the next turn."""
        async with super().stream(request) as parts:
            try:
                yield parts
            finally:
                await checkpoints(3)
                self._diary.note(f"{self.name} closed")


async def _events_of(opened: Any, ready: anyio.Event, diary: Diary, stop: str) -> list[Event]:
    """Open, stop when ready, in one way or the other, and return the events."""
    seen: list[Event] = []
    with anyio.fail_after(10), anyio.CancelScope() as scope:
        async with opened as live:
            stream = live.events()
            await ready.wait()
            await checkpoints(2)
            if stop == "interrupt":
                live.interrupt("stop")
            elif stop == "cancel":
                scope.cancel()
            if stop != "leave":
                await live.wait()
    diary.note("block left")
    async for event in stream:
        seen.append(event)  # noqa: PERF401 - not a comprehension: what was seen counts when it fails
    return seen


@pytest.mark.parametrize("stop", ["interrupt", "cancel", "leave"])
async def test_the_stream_is_closed_before_the_session_stores_and_the_hooks_come_last(stop: str) -> None:
    diary, ready = Diary(), anyio.Event()

    @input_guardrail
    async def slow(items: Any) -> None:
        ready.set()
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(12)
            diary.note("guardrail")

    model = NotingModel([[Say("Once", chunks=2), Hang()]], diary, "stream")
    agent = Agent("a", model=model, input_guardrails=[slow])
    opened = open_run(agent, "Go.", session=NotingSession(diary), hooks=diary)
    seen = await _events_of(opened, ready, diary, stop)
    notes = diary.notes
    assert notes[0] == "stream closed"
    assert notes[1] == "model hook interrupted"
    assert sorted(notes[2:4]) == ["guardrail", "session"]
    assert notes[4:] == ["run hook", "block left"]
    assert isinstance(seen[-1], RunEnded)


@pytest.mark.parametrize("stop", ["interrupt", "cancel", "leave"])
async def test_tools_then_the_session_then_the_hooks_then_the_terminal_event(stop: str) -> None:
    diary, ready = Diary(), anyio.Event()

    @tool
    async def slow(name: str, steps: int) -> None:
        if name == "last":
            ready.set()
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(steps)
            diary.note(f"tool {name}")

    calls = [
        Call("slow", {"name": "first", "steps": 12}, call_id="1"),
        Call("slow", {"name": "middle", "steps": 6}, call_id="2"),
        Call("slow", {"name": "last", "steps": 1}, call_id="3"),
    ]
    model = NotingModel([calls], diary, "stream")
    opened = open_run(Agent("a", tools=[slow], model=model), "Go.", session=NotingSession(diary), hooks=diary)
    seen = await _events_of(opened, ready, diary, stop)
    assert diary.notes == [
        "stream closed",
        "model hook completed",
        "session",  # the input, stored before the tools run
        "tool last",
        "tool middle",
        "tool first",
        "session",
        "run hook",
        "block left",
    ]
    # They end in the order of the calls, whichever was quicker.
    assert [event.call_id for event in seen if isinstance(event, ToolEnded)] == ["1", "2", "3"]
    assert isinstance(seen[-1], RunEnded)


@pytest.mark.parametrize("stop", ["interrupt", "cancel", "leave"])
async def test_nested_runs_are_torn_down_from_the_inside_out_and_their_events_tell(stop: str) -> None:
    diary, ready = Diary(), anyio.Event()

    @tool
    async def deep() -> None:
        ready.set()
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(3)
            diary.note("deep tool")

    inmost_model = ScriptedModel([Call("deep", call_id="c")])
    inmost = Agent("inmost", tools=[deep], model=inmost_model, hooks=Named(diary, "inmost"))
    middle_model = ScriptedModel([Call("inmost", {"input": "Go."}, call_id="b")])
    middle = Agent("middle", tools=[inmost.as_tool()], model=middle_model, hooks=Named(diary, "middle"))
    model = ScriptedModel([Call("middle", {"input": "Go."}, call_id="a")])
    agent = Agent("outer", tools=[middle.as_tool()], model=model, hooks=Named(diary, "outer"))
    seen = await _events_of(open_run(agent, "Go."), ready, diary, stop)
    assert diary.notes == ["deep tool", "inmost ended", "middle ended", "outer ended", "block left"]
    ends = [(type(event).__name__, event.path) for event in seen if isinstance(event, (ToolEnded, RunEnded))]
    assert ends == [
        ("ToolEnded", ("a", "b")),
        ("RunEnded", ("a", "b")),
        ("ToolEnded", ("a",)),
        ("RunEnded", ("a",)),
        ("ToolEnded", ()),
        ("RunEnded", ()),
    ]


class Named(RunHooks):
    """Notes the end of a run by name."""

    def __init__(self, diary: Diary, name: str) -> None:
        self._diary, self._name = diary, name

    async def on_run_end(self, ctx: RunContext[Any], result: Any) -> None:
        """Note it."""
        await checkpoints(3)
        self._diary.note(f"{self._name} ended")


async def test_tools_that_end_by_themselves_end_when_they_end() -> None:
    order = [anyio.Event() for _ in range(4)]

    @tool
    async def step(number: int) -> int:
        await order[number].wait()
        return number

    calls = [Call("step", {"number": n}, call_id=str(n)) for n in range(3)]
    model = ScriptedModel([calls, Say("Done.")])
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[step], model=model), "Go.") as live:
        async for event in live.events():
            seen.append(event)
            if isinstance(event, ToolStarted) and event.call_id == "2":
                order[2].set()
            elif isinstance(event, ToolEnded):
                order[int(event.call_id) - 1].set()
        result = await live.wait()
    check_ended(live, model, seen)
    assert [event.call_id for event in seen if isinstance(event, ToolEnded)] == ["2", "1", "0"]
    # In the history the outputs are in the order of the calls, always.
    assert [item.call_id for item in result.items if isinstance(item, ToolOutput)] == ["0", "1", "2"]


@pytest.mark.parametrize("seed", range(6))
async def test_cancelled_ends_come_in_the_order_of_the_calls_and_finished_ones_keep_their_place(seed: int) -> None:
    import random

    steps = list(range(0, 24, 4))
    random.Random(seed).shuffle(steps)
    ready = anyio.Event()

    @tool
    async def work(number: int) -> int:
        if number == 2:
            return number  # has ended before the interrupt
        if number == 5:
            ready.set()
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(steps[number])
        return 0

    calls = [Call("work", {"number": n}, call_id=str(n)) for n in range(6)]
    model = ScriptedModel([calls])
    async with open_run(Agent("a", tools=[work], model=model), "Go.") as live:
        stream = live.events()
        await ready.wait()
        await checkpoints(10)
        live.interrupt("stop")
        result = await live.wait()
        seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert [event.call_id for event in seen if isinstance(event, ToolEnded)] == ["2", "0", "1", "3", "4", "5"]
    assert [item.call_id for item in result.items if isinstance(item, ToolCall)] == list("012345")
    assert [item.call_id for item in result.items if isinstance(item, ToolOutput)] == list("012345")
    assert result.teardown.cancelled_tools == [f"work ({n})" for n in (0, 1, 3, 4, 5)]


async def test_the_end_of_the_stream_is_told_before_the_end_of_any_tool() -> None:
    started = anyio.Event()

    @tool
    async def hang() -> None:
        started.set()
        await anyio.sleep_forever()

    model = ScriptedModel([[Say("x"), Call("hang")]])
    async with open_run(Agent("a", tools=[hang], model=model), "Go.") as live, anyio.create_task_group() as tasks:
        seen: list[Event] = []

        async def watch() -> None:
            seen.extend(await collect(live))

        tasks.start_soon(watch)
        await started.wait()
        live.interrupt("stop")
    kinds = [type(event) for event in seen]
    assert kinds.index(ModelCallEnded) < kinds.index(ToolEnded) < kinds.index(RunEnded)


async def test_graces_run_side_by_side_and_bound_the_teardown() -> None:
    """Ten tools that hang in their cleanup take one grace, not ten."""
    started = 0
    ready = anyio.Event()

    @tool
    async def stuck() -> None:
        nonlocal started
        started += 1
        if started == 10:
            ready.set()
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep_forever()

    model = ScriptedModel([[Call("stuck", call_id=str(n)) for n in range(10)]])
    config = RunConfig(cleanup_grace=0.2)
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=[stuck], model=model), "Go.", config=config) as live:
            await ready.wait()
            live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert sorted(result.teardown.expired_graces) == [f"tool stuck ({n})" for n in range(10)]
    assert 0.15 < result.teardown.seconds < 1.9


async def test_the_grace_begins_when_the_cancellation_arrives() -> None:
    """A tool that cannot be cancelled for a while, shielded, has its whole grace afterwards."""
    started = anyio.Event()
    done: list[str] = []

    @tool
    async def shielded() -> None:
        try:
            with anyio.CancelScope(shield=True):
                started.set()
                await anyio.sleep(0.3)
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(0.1)
            done.append("cleaned up")

    model = ScriptedModel([Call("shielded")])
    config = RunConfig(cleanup_grace=0.25)
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=[shielded], model=model), "Go.", config=config) as live:
            await started.wait()
            live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert done == ["cleaned up"]
    assert result.teardown.clean


async def test_no_grace_means_that_cleanup_must_not_wait() -> None:
    started = anyio.Event()
    done: list[str] = []

    @tool
    async def waiting() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            done.append("synchronous")
            await anyio.sleep(0.01)
            done.append("never")

    model = ScriptedModel([Call("waiting", call_id="one")])
    async with open_run(Agent("a", tools=[waiting], model=model), "Go.", config=RunConfig(cleanup_grace=0)) as live:
        await started.wait()
        live.interrupt("stop")
        result = await live.wait()
    check_ended(live, model)
    assert done == ["synchronous"]
    assert result.teardown.expired_graces == ["tool waiting (one)"]


async def test_hooks_and_sessions_that_hang_get_their_grace_and_no_more() -> None:
    class Stuck(RunHooks):
        async def on_run_end(self, ctx: RunContext[Any], result: Any) -> None:
            await anyio.sleep_forever()

    class StuckSession(MemorySession):
        async def append(self, items: Any) -> None:
            await anyio.sleep_forever()

    model = ScriptedModel([[Say("x"), Hang()]])
    config = RunConfig(cleanup_grace=0.1)
    agent = Agent("a", model=model, hooks=Stuck())
    with anyio.fail_after(10):
        async with open_run(agent, "Go.", config=config, session=StuckSession()) as live:
            await checkpoints(20)
            live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert result.status == "interrupted"
    assert "hook on_run_end" in result.teardown.expired_graces
    assert any(isinstance(error, TimeoutError) for error in result.errors)


async def test_the_report_says_how_long_it_took_and_a_run_that_ended_by_itself_says_zero() -> None:
    model = ScriptedModel([Say("Done.")])
    async with open_run(Agent("a", model=model), "Go.") as live:
        result = await live.wait()
    assert result.teardown.seconds == 0
    assert result.teardown.clean
    check_ended(live, model)


async def test_services_outlive_the_workers_that_report_to_them() -> None:
    """Progress told in the last cleanup still arrives, before the end of its call."""
    started = anyio.Event()

    @tool
    async def chatty(ctx: RunContext[Any]) -> None:
        ctx.on_cleanup(lambda: ctx.progress("registered cleanup"))
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(3)
            ctx.progress("cleanup")

    model = ScriptedModel([Call("chatty")])
    async with open_run(Agent("a", tools=[chatty], model=model), "Go.") as live:
        stream = live.events()
        await started.wait()
        live.interrupt("stop")
        await live.wait()
        seen = [event async for event in stream]
    check_ended(live, model, seen)
    names = [getattr(event, "data", type(event).__name__) for event in seen][-4:]
    assert names == ["cleanup", "registered cleanup", "ToolEnded", "RunEnded"]
