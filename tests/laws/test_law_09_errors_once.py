"""Law 9: errors surface once, as themselves."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import Agent, RunConfig, RunEnded, RunHooks, ToolError, events, open_run, run, tool
from agentrun.errors import AgentRunError, MaxTurnsExceeded, ModelError
from agentrun.events import Event
from agentrun.testing import Call, Fail, Hang, Say, ScriptedModel

from .support import check_ended, checkpoints, watch

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire


class Broken(Exception):
    pass


class HasResult(Exception):
    """A user's exception that happens to have an attribute of the name that ours use."""

    def __init__(self) -> None:
        super().__init__("mine")

    @property
    def result(self) -> str:
        return "my own"


async def fails(error: BaseException) -> tuple[BaseException, Any]:
    """Run a stream that raises ``error``; what the block raises, and the handle."""
    model = ScriptedModel([[Say("so far"), Fail(error)]])
    caught: list[BaseException] = []
    live: Any = None
    try:
        async with open_run(Agent("a", model=model), "go") as live:
            pass_on = live
            await pass_on._run.wait_done()
    except BaseException as exc:
        caught.append(exc)
    [raised] = caught
    check_ended(live, model)
    return raised, live


async def test_a_failure_nobody_waited_for_is_raised_by_the_block_as_itself() -> None:
    error = Broken("line cut")
    raised, live = await fails(error)
    assert raised is error
    assert live.result.error is error
    assert not isinstance(raised, BaseExceptionGroup)


async def test_a_failure_is_raised_once_by_wait_or_by_the_block_not_by_both() -> None:
    error = Broken("line cut")
    model = ScriptedModel([Fail(error)])
    async with open_run(Agent("a", model=model), "go") as live:
        with pytest.raises(Broken) as caught:
            await live.wait()
    assert caught.value is error
    assert check_ended(live, model).status == "failed"


async def test_every_task_that_waits_is_told_of_the_failure() -> None:
    told: list[BaseException] = []
    model = ScriptedModel([Fail(Broken("line cut"))])

    async def wait(live: Any) -> None:
        try:
            await live.wait()
        except Broken as exc:
            told.append(exc)

    async with open_run(Agent("a", model=model), "go") as live, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(wait, live)
    assert len(told) == 3
    assert told[0] is told[1] is told[2]


async def test_run_raises_what_made_the_run_fail_as_itself() -> None:
    error = Broken("line cut")
    with pytest.raises(Broken) as caught:
        await run(Agent("a", model=ScriptedModel([Fail(error)])), "go")
    assert caught.value is error


async def test_agentruns_own_errors_carry_the_partial_result() -> None:
    error = ModelError("overloaded", status=503, retryable=True)
    raised, live = await fails(error)
    assert raised is error
    assert error.result is live.result
    assert error.result is not None
    assert error.result.text == "so far"


async def test_a_limit_carries_the_partial_result() -> None:
    async def work() -> str:
        return "worked"

    model = ScriptedModel([Call("work")] * 2)
    with pytest.raises(MaxTurnsExceeded) as caught:
        await run(Agent("a", tools=[work], model=model), "go", config=RunConfig(max_turns=2))
    assert isinstance(caught.value, AgentRunError)
    assert caught.value.result is not None
    assert caught.value.result.status == "failed"
    assert caught.value.result.turns == 2


async def test_an_exception_of_the_users_is_left_as_it_is() -> None:
    raised, live = await fails(HasResult())
    assert isinstance(raised, HasResult)
    assert raised.result == "my own"
    assert live.result.status == "failed"


async def test_a_group_that_a_user_raises_stays_the_group_it_is() -> None:
    class Several(ExceptionGroup[Exception]):
        pass

    group = Several("two of them", [ValueError("one"), KeyError("two")])
    raised, _ = await fails(group)
    assert raised is group


