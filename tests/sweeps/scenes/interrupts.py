"""Runs that are being torn down already: the sweep interrupts, steers and cancels the teardown."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import ActiveRun, Agent, RunContext, RunResult, tool
from agentrun.events import Event, TextDelta, ToolProgress
from agentrun.testing import Say

from ..stage import Book, Play, call, outputs, scene, scripted
from .streams import SlowToClose


def cleaning(book: Book, name: str) -> Any:
    """A tool that has something to clean up."""

    async def work(ctx: RunContext[Any]) -> str:
        async with book.cleaned(name, kind="ordinary cleanup"):
            ctx.progress("at work")
            await anyio.sleep(1)
        return "done"

    return tool(work, name=name, description="Work.")


def first_reason(book: Book, result: RunResult[Any], reason: str) -> None:
    """Law 2: the reason that came first is the one that is told."""
    if result.status == "interrupted" and result.interrupt is not None:
        book.expect(2, result.interrupt.reason in (reason, "swept away"), result.interrupt)


@scene(laws={2, 4, 6, 7}, kinds={"interrupt from a watcher", "ordinary cleanup"}, second=1)
def interrupted_at_the_first_tool(book: Book) -> Play:
    def on_event(live: ActiveRun[Any], event: Event) -> None:
        if isinstance(event, ToolProgress) and live.interrupt("stop"):
            book.seen("interrupt from a watcher")

    def after(result: RunResult[Any]) -> None:
        first_reason(book, result, "stop")
        for output in outputs(result).values():
            book.expect(4, output.status in ("cancelled", "completed"), output)

    model = scripted([Say("Working."), call("one"), call("two")], Say("Done."))
    agent = Agent("a", tools=[cleaning(book, "one"), cleaning(book, "two")], model=model)
    return Play(agent, after, on_event=on_event)


@scene(laws={2, 4, 6, 7}, kinds={"interrupt from a watcher", "stream with slow cleanup"}, second=3)
def interrupted_while_the_model_speaks(book: Book) -> Play:
    def on_event(live: ActiveRun[Any], event: Event) -> None:
        if isinstance(event, TextDelta) and live.interrupt("stop"):
            book.seen("interrupt from a watcher")

    def after(result: RunResult[Any]) -> None:
        first_reason(book, result, "stop")

    model = SlowToClose(book, Say("A long story.", chunks=4, delay=0.1))
    return Play(Agent("a", model=model), after, on_event=on_event)


@scene(laws={2, 6}, kinds={"interrupt from a tool", "interrupt after the turn"}, second=1)
def a_tool_that_ends_the_run_after_the_turn(book: Book) -> Play:
    @tool
    async def last(ctx: RunContext[Any]) -> str:
        """Be the last one."""
        await anyio.sleep(0.1)
        if ctx.run.interrupt("that was all", mode="after_turn"):
            book.seen("interrupt from a tool")
            book.seen("interrupt after the turn")
        async with book.cleaned("last"):
            await anyio.sleep(0.2)
        return "all done"

    def after(result: RunResult[Any]) -> None:
        first_reason(book, result, "that was all")
        if result.status == "interrupted" and result.interrupt is not None and result.interrupt.mode == "after_turn":
            output = outputs(result).get("last")
            book.expect(2, output is None or output.status in ("completed", "cancelled"), output)

    return Play(Agent("a", tools=[last], model=scripted(call("last"), Say("Never."))), after)


@scene(laws={2, 6, 7}, kinds={"interrupt that escalates", "interrupt after the turn"}, second=1)
def an_interrupt_that_escalates(book: Book) -> Play:
    def on_event(live: ActiveRun[Any], event: Event) -> None:
        if isinstance(event, ToolProgress):
            live.interrupt("stop", mode="after_turn", escalate_after=0.3)
            book.seen("interrupt after the turn")

    def after(result: RunResult[Any]) -> None:
        first_reason(book, result, "stop")
        if result.interrupt is not None and result.interrupt.mode == "immediate":
            book.seen("interrupt that escalates")

    agent = Agent("a", tools=[cleaning(book, "one")], model=scripted(call("one"), Say("Never.")))
    return Play(agent, after, on_event=on_event)


@scene(laws={1, 3, 7}, kinds={"cancelled from outside while it is interrupted"}, second=3)
def cancelled_while_it_is_interrupted(book: Book) -> Play:
    async def program(opening: Any) -> None:
        with anyio.CancelScope() as scope:
            async with opening as live:
                async for event in live.events():
                    if isinstance(event, ToolProgress) and live.interrupt("stop"):
                        book.seen("cancelled from outside while it is interrupted")
                        scope.cancel()
                await live.wait()
        result = live.result
        book.expect(1, result is not None, "the block was left, and the run has not ended")
        if result is not None and result.status == "cancelled":
            book.expect(3, scope.cancel_called, "the run says that it was cancelled, and nobody has cancelled it")

    agent = Agent("a", tools=[cleaning(book, "one")], model=scripted(call("one"), Say("Never.")))
    return Play(agent, program=program)


@scene(laws={2, 6}, kinds={"interrupt from a tool", "ordinary cleanup"}, second=1)
def a_tool_that_stops_the_run(book: Book) -> Play:
    @tool
    async def stop(ctx: RunContext[Any]) -> str:
        """Stop everything, this very call included."""
        await anyio.sleep(0.1)
        if ctx.run.interrupt("I have had enough"):
            book.seen("interrupt from a tool")
        async with book.cleaned("stop", kind="ordinary cleanup"):
            await anyio.sleep(1)
        return "never"

    def after(result: RunResult[Any]) -> None:
        first_reason(book, result, "I have had enough")

    model = scripted([call("stop"), call("two")], Say("Never."))
    return Play(Agent("a", tools=[stop, cleaning(book, "two")], model=model), after)
