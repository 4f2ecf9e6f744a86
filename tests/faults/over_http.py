"""A model behind HTTP, without a network: what is opened must be closed, and what is borrowed given back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx

from agentrun.models import OpenAIChatModel
from agentrun.models.http_pool import limiter_for
from agentrun.testing import BrokenLaw

from .ledger import book

__all__ = ["all_is_given_back", "http_model"]

_CONNECTIONS = 2


class _Body(httpx.AsyncByteStream):
    """The body of an answer, which takes a moment for each piece."""

    def __init__(self, text: str) -> None:
        self._pieces = list(text)
        book.notes["opened"] = book.notes.get("opened", 0) + 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await anyio.sleep(0.1)
            chunk = {
                "id": "1",
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {"content": piece}}],
            }
            yield f"data: {json.dumps(chunk)}\n\n".encode()
        done = {
            "id": "1",
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        }
        yield f"data: {json.dumps(done)}\n\ndata: [DONE]\n\n".encode()

    async def aclose(self) -> None:
        # First, as in httpcore: whoever begins to close closes.
        book.notes["closed"] = book.notes.get("closed", 0) + 1
        await anyio.sleep(0.1)


def _event(choice: dict[str, Any]) -> bytes:
    return f"data: {json.dumps({'id': '1', 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n".encode()


class _Server(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.1)
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Body("Yes."))


def http_model() -> OpenAIChatModel:
    """The model, with a client and a server of its own."""
    book.notes["client"] = client = httpx.AsyncClient(transport=_Server())
    return OpenAIChatModel(
        "m", api_key="none", base_url="http://model.example/v1", client=client, max_connections=_CONNECTIONS
    )


def all_is_given_back(record: Any, result: Any) -> None:
    """The oracle."""
    borrowed = limiter_for(book.notes["client"], _CONNECTIONS).borrowed_tokens
    if borrowed:
        raise BrokenLaw(1, f"{borrowed} places of the limiter are taken, and the run has ended")
    if book.notes.get("opened", 0) > book.notes.get("closed", 0):
        raise BrokenLaw(1, f"{book.notes['opened']} responses were opened and {book.notes.get('closed', 0)} closed")
