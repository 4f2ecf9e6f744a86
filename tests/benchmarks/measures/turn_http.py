"""The cost of a turn with one tool whose model is over HTTP."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

from agentrun import Agent
from agentrun.models import OpenAIResponsesModel

from ..harness import AGENTRUN, BARE, FLOOR, Aim, Comparison, Settings, compare, on_backends
from ..programs import Seen, agentrun_agent
from ..programs_http import bare_http, floor_http, new_client
from ..server import serving
from .turn import echo

TITLE = "a turn with one tool over HTTP, in runs of 10, 50 and 200 turns (CPU time of the client)"


def measure(settings: Settings) -> Iterable[Comparison]:
    """The Responses adapter against loops over httpx that encode the whole history anew in each turn.

    agentrun is measured with connections of its own, and with the floors' client.
    """
    tools = {"echo": echo}
    agent = Agent("bench", tools=[echo])
    with serving(1) as address:
        for turns in (3,) if settings.tiny else (10, 50, 200):
            rounds = settings.pick(max(1, 100 // turns), max(5, 1000 // turns))

            async def one(backend: str, turns: int = turns, rounds: int = rounds) -> Comparison:
                url = f"{address}/turns/{turns}/v1"
                async with new_client() as client:
                    own = OpenAIResponsesModel("m", api_key="k", base_url=url)
                    lent = OpenAIResponsesModel("m", api_key="k", base_url=url, client=client)
                    programs: dict[str, Callable[[], Awaitable[Seen]]] = {
                        AGENTRUN: lambda: agentrun_agent(agent, own),
                        f"{AGENTRUN}, client of the floor": lambda: agentrun_agent(agent, lent),
                        FLOOR: lambda: floor_http(client, url, tools),
                        BARE: lambda: bare_http(client, url, tools),
                    }
                    samples = await compare(programs, rounds=rounds, per=turns, clock=time.process_time)
                    wall, cpu = time.perf_counter(), time.process_time()
                    await programs[BARE]()
                    busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
                aims = [Aim(BARE, 1.0 if turns >= 200 else 1.3)]
                comparison = Comparison(f"turn over HTTP, in a run of {turns}", backend, samples, aims=aims)
                comparison.findings.append((f"share of the time in which the {BARE} was at work: {busy:.0%}", None))
                return comparison

            yield from on_backends(settings, one)
