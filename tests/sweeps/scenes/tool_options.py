"""Tools with timeouts and retries, tools that want to be alone, and tools that listen."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, RunConfig, RunContext, RunResult, tool
from agentrun.events import InputInjected, InterruptRequested
from agentrun.testing import Say
from agentrun.testing.laws import RunRecord

from ..stage import Book, Play, call, outputs, scene, scripted


@scene(laws={6, 7}, kinds={"tool that hangs until its timeout"})
def a_tool_that_hangs_until_its_timeout(book: Book) -> Play:
    @tool(timeout=0.5)
    async def hang() -> str:
        """Take for ever."""
        async with book.cleaned("hang", kind="tool that hangs until its timeout"):
            await anyio.sleep_forever()
        return "never"

    def after(result: RunResult[Any]) -> None:
        output = outputs(result).get("hang")
        if output is not None:
            book.expect(6, output.status in ("timed_out", "cancelled"), output)

    return Play(Agent("a", tools=[hang], model=scripted(call("hang"), Say("Sorry."))), after)


@scene(laws={8}, kinds={"tool that is retried"})
def a_tool_that_is_retried(book: Book) -> Play:
    @tool(retries=2, timeout=1)
    async def flaky() -> str:
        """Work at the third attempt."""
        book.say("attempt")
        async with book.cleaned("flaky"):
            await anyio.sleep(0.2)
        if book.said.count("attempt") < 3:
            book.seen("tool that is retried")
            raise ConnectionError("try again")
        return "at last"

    def after(result: RunResult[Any]) -> None:
        book.expect(8, len(book.said) <= 3, "more attempts than were allowed")
        output = outputs(result).get("flaky")
        if output is not None and output.status == "completed":
            book.expect(8, output.output == "at last" and len(book.said) == 3, output)

    return Play(Agent("a", tools=[flaky], model=scripted(call("flaky"), Say("Done."))), after)


@scene(laws={7, 12}, kinds={"tool_timeout"}, config=RunConfig(tool_timeout=0.3))
def tools_that_time_out_together(book: Book) -> Play:
    @tool(retries=1)
    async def slow() -> str:
        """Take longer than it may."""
        async with book.cleaned("slow", kind="tool_timeout"):
            await anyio.sleep(1)
        return "late"

    def after(result: RunResult[Any]) -> None:
        for output in outputs(result).values():
            book.expect(12, output.status in ("timed_out", "cancelled"), output)

    model = scripted([call("slow", "one"), call("slow", "two")], Say("Sorry."))
    return Play(Agent("a", tools=[slow], model=model), after)


class Crowd:
    """Counts who is at work."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.inside: list[str] = []

    async def work(self, name: str, most: int) -> str:
        """Be one of at most so many."""
        self.inside.append(name)
        try:
            self._book.expect(8, len(self.inside) <= most, f"at work together: {self.inside}")
            async with self._book.cleaned(name):
                await anyio.sleep(0.2)
        finally:
            self.inside.remove(name)
        return name


@scene(laws={8, 11}, kinds={"parallel=False"})
def a_tool_that_wants_to_be_alone(book: Book) -> Play:
    crowd = Crowd(book)

    @tool
    async def shared(name: str) -> str:
        """Share."""
        return await crowd.work(name, 2)

    @tool(parallel=False)
    async def alone() -> str:
        """Be alone."""
        book.seen("parallel=False")
        return await crowd.work("alone", 1)

    def after(result: RunResult[Any]) -> None:
        bad = [output for output in outputs(result).values() if output.status == "failed"]
        book.expect(8, not bad, bad)  # `expect` inside of a tool is an error of the tool

    model = scripted(
        [call("shared", "one", name="one"), call("alone"), call("shared", "two", name="two")], Say("Done.")
    )
    return Play(Agent("a", tools=[shared, alone], model=model), after)


@scene(laws={8, 11}, kinds={"max_parallel_tools"}, config=RunConfig(max_parallel_tools=1))
def one_tool_at_a_time(book: Book) -> Play:
    crowd = Crowd(book)

    @tool
    async def work(name: str) -> str:
        """Work."""
        book.seen("max_parallel_tools")
        return await crowd.work(name, 1)

    def after(result: RunResult[Any]) -> None:
        bad = [output for output in outputs(result).values() if output.status == "failed"]
        book.expect(8, not bad, bad)

    model = scripted([call("work", f"work{n}", name=f"{n}") for n in range(3)], Say("Done."))
    return Play(Agent("a", tools=[work], model=model), after)


@scene(laws={7, 8, 11}, kinds={"calls in the tasks of an earlier turn"})
def calls_side_by_side_in_every_turn(book: Book) -> Play:
    tasks: set[int] = set()

    @tool
    async def work(seconds: float) -> str:
        """Work."""
        task = anyio.get_current_task().id
        if task in tasks:
            book.seen("calls in the tasks of an earlier turn")
        tasks.add(task)
        async with book.cleaned(f"work for {seconds:g}"):
            await anyio.sleep(seconds)
        return "worked"

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        stopped = [event for event in record.events if isinstance(event, InterruptRequested | InputInjected)]
        if not stopped and result.status == "completed":
            ends = {output.status for output in outputs(result).values()}
            book.expect(8, ends == {"completed"}, f"nobody was to be stopped: {ends}")

    turns = [[call("work", f"{turn}{n}", seconds=0.1 * n) for n in (1, 2)] for turn in "ab"]
    return Play(Agent("a", tools=[work], model=scripted(*turns, Say("Done."))), record=after)


@scene(laws={2, 6}, kinds={"wait_interrupted", "progress"}, input="Go until you are told to stop.")
def a_tool_that_stops_when_it_is_asked_to(book: Book) -> Play:
    @tool
    async def until_asked(ctx: RunContext[Any]) -> str:
        """Work, and look now and then whether to stop."""
        asked: list[str | None] = []

        async def listen() -> None:
            asked.append(await ctx.wait_interrupted())
            book.seen("wait_interrupted")

        async def work() -> None:
            for number in range(3):
                await anyio.sleep(0.2)
                ctx.progress(number)
                book.seen("progress")
                if asked:
                    break
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            group.start_soon(work)
        return f"stopped: {asked[0]}" if asked else "done"

    def after(result: RunResult[Any]) -> None:
        output = outputs(result).get("until_asked")
        if output is not None and output.status == "completed":
            book.expect(6, output.output in ("done", "stopped: swept away"), output)

    return Play(Agent("a", tools=[until_asked], model=scripted(call("until_asked"), Say("Done."))), after)


@scene(laws={5, 8}, kinds={"interrupt of one tool"})
def a_tool_that_stops_another(book: Book) -> Play:
    @tool
    async def slow() -> str:
        """Take long."""
        async with book.cleaned("slow"):
            await anyio.sleep(5)
        return "late"

    @tool
    async def hurry(ctx: RunContext[Any]) -> str:
        """Stop the other one."""
        await anyio.sleep(0.2)
        if ctx.run.interrupt_tool("slow", "too slow"):
            book.seen("interrupt of one tool")
            book.say("stopped")
        await anyio.lowlevel.checkpoint()
        return "hurried"

    def after(result: RunResult[Any]) -> None:
        if "stopped" in book.said:
            output = outputs(result)["slow"]
            book.expect(8, output.status == "cancelled" and "too slow" in str(output.output), output)
        if result.status == "completed" and "hurry" in outputs(result):
            book.expect(8, outputs(result)["hurry"].status in ("completed", "cancelled"), outputs(result))

    model = scripted([call("slow"), call("hurry")], Say("Done."))
    return Play(Agent("a", tools=[slow, hurry], model=model), after)
