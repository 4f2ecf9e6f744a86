"""The programs that are compared: agentrun, a bare loop, and the least that structured concurrency costs.

All three run the same agent: call the model, run the tools it asks for, call it again with the outputs, until it asks
for none. They read the same streams from the same model object and call the same tools, and each returns what a
watcher has seen: the text, piece by piece, and the outputs of the tools.

* The *bare loop* is what one writes without concurrency: nothing can be stopped or watched from outside.
* The *SC floor* is the least that makes it stoppable and watchable: the loop in a task group, its tools each in a task
  of a group of the turn's own, and a memory object stream to whoever watches.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectSendStream

from agentrun import Agent, RunConfig, ToolCall, ToolOutput, UserMessage, open_run
from agentrun.events import TextDelta, ToolEnded
from agentrun.items import AssistantMessage, Item
from agentrun.models import Model, ModelEvent, ModelRequest

__all__ = [
    "Parts",
    "Seen",
    "Source",
    "Tools",
    "agentrun_agent",
    "agentrun_run",
    "bare_loop",
    "bare_loop_parts",
    "deltas",
    "sc_floor",
    "sc_floor_parts",
    "talking",
    "tool_turns",
]

Seen: TypeAlias = tuple[str, tuple[Any, ...]]
"""What a watcher saw: all the text, and the tools' outputs in the order of their calls."""

Parts: TypeAlias = tuple[list[str], list[Any]]
"""The same as it came: the pieces of text, and the outputs."""

Tools: TypeAlias = Mapping[str, Callable[..., Awaitable[Any]]]

_PROMPT = "Go."
_BUFFER = 1024  # the default of ActiveRun.events


class Source:
    """A model that plays a function of the number of the call."""

    name = "source"

    def __init__(self, play: Callable[[int], AsyncGenerator[ModelEvent, None]]) -> None:
        self._play = play
        self._calls = 0

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        events = self._play(self._calls)
        self._calls += 1
        try:
            yield events
        finally:
            await events.aclose()


async def deltas(count: int, *, waits: bool) -> AsyncGenerator[ModelEvent, None]:
    """``count`` pieces of text; ``waits``: go through the event loop before each, as if each came in a packet."""
    for number in range(count):
        if waits:
            await anyio.lowlevel.checkpoint()
        yield TextDelta(f"{number} ")


def talking(count: int, *, waits: bool) -> Model:
    """A model that streams ``count`` deltas."""
    return Source(lambda _: deltas(count, waits=waits))


def tool_turns(turns: int, calls: int, tool: str = "echo") -> Model:
    """A model that asks for ``calls`` tool calls in each of ``turns`` turns, and then says that it is done."""

    async def play(number: int) -> AsyncGenerator[ModelEvent, None]:
        await anyio.lowlevel.checkpoint()
        if number < turns:
            for index in range(calls):
                yield ToolCall(f"call_{number}_{index}", tool, f'{{"text": "{number}.{index}"}}')
        else:
            yield TextDelta("done")

    return Source(play)


# Three ways to run ------------------------------------------------------------------------------------------------


async def agentrun_run(model: Model, tools: Tools | None = None) -> Seen:
    """agentrun, watched through its events."""
    return await agentrun_agent(Agent("bench", tools=list((tools or {}).values())), model)


async def agentrun_agent(agent: Agent[Any, Any], model: Model) -> Seen:
    """The same for an agent that exists already, as it does in most programs."""
    text: list[str] = []
    outputs: list[Any] = []
    async with open_run(agent, _PROMPT, config=RunConfig(model=model, max_turns=None)) as live:
        async for event in live.events():
            if type(event) is TextDelta:
                text.append(event.text)
            elif type(event) is ToolEnded:
                outputs.append(event.output)
    seen = "".join(text)
    assert live.result is not None  # it is there when the last event has come
    assert live.result.output == seen
    return seen, tuple(outputs)


async def bare_loop(model: Model, tools: Tools | None = None) -> Seen:
    """The loop alone."""
    said, outputs = await bare_loop_parts(model, tools)
    return "".join(said), tuple(outputs)


async def bare_loop_parts(model: Model, tools: Tools | None = None) -> Parts:
    """The same, not joined."""
    history: list[Item] = [UserMessage(_PROMPT)]
    said: list[str] = []
    outputs: list[Any] = []
    while True:
        text: list[str] = []
        calls: list[ToolCall] = []
        async with model.stream(ModelRequest(None, history)) as events:
            async for event in events:
                if type(event) is TextDelta:
                    text.append(event.text)
                elif type(event) is ToolCall:
                    calls.append(event)
        said += text
        if text:
            history.append(AssistantMessage("".join(text)))
        if not calls:
            return said, outputs
        history += calls
        for call in calls:
            output = await (tools or {})[call.name](**json.loads(call.arguments))
            outputs.append(output)
            history.append(ToolOutput(call.call_id, output))


async def sc_floor(model: Model, tools: Tools | None = None, *, lean: bool = False) -> Seen:
    """The loop in a task group, watched through a memory object stream.

    Args:
        model: The model.
        tools: The tools.
        lean: Whether a turn's only call is awaited in the loop itself, without a group of its own.
    """
    text, outputs = await sc_floor_parts(model, tools, lean=lean)
    return "".join(text), tuple(outputs)


async def sc_floor_parts(model: Model, tools: Tools | None = None, *, lean: bool = False) -> Parts:
    """The same, not joined."""
    send, receive = anyio.create_memory_object_stream[Any](_BUFFER)
    text: list[str] = []
    outputs: dict[str, Any] = {}
    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(_floor_driver, model, tools or {}, send, lean)
        async for event in receive:
            if type(event) is TextDelta:
                text.append(event.text)
            elif type(event) is ToolOutput:
                outputs[event.call_id] = event.output
            elif type(event) is ToolCall:
                outputs.setdefault(event.call_id)
    return text, list(outputs.values())


async def _floor_driver(model: Model, tools: Tools, send: MemoryObjectSendStream[Any], lean: bool) -> None:
    history: list[Item] = [UserMessage(_PROMPT)]
    async with send:
        while True:
            text: list[str] = []
            calls: list[ToolCall] = []
            async with model.stream(ModelRequest(None, history)) as events:
                async for event in events:
                    if type(event) is TextDelta:
                        text.append(event.text)
                        await send.send(event)
                    elif type(event) is ToolCall:
                        calls.append(event)
                        await send.send(event)
            if text:
                history.append(AssistantMessage("".join(text)))
            if not calls:
                return
            history += calls
            outputs: dict[str, ToolOutput] = {}
            if lean and len(calls) == 1:
                await _floor_tool(tools[calls[0].name], calls[0], outputs, send)
            else:
                async with anyio.create_task_group() as tasks:
                    for call in calls:
                        tasks.start_soon(_floor_tool, tools[call.name], call, outputs, send)
            history += [outputs[call.call_id] for call in calls]


async def _floor_tool(
    tool: Callable[..., Awaitable[Any]],
    call: ToolCall,
    outputs: dict[str, ToolOutput],
    send: MemoryObjectSendStream[Any],
) -> None:
    output = ToolOutput(call.call_id, await tool(**json.loads(call.arguments)))
    outputs[call.call_id] = output
    await send.send(output)
