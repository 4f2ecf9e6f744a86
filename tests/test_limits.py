"""The bounds of a run."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from laws.support import check_ended, checkpoints, watch

from agentrun import Agent, MaxTurnsExceeded, RunConfig, RunContext, Usage, open_run, run
from agentrun.core.events import TextDelta
from agentrun.core.items import ToolCall
from agentrun.core.model import ResponseEnded
from agentrun.errors import LimitExceeded, TimeLimitExceeded, TokenLimitExceeded, ToolCallLimitExceeded
from agentrun.events import Event
from agentrun.testing import Call, Hang, Say, ScriptedModel

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire


async def work() -> str:
    return "worked"


async def ended_by(error: type[LimitExceeded], model: Any, config: RunConfig, **agent: Any) -> tuple[Any, Any]:
    seen: list[Event] = []
    with pytest.raises(error) as caught:
        async with open_run(Agent("a", tools=[work], model=model, **agent), "go", config=config) as live:
            await watch(live, seen)
    result = check_ended(live, model if isinstance(model, ScriptedModel) else None, seen)
    assert caught.value.result is result
    assert result.status == "failed"
    assert isinstance(caught.value, LimitExceeded)
    return result, caught.value


@pytest.mark.parametrize("most", [1, 2, 5])
async def test_no_more_turns_than_may(most: int) -> None:
    model = ScriptedModel([Call("work")] * 10)
    result, error = await ended_by(MaxTurnsExceeded, model, RunConfig(max_turns=most))
    assert len(model.requests) == most
    assert result.turns == most
    assert (error.limit, error.used) == (most, most)
    assert "RunConfig.max_turns" in str(error)


async def test_a_run_may_use_all_its_turns() -> None:
    result = await run(
        Agent("a", tools=[work], model=ScriptedModel([Call("work"), Say("done")])), "go", config=RunConfig(max_turns=2)
    )
    assert result.output == "done"


async def test_without_a_limit_a_run_goes_on() -> None:
    model = ScriptedModel([*[Call("work")] * 40, Say("done")])
    result = await run(Agent("a", tools=[work], model=model), "go", config=RunConfig(max_turns=None))
    assert result.turns == 41


async def test_no_more_tool_calls_than_may_and_none_of_those_beyond_starts() -> None:
    ran: list[int] = []

    async def count(n: int) -> int:
        ran.append(n)
        return n

    model = ScriptedModel([Call("count", {"n": 0}), [Call("count", {"n": 1}), Call("count", {"n": 2})]])
    with pytest.raises(ToolCallLimitExceeded) as caught:
        await run(Agent("a", tools=[count], model=model), "go", config=RunConfig(max_tool_calls=2))
    assert ran == [0]
    assert (caught.value.limit, caught.value.used) == (2, 3)
    assert "2 more tool calls, 3 in all" in str(caught.value)


class Counting:
    """A model that says what it has used."""

    def __init__(self, *turns: tuple[int, int, bool]) -> None:
        self._turns = list(turns)

    def stream(self, request: Any) -> Any:
        return self

    async def __aenter__(self) -> Any:
        return self._play(*self._turns.pop(0))

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def _play(self, tokens_in: int, tokens_out: int, call: bool) -> Any:
        await anyio.lowlevel.checkpoint()
        yield ToolCall("c", "work", "{}") if call else TextDelta("done")
        yield ResponseEnded(Usage(0, tokens_in, 1, tokens_out, 2, 0), "stop")


async def test_no_call_of_the_model_once_the_tokens_are_used() -> None:
    model = Counting((10, 5, True), (20, 5, True), (1, 1, False))
    result, error = await ended_by(TokenLimitExceeded, model, RunConfig(max_tokens=40))
    assert result.turns == 2
    assert (error.limit, error.used) == (40, 40)
    assert result.usage == Usage(2, 30, 2, 10, 4, 2)
    # An answer that is there is not taken back for what it cost.
    answered = await run(Agent("a", model=Counting((100, 100, False))), "go", config=RunConfig(max_tokens=40))
    assert answered.output == "done"
    assert answered.usage.total_tokens == 200


async def test_a_run_that_takes_too_long_is_torn_down_in_order_and_fails() -> None:
    cleaned: list[str] = []

    async def slow(ctx: RunContext[Any]) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(3)
            cleaned.append("slow")
        return "never"

    model = ScriptedModel([Call("slow", call_id="c")])
    seen: list[Event] = []
    with pytest.raises(TimeLimitExceeded, match=r"longer than max_seconds=0\.05") as caught:
        async with open_run(Agent("a", tools=[slow], model=model), "go", config=RunConfig(max_seconds=0.05)) as live:
            await watch(live, seen)
    result = check_ended(live, model, seen)
    assert cleaned == ["slow"]
    assert caught.value.limit == 0.05
    assert 0.05 <= caught.value.used < 60
    assert result.teardown.cancelled_tools == ["slow (c)"]
    assert result.teardown.clean


async def test_the_time_limit_holds_in_the_stream_and_in_an_approval() -> None:
    from agentrun import tool

    for turn in (Hang(), Call("ask")):
        agent = Agent("a", tools=[tool(work, name="ask", needs_approval=True)], model=ScriptedModel([turn]))
        with pytest.raises(TimeLimitExceeded):
            async with open_run(agent, "go", config=RunConfig(max_seconds=0.03, cleanup_grace=0.2)) as live:
                await live.wait()
        assert check_ended(live).status == "failed"


async def test_a_run_that_ends_in_time_leaves_no_timer_behind() -> None:
    with anyio.fail_after(20):
        result = await run(Agent("a", model=ScriptedModel([Say("hi")])), "go", config=RunConfig(max_seconds=3600))
    assert result.output == "hi"
    with anyio.fail_after(20):
        async with open_run(Agent("a", model=ScriptedModel([Say("hi")])), "go") as live:
            live.interrupt("soon", mode="after_turn", escalate_after=3600)
            await live.wait()


async def test_an_infinite_time_limit_is_none() -> None:
    result = await run(Agent("a", model=ScriptedModel([Say("hi")])), "go", config=RunConfig(max_seconds=float("inf")))
    assert result.output == "hi"


async def test_after_a_limit_a_new_run_goes_on_from_the_history() -> None:
    model = ScriptedModel([Call("work")] * 3)
    result, _ = await ended_by(MaxTurnsExceeded, model, RunConfig(max_turns=3))
    after = await run(Agent("a", model=ScriptedModel([Say("done")])), resume_from=result)
    assert after.output == "done"
    assert after.turns == 1
