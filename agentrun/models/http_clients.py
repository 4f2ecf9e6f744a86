"""The HTTP clients of an event loop, shared by all models that were not given one.

Nearly always it is one client. httpcore's connection pool walks all its connections whenever one is opened or closed,
which costs the more for each request the more there are at once: beyond some dozens another client is made.

A connection belongs to the loop it was opened in, so a model that is used in one ``anyio.run`` and then in another
must not carry its connections over. And nobody should have to close a model: the clients are closed when their loop
ends. Both asyncio and trio finalise the asynchronous generators that are still alive then (PEP 525), so a generator
that is suspended inside ``try: ... finally: close`` is a hook that works on both.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncGenerator
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

__all__ = ["SharedClient", "limiter_for", "shared_client"]

_CLOSE_SECONDS: Final = 2.0
_REQUESTS_EACH: Final = 64  # measured: with 32 making clients costs as much as it saves, with 128 the walks do

_clients: RunVar[tuple[_Clients, AsyncGenerator[None, None]]] = RunVar("agentrun_http_clients")
_preparing: RunVar[anyio.Event] = RunVar("agentrun_http_preparing")
_limiters: RunVar[WeakKeyDictionary[Any, anyio.CapacityLimiter]] = RunVar("agentrun_http_limiters")


class SharedClient:
    """A client, and how many requests it has under way.

    Attributes:
        client: An ``httpx.AsyncClient``.
    """

    __slots__ = ("busy", "client")

    def __init__(self, client: Any) -> None:
        self.client: Any = client
        self.busy: int = 0

    def give_back(self) -> None:
        """A request is over."""
        self.busy -= 1


class _Clients:
    """Those of one event loop, in the order in which they are filled, so that open connections are found again."""

    __slots__ = ("_context", "shared")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.shared: list[SharedClient] = []

    def take(self) -> SharedClient:
        """The first one that has room for a request."""
        for shared in self.shared:
            if shared.busy < _REQUESTS_EACH:
                break
        else:
            shared = SharedClient(self._make())
            self.shared.append(shared)
        shared.busy += 1
        return shared

    def _make(self) -> Any:
        import httpx

        return httpx.AsyncClient(
            verify=self._context,
            # Nothing ever queues in httpx's pool: httpcore loses slots when queued requests are cancelled (#1093).
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30.0),
            # Models with different keys share a client; what a server sets for one must not be sent for another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )


async def shared_client() -> SharedClient:
    """A client of the running event loop, for one request: give it back afterwards.

    A checkpoint only for the first request in a loop.
    """
    try:
        return _clients.get()[0].take()
    except LookupError:
        pass
    while not _ssl_context.cache_info().currsize:
        await _prepare()
    try:
        return _clients.get()[0].take()  # somebody else was faster
    except LookupError:
        pass
    clients = _Clients(_ssl_context())
    closer = _close_at_loop_end(clients)
    _clients.set((clients, closer))
    await anext(closer)  # suspends nowhere, so nobody can come in between
    return clients.take()


async def _prepare() -> None:
    """Do what takes long once for all the requests that come first, or wait for the one that does it. A checkpoint.

    That one may be cancelled, so look again afterwards.
    """
    try:
        prepared = _preparing.get()
    except LookupError:
        pass
    else:
        await prepared.wait()
        return
    prepared = anyio.Event()
    token = _preparing.set(prepared)
    try:
        # Importing httpx and reading the certificate store take tens of milliseconds: not in the loop's own thread.
        await anyio.to_thread.run_sync(_ssl_context)
    finally:
        _preparing.reset(token)
        prepared.set()


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()


async def _close_at_loop_end(clients: _Clients) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            for shared in clients.shared:
                with suppress(Exception):  # one that cannot be closed well must not keep the others open
                    await shared.client.aclose()


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
