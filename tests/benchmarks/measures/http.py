"""The cost of one streamed delta that comes over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable

import anyio
import httpx
from pydantic_core import from_json

from agentrun import Agent, run
from agentrun.models import OpenAIResponsesModel

from ..harness import AGENTRUN, BARE, FLOOR, Aim, Comparison, Settings, compare, on_backends
from ..programs import Seen, agentrun_run
from ..server import expected_text, serving

TITLE = "one streamed delta over HTTP, from a loopback server in another process (CPU time of the client)"


def measure(settings: Settings) -> Iterable[Comparison]:
    """The Responses adapter against loops over httpx that split the lines by hand."""
    count, rounds = settings.pick(500, 2000, tiny=5), settings.pick(5, 15)
    with serving(count) as url:

        async def one(backend: str) -> Comparison:
            async with httpx.AsyncClient(verify=False) as client:
                model = OpenAIResponsesModel("m", api_key="k", base_url=f"{url}/v1")
                lent = OpenAIResponsesModel("m", api_key="k", base_url=f"{url}/v1", client=client)

                async def watched() -> Seen:
                    return await agentrun_run(model)

                async def with_client() -> Seen:
                    return await agentrun_run(lent)

                async def unwatched() -> Seen:
                    return str((await run(Agent("bench", model=model), "Go.")).output), ()

                async def bare() -> Seen:
                    return "".join([piece async for piece in pieces_of(client, f"{url}/v1")]), ()

                async def floor() -> Seen:
                    return "".join(await _watched_pieces(client, f"{url}/v1")), ()

                async def expected() -> Seen:
                    return expected_text(count), ()

                busy: dict[str, float] = {}
                programs = {
                    AGENTRUN: watched,
                    f"{AGENTRUN}, nobody watches": unwatched,
                    f"{AGENTRUN}, client of the floor": with_client,
                    FLOOR: floor,
                    BARE: bare,
                }
                samples = await compare(programs, rounds=rounds, per=count, clock=time.process_time)
                assert await expected() == await bare()
                for name in (AGENTRUN, BARE):
                    wall, cpu = time.perf_counter(), time.process_time()
                    await programs[name]()
                    busy[name] = (time.process_time() - cpu) / (time.perf_counter() - wall)
            comparison = Comparison("delta over HTTP", backend, samples, aims=[Aim(BARE, 1.35)])
            shares = ", ".join(f"{name} {share:.0%}" for name, share in busy.items())
            comparison.findings.append((f"share of the time in which the client was at work: {shares}", None))
            return comparison

        yield from on_backends(settings, one)
    yield from _in_packets(settings)


def _in_packets(settings: Settings) -> Iterable[Comparison]:
    """What comes with one read of the socket is decoded at once: here each delta comes alone."""
    count, rounds = settings.pick(100, 300, tiny=3), settings.pick(3, 9)
    with serving(count) as address:
        url = f"{address}/slowly/v1"

        async def one(backend: str) -> Comparison:
            async with httpx.AsyncClient(verify=False) as client:
                model = OpenAIResponsesModel("m", api_key="k", base_url=url)

                async def watched() -> Seen:
                    return await agentrun_run(model)

                async def bare() -> Seen:
                    return "".join([piece async for piece in pieces_of(client, url)]), ()

                async def floor() -> Seen:
                    return "".join(await _watched_pieces(client, url)), ()

                programs = {AGENTRUN: watched, FLOOR: floor, BARE: bare}
                samples = await compare(programs, rounds=rounds, per=count, clock=time.process_time)
            return Comparison("delta over HTTP, each in a packet", backend, samples, aims=[Aim(BARE, 1.35)])

        yield from on_backends(settings, one)


async def pieces_of(client: httpx.AsyncClient, url: str) -> AsyncGenerator[str, None]:
    """What one writes without a library: the deltas that the server at ``url`` sends."""
    body = {"model": "m", "stream": True, "store": False, "input": "Go."}
    async with client.stream("POST", f"{url}/responses", json=body, headers={"authorization": "Bearer k"}) as response:
        rest = b""
        async for chunk in response.aiter_bytes():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                _, _, data = event.partition(b"data: ")
                value = from_json(data)
                if value["type"] == "response.output_text.delta":
                    yield value["delta"]


async def _watched_pieces(client: httpx.AsyncClient, url: str) -> list[str]:
    send, receive = anyio.create_memory_object_stream[str](1024)

    async def produce() -> None:
        async with send:
            async for piece in pieces_of(client, url):
                await send.send(piece)

    pieces: list[str] = []
    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(produce)
        async for piece in receive:
            pieces.append(piece)  # noqa: PERF401 - as a program that shows them one by one
    return pieces
