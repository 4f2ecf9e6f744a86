"""One HTTP client for each event loop, shared by all models that were not given one.

A connection belongs to the loop it was opened in, so a model that is used in one ``anyio.run`` and then in another
must not carry its connections over. And nobody should have to close a model: the client is closed when its loop
ends. Both asyncio and trio finalise the asynchronous generators that are still alive then (PEP 525), so a generator
that is suspended inside ``try: ... finally: close`` is a hook that works on both.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncGenerator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

__all__ = ["limiter_for", "shared_client"]

_CLOSE_SECONDS: Final = 2.0

_client: RunVar[tuple[Any, AsyncGenerator[None, None]]] = RunVar("agentrun_http_client")
_limiters: RunVar[WeakKeyDictionary[Any, anyio.CapacityLimiter]] = RunVar("agentrun_http_limiters")


async def shared_client() -> Any:
    """The ``httpx.AsyncClient`` of the running event loop, made on first use.

    A checkpoint only when the client has to be made.
    """
    try:
        return _client.get()[0]
    except LookupError:
        pass
    # Importing httpx and reading the certificate store take tens of milliseconds: not in the loop's own thread.
    context = await anyio.to_thread.run_sync(_ssl_context)
    try:
        return _client.get()[0]  # somebody else was faster
    except LookupError:
        pass
    import httpx

    client = httpx.AsyncClient(
        verify=context,
        # Nothing ever queues in httpx's pool: httpcore loses slots when queued requests are cancelled (#1093).
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30.0),
        # Models with different keys share this client; what a server sets for one must not be sent for another.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )
    closer = _close_at_loop_end(client)
    _client.set((client, closer))
    await anext(closer)  # suspends nowhere, so nobody can come in between
    return client


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()


async def _close_at_loop_end(client: Any) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            await client.aclose()


def limiter_for(owner: object, connections: int) -> anyio.CapacityLimiter:
    """The limiter of ``owner`` (a client or a model) in the running loop, never above ``connections``.

    Models that share a client share its limiter; the smallest wish counts, since it is the client's pool that must
    not be made to queue.
    """
    try:
        limiters = _limiters.get()
    except LookupError:
        limiters = WeakKeyDictionary[Any, anyio.CapacityLimiter]()
        _limiters.set(limiters)
    limiter = limiters.get(owner)
    if limiter is None:
        limiter = limiters[owner] = anyio.CapacityLimiter(connections)
    elif limiter.total_tokens > connections:
        limiter.total_tokens = connections
    return limiter
