"""Tools that clean up, each in another way."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, RunConfig, RunContext, RunResult, tool
from agentrun.testing import Say

from ..stage import Book, Play, call, has_cancellation, outputs, scene, scripted, steps


@scene(laws={1, 4, 7}, kinds={"ordinary cleanup"}, second=1)
def two_tools_with_ordinary_cleanup(book: Book) -> Play:
    @tool
    async def look(city: str) -> str:
        """Look out of the window."""
        async with book.cleaned("look", kind="ordinary cleanup"):
            await anyio.sleep(1)
        return f"sun in {city}"

    model = scripted(
        [Say("Looking.", chunks=2), call("look", "one", city="Oslo"), call("look", "two", city="Bergen")], Say("Sun.")
    )
    return Play(Agent("a", tools=[look], model=model))


@scene(laws={7}, kinds={"shielded cleanup"}, second=2)
def shielded_cleanup(book: Book) -> Play:
    @tool
    async def borrow() -> str:
        """Borrow something, and give it back whatever happens."""
        book.owed["borrow"] += 1
        try:
            await anyio.sleep(0.5)
        finally:
            with anyio.CancelScope(shield=True):
                book.seen("shielded cleanup")
                await anyio.sleep(0.1)
                await steps(2)
                book.done["borrow"] += 1
        return "back"

    return Play(Agent("a", tools=[borrow], model=scripted(call("borrow"), Say("Done."))))


@scene(
    laws={7},
    kinds={"registered cleanup: on_cleanup", "registered cleanup: enter_async_context", "progress"},
    second=1,
)
def registered_cleanup(book: Book) -> Play:
    @tool
    async def work(ctx: RunContext[Any]) -> str:
        """Work with things that the runtime owns."""

        async def last() -> None:
            book.seen("registered cleanup: on_cleanup")
            await anyio.sleep(0.1)
            book.done["on_cleanup"] += 1
            book.say("on_cleanup")

        book.owed["on_cleanup"] += 1
        ctx.on_cleanup(last)
        await ctx.enter_async_context(book.cleaned("entered", always=True))
        book.seen("registered cleanup: enter_async_context")
        await anyio.sleep(0.3)
        ctx.progress("half")
        book.seen("progress")
        await anyio.sleep(0.3)
        return "done"

    return Play(Agent("a", tools=[work], model=scripted(call("work"), Say("Done."))))


@scene(laws={7}, kinds={"critical section"})
def a_critical_section(book: Book) -> Play:
    @tool
    async def transfer(ctx: RunContext[Any]) -> str:
        """Move money: both halves or none."""
        await anyio.sleep(0.1)
        async with ctx.critical(10), book.whole("transfer"):
            book.seen("critical section")
            await anyio.sleep(0.2)
            await steps(2)
        await anyio.sleep(0.1)
        return "moved"

    return Play(Agent("a", tools=[transfer], model=scripted(call("transfer"), Say("Done."))))


@scene(laws={6, 9}, kinds={"critical section that takes too long"}, tidy=False)
def a_critical_section_that_takes_too_long(book: Book) -> Play:
    @tool
    async def transfer(ctx: RunContext[Any]) -> str:
        """Take longer than is allowed."""
        try:
            async with ctx.critical(0.3):
                await anyio.sleep(5)
        except TimeoutError:
            book.say("timeout")
            raise
        finally:
            book.seen("critical section that takes too long")
        return "moved"

    def after(result: RunResult[Any]) -> None:
        book.expect(6, result.teardown.seconds < 1, f"the teardown took {result.teardown.seconds} s")
        if "timeout" in book.said and "transfer" in outputs(result):
            book.expect(9, outputs(result)["transfer"].status in ("failed", "cancelled"), outputs(result))
            book.expect(6, result.teardown.expired_graces, "the report says nothing of the section")

    return Play(Agent("a", tools=[transfer], model=scripted(call("transfer"), Say("Done."))), after)


@scene(
    laws={6},
    kinds={"cleanup that outlives its grace"},
    tidy=False,
    config=RunConfig(cleanup_grace=1),
    second=2,
)
def cleanup_that_outlives_its_grace(book: Book) -> Play:
    @tool
    async def linger() -> str:
        """Take far too long to stop."""
        try:
            await anyio.sleep(0.3)
        except BaseException as exc:
            if has_cancellation(exc):
                book.seen("cleanup that outlives its grace")
                book.say("lingers")
                await anyio.sleep(100)
            raise
        return "done"

    def after(result: RunResult[Any]) -> None:
        book.expect(6, result.teardown.seconds <= 1.1, f"the teardown took {result.teardown.seconds} s")
        told = result.teardown.expired_graces
        book.expect(6, len(told) == book.said.count("lingers"), f"the report has {told}")

    return Play(Agent("a", tools=[linger], model=scripted(call("linger"), Say("Done."))), after)


@scene(laws={8, 9}, kinds={"cleanup that raises"}, tidy=False)
def cleanup_that_raises(book: Book) -> Play:
    raised: list[BaseException] = []

    @tool
    async def spill() -> str:
        """Break when it is stopped."""
        try:
            await anyio.sleep(0.3)
        except BaseException:
            await anyio.sleep(0.1)
            book.seen("cleanup that raises")
            raised.append(OSError("the disk is full"))
            raise raised[-1] from None
        return "done"

    @tool
    async def beside() -> str:
        """Mind its own business."""
        async with book.cleaned("beside"):
            await anyio.sleep(0.3)
        return "done"

    def after(result: RunResult[Any]) -> None:
        book.expect(8, result.status != "failed", result.error)
        book.expect(9, list(result.errors) == raised, f"{raised} were raised, and kept were {result.errors}")
        if raised:
            book.expect(9, result.teardown.cleanup_errors, "the report says nothing")
            book.expect(4, outputs(result)["spill"].status == "cancelled", outputs(result))

    model = scripted([call("spill"), call("beside")], Say("Done."))
    return Play(Agent("a", tools=[spill, beside], model=model), after)


@scene(laws={1, 7}, kinds={"cleanup that starts tasks", "task group in a tool", "timeout of the tool's own"})
def cleanup_that_starts_tasks(book: Book) -> Play:
    @tool
    async def spread() -> str:
        """Work in tasks, and clean up in tasks."""

        async def part(number: int) -> None:
            with anyio.move_on_after(5):
                await anyio.sleep(number / 4)

        async def sweep_up() -> None:
            await anyio.sleep(0.1)
            book.done["part"] += 1

        try:
            async with anyio.create_task_group() as group:
                book.seen("task group in a tool")
                book.seen("timeout of the tool's own")
                group.start_soon(part, 1)
                group.start_soon(part, 2)
        finally:
            with anyio.CancelScope(shield=True):
                book.seen("cleanup that starts tasks")
                async with anyio.create_task_group() as group:
                    for _ in range(2):
                        book.owed["part"] += 1
                        group.start_soon(sweep_up)
        return "done"

    return Play(Agent("a", tools=[spread], model=scripted(call("spread"), Say("Done."))))


@scene(laws={1, 7}, kinds={"memory streams in a tool", "task group in a tool", "async generator in a tool"})
def a_pipeline_in_a_tool(book: Book) -> Play:
    async def numbers() -> AsyncGenerator[int]:
        for number in range(3):
            await anyio.sleep(0.1)
            yield number

    @tool
    async def pipe() -> str:
        """Numbers from a generator, over a stream, to a sum."""
        send, receive = anyio.create_memory_object_stream[int](1)

        async def produce() -> None:
            async with aclosing(numbers()) as source:
                async for number in source:
                    book.seen("async generator in a tool")
                    await send.send(number)
            send.close()

        numbers_received: list[int] = []

        async def consume() -> None:
            async for number in receive:
                book.seen("memory streams in a tool")
                numbers_received.append(number)

        async with book.cleaned("pipe"):
            with send, receive:
                async with anyio.create_task_group() as group:
                    book.seen("task group in a tool")
                    group.start_soon(produce)
                    group.start_soon(consume)
        return str(sum(numbers_received))

    def after(result: RunResult[Any]) -> None:
        output = outputs(result).get("pipe")
        if output is not None and output.status == "completed":
            book.expect(8, output.output == "3", output)

    return Play(Agent("a", tools=[pipe], model=scripted(call("pipe"), Say("Three."))), after)


class Pump:
    """Pump water."""

    def __init__(self, book: Book, *methods: str) -> None:
        self._book = book
        for method in methods:
            setattr(self, method, lambda method=method: self._stop(method))
        self.stopped: list[str] = []

    async def __call__(self) -> str:
        await anyio.sleep(0.4)
        return "pumped"

    def _stop(self, method: str) -> None:
        self._book.seen(f"tool object with {method}")
        self.stopped.append(method)


@scene(laws={7, 8}, kinds={"on_cancel hook", *(f"tool object with {m}" for m in ("cancel", "terminate", "stop"))})
def tools_that_are_told_of_their_cancellation(book: Book) -> Play:
    pumps = [
        Pump(book, "cancel", "terminate", "stop"),
        Pump(book, "terminate", "stop"),
        Pump(book, "stop"),
    ]

    async def hook(ctx: RunContext[Any]) -> None:
        async with book.whole("on_cancel"):
            book.seen("on_cancel hook")
            book.say(f"told {ctx.call_id}")
            await anyio.sleep(0.1)
            await steps(2)

    @tool(on_cancel=hook)
    async def heat() -> str:
        """Heat water."""
        await anyio.sleep(0.4)
        return "hot"

    def after(result: RunResult[Any]) -> None:
        for number, method in enumerate(("cancel", "terminate", "stop")):
            book.expect(7, pumps[number].stopped in ([], [method]), f"pump {number}: {pumps[number].stopped}")
            output = outputs(result).get(f"pump{number}")
            if output is not None and "before it finished" in str(output.output):
                book.expect(7, pumps[number].stopped == [method], f"pump {number} was not told")
        book.expect(7, book.said.count("told heat") <= 1, "the hook was called twice")
        output = outputs(result).get("heat")
        if output is not None and "before it finished" in str(output.output):
            book.expect(7, book.said == ["told heat"], "the hook was not called")

    tools: list[Any] = [tool(pump, name=f"pump{number}") for number, pump in enumerate(pumps)]
    model = scripted([*(call(f"pump{number}") for number in range(3)), call("heat")], Say("Done."))
    return Play(Agent("a", tools=[*tools, heat], model=model), after)
