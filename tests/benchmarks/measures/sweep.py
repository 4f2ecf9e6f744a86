"""What one injected cancellation costs in a sweep of `cancel_everywhere`, beside the same program run without one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

import anyio

from agentrun.testing import cancel_everywhere

from ..harness import FLOOR, Comparison, Settings

TITLE = "an injection of a sweep, five tasks (CPU)"

_BACKENDS: tuple[Literal["asyncio", "trio"], ...] = ("asyncio", "trio")


async def _five_tasks() -> None:
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(_steps)


async def _steps() -> None:
    for _ in range(5):
        await anyio.sleep(0)


def _swept(backend: Literal["asyncio", "trio"]) -> float:
    started = time.process_time()
    report = cancel_everywhere(_five_tasks, backends=[backend])
    report.raise_if_failed()
    return (time.process_time() - started) / report.injections


def _plain(backend: str) -> float:
    started = time.process_time()
    anyio.run(_five_tasks, backend=backend)
    return time.process_time() - started


def measure(settings: Settings) -> Iterable[Comparison]:
    """Sweep five tasks on each backend that was asked for; the floor is an event loop of its own for each run."""
    rounds = settings.pick(3, 7)
    for backend in _BACKENDS:
        if backend in settings.backends:
            samples = {
                "cancel_everywhere": [_swept(backend) for _ in range(rounds)],
                FLOOR: [_plain(backend) for _ in range(rounds)],
            }
            yield Comparison("one injection", backend, samples)
