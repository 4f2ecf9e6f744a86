"""`cancel_everywhere` and `check_tool` say nothing about code that is right, or that its author cannot change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from agentrun.testing import cancel_everywhere, check_tool

BACKENDS: list[Any] = ["asyncio", "trio"]
both = pytest.mark.parametrize("backend", BACKENDS)


async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        await anyio.sleep(1)
        yield number


@both
def test_a_generator_without_cleanup_may_be_left_at_its_yield(backend: Any) -> None:
    async def doubled() -> AsyncIterator[int]:
        async for number in numbers():
            yield 2 * number

    async def scenario() -> None:
        async for number in doubled():
            await anyio.sleep(1)
            if number == 2:
                break
        await anyio.sleep(1)

    cancel_everywhere(scenario, backends=[backend], second=2).raise_if_failed()


@both
@pytest.mark.parametrize("package", [httpx, httpx2], ids=lambda package: package.__name__)
@pytest.mark.parametrize("enough", [1, 3])
def test_the_lines_of_a_response_may_be_left_where_they_are_cut(backend: Any, package: Any, enough: int) -> None:
    # Closing the response is enough. The iterator is a generator around others, which nobody else could close.
    class Body(package.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for number in numbers():
                yield b"%d\n" % number

        async def aclose(self) -> None:
            await anyio.sleep(0)

    async def answer(_: Any) -> Any:
        return package.Response(200, stream=Body())

    async def scenario() -> None:
        async with package.AsyncClient(transport=package.MockTransport(answer)) as client:
            async with client.stream("GET", "http://localhost") as response:
                lines: list[str] = []
                async for line in response.aiter_lines():
                    await anyio.sleep(1)
                    lines.append(line)
                    if len(lines) == enough:
                        break
            await anyio.sleep(1)

    cancel_everywhere(scenario, backends=[backend], second=1).raise_if_failed()


def test_an_error_that_somebody_looks_at_is_no_matter_when_is_none_that_reached_nobody() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def fail() -> None:
        raise OSError("the disk is full")

    async def scenario() -> None:
        task = asyncio.ensure_future(fail())
        tasks[:] = [task]
        asyncio.ensure_future(fail()).add_done_callback(lambda done: done.exception())
        await asyncio.sleep(0)
        await asyncio.wait([task])

    def look() -> None:
        for task in tasks:
            if not task.cancelled():
                task.exception()

    cancel_everywhere(
        scenario, backends=["asyncio"], oracle=look, modes=["resuming"], ignore=["task"]
    ).raise_if_failed()


@both
def test_a_tool_that_cancels_its_own_tasks_has_swallowed_nothing(backend: Any) -> None:
    async def first() -> str:
        """The first answer wins; all must come in time."""
        won: list[str] = []
        async with anyio.create_task_group() as group:

            async def ask(name: str, seconds: float) -> None:
                await anyio.sleep(seconds)
                won.append(name)
                group.cancel_scope.cancel()

            group.start_soon(ask, "slow", 2)
            group.start_soon(ask, "quick", 1)
        with anyio.move_on_after(1):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 5)
        return won[0]

    check_tool(first, backends=[backend])
