"""A thousand runs at once: CPU time and memory for each."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable

import anyio

from agentrun import Agent
from agentrun.models import Model

from ..harness import AGENTRUN, BARE, FLOOR, Comparison, Settings, compare, on_backends
from ..programs import Seen, Tools, agentrun_agent, bare_loop, sc_floor, tool_turns

TITLE = "1000 concurrent runs, each with one tool call and an answer, all in their tools at the same time"

_Run = Callable[[Model, Tools], Awaitable[Seen]]


class _Gate:
    """A tool in which all runs meet: none goes on before the last has come."""

    def __init__(self, runs: int) -> None:
        self._missing = runs
        self._open = anyio.Event()
        self.memory = 0

    async def echo(self, text: str) -> str:
        """Say the same, once all have come."""
        self._missing -= 1
        if not self._missing:
            if tracemalloc.is_tracing():
                self.memory = tracemalloc.get_traced_memory()[0]
            self._open.set()
        await self._open.wait()
        return text


async def _together(run: _Run, runs: int) -> tuple[float, list[Seen]]:
    """Returns the bytes that were in use with all runs alive, if they are traced, and what the runs gave."""
    gate = _Gate(runs)
    seen: list[Seen] = []

    async def one() -> None:
        seen.append(await run(tool_turns(1, 1), {"echo": gate.echo}))

    async with anyio.create_task_group() as tasks:
        for _ in range(runs):
            tasks.start_soon(one)
    return float(gate.memory), seen


def measure(settings: Settings) -> Iterable[Comparison]:
    """CPU time, then memory with all runs alive, then what reference counting leaves to the garbage collector."""
    runs, rounds = 1000, settings.pick(3, 9)

    def programs() -> dict[str, _Run]:
        agents: dict[int, Agent] = {}

        async def with_agentrun(model: Model, tools: Tools) -> Seen:
            # One agent serves all runs, as it would in a server.
            key = id(tools["echo"].__self__)  # type: ignore[attr-defined]
            if key not in agents:
                agents.clear()
                agents[key] = Agent("bench", tools=list(tools.values()))
            return await agentrun_agent(agents[key], model)

        return {AGENTRUN: with_agentrun, FLOOR: sc_floor, BARE: bare_loop}

    async def cpu(backend: str) -> Comparison:
        async def results(run: _Run) -> list[Seen]:
            return (await _together(run, runs))[1]

        samples = await compare(
            {name: (lambda run=run: results(run)) for name, run in programs().items()},  # type: ignore[misc]
            rounds=rounds,
            per=runs,
            clock=time.process_time,
        )
        return Comparison("CPU time for each run", backend, samples)

    async def memory(backend: str) -> Comparison:
        samples: dict[str, list[float]] = {}
        findings: list[tuple[str, bool | None]] = []
        for name, run in programs().items():
            await _together(run, runs)
            gc.collect()
            gc.disable()
            try:
                tracemalloc.start()
                used, _ = await _together(run, runs)
            finally:
                tracemalloc.stop()
                gc.enable()
            samples[name] = [used / runs]
            left = gc.collect() / runs
            findings.append((f"{name}: {left:.1f} objects of each run are left to the garbage collector", None))
        return Comparison("memory for each live run", backend, samples, unit="B", findings=findings)

    yield from on_backends(settings, cpu)
    yield from on_backends(settings, memory)
