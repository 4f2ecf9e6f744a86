"""Agents for the tests of the command line, which import this module by ``--agent scripted_agents:NAME``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from agentrun import Agent, RunContext, Usage, tool
from agentrun.events import TextDelta
from agentrun.items import AssistantMessage, ToolCall, UserMessage
from agentrun.models import ModelEvent, ModelRequest, ResponseEnded
from agentrun.testing import Call, Hang, Say, ScriptedModel

_TOOLS = ("until_injected", "forever", "danger", "printing", "stubborn_thread", "blocking", "visit")


class Parrot:
    """Does what the last user message says: calls the tool of that name, hangs, fails, talks; or else it tells what
    user messages it has been given."""

    name = "parrot"

    def __init__(self) -> None:
        self.calls = 0

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        events = self._play(request)
        try:
            yield events
        finally:
            await events.aclose()

    async def _play(self, request: ModelRequest) -> Any:
        await anyio.sleep(0)
        heard = [item.text for item in request.items if isinstance(item, UserMessage)]
        last = request.items[-1]
        wish = last.text if isinstance(last, UserMessage) else ""
        usage = Usage(input_tokens=7, output_tokens=3)
        if wish in _TOOLS:
            self.calls += 1
            arguments = '{"target": "the moon"}' if wish == "danger" else "{}"
            yield ToolCall(f"call-{self.calls}-of-{len(heard)}", wish, arguments)
            yield ResponseEnded(usage=usage, finish_reason="tool_calls")
            return
        if wish == "fail":
            yield TextDelta("half a")
            raise ValueError("the wires\nare cut")
        if wish == "hang":
            yield TextDelta("hanging")
            await anyio.sleep_forever()
        if wish == "talk":
            for _ in range(100_000):
                yield TextDelta("and on ")
                await anyio.sleep(0)
        text = f"heard: {' | '.join(heard)}."
        for char in text:
            yield TextDelta(char)
        yield AssistantMessage(text)
        yield ResponseEnded(usage=usage, finish_reason="stop")


@tool
async def until_injected(ctx: RunContext[Any]) -> str:
    """Work until the user has said something more."""
    while not ctx.run.state().inbox:
        await anyio.sleep(0.005)
    return "the user has spoken"


@tool
async def forever() -> str:
    """Never end, and say so when the cleanup is done."""
    try:
        await anyio.sleep_forever()
    finally:
        await anyio.sleep(0.01)
        print("tool cleaned up", file=sys.stderr)
    return ""


@tool(needs_approval=True)
async def danger(target: str) -> str:
    """Something to think twice about."""
    return f"hit {target}"


@tool
async def printing() -> str:
    """Print, as people do."""
    print("printed by a tool")
    return "done"


@tool
def stubborn_thread() -> str:
    """Do not look whether anybody wants it to stop."""
    print("asleep")
    time.sleep(60)
    return ""


@tool
async def blocking() -> str:
    """Block the event loop, as one must not."""
    os.write(2, b"the loop is blocked")
    time.sleep(60)
    return ""


class Shop:
    """Deps that tell how often they were made, and used."""

    made = 0

    def __init__(self) -> None:
        Shop.made += 1
        self.name = f"shop {Shop.made}"
        self.visits = 0


@tool
async def visit(ctx: RunContext[Any]) -> str:
    """Tell what the deps are."""
    if not isinstance(ctx.deps, Shop):
        return f"no shop but {ctx.deps!r}"
    ctx.deps.visits += 1
    return f"visit {ctx.deps.visits} of {ctx.deps.name}"


corner_shop = Shop()  # shop 1


async def opened() -> Shop:
    return Shop()


def closed() -> Shop:
    print("nobody at the counter")
    raise RuntimeError("out of shops")


parrot = Agent(
    "parrot", tools=[until_injected, forever, danger, printing, stubborn_thread, blocking, visit], model=Parrot()
)
two_turns = Agent(
    "two_turns", tools=[printing], model=ScriptedModel([[Say("First.", chunks=2), Call("printing")], Say("Second.")])
)
escapes = Agent("escapes", model=ScriptedModel([Say("\x1b[2Jwiped\x07\x9b1m")]))
cut = Agent("cut", model=ScriptedModel([[Say("begun"), Hang()]]))
no_model = Agent("no_model")
not_an_agent = 42


def made() -> Agent[Any, Any]:
    return Agent("made", model=ScriptedModel([Say("made to order")]))


def breaks() -> Agent[Any, Any]:
    raise RuntimeError("out of agents")
