"""How long it takes to stop runs that are in their tools: one, and 500 at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeAlias

import anyio
import anyio.lowlevel

from agentrun import Agent, RunConfig, open_run

from ..harness import AGENTRUN, BARE, FLOOR, Aim, Comparison, Settings, compare, on_backends
from ..programs import bare_loop, sc_floor, tool_turns

TITLE = "runs in a tool that hangs: from the order to stop until all are back, every cleanup finished (wall clock)"

_RUNS = 500

_Stop: TypeAlias = Callable[[], object]
_Result: TypeAlias = tuple[float, tuple[int, int]]


class _Hanging:
    """A tool that hangs until it is cancelled, and then cleans up with an await."""

    def __init__(self) -> None:
        self.begun = 0
        self.cleaned = 0

    async def hang(self, text: str) -> str:
        """Wait for ever."""
        self.begun += 1
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.cleaned += 1
        return text


async def _agentrun(runs: int) -> _Result:
    tool = _Hanging()
    agent = Agent("bench", tools=[tool.hang])
    stops: list[_Stop] = []

    async def one() -> None:
        config = RunConfig(model=tool_turns(1, 1, "hang"), max_turns=None)
        async with open_run(agent, "Go.", config=config) as live:
            stops.append(lambda: live.interrupt("stop"))
            async for _ in live.events():
                pass
            result = await live.wait()
        assert result.status == "interrupted"
        assert result.teardown.clean

    return await _stopped(runs, tool, one, stops)


async def _by_scope(runs: int, loop: Callable[..., object]) -> _Result:
    tool = _Hanging()
    stops: list[_Stop] = []

    async def one() -> None:
        with anyio.CancelScope() as scope:
            stops.append(scope.cancel)
            await loop(tool_turns(1, 1, "hang"), {"hang": tool.hang})  # type: ignore[misc]
        assert scope.cancelled_caught

    return await _stopped(runs, tool, one, stops)


async def _stopped(runs: int, tool: _Hanging, one: Callable[[], object], stops: list[_Stop]) -> _Result:
    async with _started(runs, tool, one):
        started = time.perf_counter()
        for stop in stops:
            stop()
    # The block of the task group has ended: all are back.
    return time.perf_counter() - started, (tool.begun, tool.cleaned)


@contextlib.asynccontextmanager
async def _started(runs: int, tool: _Hanging, one: Callable[[], object]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for _ in range(runs):
            tasks.start_soon(one)  # type: ignore[arg-type]
        while tool.begun < runs:
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        yield


def measure(settings: Settings) -> Iterable[Comparison]:
    """Each run is stopped by a handle of its own; the programs agree on how many tools cleaned up."""

    async def of(backend: str, runs: int, rounds: int, aim: float) -> Comparison:
        samples = await compare(
            {
                AGENTRUN: lambda: _agentrun(runs),
                FLOOR: lambda: _by_scope(runs, sc_floor),
                BARE: lambda: _by_scope(runs, bare_loop),
                "all that began": lambda: _expected(runs),
            },
            rounds=rounds,
            own_clock=True,
        )
        del samples["all that began"]
        what = "stop of one run, p50" if runs == 1 else f"stop of {runs} runs at once"
        return Comparison(what, backend, samples, aims=[Aim(FLOOR, aim)])

    async def one(backend: str) -> Comparison:
        return await of(backend, 1, settings.pick(30, 200), 2.0)

    async def many(backend: str) -> Comparison:
        return await of(backend, settings.pick(_RUNS, _RUNS, tiny=5), settings.pick(3, 9), 1.5)

    yield from on_backends(settings, one)
    yield from on_backends(settings, many)


async def _expected(runs: int) -> _Result:
    return 0.0, (runs, runs)
