"""Thousands of runs at once: CPU time and memory for each."""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeAlias

import anyio
import anyio.lowlevel

from agentrun import Agent, ToolCall
from agentrun.models import Model, ModelEvent

from ..harness import AGENTRUN, BARE, FLOOR, LEAN, Aim, Comparison, Settings, compare, on_backends
from ..programs import Seen, Source, Tools, agentrun_agent, bare_loop, deltas, sc_floor

TITLE = "1000 concurrent runs, each with one tool call and an answer, all in their tools at the same time"

_Run: TypeAlias = Callable[[Model, Tools], Awaitable[Seen]]
_DELTAS = 100
_KIB_AT_MOST = 24.0
_MORE_AT_MOST = 1.2  # times as much a run when there are five times as many


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


def _model(count: int) -> Model:
    """One tool call, and then an answer of ``count`` deltas that come one by one."""

    async def play(number: int) -> AsyncGenerator[ModelEvent, None]:
        await anyio.lowlevel.checkpoint()
        if number == 0:
            yield ToolCall("call_0_0", "echo", '{"text": "0.0"}')
            return
        async for delta in deltas(count, waits=count > 1):
            yield delta

    return Source(play)


async def _together(run: _Run, runs: int, count: int = 1) -> tuple[float, list[Seen]]:
    """Returns the bytes that were in use with all runs alive, if they are traced, and what the runs gave."""
    gate = _Gate(runs)
    seen: list[Seen] = []

    async def one() -> None:
        seen.append(await run(_model(count), {"echo": gate.echo}))

    async with anyio.create_task_group() as tasks:
        for _ in range(runs):
            tasks.start_soon(one)
    return float(gate.memory), seen


def measure(settings: Settings) -> Iterable[Comparison]:
    """CPU time, then memory with all runs alive, then what reference counting leaves to the garbage collector."""
    # Many rounds: two programs that cost nearly the same are told apart, while the machine is busy with others, too.
    runs, rounds = settings.pick(250, 1000, tiny=5), settings.pick(3, 27)

    def programs() -> dict[str, _Run]:
        agents: dict[int, Agent] = {}

        async def with_agentrun(model: Model, tools: Tools) -> Seen:
            # One agent serves all runs, as it would in a server.
            key = id(tools["echo"].__self__)  # type: ignore[attr-defined]
            if key not in agents:
                agents.clear()
                agents[key] = Agent("bench", tools=list(tools.values()))
            return await agentrun_agent(agents[key], model)

        async def lean(model: Model, tools: Tools) -> Seen:
            return await sc_floor(model, tools, lean=True)

        return {AGENTRUN: with_agentrun, FLOOR: sc_floor, LEAN: lean, BARE: bare_loop}

    async def cpu_of(runs: int, count: int, rounds: int, *, collecting: bool = False) -> dict[str, list[float]]:
        async def results(run: _Run) -> list[Seen]:
            return (await _together(run, runs, count))[1]

        return await compare(
            {name: (lambda run=run: results(run)) for name, run in programs().items()},  # type: ignore[misc]
            rounds=rounds,
            per=runs,
            clock=time.process_time,
            collecting=collecting,
        )

    async def cpu(backend: str) -> Comparison:
        samples = await cpu_of(runs, 1, rounds)
        return Comparison("CPU time for each run", backend, samples, aims=[Aim(FLOOR, 1.0)])

    async def collecting(backend: str) -> Comparison:
        # With thousands of runs alive, each collection walks all that they hold; and what is left to it counts, too.
        samples = await cpu_of(runs, 1, rounds, collecting=True)
        return Comparison("the same, garbage collector on", backend, samples, aims=[Aim(FLOOR, 1.0)])

    async def streaming(backend: str) -> Comparison:
        samples = await cpu_of(runs, _DELTAS, settings.pick(1, 5))
        return Comparison(f"the same, {_DELTAS} deltas each", backend, samples, aims=[Aim(FLOOR, 1.0)])

    async def five_times(backend: str, *, collecting: bool, aim: bool) -> Comparison:
        # In turns with a fifth of them, so that whatever slows the machine down slows both.
        samples: dict[str, list[float]] = {}
        ratios: dict[str, list[float]] = {}
        runs = settings.pick(100, 1000, tiny=5)
        for _ in range(settings.pick(1, 5)):
            few = await cpu_of(runs, 1, 1, collecting=collecting)
            many = await cpu_of(5 * runs, 1, 1, collecting=collecting)
            for name, values in many.items():
                samples.setdefault(name, []).extend(values)
                ratios.setdefault(name, []).append(values[0] / few[name][0])
        ratio, floor = statistics.median(ratios[AGENTRUN]), statistics.median(ratios[FLOOR])
        text = f"{ratio:.2f} times as much a run as with {runs}, the floor {floor:.2f} times"
        text += f" (aim: at most {_MORE_AT_MOST})" if aim else ""
        what = "the same of so many, garbage collector on" if collecting else f"CPU time for each of {5 * runs} runs"
        return Comparison(what, backend, samples, findings=[(text, ratio <= _MORE_AT_MOST if aim else None)])

    async def more(backend: str) -> Comparison:
        return await five_times(backend, collecting=False, aim=backend == "asyncio")

    async def more_collecting(backend: str) -> Comparison:
        # No aim: each full collection walks what all runs hold, and there are more of them the more it is.
        return await five_times(backend, collecting=True, aim=False)

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
        if backend == "asyncio":
            used = samples[AGENTRUN][0] / 1024
            findings.append((f"{used:.1f} of at most {_KIB_AT_MOST:g} KiB for each live run", used <= _KIB_AT_MOST))
        return Comparison("memory for each live run", backend, samples, unit="B", findings=findings)

    yield from on_backends(settings, cpu)
    yield from on_backends(settings, collecting)
    yield from on_backends(settings, streaming)
    yield from on_backends(settings, more)
    yield from on_backends(settings, more_collecting)
    yield from on_backends(settings, memory)
