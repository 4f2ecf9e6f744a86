"""What a sweep finds and nobody has mended yet: each will be noticed when it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from agentrun import Agent, tool
from agentrun.testing import Say, interrupt_everywhere

from .stage import call, scripted

ACTIONS: Any = ["interrupt", "inject_now"]


@tool
async def times_out_in_a_task() -> str:
    """A timeout of its own in a task of its own."""

    async def part() -> None:
        with anyio.move_on_after(0.7):
            await anyio.sleep(1)

    async with anyio.create_task_group() as group:
        group.start_soon(part)
    return "done"


def playing(*tools: Any) -> Callable[[], Agent[Any, Any]]:
    """An agent that calls the tool."""
    return lambda: Agent("a", tools=tools, model=scripted(call(tools[0].name), Say("Done.")))


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            "asyncio",
            marks=pytest.mark.xfail(
                reason="anyio 4.16: a scope that timed out in a child task, and is left while its parent is cancelled, "
                "adds its count of uncancellations to the task group's scope, which belongs to another task. The group "
                "then takes the cancellation of the tool for its own, and the tool is blamed for swallowing it."
            ),
        ),
        "trio",
    ],
)
def test_a_timeout_in_a_task_of_the_tool_that_passes_in_the_same_moment_does_not_hide_the_cancellation(
    backend: Any,
) -> None:
    report = interrupt_everywhere(playing(times_out_in_a_task), "Go", backends=[backend], actions=ACTIONS)
    report.raise_if_failed()
