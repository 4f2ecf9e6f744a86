"""Law 3: an interrupt ends in a result, and a cancellation from outside goes on as the exception it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import Agent, RunConfig, RunContext, RunEnded, RunHooks, open_run, run, tool
from agentrun.core.errors import RunEnded as RunEndedError
from agentrun.events import InterruptRequested, RunStarted, TextDelta
from agentrun.events import RunEnded as RunEndedEvent
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Hang, Say, ScriptedModel, Wait

from .scenes import Ledger, Scene, at_every_point, on_asyncio, stop_scoped
from .support import check_ended, checkpoints

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire


def hanging() -> tuple[Agent[Any, str], ScriptedModel, Ledger, anyio.Event]:
    """An agent whose tool hangs, with cleanup."""
    ledger, started = Ledger(), anyio.Event()

    @tool
    async def hang() -> None:
        async with ledger.cleaning_up("hang"):
            started.set()
            await anyio.sleep_forever()

    model = ScriptedModel([[Say("Wait."), Call("hang", call_id="one")], Say("never said")])
    return Agent("a", tools=[hang], model=model), model, ledger, started


async def test_an_interrupt_is_a_result_with_its_reason() -> None:
    agent, model, ledger, started = hanging()
    async with open_run(agent, "Go.") as live:
        await started.wait()
        assert live.interrupt("user pressed stop")
        assert live.status == "interrupting"
        result = await live.wait()
    check_ended(live, model)
    assert result.status == "interrupted"
    assert result.interrupt is not None
    assert (result.interrupt.reason, result.interrupt.mode) == ("user pressed stop", "immediate")
    assert result.output is None
    assert result.text == "Wait."
    assert ledger.done == ["hang"]


async def test_an_interrupt_without_a_reason_is_a_result_too() -> None:
    agent, model, _, started = hanging()
    async with open_run(agent, "Go.") as live:
        await started.wait()
        live.interrupt()
        result = await live.wait()
    check_ended(live, model)
    assert result.interrupt is not None
    assert result.interrupt.reason is None


async def test_a_cancelled_scope_goes_on_being_cancelled_after_the_teardown() -> None:
    agent, model, ledger, started = hanging()
    with anyio.CancelScope() as scope:
        async with open_run(agent, "Go.") as live:
            await started.wait()
            scope.cancel()
            await live.wait()
        raise AssertionError("the cancellation was swallowed")
    assert scope.cancelled_caught
    result = check_ended(live, model)
    assert result.status == "cancelled"
    assert result.interrupt is None
    assert ledger.done == ["hang"]


async def test_run_is_cancelled_like_the_block() -> None:
    agent, model, ledger, started = hanging()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await started.wait()
                scope.cancel()

            tasks.start_soon(cancel)
            await run(agent, "Go.")
            raise AssertionError("the cancellation was swallowed")
    assert scope.cancelled_caught
    assert ledger.done == ["hang"]
    assert model.open_streams == 0


async def test_timeouts_around_the_run_raise_or_move_on_as_they_always_do() -> None:
    for timeout in (anyio.move_on_after, anyio.fail_after):
        agent, model, ledger, _ = hanging()
        try:
            with timeout(0.05) as scope:
                async with open_run(agent, "Go.") as live:
                    await live.wait()
            assert timeout is anyio.move_on_after
        except TimeoutError:
            assert timeout is anyio.fail_after
        assert scope.cancelled_caught
        assert check_ended(live, model).status == "cancelled"
        assert ledger.done == ["hang"]


async def test_asyncios_own_timeout_raises_its_timeout_error() -> None:
    if not on_asyncio():
        pytest.skip("asyncio's own")
    agent, model, ledger, _ = hanging()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            async with open_run(agent, "Go.") as live:
                await live.wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert check_ended(live, model).status == "cancelled"
    assert ledger.done == ["hang"]
    await checkpoints(3)


async def test_wait_for_cancels_the_run_and_raises_its_timeout_error() -> None:
    if not on_asyncio():
        pytest.skip("asyncio's own")
    agent, model, ledger, _ = hanging()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(agent, "Go."), 0.05)
    assert ledger.done == ["hang"]
    assert model.open_streams == 0


@pytest.mark.parametrize("first", ["scope", "native"])
async def test_a_native_cancellation_is_never_lost_to_a_scope_at_whatever_points_they_meet(first: str) -> None:
    if not on_asyncio():
        pytest.skip("trio has no native cancellation")
    for distance in range(4):

        async def attempt(point: int, distance: int = distance) -> bool:
            scene = Scene()
            finished = False
            scope = anyio.CancelScope()

            async def host() -> None:
                nonlocal finished
                with scope:
                    async with scene.open() as live:
                        await live.wait()
                finished = True

            task = asyncio.create_task(host())
            await checkpoints(point)
            reached, accepted = not task.done(), False
            for stop in ("scope", "native") if first == "scope" else ("native", "scope"):
                if stop == "scope":
                    scope.cancel()
                else:
                    accepted = task.cancel()
                await checkpoints(distance)
            try:
                await task
            except asyncio.CancelledError:
                assert task.cancelled()
                assert not finished
            assert task.cancelled() == accepted, f"a native cancellation was swallowed at point {point}"
            if scene.live is not None:
                await scene.check(None if scene.live.status == "completed" else "scope")
            return reached

        assert await at_every_point(attempt) > 20


async def test_a_second_native_cancellation_adds_nothing_to_the_first() -> None:
    if not on_asyncio():
        pytest.skip("trio has no native cancellation")
    started, cleaning, go_on = anyio.Event(), anyio.Event(), anyio.Event()
    raised: list[BaseException] = []

    async def slow() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaning.set()
            await go_on.wait()

    async def host() -> None:
        try:
            async with open_run(Agent("a", tools=[slow], model=ScriptedModel([Call("slow")])), "Go.") as live:
                await live.wait()
        except BaseException as exc:
            raised.append(exc)
            raise

    task = asyncio.create_task(host())
    await started.wait()
    task.cancel("first")
    await cleaning.wait()
    task.cancel("second")
    await checkpoints(3)
    go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()
    [exc] = raised
    assert isinstance(exc, asyncio.CancelledError)
    assert not getattr(exc, "__notes__", [])


async def test_the_outer_of_two_scopes_catches_what_is_meant_for_it() -> None:
    agent, model, _, started = hanging()
    with anyio.CancelScope() as outer:
        with anyio.CancelScope() as inner:
            async with open_run(agent, "Go.") as live:
                await started.wait()
                inner.cancel()
                outer.cancel()
                await live.wait()
        await anyio.lowlevel.checkpoint()
        raise AssertionError("the cancellation was swallowed")
    assert outer.cancelled_caught
    assert check_ended(live, model).status == "cancelled"


async def test_a_cancellation_during_the_teardown_of_an_interrupt_still_goes_on() -> None:
    tearing_down, go_on = anyio.Event(), anyio.Event()
    started = anyio.Event()

    @tool
    async def slow() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            tearing_down.set()
            await go_on.wait()
            await checkpoints(3)  # the block hears of the cancellation before the teardown is over

    model = ScriptedModel([Call("slow")])
    with anyio.CancelScope() as scope:
        async with open_run(Agent("a", tools=[slow], model=model), "Go.") as live:
            await started.wait()
            live.interrupt("stop")
            await tearing_down.wait()
            scope.cancel()
            go_on.set()
            await live.wait()
        raise AssertionError("the cancellation was swallowed")
    assert scope.cancelled_caught
    result = check_ended(live, model)
    assert result.status == "cancelled"  # the stronger of the two
    assert not result.teardown.expired_graces


async def test_tasks_outside_the_cancelled_scope_are_told_by_run_ended() -> None:
    agent, model, _, started = hanging()
    errors: list[RunEndedError] = []
    opened = anyio.Event()

    async def waiting() -> None:
        await opened.wait()
        with pytest.raises(RunEnded) as caught:
            await live.wait()
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiting)
        tasks.start_soon(waiting)
        with anyio.CancelScope() as scope:
            async with open_run(agent, "Go.") as live:
                opened.set()
                await started.wait()
                scope.cancel()
                await anyio.sleep_forever()
    assert [error.result for error in errors] == [live.result, live.result]
    assert check_ended(live, model).status == "cancelled"


async def test_several_tasks_wait_and_each_gets_the_same_result() -> None:
    agent, model, _, started = hanging()
    results: list[Any] = []

    async def waiting() -> None:
        results.append(await live.wait())

    async with open_run(agent, "Go.") as live, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(waiting)
        await started.wait()
        live.interrupt("stop")
    assert len(results) == 5
    assert all(result is live.result for result in results)
    check_ended(live, model)


async def test_a_waiting_task_that_is_cancelled_leaves_the_run_alone() -> None:
    model = ScriptedModel([[Wait(0.05), Say("Done.")]])
    async with open_run(Agent("a", model=model), "Go.") as live:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await live.wait()
        result = await live.wait()
    check_ended(live, model)
    assert result.output == "Done."


async def test_a_caller_that_is_cancelled_already_starts_nothing() -> None:
    model = ScriptedModel([Say("Hello.")])
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with open_run(Agent("a", model=model), "Go."):
            raise AssertionError("the block was entered")
    assert scope.cancelled_caught
    assert model.requests == []


async def test_a_body_that_mixes_errors_and_cancellation_counts_as_cancelled_from_outside() -> None:
    agent, model, ledger, started = hanging()

    async def failing() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("cleanup of the body's own task")

    with pytest.raises(BaseExceptionGroup) as caught, anyio.CancelScope() as scope:
        async with open_run(agent, "Go.") as live, anyio.create_task_group() as tasks:
            tasks.start_soon(failing)
            await started.wait()
            await checkpoints(2)
            scope.cancel()
            await anyio.sleep_forever()
    assert caught.value.subgroup(ValueError) is not None
    result = check_ended(live, model)
    assert result.status == "cancelled"  # though anyio on asyncio shows the block only the error
    assert ledger.done == ["hang"]


# Interrupts in every phase -----------------------------------------------------------------------------------------


async def _interrupt_while(opened: Any, reached: anyio.Event | None, model: ScriptedModel) -> Any:
    with anyio.fail_after(10):
        async with opened as live:
            stream = live.events()
            if reached is not None:
                await reached.wait()
            assert live.interrupt("stop")
            result = await live.wait()
        seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert result.status == "interrupted"
    assert result.interrupt.reason == "stop"
    assert sum(isinstance(event, InterruptRequested) for event in seen) == 1
    return result


async def test_an_interrupt_before_the_run_has_taken_a_step_is_a_result() -> None:
    model = ScriptedModel([Say("Hello.")])
    session = MemorySession()
    async with open_run(Agent("a", model=model), "Go.", session=session) as live:
        stream = live.events()
        live.interrupt("stop")
        result = await live.wait()
    seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert [type(event) for event in seen] == [RunStarted, InterruptRequested, RunEndedEvent]
    assert model.requests == []
    assert result.turns == 0
    assert tuple(session.items) == result.history
    assert len(result.history) == 1


async def test_an_interrupt_while_hooks_start_is_a_result() -> None:
    reached = anyio.Event()

    class Slow(RunHooks):
        async def on_run_start(self, ctx: RunContext[Any]) -> None:
            reached.set()
            await anyio.sleep_forever()

    model = ScriptedModel([Say("Hello.")])
    await _interrupt_while(open_run(Agent("a", model=model), "Go.", hooks=Slow()), reached, model)


async def test_an_interrupt_while_the_session_loads_is_a_result() -> None:
    reached = anyio.Event()

    class Slow(MemorySession):
        async def load(self) -> Any:
            reached.set()
            await anyio.sleep_forever()

    model = ScriptedModel([Say("Hello.")])
    await _interrupt_while(open_run(Agent("a", model=model), "Go.", session=Slow()), reached, model)


@pytest.mark.parametrize("blocking", [False, True])
async def test_an_interrupt_while_input_guardrails_look_is_a_result(blocking: bool) -> None:
    from agentrun import input_guardrail

    reached, ledger = anyio.Event(), Ledger()

    @input_guardrail(blocking=blocking)
    async def slow(items: Any) -> None:
        async with ledger.cleaning_up("guardrail"):
            reached.set()
            await anyio.sleep_forever()

    model = ScriptedModel([Say("Hello.")])
    result = await _interrupt_while(open_run(Agent("a", model=model, input_guardrails=[slow]), "Go."), reached, model)
    assert ledger.done == ["guardrail"]
    assert [guard.outcome for guard in result.guardrail_results] == ["cancelled"]


async def test_an_interrupt_while_instructions_are_made_is_a_result() -> None:
    reached = anyio.Event()

    async def instructions(ctx: RunContext[Any]) -> str:
        reached.set()
        await anyio.sleep_forever()
        return ""

    model = ScriptedModel([Say("Hello.")])
    await _interrupt_while(open_run(Agent("a", instructions, model=model), "Go."), reached, model)
    assert model.requests == []


async def test_an_interrupt_in_the_middle_of_the_stream_keeps_what_was_said() -> None:
    model = ScriptedModel([[Say("Once upon a time", chunks=4), Hang()]])
    with anyio.fail_after(10):
        async with open_run(Agent("a", model=model), "Go.") as live:
            said = ""
            async for event in live.events():
                if isinstance(event, TextDelta):
                    said += event.text
                    if said == "Once upon a time":
                        live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert result.status == "interrupted"
    assert result.text == said


async def test_an_interrupt_before_the_stream_has_opened_is_a_result() -> None:
    reached = anyio.Event()

    class Slow(ScriptedModel):
        @asynccontextmanager
        async def stream(self, request: Any) -> AsyncIterator[Any]:
            reached.set()
            await anyio.sleep_forever()
            yield

    model = Slow([Say("Hello.")])
    await _interrupt_while(open_run(Agent("a", model=model), "Go."), reached, model)


async def test_an_interrupt_while_an_approval_is_awaited_is_a_result() -> None:
    @tool(needs_approval=True)
    async def dangerous() -> None:
        raise AssertionError("nobody approved")

    model = ScriptedModel([Call("dangerous", call_id="one")])
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=[dangerous], model=model), "Go.") as live:
            async for event in live.events():
                if type(event).__name__ == "ApprovalRequested":
                    live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert [call.call_id for call in result.pending_approvals] == ["one"]
    assert result.status == "interrupted"


async def test_an_interrupt_while_output_guardrails_look_is_a_result() -> None:
    from agentrun import output_guardrail

    reached, ledger = anyio.Event(), Ledger()

    @output_guardrail
    async def slow(output: Any) -> None:
        async with ledger.cleaning_up("guardrail"):
            reached.set()
            await anyio.sleep_forever()

    model = ScriptedModel([Say("Hello.")])
    agent = Agent("a", model=model, output_guardrails=[slow])
    result = await _interrupt_while(open_run(agent, "Go."), reached, model)
    assert ledger.done == ["guardrail"]
    assert result.output is None
    assert result.text == "Hello."


async def test_an_interrupt_while_the_session_stores_lets_it_finish() -> None:
    reached, go_on = anyio.Event(), anyio.Event()

    class Slow(MemorySession):
        async def append(self, items: Any) -> None:
            reached.set()
            await go_on.wait()
            await super().append(items)

    model = ScriptedModel([Say("Hello.")])
    session = Slow()
    with anyio.fail_after(10):
        async with open_run(Agent("a", model=model), "Go.", session=session) as live:
            await reached.wait()
            live.interrupt("stop")
            await checkpoints(5)
            assert live.result is None
            go_on.set()
            result = await live.wait()
    check_ended(live, model)
    assert tuple(session.items) == result.history
    assert result.teardown.clean


async def test_an_interrupt_after_the_end_changes_nothing() -> None:
    model = ScriptedModel([Say("Hello.")])
    async with open_run(Agent("a", model=model), "Go.") as live:
        result = await live.wait()
        assert not live.interrupt("too late")
        assert not live.interrupt("too late", mode="after_turn", escalate_after=0.01)
        assert (await live.wait()) is result
    assert not live.interrupt("far too late")
    assert live.result is result
    assert result.status == "completed"
    assert result.interrupt is None


async def test_an_interrupt_in_the_hook_that_is_told_of_the_end_changes_nothing() -> None:
    class Late(RunHooks):
        async def on_run_end(self, ctx: RunContext[Any], result: Any) -> None:
            assert not ctx.run.interrupt("too late", mode="after_turn", escalate_after=0.0)
            await checkpoints(5)

    model = ScriptedModel([Say("Hello.")])
    async with open_run(Agent("a", model=model), "Go.", hooks=Late()) as live:
        result = await live.wait()
    check_ended(live, model)
    assert result.status == "completed"


async def test_a_soft_interrupt_lets_the_response_and_its_tools_finish() -> None:
    started, go_on = anyio.Event(), anyio.Event()

    @tool
    async def work(ctx: RunContext[Any]) -> str:
        started.set()
        assert await ctx.wait_interrupted() == "soon"
        await go_on.wait()
        return "finished"

    model = ScriptedModel([Call("work", call_id="one"), Say("never said")])
    async with open_run(Agent("a", tools=[work], model=model), "Go.") as live:
        await started.wait()
        assert live.interrupt("soon", mode="after_turn")
        await checkpoints(5)
        assert live.result is None
        go_on.set()
        result = await live.wait()
    check_ended(live, model)
    assert result.status == "interrupted"
    assert result.interrupt is not None
    assert result.interrupt.mode == "after_turn"
    assert result.history[-1].output == "finished"  # type: ignore[union-attr]
    assert len(model.requests) == 1
    assert result.teardown.cancelled_tools == []


async def test_a_run_inside_a_cancelled_tool_is_cancelled_and_the_outer_one_is_interrupted() -> None:
    inner_agent, inner_model, ledger, started = hanging()
    inner_runs: list[Any] = []

    @tool
    async def delegate() -> str:
        async with open_run(inner_agent, "Go on.") as inner:
            inner_runs.append(inner)
            return str((await inner.wait()).output)

    model = ScriptedModel([Call("delegate", call_id="one")])
    async with open_run(Agent("a", tools=[delegate], model=model), "Go.", config=RunConfig(cleanup_grace=2)) as live:
        await started.wait()
        live.interrupt("stop")
        result = await live.wait()
    check_ended(live, model)
    assert result.status == "interrupted"
    assert check_ended(inner_runs[0], inner_model).status == "cancelled"
    assert ledger.done == ["hang"]


async def test_nothing_of_a_stopped_scene_is_left_to_be_cancelled_twice() -> None:
    """The scope that stopped a run can be left and the task goes on to live a normal life."""
    scene = Scene()
    assert await stop_scoped(scene, 30, 2)
    await checkpoints(3)
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    await scene.check("scope")


@pytest.mark.parametrize("place", ["on_run_start", "load", "instructions", "model"])
async def test_a_native_cancellation_of_the_driver_in_user_code_cancels_the_run(
    place: str,
) -> None:
    if not on_asyncio():
        pytest.skip("trio has no native cancellation")
    cleaned: list[str] = []
    at_work = anyio.Event()

    async def hang_at(here: str) -> None:
        if here == place:
            at_work.set()
            try:
                await anyio.sleep_forever()
            finally:
                await checkpoints(3)
                cleaned.append(here)

    class Hooks(RunHooks):
        async def on_run_start(self, ctx: Any) -> None:
            await hang_at("on_run_start")

    class Store(MemorySession):
        async def load(self) -> Any:
            await hang_at("load")
            return await super().load()

    async def instructions(ctx: Any) -> str:
        await hang_at("instructions")
        return "Be brief."

    class Model(ScriptedModel):
        @asynccontextmanager
        async def stream(self, request: Any) -> AsyncGenerator[Any]:
            await hang_at("model")
            async with super().stream(request) as stream:
                yield stream

    model = Model([Say("never")])
    with anyio.fail_after(10), pytest.raises(RunEndedError, match="^the run was cancelled from outside$"):
        async with open_run(Agent("a", instructions, model=model, hooks=Hooks()), "go", session=Store()) as live:
            await at_work.wait()
            [driver] = [task for task in asyncio.all_tasks() if task.get_name() == f"agentrun {live.id}"]
            driver.cancel()
            await live.wait()
    assert check_ended(live, model).status == "cancelled"
    assert cleaned == [place]
    assert model.requests == []


@pytest.mark.parametrize("times", [1, 2])
async def test_a_native_cancellation_that_comes_while_the_block_waits_for_the_teardown_goes_on_after_it(
    times: int,
) -> None:
    if not on_asyncio():
        pytest.skip("trio has no native cancellation")
    started, cleaning, cleaned = anyio.Event(), anyio.Event(), anyio.Event()
    said: list[str] = []

    @tool
    async def work() -> None:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            cleaning.set()
            await cleaned.wait()
            said.append("cleaned up")

    async def host() -> None:
        async with open_run(Agent("a", tools=[work], model=ScriptedModel([Call("work")])), "go"):
            await started.wait()
        said.append("went on")

    with anyio.fail_after(10):
        task = asyncio.create_task(host())
        await cleaning.wait()
        for _ in range(times):
            task.cancel()
            await checkpoints(3)
        cleaned.set()
        await asyncio.wait([task])
    assert task.cancelled()
    assert said == ["cleaned up"]
