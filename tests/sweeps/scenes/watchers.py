"""Watchers that lag, lose, die and go away."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, RunContext, tool
from agentrun.events import Event, EventsDropped, RunEnded, TextDelta
from agentrun.testing import Say

from ..stage import Book, Play, call, scene, scripted

PROMPT = 0.05
"""Seconds within which a run must have ended that nothing but a watcher could hold up."""


def talkative() -> Agent[Any, Any]:
    """Says more than a small buffer holds."""
    return Agent("a", model=scripted(Say("One two three four.", chunks=6), Say("Five.")))


@scene(laws={10}, kinds={"slow watcher", "watcher that goes away"})
def a_slow_watcher_and_one_that_goes_away(book: Book) -> Play:
    async def program(opening: Any) -> None:
        async with opening as live, anyio.create_task_group() as group:

            async def leave() -> None:
                async for event in live.events(buffer=1):
                    if isinstance(event, TextDelta):
                        book.seen("watcher that goes away")
                        break

            group.start_soon(leave)
            async for _ in live.events(buffer=2):
                book.seen("slow watcher")
                await anyio.sleep(0.2)
            result = await live.wait()
        if result.status == "interrupted":
            book.expect(10, result.teardown.seconds <= PROMPT, f"the interrupt took {result.teardown.seconds} s")
        book.expect(10, True)

    return Play(talkative(), program=program)


@scene(laws={10}, kinds={"dead watcher", "interrupt from a watcher"}, second=2)
def a_dead_watcher(book: Book) -> Play:
    """The stream waits for a watcher that never reads, until the run is interrupted: that waits for nobody."""

    async def program(opening: Any) -> None:
        async with opening as live:
            dead = live.events(buffer=1)
            await anyio.sleep(1)
            if live.result is None:
                book.expect(10, live.state().blocked_on_watchers, "nobody lags, and the stream waits")
                book.seen("dead watcher")
                live.interrupt("enough of this")
                book.seen("interrupt from a watcher")
            result = await live.wait()
            if result.status == "interrupted":
                book.expect(10, result.teardown.seconds <= PROMPT, f"it took {result.teardown.seconds} s")
            del dead

    return Play(talkative(), program=program)


@scene(laws={2, 10}, kinds={"dropping watcher", "dead watcher"})
def watchers_that_drop_what_they_cannot_take(book: Book) -> Play:
    """Neither a slow one that drops nor a dead one that drops slows the run; both get the end."""

    async def program(opening: Any) -> None:
        seen: list[Event] = []
        async with opening as live:
            dead = live.events(buffer=1, overflow="drop")
            slow = live.events(buffer=2, overflow="drop")
            began = anyio.current_time()
            result = await live.wait()
            took = anyio.current_time() - began
            if result.status == "completed" and not any(entry for entry in result.undelivered):
                book.expect(10, took <= PROMPT or result.turns > 1, f"the run took {took} s")
            async for event in slow:
                seen.append(event)
            last = [event async for event in dead][-1]
        if any(isinstance(event, EventsDropped) for event in seen):
            book.seen("dropping watcher")
            book.seen("dead watcher")
        for event in (seen[-1], last):
            book.expect(2, isinstance(event, RunEnded) and event.status == result.status, f"the last is {event}")

    return Play(talkative(), program=program)


@scene(laws={10}, kinds={"slow watcher", "progress"})
def progress_that_no_watcher_reads(book: Book) -> Play:
    @tool
    async def count(ctx: RunContext[Any]) -> str:
        """Count, faster than anybody reads."""
        async with book.cleaned("count"):
            for number in range(4):
                ctx.progress(number)
                book.seen("progress")
                await anyio.sleep(0.01)
        return "four"

    async def program(opening: Any) -> None:
        async with opening as live:
            async for event in live.events(buffer=1):
                book.seen("slow watcher")
                await anyio.sleep(0.1)
                last = event
            book.expect(2, isinstance(last, RunEnded), f"the last event is {last}")
            result = await live.wait()
        if result.status == "interrupted":
            book.expect(10, result.teardown.seconds <= 0.2, f"the interrupt took {result.teardown.seconds} s")
        book.expect(10, True)

    agent = Agent("a", tools=[count], model=scripted(call("count"), Say("Four.")))
    return Play(agent, program=program)
