"""Law 2: a run ends once, in one way, and its terminal event is the last one and says how."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agentrun import Agent, MaxTurnsExceeded, RunConfig, RunContext, RunEnded, RunHooks, UserError, open_run, tool
from agentrun.core.errors import TimeLimitExceeded
from agentrun.events import Event, InterruptRequested, TextDelta
from agentrun.events import RunEnded as RunEndedEvent
from agentrun.testing import Call, Fail, Hang, Say, ScriptedModel, Wait

from .scenes import Ledger, Scene, at_every_point
from .support import check_ended, checkpoints


def _last(seen: list[Event]) -> RunEndedEvent:
    assert sum(isinstance(event, RunEndedEvent) and not event.path for event in seen) == 1
    last = seen[-1]
    assert isinstance(last, RunEndedEvent)
    return last


def hanging() -> tuple[Agent[Any, str], ScriptedModel, anyio.Event]:
    """An agent whose tool hangs."""
    started = anyio.Event()

    @tool
    async def hang() -> None:
        started.set()
        await anyio.sleep_forever()

    model = ScriptedModel([Call("hang", call_id="one"), Say("never said")])
    return Agent("a", tools=[hang], model=model), model, started


async def test_a_run_that_completes_says_so_without_a_reason() -> None:
    model = ScriptedModel([Say("Done.")])
    async with open_run(Agent("a", model=model), "Go.") as live:
        stream = live.events()
        result = await live.wait()
    seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert _last(seen) == RunEndedEvent("completed", None)
    assert result.output == "Done."
    assert result.interrupt is None
    assert result.error is None


async def test_a_run_that_is_interrupted_says_why() -> None:
    agent, model, started = hanging()
    async with open_run(agent, "Go.") as live:
        stream = live.events()
        await started.wait()
        live.interrupt("user pressed stop")
        await live.wait()
    seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert _last(seen) == RunEndedEvent("interrupted", "user pressed stop")


async def test_a_run_that_fails_says_with_what() -> None:
    model = ScriptedModel([[Say("I was about to"), Fail(ValueError("no more"))]])
    with pytest.raises(ValueError, match="no more") as caught:
        async with open_run(Agent("a", model=model), "Go.") as live:
            stream = live.events()
            await live.wait()
    seen = [event async for event in stream]
    result = check_ended(live, model, seen)
    assert _last(seen) == RunEndedEvent("failed", "ValueError: no more")
    assert result.error is caught.value
    assert result.text == "I was about to"
    assert result.output is None


async def test_a_run_that_is_cancelled_says_so() -> None:
    agent, model, started = hanging()
    with anyio.CancelScope() as scope:
        async with open_run(agent, "Go.") as live:
            stream = live.events()
            await started.wait()
            scope.cancel()
            await live.wait()
    seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert _last(seen) == RunEndedEvent("cancelled", "cancelled from outside")


async def test_a_run_that_is_cancelled_while_it_is_interrupted_says_that_it_was_cancelled() -> None:
    agent, model, started = hanging()
    with anyio.CancelScope() as scope:
        async with open_run(agent, "Go.") as live:
            stream = live.events()
            await started.wait()
            live.interrupt("soon", mode="after_turn")
            scope.cancel()
            await live.wait()
    seen = [event async for event in stream]
    result = check_ended(live, model, seen)
    assert result.interrupt is not None
    assert result.interrupt.reason == "soon"
    assert _last(seen) == RunEndedEvent("cancelled", "cancelled from outside")


async def test_the_first_reason_wins() -> None:
    agent, model, started = hanging()
    async with open_run(agent, "Go.") as live:
        stream = live.events()
        await started.wait()
        assert live.interrupt("first")
        assert not live.interrupt("second")
        assert not live.interrupt("third", mode="after_turn")
        result = await live.wait()
    seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert result.interrupt is not None
    assert result.interrupt.reason == "first"
    assert [event.reason for event in seen if isinstance(event, InterruptRequested)] == ["first"]
    assert "first" in str(result.history[-1])


async def test_a_stronger_mode_escalates_and_the_first_reason_stays() -> None:
    agent, model, started = hanging()
    async with open_run(agent, "Go.") as live:
        stream = live.events()
        await started.wait()
        assert live.interrupt("soft", mode="after_turn")
        assert not live.interrupt("soft again", mode="after_turn")
        await checkpoints(5)
        assert live.result is None
        assert live.interrupt("hard")
        result = await live.wait()
    seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert result.interrupt is not None
    assert (result.interrupt.reason, result.interrupt.mode) == ("soft", "immediate")
    assert [(event.reason, event.mode) for event in seen if isinstance(event, InterruptRequested)] == [
        ("soft", "after_turn"),
        ("soft", "immediate"),
    ]


async def test_a_soft_interrupt_escalates_by_itself_after_its_time() -> None:
    agent, model, started = hanging()
    with anyio.fail_after(10):
        async with open_run(agent, "Go.") as live:
            stream = live.events()
            await started.wait()
            before = anyio.current_time()
            live.interrupt("soft", mode="after_turn", escalate_after=0.05)
            result = await live.wait()
            assert anyio.current_time() - before >= 0.04
    seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert result.interrupt is not None
    assert (result.interrupt.reason, result.interrupt.mode) == ("soft", "immediate")


async def test_a_later_request_can_bring_an_escalation_to_one_that_had_none() -> None:
    agent, model, started = hanging()
    with anyio.fail_after(10):
        async with open_run(agent, "Go.") as live:
            await started.wait()
            assert live.interrupt("soft", mode="after_turn")
            assert not live.interrupt("softer", mode="after_turn", escalate_after=0.02)
            result = await live.wait()
    check_ended(live, model)
    assert result.interrupt is not None
    assert (result.interrupt.reason, result.interrupt.mode) == ("soft", "immediate")


async def test_an_escalation_that_is_not_needed_leaves_nothing_behind() -> None:
    model = ScriptedModel([Say("Done.", chunks=3)])
    async with open_run(Agent("a", model=model), "Go.") as live:
        stream = live.events()
        live.interrupt("soft", mode="after_turn", escalate_after=60)
        with anyio.fail_after(10):
            result = await live.wait()
    check_ended(live, model, [event async for event in stream])
    assert result.interrupt is not None
    assert result.interrupt.mode == "after_turn"


async def test_a_time_of_zero_escalates_at_once() -> None:
    agent, model, started = hanging()
    with anyio.fail_after(10):
        async with open_run(agent, "Go.") as live:
            await started.wait()
            live.interrupt("now, really", mode="after_turn", escalate_after=0)
            result = await live.wait()
    check_ended(live, model)
    assert result.status == "interrupted"


async def test_invalid_interrupts_are_refused_and_change_nothing() -> None:
    agent, model, started = hanging()
    async with open_run(agent, "Go.") as live:
        await started.wait()
        for arguments in (
            {"mode": "softly"},
            {"reason": 3},
            {"escalate_after": -1},
            {"escalate_after": float("nan")},
            {"escalate_after": True},
            {"escalate_after": "soon"},
        ):
            with pytest.raises(UserError, match=next(iter(arguments))):
                live.interrupt(**arguments)
        assert live.status == "running"
        live.interrupt("stop")
        await live.wait()
    check_ended(live, model)


async def test_a_failure_during_the_teardown_of_an_interrupt_does_not_change_the_ending() -> None:
    started = anyio.Event()

    @tool(on_error="raise")
    async def failing() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    model = ScriptedModel([Call("failing")])
    async with open_run(Agent("a", tools=[failing], model=model), "Go.") as live:
        await started.wait()
        live.interrupt("stop")
        result = await live.wait()
    check_ended(live, model)
    assert result.status == "interrupted"
    assert result.error is None
    assert [str(error) for error in result.errors] == ["in cleanup"]


async def test_an_interrupt_during_the_teardown_of_a_failure_does_not_change_the_ending() -> None:
    tearing_down, go_on = anyio.Event(), anyio.Event()

    @tool
    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            tearing_down.set()
            await go_on.wait()

    @tool(on_error="raise")
    async def failing() -> None:
        await checkpoints(3)
        raise ValueError("first")

    model = ScriptedModel([[Call("slow"), Call("failing")]])
    with pytest.raises(ValueError, match="first"):
        async with open_run(Agent("a", tools=[slow, failing], model=model), "Go.") as live:
            stream = live.events()
            await tearing_down.wait()
            assert not live.interrupt("too late")
            go_on.set()
            await live.wait()
    seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert _last(seen).status == "failed"


@pytest.mark.parametrize("stops", ["limit", "turns"])
async def test_limits_end_a_run_as_failed(stops: str) -> None:
    agent, model, _ = hanging()
    config = RunConfig(max_seconds=0.05) if stops == "limit" else RunConfig(max_turns=1)
    if stops == "turns":

        @tool
        async def quick() -> str:
            return "ok"

        model = ScriptedModel([Call("quick"), Say("never said")])
        agent = Agent("a", tools=[quick], model=model)
    expected = TimeLimitExceeded if stops == "limit" else MaxTurnsExceeded
    with anyio.fail_after(10), pytest.raises(expected) as caught:
        async with open_run(agent, "Go.", config=config) as live:
            stream = live.events()
            await live.wait()
    seen = [event async for event in stream]
    result = check_ended(live, model, seen)
    assert _last(seen).status == "failed"
    assert caught.value.result is result


async def test_a_run_that_fails_and_is_stopped_in_the_same_instant_ends_once() -> None:
    """Whichever comes first: at every point there is one ending, and the block raises accordingly."""

    async def attempt(point: int) -> bool:
        ledger, accepted = Ledger(), False

        @tool(on_error="raise")
        async def failing() -> None:
            async with ledger.cleaning_up("failing"):
                await checkpoints(3)
                raise ValueError("tool")

        model = ScriptedModel([[Say("Well", chunks=2), Call("failing")]])
        seen: list[Event] = []

        async def interrupt() -> None:
            nonlocal accepted
            await checkpoints(point)
            accepted = live.interrupt("stop")

        raised = None
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    async with open_run(Agent("a", tools=[failing], model=model), "Go.") as live:
                        stream = live.events()
                        tasks.start_soon(interrupt)
                        await live.wait()
                except ValueError as exc:
                    raised = exc
        finally:
            seen = [event async for event in stream]
        result = check_ended(live, model, seen)
        assert (raised is not None) == (result.status == "failed")
        assert (result.status == "interrupted") == accepted
        assert _last(seen).status == result.status
        ledger.check()
        return accepted

    assert await at_every_point(attempt) > 8


async def test_every_watcher_gets_the_terminal_event_and_late_ones_get_nothing() -> None:
    agent, model, started = hanging()
    async with open_run(agent, "Go.") as live:
        streams = [live.events(), live.events(), live.events(buffer=1, overflow="drop")]
        await started.wait()
        live.interrupt("stop")
        await live.wait()
        late = live.events()
    for stream in streams:
        seen = [event async for event in stream]
        assert _last(seen) == RunEndedEvent("interrupted", "stop")
    assert [event async for event in late] == []
    check_ended(live, model)


async def test_injections_after_the_end_are_refused_with_the_result() -> None:
    model = ScriptedModel([Say("Done.")])
    async with open_run(Agent("a", model=model), "Go.") as live:
        result = await live.wait()
        with pytest.raises(RunEnded) as caught:
            live.inject("too late")
    assert caught.value.result is result


async def test_the_result_is_there_when_the_terminal_event_is() -> None:
    model = ScriptedModel([Say("Done.", chunks=3)])
    async with open_run(Agent("a", model=model), "Go.") as live:
        async for event in live.events():
            if isinstance(event, RunEndedEvent):
                assert live.result is not None
                assert live.status == "completed"
                assert live.state().phase == "ended"
            else:
                assert live.result is None or live.result.status == "completed"
    check_ended(live, model)


async def test_hooks_see_the_ending_that_the_watchers_see() -> None:
    endings: list[tuple[str, bool]] = []

    class Recording(RunHooks):
        async def on_run_end(self, ctx: RunContext[Any], result: Any) -> None:
            endings.append((result.status, ctx.run.result is None))
            ctx.run.interrupt("too late")
            await checkpoints(2)

    model = ScriptedModel([[Say("x"), Hang()]])
    async with open_run(Agent("a", model=model), "Go.", hooks=Recording()) as live:
        stream = live.events()
        await checkpoints(10)
        live.interrupt("stop")
        await live.wait()
    seen = [event async for event in stream]
    check_ended(live, model, seen)
    assert endings == [("interrupted", True)]
    assert _last(seen) == RunEndedEvent("interrupted", "stop")


async def test_an_interrupt_from_a_thread_ends_the_run() -> None:
    agent, model, started = hanging()
    answers: list[Any] = []

    def in_thread() -> None:
        handle = live.from_thread
        answers.append(handle.interrupt("from a thread"))
        answers.append(handle.interrupt("again"))
        answers.append(handle.state().status)

    with anyio.fail_after(10):
        async with open_run(agent, "Go.") as live:
            await started.wait()
            await anyio.to_thread.run_sync(in_thread)
            result = await live.wait()
            await anyio.to_thread.run_sync(lambda: answers.append(live.from_thread.interrupt("too late")))
    check_ended(live, model)
    assert result.interrupt is not None
    assert result.interrupt.reason == "from a thread"
    assert answers[:2] == [True, False]
    assert answers[3] is False


async def test_an_interrupt_from_a_thread_that_is_none_of_anyios_ends_the_run() -> None:
    agent, model, started = hanging()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(live.from_thread.interrupt("plain thread")))
    with anyio.fail_after(10):
        async with open_run(agent, "Go.") as live:
            await started.wait()
            thread.start()
            result = await live.wait()
    await anyio.to_thread.run_sync(thread.join)
    check_ended(live, model)
    assert result.interrupt is not None
    assert result.interrupt.reason == "plain thread"
    assert answers == [True]


async def test_a_deaf_thread_handle_says_that_the_loop_has_ended() -> None:
    keep: list[Any] = []

    async def main() -> None:
        async with open_run(Agent("a", model=ScriptedModel([Say("Done.")])), "Go.") as live:
            keep.append(live.from_thread)
            await live.wait()

    thread = threading.Thread(target=anyio.run, args=(main,))
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    with pytest.raises(RunEnded, match="^the event loop of the run has ended$"):
        keep[0].interrupt("too late")


async def test_interrupting_from_inside_a_tool_is_an_interrupt_like_any_other() -> None:
    ledger = Ledger()

    @tool
    async def stop_all(ctx: RunContext[Any]) -> None:
        async with ledger.cleaning_up("stop_all"):
            assert ctx.run.interrupt("the tool says stop")
            await anyio.sleep_forever()

    model = ScriptedModel([Call("stop_all")])
    async with open_run(Agent("a", tools=[stop_all], model=model), "Go.") as live:
        result = await live.wait()
    check_ended(live, model)
    assert result.interrupt is not None
    assert result.interrupt.reason == "the tool says stop"
    assert ledger.done == ["stop_all"]


async def test_an_interrupt_that_comes_with_the_last_word_still_ends_the_run_once() -> None:
    model = ScriptedModel([[Wait(0), Say("a b c d", chunks=4)]])
    for delta in range(4):
        model = ScriptedModel([Say("a b c d", chunks=4)])
        async with open_run(Agent("a", model=model), "Go.") as live:
            seen: list[Event] = []
            deltas = 0
            async for event in live.events():
                seen.append(event)
                if isinstance(event, TextDelta):
                    if deltas == delta:
                        live.interrupt("stop")
                    deltas += 1
            await live.wait()
        result = check_ended(live, model, seen)
        assert _last(seen).status == result.status


async def test_the_scene_without_any_stop_completes() -> None:
    for nested in (False, True):
        scene = Scene(nested=nested)
        async with scene.open() as live:
            await live.wait()
        await scene.check(None)
