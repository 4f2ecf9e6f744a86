"""Programs around a run: slow watchers, users who leave early, users who deal with failures."""

from __future__ import annotations

from typing import Any

import anyio

from agentrun.errors import ToolError

from .ledger import book

__all__ = ["failure_caught", "left_early", "watched_slowly", "watcher_leaves"]


async def watched_slowly(opening: Any) -> None:
    """One watcher reads a little, pauses for long, and goes on; another loses deltas, and is read when all is over."""
    async with opening as live:
        book.notes["lossy"] = live.events(buffer=2, overflow="drop")
        slowly = live.events(buffer=3)

        async def watch() -> None:
            async for _ in slowly:
                await anyio.sleep(0)
                if len(book.order) == 3:
                    for _ in range(3):  # the run waits for it meanwhile, and is interrupted there, too
                        await anyio.sleep(15)
                book.order.append("read")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await live.wait()
            tasks.cancel_scope.cancel()


async def failure_caught(opening: Any) -> None:
    """A user who deals with the failure inside the block."""
    async with opening as live:
        try:
            await live.wait()
        except ToolError as exc:
            book.notes["caught"] = exc
    book.notes["left"] = True


async def watcher_leaves(opening: Any) -> None:
    """A watcher that stops reading, and unsubscribes later."""
    async with opening as live:
        stream = live.events(buffer=2)

        async def watch() -> None:
            async with stream:
                await anyio.sleep(2)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await live.wait()
            tasks.cancel_scope.cancel()


async def left_early(opening: Any) -> None:
    """A user who leaves the block while the run is alive."""
    async with opening:
        await anyio.sleep(0.7)
