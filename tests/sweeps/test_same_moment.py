"""A cancellation that comes in the same moment as something of the tool's own."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from agentrun import tool
from agentrun.testing import interrupt_everywhere

from .test_known_limits import ACTIONS, playing


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
async def works_beside_its_tasks() -> str:
    """Await something inside of a task group of its own, beside a task of it."""
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1)
        await anyio.sleep(0.5)
    await anyio.sleep(0.5)
    return "done"


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
