"""agentrun itself."""

from __future__ import annotations

import asyncio
from typing import Any

from agentrun import Agent, RunConfig, open_run
from agentrun.events import TextDelta, ToolEnded
from agentrun.models import OpenAIResponsesModel

from ..contest.driver import Driver, Handle, Script, Seen, Tool
from .own_sc_floor import played


class DRIVER(Driver):
    """Watched through `ActiveRun.events`."""

    name = "agentrun"
    package = "agentrun"
    imports = "from agentrun import Agent, run, open_run, tool"

    def agent(self, model: Script | str, tool: Tool) -> Any:
        if isinstance(model, str):
            return Agent("bench", tools=[tool], model=OpenAIResponsesModel("m", api_key="k", base_url=model))
        return Agent("bench", tools=[tool], model=played(model))

    async def run(self, agent: Any) -> Seen:
        async with open_run(agent, "Go.", config=RunConfig(max_turns=None)) as live:
            return await _watched(live)

    def start(self, agent: Any) -> Handle:
        return _Run(agent)


async def _watched(live: Any) -> Seen:
    seen = Seen()
    async for event in live.events():
        if type(event) is TextDelta:
            seen.texts.append(event.text)
        elif type(event) is ToolEnded and event.status == "completed":
            seen.outputs.append(str(event.output))
    return seen


class _Run(Handle):
    def __init__(self, agent: Any) -> None:
        self._live: Any = None
        self._task = asyncio.ensure_future(self._drive(agent))

    async def _drive(self, agent: Any) -> None:
        async with open_run(agent, "Go.", config=RunConfig(max_turns=None)) as self._live:
            await _watched(self._live)

    def stop(self) -> None:
        self._live.interrupt("stop")

    async def ended(self) -> None:
        await asyncio.wait([self._task])
