"""Input that comes while the run is at work, from inside and from outside."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import ActiveRun, Agent, Injection, RunContext, RunResult, UserMessage, tool
from agentrun.events import Event, TextDelta, ToolEnded, ToolStarted
from agentrun.testing import Say
from agentrun.testing.laws import RunRecord

from ..stage import Book, Play, call, scene, scripted


class Inputs:
    """What a scene has injected itself."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.all: list[tuple[str, Injection]] = []

    def give(self, live: ActiveRun[Any], text: str, deliver: Any) -> None:
        """Inject, if the run has not ended."""
        if live.result is None:
            self.all.append((text, live.inject(text, deliver=deliver)))

    def check(self, result: RunResult[Any]) -> None:
        """Law 5: each is in the history, once, or has come back, once; in the order in which they were injected."""
        texts = [item.content for item in result.history if isinstance(item, UserMessage)]
        for text, injection in self.all:
            back = sum(entry.injection_id == injection.id for entry in result.undelivered)
            withdrawn = injection.status == "undelivered" and not back and text in WITHDRAWN
            self._book.expect(
                5,
                withdrawn or texts.count(text) + back == 1,
                f"{text!r} is {texts.count(text)} times in the history, and {back} times undelivered",
            )
        for group in (("next", "now"), ("idle",)):
            given = [text for text, _ in self.all if text.startswith(group) and text in texts]
            ordered = [text for text in texts if text in given]
            self._book.expect(5, ordered == given, f"injected {given}, delivered {ordered}")


WITHDRAWN = {"idle, and taken back"}


@scene(laws={5}, kinds={"injection from a tool"})
def a_tool_that_injects(book: Book) -> Play:
    inputs = Inputs(book)

    @tool
    async def steer(ctx: RunContext[Any]) -> str:
        """Give the run more to do."""
        book.seen("injection from a tool")
        inputs.give(ctx.run, "idle, from a tool", "idle")
        await anyio.sleep(0.1)
        inputs.give(ctx.run, "next, from a tool", "next")
        await anyio.sleep(0.1)
        inputs.give(ctx.run, "now, from a tool", "now")
        async with book.cleaned("steer"):
            await anyio.sleep(1)
        return "steered"

    return Play(Agent("a", tools=[steer], model=scripted(call("steer"), Say("Done."))), inputs.check)


@scene(laws={4, 5}, kinds={"injection from a watcher"}, second=1)
def a_watcher_that_cuts_in(book: Book) -> Play:
    inputs = Inputs(book)

    def on_event(live: ActiveRun[Any], event: Event) -> None:
        if isinstance(event, TextDelta) and not inputs.all:
            book.seen("injection from a watcher")
            inputs.give(live, "next, from a watcher", "next")
            inputs.give(live, "now, from a watcher", "now")

    model = scripted(Say("It is a long story.", chunks=4, delay=0.1), Say("In short."))
    return Play(Agent("a", model=model), inputs.check, on_event=on_event)


@scene(laws={5}, kinds={"injection that is withdrawn"})
def an_injection_that_is_withdrawn(book: Book) -> Play:
    inputs = Inputs(book)
    taken: list[bool] = []

    @tool
    async def work() -> str:
        """Work."""
        async with book.cleaned("work"):
            await anyio.sleep(0.3)
        return "done"

    def on_event(live: ActiveRun[Any], event: Event) -> None:
        if isinstance(event, ToolStarted) and not inputs.all:
            inputs.give(live, "idle, and taken back", "idle")
            inputs.give(live, "idle, and left", "idle")
        elif isinstance(event, ToolEnded) and inputs.all and not taken:
            taken.append(inputs.all[0][1].withdraw())
            if taken[0]:
                book.seen("injection that is withdrawn")

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        inputs.check(result)
        if taken and taken[0]:
            texts = [item.content for item in result.history if isinstance(item, UserMessage)]
            book.expect(5, "idle, and taken back" not in texts, "what was withdrawn was delivered")

    model = scripted(call("work"), Say("Done.", delay=0.1))
    return Play(Agent("a", tools=[work], model=model), record=after, on_event=on_event)
