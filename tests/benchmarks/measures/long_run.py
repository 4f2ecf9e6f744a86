"""A run of 5,000 turns ends."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agentrun import Agent

from ..harness import AGENTRUN, FLOOR, Comparison, Settings, compare, on_backends
from ..programs import Seen, agentrun_agent, sc_floor, tool_turns
from .turn import echo

TITLE = "a run of 5000 turns with one tool call each (CPU time of the whole run)"


def measure(settings: Settings) -> Iterable[Comparison]:
    """Once or twice: what counts is that it ends, and with all outputs."""
    turns = settings.pick(5000, 5000, tiny=20)
    agent = Agent("bench", tools=[echo])

    async def one(backend: str) -> Comparison:
        async def expected() -> Seen:
            return "done", tuple(f"{number}.0" for number in range(turns))

        samples = await compare(
            {
                AGENTRUN: lambda: agentrun_agent(agent, tool_turns(turns, 1)),
                FLOOR: lambda: sc_floor(tool_turns(turns, 1), {"echo": echo}),
                "what must come": expected,
            },
            rounds=settings.pick(1, 3),
            clock=time.process_time,
            warm=settings.quick,
        )
        del samples["what must come"]
        findings: list[tuple[str, bool | None]] = [(f"a run of {turns} turns ended with every output", True)]
        return Comparison(f"run of {turns} turns", backend, samples, findings=findings)

    yield from on_backends(settings, one)
