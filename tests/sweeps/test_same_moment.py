"""A cancellation that comes in the same moment as something of the tool's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from agentrun import Agent, tool
from agentrun.testing import Say, interrupt_everywhere

from .scenes.streams import Swallows
from .stage import Book, call, scripted

ACTIONS: Any = ["interrupt", "inject_now"]


@tool
async def times_out_natively() -> str:
    """A timeout of asyncio's."""
    try:
        async with asyncio.timeout(0.3):
            await asyncio.sleep(5)
    except TimeoutError:
        await asyncio.sleep(0.2)
    return "done"


@tool
async def times_out_in_a_task() -> str:
    """A timeout of its own in a task of its own."""

    async def part() -> None:
        with anyio.move_on_after(0.7):
            await anyio.sleep(1)

    async with anyio.create_task_group() as group:
        group.start_soon(part)
    return "done"


@tool
async def works_beside_its_tasks() -> str:
    """Await something inside of a task group of its own, beside a task of it."""
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1)
        await anyio.sleep(0.5)
    await anyio.sleep(0.5)
    return "done"


def playing(*tools: Any) -> Callable[[], Agent[Any, Any]]:
    """An agent that calls the tool."""
    return lambda: Agent("a", tools=tools, model=scripted(call(tools[0].name), Say("Done.")))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_timeout_in_a_task_of_the_tool_that_passes_in_the_same_moment_does_not_hide_the_cancellation(
    backend: Any,
) -> None:
    report = interrupt_everywhere(playing(times_out_in_a_task), "Go", backends=[backend], actions=ACTIONS)
    report.raise_if_failed()


@pytest.mark.parametrize("backend", ["asyncio"])
def test_a_native_timeout_that_passes_in_the_same_moment_does_not_hide_the_cancellation(backend: Any) -> None:
    report = interrupt_everywhere(playing(times_out_natively), "Go", backends=[backend], actions=ACTIONS)
    report.raise_if_failed()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_tool_that_awaits_inside_of_its_own_task_group_is_cancelled_in_every_schedule(backend: Any) -> None:
    for seed in range(4):
        report = interrupt_everywhere(
            playing(works_beside_its_tasks), "Go", backends=[backend], actions=ACTIONS, seed=seed
        )
        report.raise_if_failed()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stream_that_swallows_its_cancellation_at_the_end_of_a_sleep_is_reported(backend: Any) -> None:
    models: list[Swallows] = []

    def make() -> Agent[Any, Any]:
        models.append(Swallows(Book(), Say("One moment.", chunks=3, delay=0.1)))
        return Agent("a", model=models[-1])

    def reported(record: Any) -> None:
        if record.live is not None:
            told = record.live.result.teardown.swallowed_cancellations
            assert len(told) == models[-1].swallowed

    report = interrupt_everywhere(make, "Go", backends=[backend], actions=ACTIONS, tidy=False, oracle=reported)
    report.raise_if_failed()


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_tool_that_swallows_its_cancellation_at_the_end_of_a_sleep_is_reported_and_its_hook_called(
    backend: Any, goes_on: bool
) -> None:
    swallowed: list[str] = []
    called: list[str] = []

    def make() -> Agent[Any, Any]:
        swallowed.clear()
        called.clear()

        async def hook() -> None:
            called.append("hook")

        @tool(on_cancel=hook)
        async def stubborn() -> str:
            """Keep a cancellation to itself."""
            try:
                await anyio.sleep(0.3)
            except anyio.get_cancelled_exc_class():
                swallowed.append("tool stubborn (stubborn)")
            else:
                return "done"
            if goes_on:
                await anyio.sleep(0.1)
                await anyio.sleep(0.1)
            return "never mind"

        return playing(stubborn)()

    def reported(record: Any) -> None:
        if record.live is not None:
            assert record.live.result.teardown.swallowed_cancellations == swallowed
            assert called or not swallowed

    report = interrupt_everywhere(make, "Go", backends=[backend], actions=ACTIONS, tidy=False, oracle=reported)
    report.raise_if_failed()


@pytest.mark.parametrize("shield", ["for ever", "for as long", "for as long, with an error"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancellation_that_comes_with_the_end_of_a_shielded_sleep_is_told_at_the_next_await(
    backend: Any, shield: str
) -> None:
    @tool
    async def sleeps() -> str:
        """Sleep where no cancellation comes in, and then where one does."""
        try:
            with (
                anyio.CancelScope(shield=True)
                if shield == "for ever"
                else anyio.move_on_after(0.3, shield=True)
                if shield == "for as long"
                else anyio.fail_after(0.3, shield=True)
            ):
                await anyio.sleep(0.3)
        except TimeoutError:
            pass
        await anyio.sleep(0.3)
        return "done"

    def told(record: Any) -> None:
        if record.live is not None and record.live.result.status == "interrupted":
            assert record.live.result.teardown.swallowed_cancellations == []

    report = interrupt_everywhere(playing(sleeps), "Go", backends=[backend], actions=ACTIONS, oracle=told)
    report.raise_if_failed()
