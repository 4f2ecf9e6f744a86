"""A thousand runs at once whose model is over HTTP."""

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

TITLE = "1000 concurrent runs over HTTP, one tool call and an answer each, all connections open at once (CPU time)"


def measure(settings: Settings) -> Iterable[Comparison]:
    """Both requests of each run are answered when those of all runs have come.

    The floors share one client of httpx, without limits. agentrun is measured with the same client, and with the one
    that it makes itself; what this one costs to open and close is part of it.
    """
    runs, rounds = settings.pick(200, 1000, tiny=3), settings.pick(3, 5)
    tools = {"echo": echo}
    agent = Agent("bench", tools=[echo])

    async def together(run: Callable[[], Awaitable[Seen]]) -> list[Seen]:
        seen: list[Seen] = []

        async def one() -> None:
            seen.append(await run())

        async with anyio.create_task_group() as tasks:
            for _ in range(runs):
                tasks.start_soon(one)
        return seen

    with serving(1) as address:

        async def cpu(backend: str) -> Comparison:
            url = f"{address}/meet/{runs}/turns/1/v1"

            async def on_httpx(run: str) -> list[Seen]:
                # A client for each round: none inherits open connections from another.
                async with new_client() as client:
                    if run == BARE:
                        return await together(lambda: bare_http(client, url, tools))
                    if run == FLOOR:
                        return await together(lambda: floor_http(client, url, tools))
                    model = OpenAIResponsesModel(
                        "m", api_key="k", base_url=url, client=client, max_connections=None, first_token_timeout=None
                    )
                    return await together(lambda: agentrun_agent(agent, model))

            async def on_its_own() -> list[Seen]:
                model = OpenAIResponsesModel("m", api_key="k", base_url=url, max_connections=None)
                return await together(lambda: agentrun_agent(agent, model))

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
