"""Guardrails, that pass, trip, break, and take their time."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import (
    Agent,
    InputGuardrailTripped,
    OutputGuardrailTripped,
    RunContext,
    RunResult,
    Trip,
    UserMessage,
    input_guardrail,
    output_guardrail,
    tool,
)
from agentrun.testing import Say
from agentrun.testing.laws import RunRecord

from ..stage import Book, Play, call, scene, scripted


def acting(book: Book) -> Any:
    """A tool that must not act before it may."""

    @tool
    async def act() -> str:
        """Do something that cannot be undone."""
        book.say("acted")
        async with book.cleaned("act"):
            await anyio.sleep(0.2)
        return "acted"

    return act


def after_passing(book: Book, *guards: str) -> None:
    """Law 13: the tool has acted only after these guardrails had passed."""
    if "acted" in book.said:
        before = book.said[: book.said.index("acted")]
        book.expect(13, all(f"{guard} passed" in before for guard in guards), "a tool acted before it might")
    book.expect(13, True)


@scene(
    laws={7, 13},
    kinds={"racing input guardrail", "blocking input guardrail", "output guardrail", "guardrail with slow cleanup"},
)
def guardrails_that_pass(book: Book) -> Play:
    @input_guardrail(blocking=True)
    async def sober(ctx: RunContext[Any], items: Any) -> None:
        async with book.cleaned("sober", kind="guardrail with slow cleanup"):
            await anyio.sleep(0.1)
        book.seen("blocking input guardrail")
        book.say("sober passed")

    @input_guardrail
    async def polite(items: Any) -> None:
        async with book.cleaned("polite"):
            await anyio.sleep(0.5)
        book.seen("racing input guardrail")
        book.say("polite passed")

    @output_guardrail
    async def truthful(output: Any) -> None:
        async with book.cleaned("truthful"):
            await anyio.sleep(0.2)
        book.seen("output guardrail")
        book.say("truthful passed")

    def after(result: RunResult[Any]) -> None:
        after_passing(book, "sober", "polite")
        if result.status == "completed":
            book.expect(13, book.said[-1:] == ["truthful passed"], "the output was not looked at")

    model = scripted([Say("Hm.", delay=0.2), call("act")], Say("Sun."))
    agent = Agent(
        "a",
        tools=[acting(book)],
        model=model,
        input_guardrails=[sober, polite],
        output_guardrails=[truthful],
    )
    return Play(agent, after)


@scene(laws={9, 13}, kinds={"input guardrail that trips"}, raises=InputGuardrailTripped)
def a_guardrail_that_trips_while_the_model_speaks(book: Book) -> Play:
    @input_guardrail
    async def polite(items: Any) -> None:
        await anyio.sleep(0.3)

    @input_guardrail
    async def strict(items: Any) -> Trip:
        await anyio.sleep(0.15)
        book.seen("input guardrail that trips")
        return Trip("not with me")

    model = scripted([Say("Hm, hm.", chunks=3, delay=0.1), call("act")], Say("Sun."))

    def after(result: RunResult[Any]) -> None:
        book.expect(13, "acted" not in book.said, "a tool acted on input that tripped a guardrail")
        book.expect(13, result.status != "completed", "the run completed although a guardrail trips")
        if result.status == "failed":
            book.expect(9, isinstance(result.error, InputGuardrailTripped), result.error)

    agent = Agent("a", tools=[acting(book)], model=model, input_guardrails=[polite, strict])
    return Play(agent, after)


@scene(laws={13}, kinds={"blocking guardrail that trips"}, raises=InputGuardrailTripped)
def a_blocking_guardrail_that_trips(book: Book) -> Play:
    @input_guardrail(blocking=True)
    async def strict(items: Any) -> str:
        await anyio.sleep(0.15)
        book.seen("blocking guardrail that trips")
        return "not with me"

    model = scripted(call("act"), Say("Sun."))

    def after(result: RunResult[Any]) -> None:
        book.expect(13, not model.requests, "the model was called before the guardrail had passed")

    return Play(Agent("a", tools=[acting(book)], model=model, input_guardrails=[strict]), after)


@scene(laws={4, 13}, kinds={"output guardrail that trips"}, raises=OutputGuardrailTripped)
def an_output_guardrail_that_trips(book: Book) -> Play:
    @output_guardrail
    async def truthful(output: str) -> Trip | None:
        async with book.cleaned("truthful"):
            await anyio.sleep(0.2)
        book.seen("output guardrail that trips")
        return Trip("that is a lie") if output == "Sun." else None

    def after(result: RunResult[Any]) -> None:
        book.expect(13, result.output != "Sun.", "an output came through that trips its guardrail")

    return Play(Agent("a", model=scripted(Say("Sun.", chunks=2)), output_guardrails=[truthful]), after)


@scene(laws={8, 9, 13}, kinds={"guardrail that raises"}, raises=ZeroDivisionError)
def a_guardrail_that_raises(book: Book) -> Play:
    @input_guardrail
    async def broken(items: Any) -> None:
        await anyio.sleep(0.15)
        book.seen("guardrail that raises")
        raise ZeroDivisionError("how many?")

    def after(result: RunResult[Any]) -> None:
        book.expect(13, "acted" not in book.said and result.status != "completed", "a broken guardrail let it pass")
        if result.status == "failed":
            book.expect(9, isinstance(result.error, ZeroDivisionError), result.error)

    model = scripted([Say("Hm.", delay=0.1), call("act")], Say("Sun."))
    return Play(Agent("a", tools=[acting(book)], model=model, input_guardrails=[broken]), after)


@scene(laws={7, 13}, kinds={"guardrail that times out"}, raises=InputGuardrailTripped)
def a_guardrail_that_times_out(book: Book) -> Play:
    @input_guardrail(timeout=0.3)
    async def asleep(items: Any) -> None:
        async with book.cleaned("asleep", kind="guardrail that times out"):
            await anyio.sleep(60)

    def after(result: RunResult[Any]) -> None:
        book.expect(13, "acted" not in book.said and result.status != "completed", "no answer let it pass")

    model = scripted([Say("Hm."), call("act")], Say("Sun."))
    return Play(Agent("a", tools=[acting(book)], model=model, input_guardrails=[asleep]), after)


@scene(laws={5, 13}, kinds={"guardrail on injected input", "racing input guardrail"})
def a_guardrail_that_looks_at_what_is_injected(book: Book) -> Play:
    looked_at: list[Any] = []

    @input_guardrail
    async def curious(items: Any) -> None:
        await anyio.sleep(0.1)
        book.seen("racing input guardrail")
        looked_at.extend(items)

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        if result.status != "completed":
            return
        for item in result.history:
            if isinstance(item, UserMessage):
                book.expect(13, item in looked_at, f"no guardrail has looked at {item}")
        if record.injections:
            book.seen("guardrail on injected input")

    model = scripted([Say("Hm."), call("act")], Say("Sun."))
    return Play(Agent("a", tools=[acting(book)], model=model, input_guardrails=[curious]), record=after)
