"""The programs that speak to the loopback server: loops written by hand over httpx.

They encode the whole history anew in each turn, as one does without a library, and read JSON with the quickest parser
that agentrun needs anyway. Like the programs in `programs`, each returns what a watcher has seen.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import anyio
import httpx
from anyio.streams.memory import MemoryObjectSendStream
from pydantic_core import from_json

from .programs import Parts, Seen, Tools

__all__ = ["bare_http", "bare_http_parts", "floor_http", "floor_http_parts", "new_client"]

_HEADERS: Final = {"authorization": "Bearer k"}
_PROMPT: Final = {"role": "user", "content": "Go."}
_ECHO: Final = {
    "type": "function",
    "name": "echo",
    "description": "Say the same.",
    "parameters": {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    },
    "strict": True,
}


def new_client() -> httpx.AsyncClient:
    """A client that never waits for a connection of its pool, and keeps as many open as httpx does by default.

    With all of them kept it would cost ten times as much in a thousand runs: its pool walks them for each request.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    return httpx.AsyncClient(verify=False, limits=limits, timeout=None)


async def events_of(client: httpx.AsyncClient, url: str, history: list[Any]) -> AsyncGenerator[dict[str, Any], None]:
    """The events of one answer."""
    body = {"model": "m", "stream": True, "store": False, "input": history, "tools": [_ECHO]}
    async with client.stream("POST", f"{url}/responses", json=body, headers=_HEADERS) as response:
        rest = b""
        async for chunk in response.aiter_bytes():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                _, _, data = event.partition(b"data: ")
                yield from_json(data)


async def bare_http(client: httpx.AsyncClient, url: str, tools: Tools) -> Seen:
    """The loop alone."""
    text, outputs = await bare_http_parts(client, url, tools)
    return "".join(text), tuple(outputs)


async def bare_http_parts(client: httpx.AsyncClient, url: str, tools: Tools) -> Parts:
    """The same, not joined."""
    history: list[Any] = [_PROMPT]
    text: list[str] = []
    outputs: list[Any] = []
    while True:
        calls = []
        async for event in events_of(client, url, history):
            if event["type"] == "response.output_text.delta":
                text.append(event["delta"])
            elif event["type"] == "response.output_item.done":
                history.append(event["item"])
                if event["item"]["type"] == "function_call":
                    calls.append(event["item"])
        if not calls:
            return text, outputs
        for call in calls:
            output = await tools[call["name"]](**json.loads(call["arguments"]))
            outputs.append(output)
            history.append(_output(call, output))


async def floor_http(client: httpx.AsyncClient, url: str, tools: Tools) -> Seen:
    """The loop in a task group, its tools in one of the turn's own, watched through a memory object stream."""
    text, outputs = await floor_http_parts(client, url, tools)
    return "".join(text), tuple(outputs)


async def floor_http_parts(client: httpx.AsyncClient, url: str, tools: Tools) -> Parts:
    """The same, not joined."""
    send, receive = anyio.create_memory_object_stream[Any](1024)
    text: list[str] = []
    outputs: list[Any] = []
    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(_drive, client, url, tools, send)
        async for event in receive:
            if event["type"] == "response.output_text.delta":
                text.append(event["delta"])
            else:
                outputs.append(event["output"])
    return text, outputs


async def _drive(client: httpx.AsyncClient, url: str, tools: Tools, send: MemoryObjectSendStream[Any]) -> None:
    history: list[Any] = [_PROMPT]
    async with send:
        while True:
            calls = []
            async for event in events_of(client, url, history):
                if event["type"] == "response.output_text.delta":
                    await send.send(event)
                elif event["type"] == "response.output_item.done":
                    history.append(event["item"])
                    if event["item"]["type"] == "function_call":
                        calls.append(event["item"])
            if not calls:
                return
            async with anyio.create_task_group() as tasks:
                for call in calls:
                    tasks.start_soon(_tool, tools, call, history, send)


async def _tool(tools: Tools, call: Any, history: list[Any], send: MemoryObjectSendStream[Any]) -> None:
    output = _output(call, await tools[call["name"]](**json.loads(call["arguments"])))
    history.append(output)
    await send.send(output)


def _output(call: Any, output: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call["call_id"], "output": output}
