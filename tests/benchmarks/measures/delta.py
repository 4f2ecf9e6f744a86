"""The cost of one streamed delta, in process."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agentrun import Agent, run

from ..harness import AGENTRUN, BARE, FLOOR, Aim, Comparison, Settings, compare, on_backends
from ..programs import Seen, agentrun_run, bare_loop, sc_floor, talking

TITLE = "one streamed delta, in process (CPU time; the run itself is part of it, spread over all deltas)"


def measure(settings: Settings) -> Iterable[Comparison]:
    """Deltas that come in bunches (the source never waits), and deltas that come one by one."""
    count, rounds = settings.pick(2000, 10000, tiny=5), settings.pick(5, 15)

    for waits in (False, True):

        async def one(backend: str, waits: bool = waits) -> Comparison:
            async def unwatched() -> Seen:
                result = await run(Agent("bench", model=talking(count, waits=waits)), "Go.")
                return str(result.output), ()

            samples = await compare(
                {
                    AGENTRUN: lambda: agentrun_run(talking(count, waits=waits)),
                    f"{AGENTRUN}, nobody watches": unwatched,
                    FLOOR: lambda: sc_floor(talking(count, waits=waits)),
                    BARE: lambda: bare_loop(talking(count, waits=waits)),
                },
                rounds=rounds,
                per=count,
                clock=time.process_time,
            )
            what = "delta, source waits before each" if waits else "delta, source never waits"
            return Comparison(what, backend, samples, aims=[Aim(FLOOR, 0.5 if not waits else 1.0)])

        yield from on_backends(settings, one)
