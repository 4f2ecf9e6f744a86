"""How long `check_tool` takes for a small tool, on both backends together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import anyio

from agentrun import RunContext, tool
from agentrun.testing import SweepReport, check_tool

from ..harness import AGENTRUN, Comparison, Settings

TITLE = "check_tool on a small tool, both backends (wall clock)"

_MOST = 2.0


async def _small() -> str:
    """Work, and clean up."""
    try:
        await anyio.sleep(1)
        return "done"
    finally:
        await anyio.sleep(0.1)


@tool
def _small_sync(ctx: RunContext[None]) -> str:
    """The same in a thread."""
    try:
        ctx.check_cancelled()
        time.sleep(1)
        return "done"
    finally:
        time.sleep(0.1)


def _checked(tool: Callable[..., Any]) -> tuple[float, SweepReport]:
    started = time.perf_counter()
    report = check_tool(tool)
    return time.perf_counter() - started, report


def measure(settings: Settings) -> Iterable[Comparison]:
    """The whole check, as a test has it; the backends of the settings do not matter."""
    tools: dict[str, Callable[..., Any]] = {"the whole check": _small, "the same of a sync tool": _small_sync}
    for name, checked in tools.items():
        rounds = [_checked(checked) for _ in range(settings.pick(1, 5))]
        seconds, report = sorted(rounds, key=lambda done: done[0])[len(rounds) // 2]
        found = f"{report.injections} runs in {seconds:.2f} s; the aim is under {_MOST:g} s"
        yield Comparison(name, "both", {AGENTRUN: [took for took, _ in rounds]}, findings=[(found, seconds < _MOST)])
