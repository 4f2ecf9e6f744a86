"""The cost of a turn with one tool, and of each further tool call beside it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agentrun import Agent

from ..harness import AGENTRUN, BARE, FLOOR, LEAN, Aim, Comparison, Settings, compare, on_backends
from ..programs import agentrun_agent, bare_loop, sc_floor, tool_turns

TITLE = "a turn in which the model calls one tool, and each further call in the same turn (CPU time)"

_CALLS = 33


async def echo(text: str) -> str:
    """Say the same."""
    return text


_TOOLS = {"echo": echo}


def measure(settings: Settings) -> Iterable[Comparison]:
    """Turns with one call; turns with many calls, less those with one, for each of the others."""
    turns, rounds = settings.pick(20, 100, tiny=2), settings.pick(5, 15)
    agent = Agent("bench", tools=[echo])

    async def samples(calls: int, per: int) -> dict[str, list[float]]:
        return await compare(
            {
                AGENTRUN: lambda: agentrun_agent(agent, tool_turns(turns, calls)),
                FLOOR: lambda: sc_floor(tool_turns(turns, calls), _TOOLS),
                LEAN: lambda: sc_floor(tool_turns(turns, calls), _TOOLS, lean=True),
                BARE: lambda: bare_loop(tool_turns(turns, calls), _TOOLS),
            },
            rounds=rounds,
            per=per,
            clock=time.process_time,
        )

    async def one(backend: str) -> Comparison:
        return Comparison("turn with one tool call", backend, await samples(1, turns), aims=[Aim(FLOOR, 2.5)])

    async def further(backend: str) -> Comparison:
        single, many = await samples(1, turns), await samples(_CALLS, turns)
        more = {
            program: [(b - a) / (_CALLS - 1) for a, b in zip(single[program], many[program], strict=True)]
            for program in many
        }
        return Comparison("each further parallel call", backend, more, aims=[Aim(FLOOR, 1.0)])

    yield from on_backends(settings, one)
    yield from on_backends(settings, further)
