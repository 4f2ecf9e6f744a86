"""Law 7: ordinary cleanup works, and what was registered or shielded finishes wherever the cancellation lands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import Agent, FunctionTool, RunConfig, RunContext, RunResult, open_run, tool
from agentrun.core.model import ModelRequest
from agentrun.events import ToolEnded
from agentrun.items import ToolOutput
from agentrun.testing import Call, Say, ScriptedModel

from .scenes import (
    Ledger,
    Scene,
    Stop,
    at_every_point,
    on_asyncio,
    stop_deadline,
    stop_native,
    stop_scoped,
)
from .support import check_ended, checkpoints

MANY_POINTS = 60


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_all_cleanup_is_done_however_often_scopes_are_cancelled_at_any_point(times: int, nested: bool) -> None:
    async def attempt(point: int) -> bool:
        scene = Scene(nested=nested)
        stopped = await stop_scoped(scene, point, times)
        if scene.live is not None:
            await scene.check("scope" if stopped else None)
        return stopped

    assert await at_every_point(attempt) > MANY_POINTS


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_all_cleanup_is_done_however_often_the_task_is_cancelled_natively(times: int, nested: bool) -> None:
    if not on_asyncio():
        pytest.skip("trio has no native cancellation")

    async def attempt(point: int) -> bool:
        scene = Scene(nested=nested)
        stopped = await stop_native(scene, point, times)
        if scene.live is not None:
            await scene.check("native" if stopped else None)
        return stopped

    assert await at_every_point(attempt) > MANY_POINTS


@pytest.mark.parametrize("kind", ["move_on_after", "fail_after", "trio", "asyncio"])
async def test_all_cleanup_is_done_whenever_a_timeout_around_the_run_expires(kind: Any) -> None:
    if kind in ("trio", "asyncio") and on_asyncio() != (kind == "asyncio"):
        pytest.skip(f"{kind}'s own timeout")

    async def attempt(point: int) -> bool:
        scene = Scene()
        stopped = await stop_deadline(scene, point, kind)
        if scene.live is not None:
            await scene.check("scope" if stopped else None)
        return stopped

    assert await at_every_point(attempt) > MANY_POINTS


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("mode", ["interrupt", "after_turn"])
async def test_all_cleanup_is_done_at_whatever_point_the_run_is_interrupted(mode: Stop, nested: bool) -> None:
    async def attempt(point: int) -> bool:
        scene = Scene(nested=nested)
        accepted = False

        async def interrupt() -> None:
            nonlocal accepted
            await checkpoints(point)
            live = scene.live
            assert live is not None
            accepted = live.interrupt("stop", mode="immediate" if mode == "interrupt" else "after_turn")
            live.interrupt("too late", mode="immediate" if mode == "interrupt" else "after_turn")

        async with anyio.create_task_group() as tasks, scene.open() as live:
            tasks.start_soon(interrupt)
            await live.wait()
        await scene.check(mode if accepted else None)
        return accepted

    assert await at_every_point(attempt) > MANY_POINTS


async def test_two_kinds_of_stop_at_once_change_nothing_about_the_cleanup() -> None:
    async def attempt(point: int) -> bool:
        scene = Scene(nested=True)
        finished = False

        async def stop() -> None:
            await checkpoints(point)
            if scene.live is not None:
                scene.live.interrupt("stop")
            await checkpoints(point % 5)
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            with anyio.CancelScope() as scope:
                async with scene.open() as live:
                    await live.wait()
                finished = True
            tasks.cancel_scope.cancel()
        if scene.live is not None:
            result = scene.live.result
            assert result is not None
            await scene.check("interrupt" if result.status == "interrupted" else "scope")
        return not finished

    assert await at_every_point(attempt) > 10


# Shapes of tools ---------------------------------------------------------------------------------------------------


async def _interrupted(
    tools: list[FunctionTool],
    started: anyio.Event,
    *,
    grace: float = 2.0,
    steps: int = 1,
    before: Callable[[], None] = lambda: None,
) -> RunResult[Any]:
    """Run one call of the first tool, interrupt the run ``steps`` after it started, and return the result."""
    model = ScriptedModel([Call(tools[0].name, call_id="one")])
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=tools, model=model), "Go.", config=RunConfig(cleanup_grace=grace)) as live:
            stream = live.events()
            await started.wait()
            await checkpoints(steps)
            before()
            assert live.interrupt("stop")
            await live.wait()
        return check_ended(live, model, [event async for event in stream])


def _output(result: RunResult[Any]) -> ToolOutput:
    last = result.items[-1]
    assert isinstance(last, ToolOutput)
    return last


@pytest.mark.parametrize("steps", range(8))
async def test_a_tool_that_only_ever_reaches_checkpoints_is_cancelled_and_cleans_up(steps: int) -> None:
    ledger, started, lock = Ledger(), anyio.Event(), anyio.Lock()

    @tool
    async def busy() -> None:
        started.set()
        try:
            async with ledger.cleaning_up("busy"):
                while True:
                    await anyio.lowlevel.checkpoint()
        finally:
            async with lock:
                await anyio.lowlevel.checkpoint_if_cancelled()
                await anyio.to_thread.run_sync(ledger.done.append, "lock")

    result = await _interrupted([busy], started, steps=steps)
    assert _output(result).status == "cancelled"
    assert ledger.done == ["busy", "lock"]
    assert not ledger.cut
    assert result.teardown.clean


@pytest.mark.parametrize("steps", range(6))
async def test_a_tool_that_starts_sleeping_while_it_is_cancelled_is_cancelled_and_cleans_up(steps: int) -> None:
    ledger, started = Ledger(), anyio.Event()

    @tool
    async def mixed() -> None:
        started.set()
        async with ledger.cleaning_up("mixed"):
            while True:
                await anyio.lowlevel.checkpoint()
                await anyio.sleep(0)
                await anyio.lowlevel.cancel_shielded_checkpoint()
                await anyio.lowlevel.checkpoint_if_cancelled()
                await anyio.sleep(0.0001)

    result = await _interrupted([mixed], started, steps=steps)
    assert ledger.done == ["mixed"]
    assert result.teardown.clean


@pytest.mark.parametrize("steps", range(6))
async def test_cleanup_around_a_tools_own_task_group_finishes(steps: int) -> None:
    ledger, started = Ledger(), anyio.Event()

    @tool
    async def grouped() -> None:
        async def child() -> None:
            started.set()
            await anyio.sleep_forever()

        async def inner() -> None:
            async with ledger.cleaning_up("inner"), anyio.create_task_group() as tasks:
                tasks.start_soon(child)
                tasks.start_soon(child)

        async with ledger.cleaning_up("outer"):
            await inner()

    result = await _interrupted([grouped], started, steps=steps)
    assert ledger.done == ["inner", "outer"]
    assert not ledger.cut
    assert result.teardown.clean


async def test_cleanup_around_a_task_group_in_a_generator_finishes() -> None:
    ledger, started = Ledger(), anyio.Event()

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        async with ledger.cleaning_up("generator"), anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            yield

    @tool
    async def generating() -> None:
        async with ledger.cleaning_up("tool"), resource():
            started.set()

    result = await _interrupted([generating], started)
    assert ledger.done == ["generator", "tool"]
    assert result.teardown.clean


@pytest.mark.parametrize("first", ["own", "ours"])
@pytest.mark.parametrize("kind", ["move_on_after", "fail_after"])
async def test_a_timeout_of_the_tools_own_that_expires_in_the_same_instant_does_not_cut_the_cleanup(
    kind: str, first: str
) -> None:
    ledger, started = Ledger(), anyio.Event()
    own: list[anyio.CancelScope] = []
    went_on = False

    @tool
    async def timed() -> None:
        nonlocal went_on
        async with ledger.cleaning_up("timed"):
            with getattr(anyio, kind)(60) as scope:
                own.append(scope)
                started.set()
                await anyio.sleep_forever()
            went_on = True
            await anyio.sleep_forever()

    model = ScriptedModel([Call("timed", call_id="one")])
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=[timed], model=model), "Go.", config=RunConfig(cleanup_grace=2)) as live:
            await started.wait()
            await checkpoints(1)
            if first == "own":
                own[0].cancel()
            live.interrupt("stop")
            own[0].cancel()
            result = await live.wait()
    check_ended(live, model)
    assert _output(result).status == "cancelled"
    assert ledger.done == ["timed"]
    assert result.teardown.clean, str(result.teardown)
    assert result.teardown.seconds < 1


@pytest.mark.parametrize("distance", range(6))
async def test_a_timeout_of_the_tools_own_that_expired_just_before_does_not_hide_the_interrupt(distance: int) -> None:
    ledger, started = Ledger(), anyio.Event()
    own: list[anyio.CancelScope] = []

    @tool
    async def timed(ctx: RunContext[Any]) -> None:
        ctx.on_cleanup(lambda: ledger.done.append("registered"))
        with anyio.move_on_after(60) as scope:
            own.append(scope)
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await checkpoints(3)
        async with ledger.cleaning_up("body"):
            await anyio.sleep_forever()

    model = ScriptedModel([Call("timed", call_id="one")])
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=[timed], model=model), "Go.", config=RunConfig(cleanup_grace=2)) as live:
            await started.wait()
            await checkpoints(1)
            own[0].cancel()
            await checkpoints(distance)
            live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert _output(result).status == "cancelled"
    ledger.check()
    assert ledger.done[-1] == "registered"
    assert result.teardown.clean, str(result.teardown)


async def test_a_shielded_section_with_a_deadline_is_followed_by_the_cancellation_that_waited() -> None:
    ledger, started = Ledger(), anyio.Event()

    @tool
    async def shielded() -> None:
        async with ledger.cleaning_up("shielded"):
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 0.05):
                started.set()
                await anyio.sleep_forever()
            await anyio.sleep_forever()

    result = await _interrupted([shielded], started)
    assert _output(result).status == "cancelled"
    assert ledger.done == ["shielded"]
    assert result.teardown.clean
    assert 0.02 < result.teardown.seconds < 1.5


async def test_a_critical_section_is_not_cut_and_the_cancellation_comes_after_it() -> None:
    ledger, started, go_on = Ledger(), anyio.Event(), anyio.Event()

    @tool
    async def transfer(ctx: RunContext[Any]) -> None:
        async with ledger.cleaning_up("transfer"):
            async with ctx.critical(60):
                started.set()
                await go_on.wait()
                await checkpoints(3)
                ledger.done.append("transferred")
            await anyio.sleep_forever()

    model = ScriptedModel([Call("transfer", call_id="one")])
    async with open_run(Agent("a", tools=[transfer], model=model), "Go.", config=RunConfig(cleanup_grace=2)) as live:
        await started.wait()
        live.interrupt("stop")
        await checkpoints(10)
        assert live.result is None
        assert ledger.done == []
        go_on.set()
        result = await live.wait()
    check_ended(live, model)
    assert _output(result).status == "cancelled"
    assert ledger.done == ["transferred", "transfer"]
    assert result.teardown.clean


@pytest.mark.parametrize("interrupted", [False, True])
async def test_a_critical_section_beyond_its_time_is_cut_and_its_cleanup_is_not(interrupted: bool) -> None:
    ledger, started = Ledger(), anyio.Event()
    raised: list[str] = []

    @tool
    async def slow(ctx: RunContext[Any]) -> None:
        async with ledger.cleaning_up("slow"):
            try:
                async with ctx.critical(0.05):
                    started.set()
                    await anyio.sleep_forever()
            except BaseException as exc:
                raised.append(type(exc).__name__)
                raise

    model = ScriptedModel([Call("slow", call_id="one"), Say("Done.")])
    async with open_run(Agent("a", tools=[slow], model=model), "Go.", config=RunConfig(cleanup_grace=2)) as live:
        await started.wait()
        if interrupted:
            live.interrupt("stop")
        result = await live.wait()
    check_ended(live, model)
    assert ledger.done == ["slow"]
    assert result.teardown.expired_graces == ["critical section of tool slow (one)"]
    output = next(item for item in result.items if isinstance(item, ToolOutput))
    if interrupted:
        assert raised in (["CancelledError"], ["Cancelled"])
        assert output.status == "cancelled"
    else:
        assert raised == ["TimeoutError"]
        assert output.status == "failed"
        assert "0.05 seconds" in str(output.output)


@pytest.mark.parametrize("steps", range(5))
async def test_what_is_registered_finishes_though_the_interrupt_lands_in_the_middle_of_the_cleanup(steps: int) -> None:
    ledger, started = Ledger(), anyio.Event()

    @tool
    async def registering(ctx: RunContext[Any]) -> str:
        async def first() -> None:
            await checkpoints(3)
            ledger.done.append("registered first")

        ctx.on_cleanup(first)
        await ctx.enter_async_context(ledger.cleaning_up("entered", registered=True))
        ctx.on_cleanup(lambda: ledger.done.append("registered last"))
        started.set()
        return "done"

    result = await _interrupted([registering], started, steps=steps)
    assert ledger.done == ["registered last", "entered", "registered first"]
    # It had returned before it was cancelled: what it achieved is kept.
    assert _output(result) == ToolOutput("one", "done")
    assert result.teardown.clean


async def test_a_context_is_left_with_what_the_tool_raised() -> None:
    started = anyio.Event()
    seen: list[str] = []

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        try:
            yield
        except BaseException as exc:
            await checkpoints(2)
            seen.append(type(exc).__name__)
            raise

    @tool
    async def entering(ctx: RunContext[Any]) -> None:
        await ctx.enter_async_context(context())
        started.set()
        await anyio.sleep_forever()

    result = await _interrupted([entering], started)
    assert seen in (["CancelledError"], ["Cancelled"])
    assert result.teardown.clean


async def test_a_cleanup_that_hangs_is_cut_after_its_grace_and_named_and_what_is_registered_still_runs() -> None:
    started = anyio.Event()
    done: list[str] = []

    @tool
    async def hanging(ctx: RunContext[Any]) -> None:
        async def registered() -> None:
            await checkpoints(3)
            done.append("registered")

        ctx.on_cleanup(registered)
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            try:
                await anyio.sleep_forever()
            finally:
                done.append("cut")

    result = await _interrupted([hanging], started, grace=0.1)
    assert done == ["cut", "registered"]
    assert result.teardown.expired_graces == ["tool hanging (one)"]
    assert _output(result).status == "cancelled"
    assert result.teardown.seconds > 0.08


async def test_a_registered_cleanup_that_hangs_does_not_keep_the_others_from_running() -> None:
    started = anyio.Event()
    done: list[str] = []

    @tool
    async def hanging(ctx: RunContext[Any]) -> None:
        async def fine() -> None:
            await checkpoints(3)
            done.append("fine")

        ctx.on_cleanup(fine)
        ctx.on_cleanup(anyio.sleep_forever)
        ctx.on_cleanup(fine)
        started.set()
        await anyio.sleep_forever()

    result = await _interrupted([hanging], started, grace=0.1)
    assert done == ["fine", "fine"]
    assert "cleanup of tool hanging (one)" in result.teardown.expired_graces


async def test_a_cleanup_that_raises_is_reported_and_the_call_is_cancelled_all_the_same() -> None:
    started = anyio.Event()
    done: list[str] = []

    def broken() -> None:
        raise LookupError("registered, and broken")

    @tool(on_error="raise", retries=3)
    async def failing(ctx: RunContext[Any]) -> None:
        done.append("begun")
        ctx.on_cleanup(lambda: done.append("registered"))
        ctx.on_cleanup(broken)
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(2)
            raise ValueError("no way to close this")

    result = await _interrupted([failing], started)
    assert result.status == "interrupted"
    assert _output(result).status == "cancelled"
    assert done == ["begun", "registered"]
    assert sorted(map(repr, result.errors)) == [
        "LookupError('registered, and broken')",
        "ValueError('no way to close this')",
    ]
    assert len(result.teardown.cleanup_errors) == 2
    assert not result.teardown.swallowed_cancellations


async def test_a_tool_that_swallows_its_cancellation_is_named_and_what_it_returned_is_told() -> None:
    started = anyio.Event()

    @tool
    async def deaf() -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            await checkpoints(3)
        return "deleted 3 files"

    result = await _interrupted([deaf], started)
    assert result.teardown.swallowed_cancellations == ["tool deaf (one)"]
    assert _output(result).status == "cancelled"
    assert "stop" in str(_output(result).output)
    assert "deleted 3 files" in str(_output(result).output)


async def test_a_tool_that_never_stops_swallowing_is_cut_again_and_again_until_it_gives_in() -> None:
    started = anyio.Event()
    swallowed = 0

    @tool
    async def stubborn() -> None:
        nonlocal swallowed
        started.set()
        while swallowed < 20:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                swallowed += 1

    result = await _interrupted([stubborn], started, grace=0.05)
    assert result.teardown.swallowed_cancellations == ["tool stubborn (one)"]
    assert result.teardown.expired_graces == ["tool stubborn (one)"]


async def test_on_cancel_is_called_once_beside_the_cleanup_and_awaited() -> None:
    ledger, started = Ledger(), anyio.Event()

    async def on_cancel(ctx: RunContext[Any]) -> None:
        await checkpoints(4)
        ledger.done.append(f"on_cancel {ctx.call_id}")

    @tool(on_cancel=on_cancel)
    async def listening() -> None:
        started.set()
        async with ledger.cleaning_up("body"):
            await anyio.sleep_forever()

    result = await _interrupted([listening], started)
    assert sorted(ledger.done) == ["body", "on_cancel one"]
    assert result.teardown.clean


async def test_a_stream_whose_cleanup_hangs_is_cut_after_its_grace_and_named() -> None:
    class Hanging(ScriptedModel):
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
            async with super().stream(request) as parts:
                try:
                    yield parts
                finally:
                    await anyio.sleep_forever()

    model = Hanging([Say("one two three", chunks=3, delay=0.01)])
    with anyio.fail_after(10):
        async with open_run(Agent("a", model=model), "Go.", config=RunConfig(cleanup_grace=0.1)) as live:
            stream = live.events()
            async for event in stream:
                if type(event).__name__ == "TextDelta":
                    break
            live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert result.teardown.expired_graces == ["model scripted"]
    assert result.text == "one "


async def test_an_interrupted_tool_call_gets_its_cleanup_and_the_run_goes_on() -> None:
    ledger, started = Ledger(), anyio.Event()
    model = ScriptedModel([Call("wait", call_id="one"), Say("Fine.")])

    @tool
    async def wait() -> None:
        async with ledger.cleaning_up("wait"):
            started.set()
            await anyio.sleep_forever()

    async with open_run(Agent("a", tools=[wait], model=model), "Go.") as live:
        stream = live.events()
        await started.wait()
        assert live.interrupt_tool("one", "too slow")
        assert not live.interrupt_tool("one", "again")
        result = await live.wait()
        seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert result.output == "Fine."
    assert ledger.done == ["wait"]
    ended = next(event for event in seen if isinstance(event, ToolEnded))
    assert ended.status == "cancelled"
    assert "too slow" in ended.output


async def test_a_timeout_of_the_tools_own_that_expires_during_its_cleanup_does_not_bring_it_back_to_life() -> None:
    ledger, started = Ledger(), anyio.Event()
    own: list[anyio.CancelScope] = []
    cut: list[str] = []

    @tool
    async def timed() -> None:
        async with ledger.cleaning_up("outer"):
            with anyio.move_on_after(60) as scope:
                own.append(scope)
                started.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    own[0].cancel()
                    try:
                        await anyio.sleep_forever()
                    finally:
                        cut.append("its own timeout cut its cleanup")
            await anyio.sleep_forever()

    result = await _interrupted([timed], started)
    assert cut
    assert ledger.done == ["outer"]
    assert result.teardown.clean, str(result.teardown)
    assert result.teardown.seconds < 1


async def test_each_registered_cleanup_has_a_grace_of_its_own() -> None:
    started = anyio.Event()
    done: list[int] = []

    @tool
    async def registering(ctx: RunContext[Any]) -> None:
        async def slow() -> None:
            await anyio.sleep(0.2)
            done.append(1)

        for _ in range(3):
            ctx.on_cleanup(slow)
        started.set()
        await anyio.sleep_forever()

    result = await _interrupted([registering], started, grace=0.4)
    assert done == [1, 1, 1]
    assert result.teardown.clean


@pytest.mark.parametrize("kind", ["group", "timeout"])
async def test_a_cleanup_that_begins_by_asking_for_the_cancellation_gets_it_at_worst(kind: str) -> None:
    """Where the shield can go up only at the first await of the cleanup, and that one has seen the cancellation."""
    started, lock = anyio.Event(), anyio.Lock()

    @tool
    async def locking() -> None:
        try:
            if kind == "group":
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.sleep_forever)
                    started.set()
            else:
                with anyio.fail_after(60) as scope:
                    own.append(scope)
                    started.set()
                    await anyio.sleep_forever()
        finally:
            try:
                await anyio.lowlevel.checkpoint_if_cancelled()
            finally:
                async with lock:  # and from here on it is protected
                    await checkpoints(3)
                    done.append("cleaned up")

    done: list[str] = []
    own: list[anyio.CancelScope] = []
    result = await _interrupted([locking], started, before=lambda: own[0].cancel() if own else None)
    assert _output(result).status == "cancelled"
    assert done == ["cleaned up"]
    assert result.errors == ()
    assert result.teardown.clean, str(result.teardown)
    assert result.teardown.seconds < 1


async def test_a_critical_section_of_a_cleanup_that_is_cut_leaves_the_rest_of_the_cleanup_in_peace() -> None:
    ledger, started = Ledger(), anyio.Event()

    @tool
    async def slow(ctx: RunContext[Any]) -> None:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            try:
                async with ctx.critical(0.01):
                    await anyio.sleep_forever()
            except TimeoutError:
                ledger.done.append("section was cut")
            await checkpoints(3)
            ledger.done.append("rest")

    result = await _interrupted([slow], started)
    assert _output(result).status == "cancelled"
    assert ledger.done == ["section was cut", "rest"]
    assert result.teardown.expired_graces == ["critical section of tool slow (one)"]
