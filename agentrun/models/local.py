"""A model that runs on this machine: no key, no network, for trying things out, for tests and for demonstrations.

``"local"`` is SmolLM2-135M-Instruct, which fits in 230 MB and writes some 90 tokens a second on two cores. It is no
assistant to rely on; what makes it useful is that everything about it is real: tokens arrive one by one, an interrupt
is seen to stop the generation, and nothing is scripted. ``"local:PATH.gguf"`` runs any other model that llama.cpp can.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Literal, cast

import anyio
import anyio.to_thread
import httpx

from agentrun.core.errors import ModelError, UserError
from agentrun.core.model import Model, ModelEvent, ModelRequest, ModelSettings
from agentrun.models.local_process import (
    LocalServer,
    ServerOptions,
    check_installed,
    get_server,
    shutdown_local_servers,
)
from agentrun.models.local_tools import EmulatedTools
from agentrun.models.local_weights import fetch_weights, find_weights
from agentrun.models.openai_chat import OpenAIChatModel

__all__ = ["EmulatedTools", "LocalModel", "fetch_weights", "find_weights", "shutdown_local_servers"]

_CLOSE_SECONDS: Final = 2.0
_SLOTS_SECONDS: Final = 10.0
# A request may wait for a slot, and then for its prompt to be read, before the first byte of the answer arrives.
_FIRST_TOKEN_SECONDS: Final = 600.0
_DEFAULTS: Final = ModelSettings(temperature=0.0, seed=1, max_tokens=1024)
_warm = False


class LocalModel:
    """A language model on this machine, run by llama.cpp in a process of its own.

    Needs the package ``xllamacpp`` (agentrun's extra ``local``). The process is started by the first request, shared
    by all `LocalModel`\\ s of the program with the same weights and options, and ends with the program. Weights that
    are not on the machine are fetched first (93 MB, with a word on stderr); see `find_weights` and `fetch_weights`.

    Unless the request says otherwise, temperature is 0, the seed is 1 (so the same request gives the same answer), and
    an answer has 1024 tokens at most.

    Args:
        weights: A ``.gguf`` file; by default what `find_weights` finds, or else `fetch_weights` fetches.
        tools: How the model calls tools: ``"emulate"`` constrains its answers (see `EmulatedTools`) and works with any
            model; ``"native"`` leaves it to the model's own chat template.
        context: Tokens a conversation may have, prompt and answer together. A request that is longer is refused.
        slots: Answers generated at the same time; further requests wait.
        threads: Threads that compute; by default one for each CPU this process may use, four at most.

    Raises:
        UserError: An argument makes no sense, or ``weights`` is not a GGUF file.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        tools: Literal["emulate", "native"] = "emulate",
        context: int = 4096,
        slots: int = 2,
        threads: int | None = None,
    ) -> None:
        if tools not in ("emulate", "native"):
            raise UserError(f"LocalModel.tools must be 'emulate' or 'native', not {tools!r}")
        for name, value, least in (("context", context, 256), ("slots", slots, 1), ("threads", threads, 1)):
            if value is not None and value < least:
                raise UserError(f"LocalModel.{name} must be at least {least}, not {value}")
        self._weights = None if weights is None else find_weights(weights)
        self._context = context
        self._slots = slots
        self._threads = threads or min(_cpus(), 4)
        plain = _PlainLocalModel(self)
        self._model: Model = EmulatedTools(plain) if tools == "emulate" else plain

    def __repr__(self) -> str:
        return f"LocalModel({str(self._weights)!r})" if self._weights else "LocalModel()"

    @property
    def name(self) -> str:
        """What the model is called in events and traces, such as ``"local:SmolLM2-135M-Instruct.Q4_1"``."""
        return f"local:{self._weights.stem}" if self._weights else "local"

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Open the answer to ``request``; see `Model.stream`. The first use fetches weights and starts the server.

        Raises:
            UserError: xllamacpp is not installed, or the weights cannot be stored.
            ModelError: The weights cannot be fetched, the server does not start, refuses the request (it is longer
                than the context, ...) or breaks off.
        """
        return self._model.stream(request)

    async def server_url(self) -> str:
        """Start the server if it is not running, and return its URL, such as ``"http://127.0.0.1:40123"``.

        It speaks the OpenAI APIs (below ``/v1``) and Anthropic's; requests must carry `api_key`.
        """
        return await (await self._server()).ready()

    async def api_key(self) -> str:
        """The key that the server accepts, as ``Authorization: Bearer ...``; it changes when the server restarts."""
        server = await self._server()
        await server.ready()
        return server.api_key

    async def busy_slots(self) -> int:
        """How many answers are being generated right now, by the server's own account.

        A stream that was cancelled is no longer counted some 30 ms later.

        Raises:
            ModelError: The server does not answer.
        """
        url, key = await self.server_url(), await self.api_key()
        client = await _new_client()
        try:
            response = await client.get(f"{url}/slots", headers={"Authorization": f"Bearer {key}"})
            response.raise_for_status()
            slots = cast("list[dict[str, Any]]", response.json())
        except (httpx.HTTPError, ValueError) as exc:
            raise ModelError(f"the local model's server does not tell its slots: {exc}", retryable=True) from exc
        finally:
            await _close(client)
        return sum(bool(slot.get("is_processing")) for slot in slots)

    async def _server(self) -> LocalServer:
        if self._weights is None:
            check_installed()  # before 93 MB are fetched for nothing
            self._weights = find_weights() or await fetch_weights()
        return get_server(ServerOptions(self._weights, self._context, self._slots, self._threads))


class _PlainLocalModel:
    """The model without emulated tools."""

    def __init__(self, owner: LocalModel) -> None:
        self._owner = owner

    def __repr__(self) -> str:
        return repr(self._owner)

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent], None]:
        owner = self._owner
        server = await owner._server()
        url = await server.ready()
        model = _ServedModel(
            server.options.weights.stem,
            base_url=f"{url}/v1",
            api_key=server.api_key,
            first_token_timeout=_FIRST_TOKEN_SECONDS,
            max_retries=1,
            max_connections=None,  # the server has its own queue
        )
        async with model.stream(_prepared(request)) as events:
            yield events


class _ServedModel(OpenAIChatModel):
    """What the local server serves."""

    # It closes idle connections when it likes, so a connection that is used again may fail.
    _keep_connections = False
    _through_proxies = False


def _prepared(request: ModelRequest) -> ModelRequest:
    """The request with our defaults, and with the output schema as a grammar.

    ``response_format`` would do, but its grammar allows any white space between two tokens of JSON, and a small model
    that begins to write blank lines there never stops. In llguidance's own notation the spaces are fixed, and a
    keyword that the grammar cannot express is left out instead of failing the request (``lenient``).
    """
    settings = _DEFAULTS.merged_with(request.settings)
    if request.output_schema is None:
        return replace(request, settings=settings)
    guidance = {"whitespace_flexible": False, "lenient": True, "item_separator": ", ", "key_separator": ": "}
    schema = json.dumps({**request.output_schema.schema, "x-guidance": guidance})
    body = {"grammar": "%llguidance {}\nstart: %json " + schema, **(settings.extra_body or {})}
    return replace(request, settings=replace(settings, extra_body=body), output_schema=None)


async def _new_client() -> httpx.AsyncClient:
    global _warm
    if not _warm:
        await anyio.to_thread.run_sync(_client)  # the first one imports much of httpx, some 70 ms
        _warm = True
    return _client()


def _client() -> httpx.AsyncClient:
    # The server closes idle connections when it likes, so a connection that is used again may fail: keep none. No
    # proxy from the environment may come between us and this machine.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(limits=limits, timeout=_SLOTS_SECONDS, trust_env=False, verify=False)


async def _close(client: httpx.AsyncClient) -> None:
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
        await client.aclose()


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1
