"""A request through a client of httpx or httpx2: the user's own, or the one that knows the proxies.

What it takes to cancel one without leaking anything was found with httpx 0.28 and httpcore 1.0.9. All of it goes
through public extension points of httpx (``trace``, ``network_stream``, the request's stream), and is harmless with
httpx2, where most of this has been mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Self

import anyio

__all__ = ["ClientAnswer", "post"]

_CLOSE_SECONDS: Final = 2.0


async def post(
    client: Any,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    connect_timeout: float | None,
    write_timeout: float | None,
) -> ClientAnswer:
    """Send a request and wait for the head of its answer. A checkpoint.

    Args:
        client: The client.
        url: Where to.
        headers: Besides those that the client adds itself.
        body: The body.
        connect_timeout: Seconds that connecting may take, and waiting for the client's pool; ``None`` for no limit.
        write_timeout: Seconds that each piece of the request may take; ``None`` for no limit.

    Raises:
        Exception: What the client raises.
    """
    guard = anyio.CancelScope()
    request = client.build_request(
        "POST",
        url,
        content=body,
        headers=headers,
        # connect, read, write, pool; whoever reads has a clock of their own.
        timeout=(connect_timeout, None, write_timeout, connect_timeout),
        extensions={"trace": _ConnectGuard(guard)},
    )
    request.stream = _plain_body(request.stream, body)
    responses: list[Any] = []
    failures: list[Exception] = []

    async def send() -> None:
        with guard:
            try:
                responses.append(await client.send(request, stream=True, follow_redirects=False))
            except Exception as exc:  # noqa: BLE001 - raised by the host task
                failures.append(exc)

    try:
        # In a child task, which no native cancellation reaches: see `_ConnectGuard`.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
        if failures:
            raise failures[0]
        return ClientAnswer(responses[0])
    except BaseException:
        for response in responses:
            await ClientAnswer(response).close()
        raise


class ClientAnswer:
    """The answer to a request; see `agentrun.models.http_answer.Answer`."""

    __slots__ = ("_chunks", "_response")

    def __init__(self, response: Any) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self._response.status_code)

    @property
    def headers(self) -> Mapping[str, str]:
        """By names in any case."""
        headers: Mapping[str, str] = self._response.headers
        return headers

    @property
    def closed(self) -> bool:
        """There is nothing left to close."""
        return bool(self._response.is_closed)

    async def read(self) -> bytes:
        """The next bytes of the body; ``b""`` at its end. A checkpoint when none are at hand."""
        async for chunk in self._chunks:
            if chunk:
                return bytes(chunk)
        return b""

    async def close(self) -> None:
        """Close the response. Not a checkpoint when there is nothing to close."""
        if not self._response.is_closed:
            # In a child task, because a native cancellation goes through shields, but only in the host task.
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_shut, self._response, self._chunks)


class _ConnectGuard:
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


def _plain_body(stream: Any, content: bytes) -> Any:
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


async def _shut(response: Any, chunks: Any) -> None:
    """Close ``response``, whose body is iterated by ``chunks``, within two seconds and whatever state it is in.

    To be run in a task of its own: a native cancellation goes through shields, but only in the task it is aimed at.
    """
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
        # httpx stacks up to five async generators. Closing the outermost leaves the others to the garbage collector,
        # which trio warns about. Cancelling the innermost read unwinds them all, in order.
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