async def test_several_tools_that_fail_the_run_at_once_come_as_a_group_in_the_order_of_the_calls() -> None:
    gate = anyio.Event()
    waiting = 0

    def bad(name: str, error: Exception) -> Any:
        async def work() -> str:
            nonlocal waiting
            waiting += 1
            if waiting == 3:
                gate.set()
            await gate.wait()
            raise error

        return tool(work, name=name, on_error="raise")

    first, third = ToolError("first"), Broken("third")
    tools = [bad("one", first), bad("two", ValueError("second")), bad("three", third)]
    model = ScriptedModel([[Call("one"), Call("two"), Call("three")]])
    seen: list[Event] = []
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is, it is looked at below
        async with open_run(Agent("a", tools=tools, model=model), "go") as live:
            await watch(live, seen)
    result = check_ended(live, model, seen)
    # All three raise in the same step of the scheduler, so none is the one that matters.
    assert isinstance(caught.value, ExceptionGroup)
    assert caught.value.message == "several tools failed"
    assert [str(error) for error in caught.value.exceptions] == ["first", "second", "third"]
    assert first.result is result
    assert result.error is caught.value


async def test_the_first_failure_counts_and_later_ones_are_kept_aside() -> None:
    async def quick() -> str:
        raise Broken("first")

    async def clumsy() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(2)
            raise OSError("second")

    model = ScriptedModel([[Call("clumsy", call_id="c"), Call("quick", call_id="q")]])
    tools = [tool(quick, on_error="raise"), tool(clumsy, on_error="raise")]
    with pytest.raises(Broken, match="first") as caught:
        async with open_run(Agent("a", tools=tools, model=model), "go") as live:
            await live.wait()
    result = check_ended(live, model)
    assert result.error is caught.value
    # The clumsy one may have been cut before its first step; then it had nothing to clean up.
    assert [str(error) for error in result.errors] in ([], ["second"])


async def test_an_error_in_cleanup_does_not_hide_the_one_that_matters() -> None:
    started = anyio.Event()

    async def quick() -> str:
        await started.wait()
        raise Broken("first")

    async def clumsy() -> str:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            await checkpoints(2)
            raise OSError("second")

    class Hooks(RunHooks):
        async def on_run_end(self, ctx: Any, result: Any) -> None:
            raise KeyError("third")

    model = ScriptedModel([[Call("clumsy", call_id="c"), Call("quick", call_id="q")]])
    tools = [tool(quick, on_error="raise"), tool(clumsy, on_error="raise")]
    with pytest.raises(Broken, match="first"):
        async with open_run(Agent("a", tools=tools, model=model, hooks=Hooks()), "go") as live:
            await live.wait()
    result = check_ended(live, model)
    assert [type(error) for error in result.errors] == [OSError, KeyError]
    assert result.teardown.cleanup_errors == ["tool clumsy (c): OSError: second", "hook on_run_end: KeyError: 'third'"]


async def test_a_failure_while_an_interrupt_is_torn_down_does_not_change_the_ending() -> None:
    started = anyio.Event()

    async def clumsy() -> str:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            raise OSError("cannot close")

    model = ScriptedModel([Call("clumsy")])
    async with open_run(Agent("a", tools=[tool(clumsy, on_error="raise")], model=model), "go") as live:
        await started.wait()
        live.interrupt("stop")
        result = await live.wait()
    assert result.status == "interrupted"
    assert result.error is None
    assert [type(error) for error in result.errors] == [OSError]


async def test_an_exception_of_the_body_is_raised_as_itself_and_the_runs_own_failure_becomes_a_note() -> None:
    model = ScriptedModel([Fail(ValueError("line cut"))])
    with pytest.raises(Broken) as caught:
        async with open_run(Agent("a", model=model), "go") as live:
            while live.result is None:
                await anyio.lowlevel.checkpoint()
            raise Broken("mine")
    assert str(caught.value) == "mine"
    assert caught.value.__notes__ == ["The run had failed as well: ValueError: line cut"]
    assert check_ended(live, model).status == "failed"


async def test_an_exception_of_the_body_ends_the_run_and_is_not_wrapped() -> None:
    model = ScriptedModel([Hang()])
    with pytest.raises(Broken) as caught:
        async with open_run(Agent("a", model=model), "go") as live:
            await checkpoints(3)
            raise Broken("mine")
    assert not hasattr(caught.value, "__notes__")
    assert check_ended(live, model).status == "interrupted"


async def test_raising_the_runs_own_error_in_the_body_adds_no_note_about_itself() -> None:
    model = ScriptedModel([Fail(Broken("line cut"))])
    with pytest.raises(Broken) as caught:
        async with open_run(Agent("a", model=model), "go") as live:
            await live.wait()
    assert not hasattr(caught.value, "__notes__")


