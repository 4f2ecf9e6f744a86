"""The tools of the scenes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from agentrun import RunContext, tool
from agentrun.core.inbox import Delivery
from agentrun.testing import BrokenLaw

from .ledger import book

__all__ = ["asks_twice", "careful", "dangerous", "guarded_work", "has_enough", "patient", "quick", "slow", "tells"]


@tool
async def slow(ctx: RunContext[Any]) -> str:
    """Take a second, and longer to clean up than the others."""
    async with book.cleaning_up("slow", ctx, seconds=0.3):
        await anyio.sleep(1)
        book.returned.append(ctx.call_id)
    return "slowly done"


@tool
async def quick(ctx: RunContext[Any]) -> str:
    """Take half a second."""
    async with book.cleaning_up("quick", ctx):
        await anyio.sleep(0.5)
        book.returned.append(ctx.call_id)
    return "quickly done"


@tool
async def tells() -> str:
    """Let other tools go on, after a while."""
    await anyio.sleep(0.3)
    book.notes["news"].set()
    return "told"


async def told_to_stop(ctx: RunContext[Any]) -> None:
    """An ``on_cancel``."""
    await anyio.sleep(0)
    book.notes[f"on_cancel {ctx.call_id}"] = book.notes.get(f"on_cancel {ctx.call_id}", 0) + 1


@tool(on_cancel=told_to_stop)
async def careful(ctx: RunContext[Any]) -> str:
    """Register what must not be left half done."""

    def leaves(name: str) -> Callable[[], Any]:
        async def cleanup() -> None:
            await anyio.sleep(0.1)
            await anyio.sleep(0.1)
            book.cleaned.append(name)
            book.order.append(name)

        book.owed.append(name)
        return cleanup

    book.notes["begun"] = True
    ctx.on_cleanup(leaves("first"))
    ctx.on_cleanup(leaves("second"))
    await ctx.enter_async_context(_Resource())
    try:
        async with ctx.critical(60):
            book.owed.append("critical")
            await anyio.sleep(0.2)
            book.cleaned.append("critical")
        await anyio.sleep(0.5)
    except BaseException:
        book.notes["stopped"] = True
        raise
    return "carefully done"


class _Resource:
    async def __aenter__(self) -> None:
        await anyio.sleep(0.1)
        book.owed.append("resource")

    async def __aexit__(self, *exc: object) -> None:
        await anyio.sleep(0.1)
        book.cleaned.append("resource")
        book.order.append("resource")


@tool
async def patient() -> str:
    """Take 20 s to clean up, which is more than anybody has."""
    book.notes["began"] = anyio.current_time()
    try:
        await anyio.sleep(1)
    except BaseException:
        book.notes["told"] = anyio.current_time()
        try:
            await anyio.sleep(20)
        except BaseException:
            book.notes["cut"] = anyio.current_time() - book.notes["told"]
            raise
        raise
    return "done"


@tool
async def guarded_work(ctx: RunContext[Any]) -> str:
    """Must not begin before the guardrail has passed."""
    if book.notes.get("guarding"):
        book.broken.append(BrokenLaw(13, "the tool has begun while the input guardrail was at work"))
    await anyio.sleep(0.2)
    return "done"


@tool(needs_approval=True)
async def dangerous() -> str:
    """Wait for approval."""
    await anyio.sleep(0.2)
    return "done"


@tool
async def has_enough(ctx: RunContext[Any]) -> str:
    """Ask for the end of the run when this turn is over."""
    await anyio.sleep(0.2)
    ctx.run.interrupt("the tool has seen enough", mode="after_turn")
    await anyio.sleep(0.2)
    return "seen"


@tool
async def asks_twice(ctx: RunContext[Any]) -> str:
    """Inject two inputs."""
    await anyio.sleep(0.1)
    inputs: list[tuple[str, Delivery]] = [("first", "next"), ("second", "next"), ("third", "idle")]
    for text, deliver in inputs:
        if ctx.run.result is None:
            ctx.run.inject(text, deliver=deliver)
        await anyio.sleep(0.1)
    return "asked"
