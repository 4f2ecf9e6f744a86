"""Whether a turn costs the same however many came before it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable

from agentrun import Agent

from ..harness import AGENTRUN, FLOOR, Comparison, Settings, compare, growth, on_backends
from ..programs import agentrun_agent, sc_floor, tool_turns
from .turn import echo

TITLE = "a turn with one tool, in runs of 10 to 800 turns (CPU time): must not grow"

_TURNS = (10, 50, 200, 800)
_NAMES = (AGENTRUN, FLOOR)
_FLAT = 0.05  # an exponent up to this is noise: linear growth would be 1


def measure(settings: Settings) -> Iterable[Comparison]:
    """The same turn in longer and longer runs, and the exponent of its growth.

    What a run costs that has one turn is taken off: spread over few turns, it would hide a growth.
    """
    rounds = settings.pick(5, 15)
    all_turns = (2, 3) if settings.tiny else _TURNS
    agent = Agent("bench", tools=[echo])

    async def of(turns: int, *, warm: bool = True) -> dict[str, list[float]]:
        return await compare(
            {
                AGENTRUN: lambda: agentrun_agent(agent, tool_turns(turns, 1)),
                FLOOR: lambda: sc_floor(tool_turns(turns, 1), {"echo": echo}),
            },
            rounds=1,
            clock=time.process_time,
            warm=warm,
        )

    async def one(backend: str) -> Comparison:
        samples: dict[str, list[float]] = {f"{name}, {turns} turns": [] for turns in all_turns for name in _NAMES}
        exponents: dict[str, list[float]] = {name: [] for name in _NAMES}
        await of(all_turns[-1], warm=False)
        for _ in range(rounds):
            first = await of(1)
            costs: dict[str, list[float]] = {name: [] for name in _NAMES}
            for turns in all_turns:
                for name, (value,) in (await of(turns)).items():
                    cost = (value - first[name][0]) / (turns - 1)
                    costs[name].append(cost)
                    samples[f"{name}, {turns} turns"].append(cost)
            for name in _NAMES:
                exponents[name].append(growth(all_turns, costs[name]))
        comparison = Comparison("turn in a run of so many turns", backend, samples)
        for name in _NAMES:
            exponent = statistics.median(exponents[name])
            text = f"{name}: cost per turn grows as turns ** {exponent:+.3f}"
            aim = name == AGENTRUN and backend == "asyncio"
            met = exponent <= _FLAT if aim else None
            comparison.findings.append((text + (f" (aim: at most {_FLAT})" if aim else ""), met))
        return comparison

    yield from on_backends(settings, one)
