"""Sync tools and guardrails, which run in threads: those that look for their cancellation, and those that do not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread

from agentrun import Agent, RunConfig, RunContext, RunResult, Trip, input_guardrail, run, tool
from agentrun.core.errors import CallCancelled
from agentrun.errors import InputGuardrailTripped
from agentrun.testing import Say
from agentrun.testing.laws import RunRecord

from ..stage import Book, Play, call, outputs, scene, scripted

GRACE = 1.0  # seconds; for scenes whose threads outlive it


@contextmanager
def cleaned(book: Book, name: str) -> Iterator[None]:
    """``try: ... finally: ...`` in a thread: nothing can cut its cleanup, so it must come to its end."""
    book.say(f"{name} begins")
    try:
        yield
    except CallCancelled:
        book.seen("cleanup in a thread")
        raise
    finally:
        book.owed[name] += 1
        time.sleep(0.1)
        book.done[name] += 1
    book.say(f"{name} returns")


def look(ctx: RunContext[Any], seconds: float) -> None:
    """Sleep in slices, and look in between."""
    for _ in range(round(seconds / 0.1)):
        ctx.check_cancelled()
        time.sleep(0.1)


def kept(book: Book, result: RunResult[Any], name: str) -> None:
    """What a thread has returned is the output of its call, even if it came in its grace."""
    output = outputs(result).get(name)
    if output is not None:
        returned = f"{name} returns" in book.said
        book.expect(4, (output.status == "completed") == returned, output)


@scene(laws={4, 7}, kinds={"thread that looks", "cleanup in a thread"})
def a_thread_that_looks(book: Book) -> Play:
    @tool
    def looks(ctx: RunContext[Any]) -> str:
        """Look often."""
        with cleaned(book, "looks"):
            book.seen("thread that looks")
            look(ctx, 0.3)
        return "looked"

    def after(result: RunResult[Any]) -> None:
        kept(book, result, "looks")
        book.expect(7, result.teardown.clean, result.teardown)

    return Play(Agent("a", tools=[looks], model=scripted(call("looks"), Say("Done."))), after)


@scene(laws={1, 4, 6}, kinds={"thread that does not look"}, config=RunConfig(cleanup_grace=GRACE), tidy=False)
def a_thread_that_does_not_look(book: Book) -> Play:
    @tool
    def deaf() -> str:
        """Sleep for longer than the grace."""
        with cleaned(book, "deaf"):
            time.sleep(2.5)
        return "slept"

    def after(result: RunResult[Any]) -> None:
        kept(book, result, "deaf")
        left = "deaf begins" in book.said and "deaf returns" not in book.said
        named = [entry.partition(" in thread ")[0] for entry in result.teardown.abandoned_threads]
        book.expect(1, named == ["tool deaf (deaf)"] * left, result.teardown)
        book.expect(6, result.teardown.seconds <= GRACE + 0.001, result.teardown)
        if left:
            book.seen("thread that does not look")
            book.owed.clear()  # its cleanup is its own affair

    return Play(Agent("a", tools=[deaf], model=scripted(call("deaf"), Say("Done."))), after)


@scene(laws={4, 8}, kinds={"thread that ends in its grace"}, config=RunConfig(cleanup_grace=GRACE))
def a_thread_that_ends_in_its_grace(book: Book) -> Play:
    @tool
    def late() -> str:
        """Look at nothing, but be done soon."""
        with cleaned(book, "late"):
            time.sleep(0.3)
            time.sleep(0.3)
        return "done"

    def after(result: RunResult[Any]) -> None:
        if result.status == "interrupted" and "late returns" in book.said:
            book.seen("thread that ends in its grace")
        kept(book, result, "late")
        book.expect(8, result.teardown.clean, result.teardown)

    return Play(Agent("a", tools=[late], model=scripted(call("late"), Say("Done."))), after)


@scene(laws={4, 12}, kinds={"thread that times out"}, config=RunConfig(tool_timeout=0.25, cleanup_grace=GRACE))
def threads_that_time_out(book: Book) -> Play:
    @tool
    def looks(ctx: RunContext[Any]) -> str:
        """Look, and take too long."""
        with cleaned(book, "looks"):
            look(ctx, 0.5)
        return "looked"

    @tool(retries=2)
    def late() -> str:
        """Take too long, but not much."""
        with cleaned(book, "late"):
            time.sleep(0.5)
        return "done"

    def after(result: RunResult[Any]) -> None:
        for name in ("looks", "late"):
            kept(book, result, name)
        book.expect(12, book.said.count("late begins") <= 1, "a call that has timed out was tried again")
        if (output := outputs(result).get("looks")) is not None and output.status == "timed_out":
            book.seen("thread that times out")

    model = scripted([call("looks"), call("late")], Say("Done."))
    return Play(Agent("a", tools=[looks, late], model=model), after)


@scene(laws={8, 9}, kinds={"thread that is retried", "thread that raises"}, tidy=False)
def threads_that_raise(book: Book) -> Play:
    @tool(retries=1)
    def flaky(ctx: RunContext[Any]) -> str:
        """Work at the second attempt."""
        with cleaned(book, "flaky"):
            look(ctx, 0.1)
            if book.said.count("flaky begins") == 1:
                raise ConnectionError("try again")
            book.seen("thread that is retried")
        return "at last"

    @tool
    def fails(ctx: RunContext[Any]) -> str:
        """Fail."""
        time.sleep(0.1)
        ctx.check_cancelled()
        book.seen("thread that raises")
        raise LookupError("nothing left")

    def after(result: RunResult[Any]) -> None:
        kept(book, result, "flaky")
        book.expect(8, book.said.count("flaky begins") <= 2, "more attempts than were allowed")
        if (output := outputs(result).get("fails")) is not None and output.status == "failed":
            book.expect(9, "nothing left" in str(output.output), output)

    model = scripted([call("flaky"), call("fails")], Say("Done."))
    return Play(Agent("a", tools=[flaky, fails], model=model), after)


@scene(laws={6, 7, 8}, kinds={"thread beside an async tool"})
def a_thread_beside_an_async_tool(book: Book) -> Play:
    @tool
    def in_thread(ctx: RunContext[Any]) -> str:
        """Look, and let the other one wait."""
        with cleaned(book, "in_thread"):
            look(ctx, 0.3)
        return "looked"

    @tool
    async def in_loop() -> str:
        """Clean up as ever."""
        book.seen("thread beside an async tool")
        async with book.cleaned("in_loop"):
            await anyio.sleep(0.2)
        return "waited"

    def record(record: RunRecord, result: RunResult[Any]) -> None:
        kept(book, result, "in_thread")
        book.expect(6, result.teardown.seconds < 0.5, result.teardown)
        book.expect(8, not any(output.status == "failed" for output in outputs(result).values()), outputs(result))

    model = scripted([call("in_thread"), call("in_loop")], Say("Done."))
    return Play(Agent("a", tools=[in_thread, in_loop], model=model), record=record)


@scene(laws={7, 12}, kinds={"thread that calls the event loop", "cleanup that a thread has registered"})
def a_thread_that_calls_the_event_loop(book: Book) -> Play:
    @tool
    def calls(ctx: RunContext[Any]) -> str:
        """Wait for the event loop, tell how far it is, and have it clean up."""

        async def cleanup() -> None:
            async with book.whole("registered"):
                book.seen("cleanup that a thread has registered")
                await anyio.sleep(0.1)

        ctx.on_cleanup(cleanup)
        book.owed["called"] += 1
        book.done["called"] += 1
        with cleaned(book, "calls"):
            anyio.from_thread.run(anyio.sleep, 0.2)
            book.seen("thread that calls the event loop")
            ctx.progress("half of it")
            ctx.check_cancelled()
            ctx.run.from_thread.inject("from the thread")
        return "called"

    def after(result: RunResult[Any]) -> None:
        kept(book, result, "calls")
        book.expect(7, book.done["registered"] == book.owed["called"], "what was registered was not called")
        book.expect(12, True)

    return Play(Agent("a", tools=[calls], model=scripted(call("calls"), Say("Done."))), after)


@scene(laws={1, 4}, kinds={"thread in a nested run"}, config=RunConfig(cleanup_grace=20.0), tidy=False)
def a_thread_in_a_nested_run(book: Book) -> Play:
    @tool
    def deaf() -> str:
        """Sleep for longer than the grace of the inner run."""
        book.say("deaf begins")
        time.sleep(8)
        book.say("deaf returns")
        return "slept"

    inner = Agent("inner", tools=[deaf], model=scripted(call("deaf"), Say("Seen.")))

    @tool
    async def asks(ctx: RunContext[Any]) -> str:
        """Ask the inner agent, in a run whose grace is shorter than that of the outer one."""
        await run(inner, "Look!", deps=ctx.deps, config=RunConfig(cleanup_grace=5.0))
        return "asked"

    def after(result: RunResult[Any]) -> None:
        left = "deaf begins" in book.said and "deaf returns" not in book.said
        if left:
            book.seen("thread in a nested run")
        told = result.teardown.abandoned_threads
        book.expect(1, bool(told) == left, f"a thread was {'' if left else 'not '}left, and the report has {told}")

    return Play(Agent("a", tools=[asks], model=scripted(call("asks"), Say("Done."))), after)


@scene(laws={7, 13}, kinds={"sync guardrail"})
def sync_guardrails(book: Book) -> Play:
    def sober(ctx: RunContext[Any], items: Any) -> None:
        with cleaned(book, "sober"):
            look(ctx, 0.2)
        book.seen("sync guardrail")

    def truthful(answer: Any) -> None:
        time.sleep(0.2)

    @tool
    def act(ctx: RunContext[Any]) -> str:
        """Must not begin before the guardrail has passed."""
        begun, ended = book.said.count("sober begins"), book.said.count("sober returns")
        book.expect(13, begun == ended, "the tool has begun while the guardrail was at work")
        look(ctx, 0.1)
        return "done"

    def after(result: RunResult[Any]) -> None:
        book.expect(13, not any(output.status == "failed" for output in outputs(result).values()), outputs(result))
        book.expect(7, result.teardown.clean, result.teardown)

    model = scripted([Say("Hm.", chunks=2, delay=0.1), call("act")], Say("Done."))
    agent = Agent("a", tools=[act], model=model, input_guardrails=[sober], output_guardrails=[truthful])
    return Play(agent, after)


@scene(laws={9, 13}, kinds={"sync guardrail that trips"}, raises=InputGuardrailTripped)
def a_sync_guardrail_that_trips(book: Book) -> Play:
    @input_guardrail(blocking=True)
    def strict(items: Any) -> Trip:
        time.sleep(0.2)
        book.seen("sync guardrail that trips")
        return Trip("never")

    @tool
    def act() -> str:
        """Must not run."""
        book.say("acted")
        return "done"

    def after(result: RunResult[Any]) -> None:
        book.expect(13, "acted" not in book.said)
        book.expect(9, result.status != "completed", result.status)

    return Play(Agent("a", tools=[act], model=scripted(call("act")), input_guardrails=[strict]), after)
