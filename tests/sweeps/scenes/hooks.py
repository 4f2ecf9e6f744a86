"""Hooks: slow ones, failing ones, and one that stops the run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, RunContext, RunHooks, RunResult, tool
from agentrun.testing import Say

from ..stage import Book, Play, call, scene, scripted


def working(book: Book) -> Any:
    """A tool that takes a moment."""

    async def work() -> str:
        async with book.cleaned("work"):
            await anyio.sleep(0.3)
        return "done"

    return tool(work, description="Work.")


class Hooks(RunHooks):
    """All six of them, told of in the book."""

    def __init__(self, book: Book) -> None:
        self._book = book

    async def start(self, name: str) -> None:
        """One begins."""
        self._book.say(f"{name} start")

    async def end(self, name: str) -> None:
        """One ends."""
        self._book.say(f"{name} end")

    async def on_run_start(self, ctx: Any) -> None:
        await self.start("run")

    async def on_run_end(self, ctx: Any, result: Any) -> None:
        await self.end("run")

    async def on_model_start(self, ctx: Any, request: Any) -> None:
        await self.start("model")

    async def on_model_end(self, ctx: Any, status: Any) -> None:
        await self.end("model")

    async def on_tool_start(self, ctx: Any, call: Any) -> None:
        await self.start(call.call_id)

    async def on_tool_end(self, ctx: Any, call: Any, output: Any) -> None:
        await self.end(call.call_id)


def paired(book: Book) -> None:
    """Law 12: each start has its end; the run's are the first and the last."""
    started = Counter(name.removesuffix(" start") for name in book.said if name.endswith(" start"))
    ended = Counter(name.removesuffix(" end") for name in book.said if name.endswith(" end"))
    book.expect(12, started == ended, "a hook was told of a start and not of the end, or the other way round")
    if book.said:
        book.expect(12, (book.said[0], book.said[-1]) == ("run start", "run end"), "the run is not around all")


@scene(laws={7, 12}, kinds={"slow hooks"})
def slow_hooks(book: Book) -> Play:
    class Slow(Hooks):
        async def start(self, name: str) -> None:
            await super().start(name)
            async with book.cleaned(f"hook {name}", kind="slow hooks"):
                await anyio.sleep(0.1)

        async def end(self, name: str) -> None:
            async with book.whole(f"end hook {name}"):
                await anyio.sleep(0.1)
            await super().end(name)

    def after(result: RunResult[Any]) -> None:
        paired(book)

    model = scripted(call("work"), Say("Done."))
    return Play(Agent("a", tools=[working(book)], model=model), after, hooks=Slow(book))


@scene(laws={8, 9, 12}, kinds={"failing hooks"}, tidy=False)
def failing_hooks(book: Book) -> Play:
    raised: list[BaseException] = []

    class Failing(Hooks):
        async def start(self, name: str) -> None:
            await super().start(name)
            await anyio.lowlevel.checkpoint()
            self._fail()

        async def end(self, name: str) -> None:
            await super().end(name)
            await anyio.lowlevel.checkpoint()
            self._fail()

        def _fail(self) -> None:
            book.seen("failing hooks")
            raised.append(RuntimeError(f"hook {len(raised)}"))
            raise raised[-1]

    def after(result: RunResult[Any]) -> None:
        paired(book)
        book.expect(8, result.status != "failed", result.error)
        kept = Counter(map(str, result.errors))
        # What the last hook raises comes after the result was made, unless the result is the live one.
        missing = Counter(map(str, raised)) - kept
        book.expect(9, not missing, f"lost: {missing}")
        book.expect(9, not (kept - Counter(map(str, raised))), f"told more than once: {kept}")

    model = scripted(call("work"), Say("Done."))
    return Play(Agent("a", tools=[working(book)], model=model), after, hooks=Failing(book))


@scene(laws={2, 12}, kinds={"interrupt from a hook"}, second=1)
def a_hook_that_stops_the_run(book: Book) -> Play:
    """The clean run ends with the interrupt: its teardown is swept."""

    class Guard(Hooks):
        async def on_tool_start(self, ctx: RunContext[Any], call: Any) -> None:
            await super().on_tool_start(ctx, call)
            await anyio.sleep(0.1)
            if ctx.run.interrupt("not this tool"):
                book.seen("interrupt from a hook")
            await anyio.sleep(0.1)

    def after(result: RunResult[Any]) -> None:
        paired(book)
        book.expect(2, result.status in ("interrupted", "cancelled", "completed"), result.status)

    model = scripted([call("work"), call("work", "again")], Say("Done."))
    return Play(Agent("a", tools=[working(book)], model=model), after, hooks=Guard(book))
