"""Tools that use asyncio's own ways inside, as most code in the world does.

When a native timeout fires in the very moment of an interrupt, the one is taken for the other (and `wait_for` of Python
3.11 forgets a cancellation that comes together with the value): the tool goes on, and the report says that it has
swallowed its cancellation. So the teardown of these need not be tidy.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agentrun import Agent, tool
from agentrun.testing import Say

from ..stage import Book, Play, call, scene, scripted


async def _part(seconds: float, name: str) -> str:
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(0.1)  # in a task of its own, or after a timeout of the tool's own, it may be cut
    return name


def _play(book: Book, work: Any, kind: str) -> Play:
    async def native() -> str:
        async with book.cleaned("native", kind=kind):
            return str(await work())

    model = scripted([call("native")], Say("Done."))
    return Play(Agent("a", tools=[tool(native, description="Work as asyncio does.")], model=model))


@scene(laws={1, 7, 8}, kinds={"native asyncio: gather"}, backends=("asyncio",), second=1)
def asyncio_gather_in_a_tool(book: Book) -> Play:
    async def work() -> tuple[str, str]:
        return await asyncio.gather(_part(0.2, "one"), _part(0.4, "two"))

    return _play(book, work, "native asyncio: gather")


@scene(laws={1, 7, 8}, kinds={"native asyncio: wait_for"}, backends=("asyncio",), tidy=False)
def asyncio_wait_for_in_a_tool(book: Book) -> Play:
    async def work() -> str:
        await asyncio.wait_for(_part(0.2, "in time"), 5)
        try:
            return await asyncio.wait_for(_part(5, "late"), 0.3)
        except TimeoutError:
            return "timed out"

    return _play(book, work, "native asyncio: wait_for")


@scene(laws={1, 7, 8}, kinds={"native asyncio: timeout"}, backends=("asyncio",), tidy=False)
def asyncio_timeout_in_a_tool(book: Book) -> Play:
    async def work() -> str:
        try:
            async with asyncio.timeout(0.3):
                return await _part(5, "late")
        except TimeoutError:
            async with asyncio.timeout(5):
                return await _part(0.2, "in time")

    return _play(book, work, "native asyncio: timeout")


@scene(laws={1, 7, 8}, kinds={"native asyncio: TaskGroup"}, backends=("asyncio",))
def asyncio_task_group_in_a_tool(book: Book) -> Play:
    async def work() -> str:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_part(seconds, f"{seconds}")) for seconds in (0.2, 0.4)]
        return " ".join(task.result() for task in tasks)

    return _play(book, work, "native asyncio: TaskGroup")
