"""What an event loop keeps for requests over HTTP: connections that are idle, and limits.

Nothing ever queues here: a request takes an idle connection, the one used last, or opens one. How many there may be
at once is the business of `limiter_for`.

A connection belongs to the loop it was opened in, so a model that is used in one ``anyio.run`` and then in another
must not carry its connections over. And nobody should have to close a model: what is idle is closed when the loop
ends. Both asyncio and trio finalise the asynchronous generators that are still alive then (PEP 525), so a generator
that is suspended inside ``try: ... finally: close`` is a hook that works on both.
"""

from __future__ import annotations

import functools
import os
import ssl
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from agentrun.models.http_target import Target

if TYPE_CHECKING:
    from agentrun.models.http_connection import Connection, ConnectionAnswer

__all__ = ["HttpPool", "http_pool", "limiter_for"]

_CLOSE_SECONDS: Final = 2.0
_MAX_IDLE: Final = 100
_IDLE_SECONDS: Final = 30.0

_pools: RunVar[tuple[HttpPool, AsyncGenerator[None, None]]] = RunVar("agentrun_http_pool")
_preparing: RunVar[anyio.Event] = RunVar("agentrun_http_preparing")
_limiters: RunVar[WeakKeyDictionary[Any, anyio.CapacityLimiter]] = RunVar("agentrun_http_limiters")


class HttpPool:
    """The connections of one event loop.

    Attributes:
        idle: Those that nobody uses, in the order in which they became idle; at most 100.
        proxied: The ``httpx.AsyncClient`` that knows the proxies of the environment; ``None`` if there are none.
    """

    __slots__ = ("idle", "proxied")

    def __init__(self) -> None:
        self.idle: list[Connection] = []
        self.proxied: Any = None

    async def post(
        self,
        target: Target,
        headers: Mapping[str, str],
        body: bytes,
        *,
        connect_timeout: float | None,
        keep: bool = True,
        again: bool = True,
    ) -> ConnectionAnswer:
        """Send a request and wait for the head of its answer. A checkpoint.

        Args:
            target: Where to.
            headers: Besides ``host`` and ``content-length``.
            body: The body.
            connect_timeout: Seconds that connecting may take; ``None`` for no limit.
            keep: Whether the connection may be one that was used before, and may be used again.
            again: Whether the request may be sent once more if a connection that was used before turns out to be
                closed. Whether the server has read it is not known then.

        Raises:
            ModelError: There is no connection to be had.
            UserError: A header cannot be sent.
            Exception: The connection broke; see `agentrun.models.http_errors.error_from_exception`.
        """
        # Here, because h11 takes a quarter of the time that all of agentrun takes to import.
        from agentrun.models.http_connection import connect

        now = anyio.current_time()
        while self.idle and self.idle[0].idle_since < now - _IDLE_SECONDS:
            await self.idle.pop(0).drop()
        while True:
            used = self._take(target) if keep else None
            if used is not None and used.is_stale:
                await used.drop()
                continue
            connection = used or await connect(target, await _context_for(target), connect_timeout)
            try:
                return await connection.ask(target, headers, body, self._give_back if keep else _keep_none)
            except BaseException as exc:
                await connection.drop()
                # A server may close an idle connection at the very moment in which it is used again. That says nothing
                # about the request, so it is sent once more, on another connection.
                if not again or used is None or used.answered or not used.broke(exc):
                    raise

    def _take(self, target: Target) -> Connection | None:
        for position in range(len(self.idle) - 1, -1, -1):
            if self.idle[position].origin == target.origin:
                return self.idle.pop(position)
        return None

    def _give_back(self, connection: Connection) -> bool:
        if len(self.idle) >= _MAX_IDLE:
            return False
        self.idle.append(connection)
        return True

    async def close(self) -> None:
        """Close what is idle. A checkpoint if anything is."""
        while self.idle:
            await self.idle.pop().drop()
        if self.proxied is not None:
            with suppress(Exception):
                await self.proxied.aclose()


def _keep_none(_: Connection) -> bool:
    return False


async def http_pool() -> HttpPool:
    """The pool of the running event loop. A checkpoint only for the first request in a loop, and where proxies are."""
    try:
        return _pools.get()[0]
    except LookupError:
        pass
    pool = HttpPool()
    if _has_proxies():
        await _prepare()
        pool.proxied = _client_for_proxies()
    try:
        return _pools.get()[0]  # somebody else was faster
    except LookupError:
        pass
    closer = _close_at_loop_end(pool)
    _pools.set((pool, closer))
    await anext(closer)  # suspends nowhere, so nobody can come in between
    return pool


def _has_proxies() -> bool:
    """Whether the environment, or the system's settings, name any: httpx then decides which of them to use."""
    if sys.platform in ("darwin", "win32"):
        from urllib.request import getproxies

        return any(name != "no" for name in getproxies())
    return any(
        value and name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name, value in os.environ.items()
    )


def _client_for_proxies() -> Any:
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    import httpx

    return httpx.AsyncClient(
        verify=_ssl_context(),
        # Nothing ever queues in httpx's pool: httpcore loses slots when queued requests are cancelled (#1093).
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=_IDLE_SECONDS),
        # Models with different keys share a client; what a server sets for one must not be sent for another.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


async def _context_for(target: Target) -> ssl.SSLContext | None:
    if not target.origin[0]:
        return None
    await _prepare()
    return _ssl_context()


async def _prepare() -> None:
    """Do what takes long once for all the requests that come first, or wait for the one that does it.

    That one may be cancelled, and then another does it. A checkpoint if it was not done before.
    """
    while not _ssl_context.cache_info().currsize:
        try:
            prepared = _preparing.get()
        except LookupError:
            pass
        else:
            await prepared.wait()
            continue
        prepared = anyio.Event()
        token = _preparing.set(prepared)
        try:
            # Reading the certificates takes tens of milliseconds: not in the loop's own thread.
            await anyio.to_thread.run_sync(_ssl_context)
        finally:
            _preparing.reset(token)
            prepared.set()


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """The context of the process, which trusts whom httpx does: SSL_CERT_FILE, SSL_CERT_DIR, or Mozilla's list."""
    if file := os.environ.get("SSL_CERT_FILE"):
        context = ssl.create_default_context(cafile=file)
    elif folder := os.environ.get("SSL_CERT_DIR"):
        context = ssl.create_default_context(capath=folder)
    else:
        import certifi

        context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _close_at_loop_end(pool: HttpPool) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            await pool.close()


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
