"""How long it takes from an interrupt until everything has been torn down."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeAlias

import anyio
import anyio.lowlevel
import httpx

from agentrun import Agent, ToolCall, open_run
from agentrun.events import TextDelta
from agentrun.models import Model, ModelEvent, OpenAIResponsesModel

from ..harness import AGENTRUN, FLOOR, Aim, Comparison, Settings, compare, on_backends
from ..programs import Source, deltas
from ..server import serving
from .http import pieces_of

TITLE = "from the interrupt to the end of the block, median (wall clock)"

_TOOLS = 10
_DELTAS = 5  # as many as the server sends before it hangs


class _Tools:
    """Tools that hang until they are cancelled, and then clean up."""

    def __init__(self) -> None:
        self.cleaned = 0

    async def hang(self) -> None:
        """Wait for ever."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.cleaned += 1


_Send: TypeAlias = Callable[[object], Awaitable[None]]
_Work: TypeAlias = Callable[[_Tools, _Send], Awaitable[None]]


async def _talk_and_hang(_: int) -> AsyncGenerator[ModelEvent, None]:
    async for event in deltas(_DELTAS, waits=False):
        yield event
    await anyio.sleep_forever()


async def _call_hanging_tools(_: int) -> AsyncGenerator[ModelEvent, None]:
    await anyio.lowlevel.checkpoint()
    for index in range(_TOOLS):
        yield ToolCall(f"call_{index}", "hang", "{}")


async def _agentrun(model: Model, *, texts: int) -> tuple[float, tuple[int, int]]:
    """Returns the seconds, and how many deltas were seen and tools cleaned up."""
    tools = _Tools()
    seen = 0
    async with anyio.create_task_group() as tasks:
        async with open_run(Agent("bench", tools=[tools.hang], model=model), "Go.") as live:

            async def watch() -> None:
                nonlocal seen
                async for event in live.events():
                    seen += type(event) is TextDelta

            tasks.start_soon(watch)
            while seen < texts:
                await anyio.sleep(0.001)
            await anyio.wait_all_tasks_blocked()
            started = time.perf_counter()
            live.interrupt("stop")
            result = await live.wait()
        seconds = time.perf_counter() - started
    assert result.status == "interrupted"
    assert result.teardown.clean
    return seconds, (seen, tools.cleaned)


async def _floor(work: _Work, *, texts: int) -> tuple[float, tuple[int, int]]:
    tools = _Tools()
    seen = 0
    async with anyio.create_task_group() as watching:
        send, receive = anyio.create_memory_object_stream[object](1024)

        async def watch() -> None:
            nonlocal seen
            async with receive:
                async for _ in receive:
                    seen += 1

        async def drive() -> None:
            async with send:
                await work(tools, send.send)

        watching.start_soon(watch)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drive)
            while seen < texts:
                await anyio.sleep(0.001)
            await anyio.wait_all_tasks_blocked()
            started = time.perf_counter()
            tasks.cancel_scope.cancel()
        seconds = time.perf_counter() - started
    return seconds, (seen, tools.cleaned)


async def _floor_stream(tools: _Tools, send: _Send) -> None:
    events = _talk_and_hang(0)
    try:
        async for event in events:
            await send(event)
    finally:
        await events.aclose()


async def _floor_tools(tools: _Tools, send: _Send) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(_TOOLS):
            group.start_soon(tools.hang)


def measure(settings: Settings) -> Iterable[Comparison]:
    """A model stream that hangs, ten tools that hang, an HTTP response that hangs."""
    rounds = settings.pick(20, 100)

    async def stream(backend: str) -> Comparison:
        samples = await compare(
            {
                AGENTRUN: lambda: _agentrun(Source(_talk_and_hang), texts=_DELTAS),
                FLOOR: lambda: _floor(_floor_stream, texts=_DELTAS),
            },
            rounds=rounds,
            own_clock=True,
        )
        return Comparison("a model stream in the process", backend, samples, aims=[Aim(FLOOR, 2.0)])

    async def tools(backend: str) -> Comparison:
        samples = await compare(
            {
                AGENTRUN: lambda: _agentrun(Source(_call_hanging_tools), texts=0),
                FLOOR: lambda: _floor(_floor_tools, texts=0),
            },
            rounds=rounds,
            own_clock=True,
        )
        return Comparison(f"{_TOOLS} tools that clean up", backend, samples)

    with serving(_DELTAS) as url:

        async def http(backend: str) -> Comparison:
            async with httpx.AsyncClient(verify=False) as client:
                model = OpenAIResponsesModel("m", api_key="k", base_url=f"{url}/hang/v1")

                async def floor_http(tools: _Tools, send: _Send) -> None:
                    pieces = pieces_of(client, f"{url}/hang/v1")
                    try:
                        async for piece in pieces:
                            await send(piece)
                    finally:
                        await pieces.aclose()

                samples = await compare(
                    {
                        AGENTRUN: lambda: _agentrun(model, texts=_DELTAS),
                        FLOOR: lambda: _floor(floor_http, texts=_DELTAS),
                    },
                    rounds=rounds,
                    own_clock=True,
                )
            return Comparison("a model stream over HTTP", backend, samples)

        yield from on_backends(settings, stream)
        yield from on_backends(settings, tools)
        yield from on_backends(settings, http)
