"""What it takes to cancel an httpx request without leaking anything, found with httpx 0.28 and httpcore 1.0.9.

All of it goes through public extension points of httpx (``trace``, ``network_stream``, the request's stream), and is
harmless with httpx2, where most of this has been mended.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, Self

import anyio

__all__ = ["ConnectGuard", "plain_body", "shut"]

_CLOSE_SECONDS: Final = 2.0


class ConnectGuard:
    """Closes the gap in which a cancelled request leaks its connection; a ``trace`` extension of httpx.

    httpcore 1.0 has a checkpoint between having connected and taking the new connection into use. Cancelled there, the
    connection stays in the pool for ever: open, neither idle nor closed. From the end of connecting to the start of
    the next step there is no I/O to wait for, so that stretch is shielded.
    """

    def __init__(self, guard: anyio.CancelScope) -> None:
        self._guard = guard

    async def __call__(self, event: str, info: Any) -> None:
        """Called by httpx at the start and the end of each of its steps; not a checkpoint."""
        if event.endswith(".started"):
            self._guard.shield = False
        elif event.endswith((".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")):
            self._guard.shield = True


_body_classes: dict[Any, Any] = {}


def plain_body(stream: Any, content: bytes) -> Any:
    """The client's ``ByteStream`` of ``content``, but with an iterator that is no generator.

    httpx iterates a request's body with an async generator that nobody closes when sending is cancelled; trio warns
    about it when it is garbage-collected.
    """
    base: Any = stream.__class__
    made = _body_classes.get(base)
    if made is None:
        made = _body_classes[base] = type("RequestBody", (base,), {"__aiter__": _iterate})
    body = made(content)
    body.content = content
    return body


def _iterate(body: Any) -> _Once:
    return _Once(body.content)


class _Once:
    """An asynchronous iterator of one chunk; not a checkpoint."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        content, self._content = self._content, None
        if content is None:
            raise StopAsyncIteration
        return content


async def shut(response: Any, chunks: Any) -> None:
    """Close ``response``, whose body is iterated by ``chunks``, within two seconds and whatever state it is in.

    To be run in a task of its own: a native cancellation goes through shields, but only in the task it is aimed at.
    """
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
        if chunks is not None:
            # httpx stacks up to five async generators. Closing the outermost leaves the others to the garbage
            # collector, which trio warns about. Cancelling the innermost read unwinds them all, in order.
            with anyio.CancelScope() as scope, suppress(Exception):
                scope.cancel()
                for _ in range(1000):
                    await anext(chunks)
        if response.is_closed:
            return  # the body had ended after all, and its connection is in the pool again
        with suppress(Exception):
            await response.aclose()
        # When a second native cancellation hit httpcore while it was closing after the first, it believes that it has
        # closed the connection, but has not. An HTTP/2 connection belongs to other requests too.
        network = response.extensions.get("network_stream")
        if network is not None and "stream_id" not in response.extensions:
            with suppress(Exception):
                await network.aclose()
