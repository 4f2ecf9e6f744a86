"""What a user's program has around the run, and how it leaves the block."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, RunContext, tool
from agentrun.events import ToolProgress
from agentrun.testing import Say

from ..stage import Book, Play, call, scene, scripted


def worker(book: Book, seconds: float = 0.5) -> Agent[Any, Any]:
    """Says something, and works."""

    async def work(ctx: RunContext[Any]) -> str:
        async with book.cleaned("work", kind="ordinary cleanup"):
            ctx.progress("at work")
            await anyio.sleep(seconds)
        return "done"

    model = scripted([Say("Working.", chunks=2, delay=0.1), call("work")], Say("Done."))
    return Agent("a", tools=[tool(work, description="Work.")], model=model)


@scene(laws={1, 3, 8}, kinds={"run among siblings"})
def a_run_among_siblings(book: Book) -> Play:
    async def program(opening: Any) -> None:
        async def sibling() -> None:
            await anyio.sleep(1)
            book.say("sibling done")

        async with anyio.create_task_group() as group:
            group.start_soon(sibling)
            async with opening as live:
                await live.wait()
            book.seen("run among siblings")
        await anyio.lowlevel.checkpoint()  # leaving the group is none if the cancellation reached only the sibling
        book.expect(8, book.said == ["sibling done"], "a task beside the run has been taken down with it")

    return Play(worker(book), program=program)


@scene(laws={1, 3, 7}, kinds={"run() under move_on_after", "ordinary cleanup"}, second=2)
def a_run_under_move_on_after(book: Book) -> Play:
    """The clean run is cancelled from outside: its teardown is swept."""

    async def program(opening: Any) -> None:
        with anyio.move_on_after(0.3) as scope:
            async with opening as live:
                await live.wait()
        if scope.cancelled_caught:
            book.seen("run() under move_on_after")
        if live.status == "cancelled":
            book.expect(3, scope.cancelled_caught, "the run was cancelled, and its block was left as if not")
        book.expect(1, live.result is not None, "the run has not ended")

    return Play(worker(book), program=program)


@scene(laws={1, 3, 7}, kinds={"run() under fail_after"}, second=2)
def a_run_under_fail_after(book: Book) -> Play:
    async def program(opening: Any) -> None:
        try:
            with anyio.fail_after(0.3):
                async with opening as live:
                    await live.wait()
        except TimeoutError:
            book.seen("run() under fail_after")
            book.say("timeout")
        if live.status == "cancelled":
            book.expect(3, book.said == ["timeout"], "the run was cancelled, and its block was left as if not")

    return Play(worker(book), program=program)


@scene(laws={1, 2, 7}, kinds={"block left early"}, second=2)
def a_block_that_is_left_early(book: Book) -> Play:
    """The clean run is interrupted by leaving: its teardown is swept."""

    async def program(opening: Any) -> None:
        async with opening as live:
            async for event in live.events():
                if isinstance(event, ToolProgress):
                    book.seen("block left early")
                    break
        result = live.result
        book.expect(1, result is not None, "the block was left, and the run has not ended")
        if result.status == "interrupted":
            reason = result.interrupt.reason
            book.expect(2, reason in ("left the run block", "swept away"), f"the reason is {reason!r}")

    return Play(worker(book), program=program)


class Odd(Exception):
    """The user's own."""


@scene(laws={1, 7, 9}, kinds={"block that raises"}, raises=Odd, second=2)
def a_block_that_raises(book: Book) -> Play:
    error = Odd("something of mine")

    async def program(opening: Any) -> None:
        try:
            async with opening as live:
                async for event in live.events():
                    if isinstance(event, ToolProgress):
                        book.seen("block that raises")
                        raise error
        except Exception as exc:
            book.expect(9, exc is error, f"the block raised {exc!r}")
            book.expect(1, live.result is not None, "the block was left, and the run has not ended")
            raise

    return Play(worker(book), program=program)


@scene(laws={3, 10}, kinds={"scope of the user's around events()"})
def a_scope_of_the_users_around_the_events(book: Book) -> Play:
    """Who stops watching does not stop the run."""

    async def program(opening: Any) -> None:
        async with opening as live:
            with anyio.move_on_after(0.25) as scope:
                async for _ in live.events(buffer=1):
                    await anyio.lowlevel.checkpoint()
            if scope.cancelled_caught:
                book.seen("scope of the user's around events()")
            result = await live.wait()
        book.expect(10, result.status != "cancelled", "the run was cancelled with its watcher")
        book.expect(3, result.status in ("completed", "interrupted"), result.status)

    return Play(worker(book), program=program)
