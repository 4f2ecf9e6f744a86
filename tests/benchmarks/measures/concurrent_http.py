"""A thousand runs at once whose model is over HTTP, and a hundred with long histories."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

import anyio

from agentrun import Agent
from agentrun.models import OpenAIResponsesModel

from ..harness import AGENTRUN, BARE, FLOOR, Aim, Comparison, Settings, compare, on_backends
from ..programs import Seen, agentrun_agent
from ..programs_http import bare_http, floor_http, new_client
from ..server import serving
from .turn import echo

TITLE = "many runs at once over HTTP, all connections open at the same time (CPU time)"


def measure(settings: Settings) -> Iterable[Comparison]:
    """Both requests of each run are answered when those of all runs have come.

    The floors share one client of httpx, without limits. agentrun is measured with the same client, and with the one
    that it makes itself; what this one costs to open and close is part of it.
    """
    runs, rounds = settings.pick(100, 1000, tiny=3), settings.pick(2, 5)
    tools = {"echo": echo}
    agent = Agent("bench", tools=[echo])

    with serving(1) as address:

        async def cpu(backend: str) -> Comparison:
            url = f"{address}/meet/{runs}/turns/1/v1"

            async def on_httpx(run: str) -> list[Seen]:
                # A client for each round: none inherits open connections from another.
                async with new_client() as client:
                    if run == BARE:
                        return await _together(runs, lambda: bare_http(client, url, tools))
                    if run == FLOOR:
                        return await _together(runs, lambda: floor_http(client, url, tools))
                    model = OpenAIResponsesModel(
                        "m", api_key="k", base_url=url, client=client, max_connections=None, first_token_timeout=None
                    )
                    return await _together(runs, lambda: agentrun_agent(agent, model))

            async def on_its_own() -> list[Seen]:
                model = OpenAIResponsesModel("m", api_key="k", base_url=url, max_connections=None)
                return await _together(runs, lambda: agentrun_agent(agent, model))

            samples = await compare(
                {
                    AGENTRUN: on_its_own,
                    f"{AGENTRUN}, client of the floor": lambda: on_httpx(AGENTRUN),
                    FLOOR: lambda: on_httpx(FLOOR),
                    BARE: lambda: on_httpx(BARE),
                },
                rounds=rounds,
                per=runs,
                clock=time.process_time,
            )
            return Comparison(f"CPU time for each of {runs} runs", backend, samples, aims=[Aim(BARE, 1.0)])

        yield from on_backends(settings, cpu)
        yield from _conversations(settings, address)


def _conversations(settings: Settings, address: str) -> Iterable[Comparison]:
    """More long histories than anybody keeps for one model: each is encoded once all the same."""
    runs, turns, rounds = settings.pick(25, 100, tiny=3), settings.pick(10, 30, tiny=2), settings.pick(1, 3)
    tools = {"echo": echo}
    agent = Agent("bench", tools=[echo])
    url = f"{address}/turns/{turns}/v1"

    async def cpu(backend: str) -> Comparison:
        async with new_client() as client:
            model = OpenAIResponsesModel("m", api_key="k", base_url=url, max_connections=None)
            samples = await compare(
                {
                    AGENTRUN: lambda: _together(runs, lambda: agentrun_agent(agent, model)),
                    FLOOR: lambda: _together(runs, lambda: floor_http(client, url, tools)),
                    BARE: lambda: _together(runs, lambda: bare_http(client, url, tools)),
                },
                rounds=rounds,
                per=runs * turns,
                clock=time.process_time,
            )
        return Comparison(f"a turn of {runs} runs of {turns} turns at once", backend, samples, aims=[Aim(BARE, 1.0)])

    yield from on_backends(settings, cpu)


async def _together(runs: int, run: Callable[[], Awaitable[Seen]]) -> list[Seen]:
    seen: list[Seen] = []

    async def one() -> None:
        seen.append(await run())

    async with anyio.create_task_group() as tasks:
        for _ in range(runs):
            tasks.start_soon(one)
    return seen
