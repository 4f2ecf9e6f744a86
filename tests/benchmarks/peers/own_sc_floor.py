"""The least that structured concurrency costs: a task group and a memory object stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import anyio

from agentrun import ToolCall
from agentrun.events import TextDelta
from agentrun.models import Model, ModelEvent

from ..contest.driver import Call, Driver, Handle, Script, Seen, Tool
from ..programs import Source, sc_floor_parts
from ..programs_http import floor_http_parts, new_client


def played(script: Script) -> Model:
    """The script as a model of agentrun, which the floors read, too."""

    async def play(_: int) -> AsyncGenerator[ModelEvent, None]:
        async for part in script.play():
            yield ToolCall(part.call_id, part.tool, part.arguments) if isinstance(part, Call) else TextDelta(part)

    return Source(play)


class ScopeHandle(Handle):
    """A run in a cancel scope of its own."""

    def __init__(self, run: Any) -> None:
        self._scope = anyio.CancelScope()
        self._task = asyncio.ensure_future(self._drive(run))

    async def _drive(self, run: Any) -> None:
        with self._scope:
            await run

    def stop(self) -> None:
        self._scope.cancel()

    async def ended(self) -> None:
        await asyncio.wait([self._task])


class DRIVER(Driver):
    """`programs.sc_floor`."""

    name = "SC floor"
    package = "anyio"
    imports = "import anyio, httpx, pydantic"

    def agent(self, model: Script | str, tool: Tool) -> Any:
        tools = {tool.__name__: tool}
        return (model, new_client(), tools) if isinstance(model, str) else (played(model), None, tools)

    async def run(self, agent: Any) -> Seen:
        model, client, tools = agent
        if client is None:
            return Seen(*await sc_floor_parts(model, tools))
        return Seen(*await floor_http_parts(client, model, tools))

    def start(self, agent: Any) -> Handle:
        return ScopeHandle(self.run(agent))