async def test_a_failure_inside_a_callers_task_group_is_one_exception_in_that_group() -> None:
    model = ScriptedModel([Fail(Broken("line cut"))])
    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as group:
            group.start_soon(run, Agent("a", model=model), "go")
    [error] = caught.value.exceptions
    assert isinstance(error, Broken)


async def test_an_interrupted_run_raises_nothing() -> None:
    model = ScriptedModel([Hang()])
    async with open_run(Agent("a", model=model), "go") as live:
        live.interrupt("stop")
        assert (await live.wait()).status == "interrupted"


async def test_waiting_for_a_run_that_was_cancelled_from_outside_says_so() -> None:
    model = ScriptedModel([Hang()])
    with anyio.CancelScope() as scope:
        async with open_run(Agent("a", model=model), "go") as live:
            await checkpoints(3)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    with pytest.raises(RunEnded, match="cancelled from outside") as caught:
        await live.wait()
    assert caught.value.result is live.result


async def test_the_terminal_event_says_what_failed_in_one_line() -> None:
    model = ScriptedModel([Fail(Broken("line one\nline two"))])
    seen: list[Event] = []
    with pytest.raises(Broken):
        async with open_run(Agent("a", model=model), "go") as live:
            await watch(live, seen)
    assert seen[-1] == events.RunEnded("failed", "Broken: line one")


async def test_the_traceback_of_a_failure_leads_to_the_line_that_raised_it() -> None:
    async def work() -> str:
        raise Broken("here")

    model = ScriptedModel([Call("work")])
    with pytest.raises(Broken) as caught:
        await run(Agent("a", tools=[tool(work, on_error="raise")], model=model), "go")
    assert caught.traceback[-1].name == "work"


async def test_an_error_of_a_nested_run_is_the_error_of_its_tool() -> None:
    inner = Agent("inner", model=ScriptedModel([Fail(Broken("deep"))]))
    model = ScriptedModel([Call("inner", {"input": "x"}), Say("fine")])
    result = await run(Agent("outer", tools=[inner.as_tool()], model=model), "go")
    assert result.items[1].output == "Error: Broken: deep"  # type: ignore[union-attr]

    inner = Agent("inner", model=ScriptedModel([Fail(Broken("deep"))]))
    model = ScriptedModel([Call("inner", {"input": "x"})])
    with pytest.raises(Broken, match="deep"):
        await run(Agent("outer", tools=[inner.as_tool(on_error="raise")], model=model), "go")


async def test_no_coroutine_is_left_unawaited_by_any_failure() -> None:
    async def work() -> str:
        return "worked"

    model = ScriptedModel([[Call("work"), Fail(Broken("line cut"))]])
    with pytest.raises(Broken):
        await run(Agent("a", tools=[work], model=model), "go")
    gc.collect()  # warnings are errors: a coroutine that was never awaited would fail the test


async def test_an_error_inside_of_the_runtime_is_not_lost_beside_one_of_the_body() -> None:
    async def broken() -> None:
        raise AssertionError("cannot be")

    with pytest.raises(Broken) as caught:
        async with open_run(Agent("a", model=ScriptedModel([Say("Well.")])), "go") as live:
            live._run.task_group.start_soon(broken)
            raise Broken("mine")
    assert "An error inside of agentrun, too: AssertionError: cannot be" in caught.value.__notes__


async def test_an_error_inside_of_the_runtime_is_raised_if_the_body_has_raised_none() -> None:
    async def broken() -> None:
        raise AssertionError("cannot be")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_run(Agent("a", model=ScriptedModel([Say("Well.")])), "go") as live:
            live._run.task_group.start_soon(broken)
    assert [str(error) for error in caught.value.exceptions] == ["cannot be"]


async def _buggy(*args: Any) -> None:
    await anyio.lowlevel.checkpoint()
    raise Broken("our own")


async def test_a_bug_of_the_driver_fails_the_run_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrun.runtime.driver._main", _buggy)
    with anyio.fail_after(10), pytest.raises(Broken, match="our own") as caught:
        await run(Agent("a", model=ScriptedModel([Say("hi")])), "go")
    assert type(caught.value) is Broken


async def test_a_bug_after_the_ending_is_decided_is_kept_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrun.runtime.driver._wind_up", _buggy)
    with anyio.fail_after(10):
        result = await run(Agent("a", model=ScriptedModel([Say("hi")])), "go")
    assert result.status == "completed"
    assert [str(error) for error in result.errors] == ["our own"]
