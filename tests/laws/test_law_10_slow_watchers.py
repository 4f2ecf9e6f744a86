"""Law 10: a slow watcher never holds an interrupt."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import Agent, RunContext, Trip, UserError, events, open_run, tool
from agentrun.events import Event
from agentrun.testing import Call, Fail, Hang, Say, ScriptedModel

from .support import check_ended, check_events, checkpoints, structural

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire

LONG = "x" * 500


class Broken(Exception):
    pass


def talkative(*more: Any) -> ScriptedModel:
    return ScriptedModel([[Say(LONG, chunks=500), *more]])


async def settled(live: Any) -> None:
    """Wait until the run cannot move, since a watcher lags."""
    with anyio.fail_after(10):
        while not live.state().blocked_on_watchers:
            await anyio.lowlevel.checkpoint()


async def test_a_watcher_that_never_reads_slows_the_stream_but_no_interrupt() -> None:
    model = talkative()
    async with open_run(Agent("a", model=model), "go") as live:
        lazy = live.events(buffer=4)
        await settled(live)
        assert live.status == "running"
        live.interrupt("stop")
        with anyio.fail_after(10):
            result = await live.wait()
    check_ended(live, model)
    assert result.status == "interrupted"
    assert 0 < len(result.text) < 500
    seen = [event async for event in lazy]
    assert seen[-1] == events.RunEnded("interrupted", "stop")
    check_events(seen)
    # The buffer held its deltas, and the few structural events that came after them.
    assert len(seen) < 4 + 10
    assert "".join(event.text for event in seen if isinstance(event, events.TextDelta)) == result.text


async def test_nine_watchers_see_everything_though_a_tenth_never_reads() -> None:
    model = talkative()
    seen: list[list[Event]] = [[] for _ in range(9)]
    streams: list[Any] = []

    async def read(stream: Any, into: list[Event]) -> None:
        async for event in stream:
            into.append(event)

    async with open_run(Agent("a", model=model), "go") as live, anyio.create_task_group() as group:
        lazy = live.events(buffer=16)
        for into in seen:
            stream = live.events(buffer=64)
            streams.append(stream)
            group.start_soon(read, stream, into)
        await settled(live)
        live.interrupt("stop")
        with anyio.fail_after(10):
            result = await live.wait()
    for into in seen:
        assert into[-1] == events.RunEnded("interrupted", "stop")
        assert any(isinstance(event, events.InterruptRequested) for event in into)
        assert "".join(event.text for event in into if isinstance(event, events.TextDelta)) == result.text
        assert into == seen[0]
    lazily = [event async for event in lazy]
    assert structural(lazily)[1:] == structural(seen[0])
    assert lazily[-1] == events.RunEnded("interrupted", "stop")


@pytest.mark.parametrize("how", ["tool", "guardrail", "time", "cancel", "body", "leave"])
async def test_every_other_ending_gets_past_a_watcher_that_never_reads(how: str) -> None:
    go = anyio.Event()

    async def guard(items: Any) -> Trip | None:
        await go.wait()
        return Trip("no") if how == "guardrail" else None

    async def bad(ctx: RunContext[Any]) -> str:
        for n in range(100):
            ctx.progress(n)
        raise Broken("tool")

    from agentrun import InputGuardrailTripped, RunConfig
    from agentrun.errors import TimeLimitExceeded

    turns = [[Call("bad")]] if how == "tool" else [[Say(LONG, chunks=500)]]
    model = ScriptedModel(turns)
    agent = Agent("a", tools=[tool(bad, on_error="raise")], model=model, input_guardrails=[guard])
    config = RunConfig(max_seconds=0.1 if how == "time" else None)
    expected: dict[str, Any] = {
        "tool": Broken,
        "guardrail": InputGuardrailTripped,
        "time": TimeLimitExceeded,
        "body": Broken,
    }
    lazy: Any = None
    live: Any = None
    caught: BaseException | None = None
    with anyio.fail_after(10), anyio.CancelScope() as scope:
        try:
            async with open_run(agent, "go", config=config) as live:
                lazy = live.events(buffer=12 if how == "tool" else 2)
                if how != "tool":
                    await settled(live)
                if how in ("tool", "guardrail"):
                    go.set()
                if how == "cancel":
                    scope.cancel()
                if how == "body":
                    raise Broken("body")
                if how != "leave":
                    await live.wait()
        except Exception as exc:
            caught = exc
    assert type(caught) is expected.get(how, type(None))
    result = check_ended(live, model)
    seen = [event async for event in lazy]
    assert isinstance(seen[-1], events.RunEnded)
    assert seen[-1].status == result.status
    check_events(seen)
    assert scope.cancelled_caught is (how == "cancel")


async def test_a_watcher_that_may_lose_deltas_never_slows_the_run_and_is_told_how_many() -> None:
    async def work(ctx: RunContext[Any]) -> str:
        for n in range(20):
            ctx.progress(n)
        return "worked"

    model = ScriptedModel([[Say(LONG, chunks=500), Call("work")], [Say(LONG, chunks=500)]])
    async with open_run(Agent("a", tools=[work], model=model), "go") as live:
        lazy = live.events(buffer=8, overflow="drop")
        everything: list[Event] = []
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                stream = live.events(buffer=10000)

                async def read() -> None:
                    async for event in stream:
                        everything.append(event)

                group.start_soon(read)
                result = await live.wait()
    assert result.status == "completed"
    lazily = [event async for event in lazy]
    assert structural([e for e in lazily if not isinstance(e, events.EventsDropped)])[1:] == structural(everything)
    dropped = [event for event in lazily if isinstance(event, events.EventsDropped)]
    assert dropped
    lost = sum(event.count for event in dropped)
    deltas = (events.TextDelta, events.ToolCallDelta, events.ToolProgress)
    kept = [event for event in lazily if isinstance(event, deltas)]
    assert len(kept) + lost == 1000 + 1 + 20
    # Where something is missing is told right there: before the next event that is not.
    assert all(not isinstance(b, events.EventsDropped) for a, b in zip(dropped, lazily, strict=False) if a is b)
    assert isinstance(lazily[-1], events.RunEnded)
    assert len(lazily) < 60


@pytest.mark.parametrize("buffer", [8, 7, 1])
async def test_a_watcher_that_catches_up_lets_the_stream_go_on_and_loses_nothing(buffer: int) -> None:
    model = talkative()
    async with open_run(Agent("a", model=model), "go") as live:
        slow = live.events(buffer=buffer)
        texts: list[str] = []
        blocked = 0
        async for event in slow:
            if isinstance(event, events.TextDelta):
                texts.append(event.text)
            blocked += live.state().blocked_on_watchers
            await checkpoints(3)
        result = await live.wait()
    assert result.output == LONG
    assert "".join(texts) == LONG
    assert blocked


@pytest.mark.parametrize("how", ["break", "aclose", "del", "context"])
async def test_a_watcher_that_has_gone_does_not_slow_the_run(how: str) -> None:
    model = talkative()
    async with open_run(Agent("a", model=model), "go") as live:
        if how == "break":
            async for event in live.events(buffer=2):
                if isinstance(event, events.TextDelta):
                    break
        elif how == "aclose":
            stream = live.events(buffer=2)
            await settled(live)
            await stream.aclose()
            await stream.aclose()
            assert [event async for event in stream] == []
        elif how == "context":
            async with live.events(buffer=2):
                await settled(live)
        else:
            stream = live.events(buffer=2)
            await settled(live)
            del stream
            gc.collect()
        with anyio.fail_after(10):
            result = await live.wait()
    assert result.output == LONG


async def test_a_body_that_does_not_watch_does_not_slow_the_run() -> None:
    model = talkative()
    async with open_run(Agent("a", model=model), "go") as live:
        with anyio.fail_after(10):
            assert (await live.wait()).output == LONG


async def test_the_first_watcher_gets_what_happened_before_it_came_and_is_told_what_is_missing() -> None:
    model = talkative()
    async with open_run(Agent("a", model=model), "go") as live:
        await live.wait()
        late = [event async for event in live.events()]
        later = [event async for event in live.events()]
    assert isinstance(late[0], events.EventsDropped)
    assert isinstance(late[-1], events.RunEnded)
    assert late[0].count + len(late) - 1 == 3 + 500 + 2
    assert later == []


async def test_two_tasks_may_read_two_streams_but_not_wait_on_one() -> None:
    model = ScriptedModel([Hang()])
    refused: list[UserError] = []
    seen: list[Event] = []

    async with open_run(Agent("a", model=model), "go") as live:
        stream = live.events()

        async def read() -> None:
            try:
                async for event in stream:
                    seen.append(event)
            except UserError as exc:
                refused.append(exc)

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            group.start_soon(read)
            await checkpoints(20)
            live.interrupt("stop")
    [error] = refused
    assert str(error) == ("two tasks iterate over the same event stream; call run.events() once for each of them")
    # Between them they have seen each event once, and the end.
    assert isinstance(seen[-1], events.RunEnded)
    assert len(seen) == len(set(map(id, seen)))


async def test_two_tasks_that_share_a_full_stream_lose_nothing_and_stop_at_its_end_only() -> None:
    model = ScriptedModel([[Say("x" * 90, chunks=90)]])
    got: list[Event] = []
    async with open_run(Agent("a", model=model), "go") as live:
        stream = live.events(buffer=1000)
        await live.wait()
        ended: list[int] = []

        async def read() -> None:
            async for event in stream:
                got.append(event)
                if len(got) % 7 == 0:
                    await anyio.lowlevel.checkpoint()
            ended.append(len(got))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            group.start_soon(read)
    assert len(got) == 3 + 90 + 2
    assert ended == [95, 95]


async def test_a_reader_whose_event_another_task_took_waits_for_the_next() -> None:
    took: list[Event] = []
    seen: list[Event] = []

    async def work(ctx: RunContext[Any]) -> str:
        await checkpoints(10)  # the reader has read all there is, and waits
        ctx.progress("mine")
        took.append(await anext(stream))
        await checkpoints(10)
        return "worked"

    model = ScriptedModel([Call("work"), Say("done")])
    async with open_run(Agent("a", tools=[tool(work, on_error="raise")], model=model), "go") as live:
        stream = live.events()
        async for event in stream:
            seen.append(event)
    assert [event.data for event in took if isinstance(event, events.ToolProgress)] == ["mine"]
    assert isinstance(seen[-1], events.RunEnded)
    check_events(seen)


async def test_cancelling_a_reader_loses_no_event() -> None:
    async def work(ctx: RunContext[Any]) -> str:
        for n in range(50):
            ctx.progress(n)
            await checkpoints(n % 4)
        return "worked"

    model = ScriptedModel([Call("work"), Say("done")])
    got: list[Event] = []
    cancelled = 0
    async with open_run(Agent("a", tools=[work], model=model), "go") as live:
        stream = live.events()
        ended = False
        while not ended:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:

                    async def cut() -> None:
                        await checkpoints(2)
                        scope.cancel()  # noqa: B023 - called before the loop goes on

                    group.start_soon(cut)
                    try:
                        while True:
                            got.append(await anext(stream))
                    except StopAsyncIteration:
                        ended = True
                        group.cancel_scope.cancel()
            cancelled += scope.cancelled_caught
    assert cancelled > 5
    assert [event.data for event in got if isinstance(event, events.ToolProgress)] == list(range(50))
    check_events(got)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"buffer": 0}, "buffer"),
        ({"buffer": -1}, "buffer"),
        ({"buffer": True}, "buffer"),
        ({"buffer": 1.5}, "buffer"),
        ({"overflow": "lose"}, "overflow"),
    ],
)
async def test_a_buffer_that_is_none_is_refused(arguments: dict[str, Any], message: str) -> None:
    model = ScriptedModel([Say("hi")])
    async with open_run(Agent("a", model=model), "go") as live:
        with pytest.raises(UserError, match=message):
            live.events(**arguments)


async def test_a_watcher_of_the_outer_run_slows_the_inner_one_and_holds_no_interrupt() -> None:
    inner = Agent("inner", model=talkative())
    model = ScriptedModel([Call("inner", {"input": "x"}, call_id="c"), Say("done")])
    async with open_run(Agent("outer", tools=[inner.as_tool()], model=model), "go") as live:
        lazy = live.events(buffer=16)
        with anyio.fail_after(10):
            while len(lazy._queue) < 16:
                await anyio.lowlevel.checkpoint()
            await checkpoints(50)
            assert len(lazy._queue) < 16 + 3
            live.interrupt("stop")
            result = await live.wait()
    assert result.status == "interrupted"
    seen = [event async for event in lazy]
    check_events(seen)
    nested = [event for event in seen if event.path]
    assert isinstance(nested[-1], events.RunEnded)
    assert nested[-1].path == ("c",)


async def test_a_failing_stream_is_told_though_nobody_reads() -> None:
    model = ScriptedModel([[Say("x" * 100, chunks=100), Fail(Broken("line cut"))]])
    with pytest.raises(Broken):
        async with open_run(Agent("a", model=model), "go") as live:
            lazy = live.events(buffer=1000)
            with anyio.fail_after(10):
                await live.wait()
    seen = [event async for event in lazy]
    assert seen[-1] == events.RunEnded("failed", "Broken: line cut")
    check_events(seen)


async def test_structural_events_wait_for_nobody_even_past_the_buffer() -> None:
    async def work(n: int) -> str:
        return "worked"

    model = ScriptedModel([[Call("work", {"n": n}) for n in range(50)]])
    async with open_run(Agent("a", tools=[work], model=model), "go") as live:
        lazy = live.events(buffer=1, overflow="drop")
        with anyio.fail_after(10), pytest.raises(UserError, match="called 2 times"):
            await live.wait()
    seen = [event async for event in lazy]
    assert sum(isinstance(event, events.ToolEnded) for event in seen) == 50
    check_events(seen)


async def test_reading_lets_other_tasks_run_though_all_events_are_there() -> None:
    model = ScriptedModel([[Say("x" * 200, chunks=200)]])
    others = 0
    async with open_run(Agent("a", model=model), "go") as live:
        stream = live.events(buffer=1000)
        await live.wait()

        async def other() -> None:
            nonlocal others
            while True:
                await anyio.lowlevel.checkpoint()
                others += 1

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            async for _ in stream:
                pass
            group.cancel_scope.cancel()
    assert others >= 3


@pytest.mark.parametrize("stops", [False, True])
async def test_the_next_call_waits_for_the_watcher_that_the_call_that_was_cut_had_waited_for(stops: bool) -> None:
    model = ScriptedModel([[Say(LONG, chunks=500)], Say("done")])
    async with open_run(Agent("a", model=model), "go") as live:
        lazy = live.events(buffer=4)
        await settled(live)
        live.inject("at once", deliver="now")
        await checkpoints(20)
        assert live.state().blocked_on_watchers
        assert len(model.requests) == 1
        if stops:
            live.interrupt("enough", mode="after_turn")
        async for _ in lazy:
            pass
        result = await live.wait()
    assert (result.status, len(model.requests)) == (("interrupted", 1) if stops else ("completed", 2))
