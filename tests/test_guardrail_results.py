"""What is kept and told of each guardrail, however it ended."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from laws.support import checkpoints, watch

from agentrun import (
    ActiveRun,
    Agent,
    InputGuardrailTripped,
    RunConfig,
    RunHooks,
    Trip,
    input_guardrail,
    open_run,
    output_guardrail,
)
from agentrun.core.model import ModelRequest
from agentrun.core.results import GuardrailResult
from agentrun.events import Event, GuardrailEnded, ModelCallEnded
from agentrun.testing import Hang, Say, ScriptedModel

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire


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


async def keeps_the_cancellation_and_trips(value: Any) -> Trip:
    await keeps_the_cancellation(value)
    return Trip("too late")


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
        (keeps_the_cancellation_and_trips, "tripped", LATE, None, "{kind} guardrail 'g' tripped: " + LATE),
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


async def test_what_a_guardrail_says_after_its_cancellation_does_not_count() -> None:
    started = anyio.Event()

    @input_guardrail(name="g")
    async def trips_late(value: Any) -> Trip:
        started.set()
        return await keeps_the_cancellation_and_trips(value)

    model = ScriptedModel([Hang()])
    async with open_run(Agent("a", model=model, input_guardrails=[trips_late]), "go") as live:
        await started.wait()
        live.interrupt("stop")
        result = await live.wait()
    assert result.guardrail_results == (GuardrailResult("g", "input", "cancelled"),)
    assert result.errors == ()
    assert result.teardown.swallowed_cancellations == ["input guardrail g"]


async def test_a_guardrail_that_is_cancelled_before_its_first_step_never_looks() -> None:
    looked: list[str] = []

    @input_guardrail(name="g")
    async def guard(value: Any) -> None:
        looked.append("looked")

    class StopsAtOnce(ScriptedModel):
        def stream(self, request: ModelRequest) -> Any:
            live.interrupt("stop")  # the guardrail's task has been started, and has not begun
            return super().stream(request)

    agent = Agent("a", model=StopsAtOnce([Say("hi")]), input_guardrails=[guard])
    async with open_run(agent, "go") as live:
        result = await live.wait()
    assert looked == []
    assert result.status == "interrupted"
    assert result.errors == ()
    assert result.teardown.expired_graces == []
    assert result.guardrail_results == (GuardrailResult("g", "input", "cancelled"),)


# When it is told ------------------------------------------------------------------------------------------------


def order(seen: list[Event]) -> list[str]:
    return [
        f"{event.name} {event.outcome}" if isinstance(event, GuardrailEnded) else type(event).__name__
        for event in seen
        if isinstance(event, (GuardrailEnded, ModelCallEnded))
    ]


async def test_that_a_guardrail_has_passed_is_told_at_once() -> None:
    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[passes])
    async with open_run(agent, "go") as live:
        with anyio.fail_after(5):
            async for event in live.events():
                if isinstance(event, GuardrailEnded):
                    live.interrupt("seen")
        result = await live.wait()
    assert result.status == "interrupted"
    assert result.guardrail_results == (GuardrailResult("passes", "input", "passed"),)


async def test_that_a_guardrail_was_cancelled_is_told_after_the_end_of_the_model_stream() -> None:
    """Both are cancelled in the same moment; which of them is the first to have ended is the scheduler's doing."""
    started = anyio.Event()

    class ClosesSlowly(ScriptedModel):
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncGenerator[Any]:
            try:
                async with super().stream(request) as stream:
                    started.set()
                    yield stream
            finally:
                await checkpoints(20)

    seen: list[Event] = []
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", model=ClosesSlowly([Hang()]), input_guardrails=[hangs]), "go") as live:
            group.start_soon(watch, live, seen)
            await started.wait()
            await checkpoints(3)
            live.interrupt("stop")
            await live.wait()
    assert order(seen) == ["ModelCallEnded", "hangs cancelled"]


async def test_the_run_waits_for_the_cleanup_of_a_cancelled_guardrail() -> None:
    cleaned: list[str] = []
    started = anyio.Event()

    @input_guardrail(name="g")
    async def guard(value: Any) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(20)
            cleaned.append("g")

    async with open_run(Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[guard]), "go") as live:
        await started.wait()
        live.interrupt("stop")
        async for event in live.events():
            if isinstance(event, GuardrailEnded):
                assert cleaned == ["g"]
    assert cleaned == ["g"]


async def test_one_that_is_out_of_time_and_cleans_up_does_not_hold_up_the_word_of_the_next() -> None:
    cleaning, told = anyio.Event(), anyio.Event()

    @input_guardrail(name="first", timeout=0.02)
    async def first(value: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaning.set()
            await told.wait()

    @input_guardrail(name="second")
    async def second(value: Any) -> None:
        await cleaning.wait()

    seen: list[Event] = []
    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[first, second])
    with pytest.raises(InputGuardrailTripped):
        async with open_run(agent, "go") as live:
            async for event in live.events():
                seen.append(event)
                if isinstance(event, GuardrailEnded):
                    told.set()
    assert order(seen) == ["second passed", "first tripped", "ModelCallEnded"]


# anyio does not close the coroutine of a task that was cancelled natively before its first step.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_one_whose_task_never_takes_a_step_is_given_up_and_another_at_work_is_waited_for(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    said: list[str] = []
    handles: list[ActiveRun[Any]] = []

    @input_guardrail(name="g")
    async def guard(value: Any) -> None:
        said.append("looks")
        handles[0].inject("more", deliver="now")
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(20)
            said.append("cleaned up")

    class CancelsTheSecond(ScriptedModel):
        def stream(self, request: ModelRequest) -> Any:
            tasks = {task for task in asyncio.all_tasks() if task.get_name() == "agentrun guardrail g"}
            for task in tasks - known:
                if known:
                    task.cancel()  # it has been started, and has not begun
            known.update(tasks)
            return super().stream(request)

    class AtTheEnd(RunHooks):
        async def on_run_end(self, ctx: Any, result: Any) -> None:
            said.append("end")

    async def host() -> None:
        agent = Agent("a", model=CancelsTheSecond([Hang(), Hang()]), input_guardrails=[guard], hooks=AtTheEnd())
        async with open_run(agent, "go") as live:
            handles.append(live)
            await live.wait()

    known: set[asyncio.Task[Any]] = set()
    with anyio.fail_after(10):
        await asyncio.wait([asyncio.create_task(host())])
    gc.collect()
    result = handles[0].result
    assert result is not None
    assert len(known) == 2
    assert result.status == "cancelled"
    assert result.errors == ()
    assert said == ["looks", "cleaned up", "end"]
    assert result.guardrail_results == (GuardrailResult("g", "input", "cancelled"),) * 2
