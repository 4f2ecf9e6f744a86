"""Tools that fail, swallow, or do not clean up."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio

from agentrun import RunContext, tool
from agentrun.errors import ToolError

from .ledger import book

__all__ = [
    "cancels_itself",
    "fails",
    "fails_later",
    "fails_softly",
    "fails_too",
    "lets_out",
    "swallows",
    "unsure",
    "untidy",
    "untidy_child",
]


@tool(on_error="raise")
async def fails() -> str:
    """Fail the run."""
    await book.notes["news"].wait()
    error = ToolError("out of paper")
    book.raised.append(error)
    raise error


@tool(on_error="raise")
async def fails_too() -> str:
    """Fail the run, in the same instant as the other."""
    await book.notes["news"].wait()
    error = ToolError("out of ink")
    book.raised.append(error)
    raise error


@tool(on_error="raise")
async def fails_later() -> str:
    """Fail while the run is torn down because another tool has failed; it does not look at its cancellation."""
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.5)
    error = ToolError("out of order")
    book.raised.append(error)
    raise error


@tool
async def fails_softly() -> str:
    """Tell the model of an error."""
    await anyio.sleep(0.2)
    raise ValueError("no such page")


@tool
async def untidy() -> str:
    """Fail in the cleanup."""
    try:
        await anyio.sleep(0.5)
    except BaseException:
        await anyio.sleep(0.1)
        error = ValueError("cannot clean up")
        book.raised.append(error)
        raise error  # noqa: B904
    return "done"


@tool
async def untidy_child() -> str:
    """Fail in the cleanup of a child task, which on trio is mixed with the cancellation of the other one."""

    async def child() -> None:
        try:
            await anyio.sleep(0.5)
        except BaseException:
            error = ValueError("cannot clean up, either")
            book.raised.append(error)
            raise error  # noqa: B904

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        tasks.start_soon(anyio.sleep, 0.6)
    return "done"


@tool
async def swallows() -> str:
    """Go on, whatever is asked."""
    try:
        await book.notes["news"].wait()
    except BaseException:
        book.notes["swallowed"] = True
    return "went on"


def told() -> None:
    """An ``on_cancel``: tools with one have tasks of their own, in a task group that they could take down."""


@tool(on_cancel=told)
async def lets_out() -> str:
    """Let a cancellation out that nobody asked for, as code around a cancelled future does."""
    await anyio.sleep(0.2)
    raise anyio.get_cancelled_exc_class()


@tool(on_cancel=told)
async def cancels_itself() -> str:
    """Call ``Task.cancel()`` on its own task, which concerns nobody else."""
    await anyio.sleep(0.2)
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return "cancelled, but done"


async def cannot_tell(ctx: RunContext[Any], arguments: Any) -> bool:
    """Break, which is no permission."""
    await anyio.sleep(0.1)
    raise LookupError("the rules are not there")


@tool(needs_approval=cannot_tell)
async def unsure() -> str:
    """Must not run unless somebody knows that it may."""
    book.notes["ran"] = True
    return "done"
