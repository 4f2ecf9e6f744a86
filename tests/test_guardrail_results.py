"""What is kept and told of each guardrail, however it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from laws.support import watch

from agentrun import Agent, RunConfig, Trip, input_guardrail, open_run, output_guardrail
from agentrun.core.results import GuardrailResult
from agentrun.events import Event, GuardrailEnded
from agentrun.testing import Say, ScriptedModel


async def passes(value: Any) -> None: ...


async def trips(value: Any) -> Trip:
    return Trip("no", {"why": 1})


async def breaks(value: Any) -> None:
    raise ValueError("broken")


async def lets_a_cancellation_out(value: Any) -> None:
    cancelled = anyio.get_cancelled_exc_class()
    raise cancelled.__new__(cancelled)


async def hangs(value: Any) -> None:
    await anyio.sleep_forever()


async def keeps_the_cancellation(value: Any) -> None:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        pass


LATE = "it did not answer within 0.02 seconds"


@pytest.mark.parametrize("kind", ["input", "output"])
@pytest.mark.parametrize("own_timeout", [True, False])
@pytest.mark.parametrize(
    ("function", "outcome", "message", "data", "error"),
    [
        (passes, "passed", None, None, None),
        (trips, "tripped", "no", {"why": 1}, "{kind} guardrail 'g' tripped: no"),
        (breaks, "failed", "ValueError: broken", None, "broken"),
        (
            lets_a_cancellation_out,
            "failed",
            "AgentRunError: {kind} guardrail g let a cancellation out that agentrun did not ask for",
            None,
            "{kind} guardrail g let a cancellation out that agentrun did not ask for",
        ),
        (hangs, "tripped", LATE, None, "{kind} guardrail 'g' tripped: " + LATE),
        (keeps_the_cancellation, "tripped", LATE, None, "{kind} guardrail 'g' tripped: " + LATE),
    ],
)
async def test_an_ending_is_kept_in_the_result_and_told_as_an_event(
    kind: Any,
    own_timeout: bool,
    function: Callable[..., Any],
    outcome: Any,
    message: str | None,
    data: Any,
    error: str | None,
) -> None:
    quick, other = (0.02, 60.0) if own_timeout else (None, 0.02)
    make = input_guardrail if kind == "input" else output_guardrail
    guards = {f"{kind}_guardrails": [make(name="g", timeout=quick)(function)]}
    agent: Agent[Any, Any] = Agent("a", model=ScriptedModel([Say("hi")]), **guards)  # type: ignore[arg-type]
    seen: list[Event] = []
    raised: Exception | None = None
    try:
        async with open_run(agent, "go", config=RunConfig(guardrail_timeout=other)) as live:
            await watch(live, seen)
    except Exception as exc:
        raised = exc
    assert live.result is not None
    message = message.format(kind=kind) if message else None
    assert live.result.guardrail_results == (GuardrailResult("g", kind, outcome, message, data),)
    told = [event for event in seen if isinstance(event, GuardrailEnded)]
    assert told == [GuardrailEnded("g", kind, outcome, message)]
    assert str(raised) == (error.format(kind=kind) if error else "None")


@pytest.mark.parametrize("polite", [True, False])
async def test_a_guardrail_whose_answer_is_no_longer_needed_is_cancelled_and_does_not_trip(polite: bool) -> None:
    started = anyio.Event()
    outputs: list[str] = []

    @output_guardrail(name="g", timeout=60)
    async def first_time_slow(output: str) -> None:
        outputs.append(output)
        if len(outputs) == 1:
            started.set()
            await (hangs if polite else keeps_the_cancellation)(output)

    model = ScriptedModel([Say("one"), Say("two")])
    seen: list[Event] = []
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", model=model, output_guardrails=[first_time_slow]), "go") as live:
            group.start_soon(watch, live, seen)
            with anyio.fail_after(10):
                await started.wait()
                live.inject("wait, more", deliver="now")
                result = await live.wait()
    assert result.output == "two"
    assert outputs == ["one", "two"]
    assert result.guardrail_results == (
        GuardrailResult("g", "output", "cancelled"),
        GuardrailResult("g", "output", "passed"),
    )
    assert result.teardown.swallowed_cancellations == ([] if polite else ["output guardrail g"])
    assert [e for e in seen if isinstance(e, GuardrailEnded)] == [
        GuardrailEnded("g", "output", "cancelled"),
        GuardrailEnded("g", "output", "passed"),
    ]
