"""A loopback HTTP/1.1 server that does exactly what a test tells it to, and tells what its clients did."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import h11
from anyio.streams.tls import TLSListener


class Hang:
    """A step of a script: send nothing more, and wait until the client has gone."""


class Abort:
    """A step of a script: drop the connection without ending the body."""


Step = bytes | Hang | Abort | Callable[[], Awaitable[object]]


@dataclass
class Reply:
    """What the server answers to one request.

    The body is sent in the steps given, each as one chunk; a callable is awaited between two chunks.
    """

    steps: Sequence[Step] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})
    before: Callable[[], Awaitable[object]] | None = None
    drop: bool = False
    """Close the connection instead of answering."""
    close: bool = False
    """Close the connection after the answer, without having said so."""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """Serves the replies in their order; the last one again and again."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[Request] = []
        self.open_connections = 0
        self.connections = 0
        self.gone = 0
        """How many clients went away while the server was sending or hanging."""
        self.port = 0
        self.scheme = "http"
        self._changed = anyio.Event()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"

    def reply(self, *steps: Step, status: int = 200, headers: dict[str, str] | None = None, **more: Any) -> None:
        reply = Reply(steps, status, **more)
        if headers is not None:
            reply.headers = headers
        self.replies.append(reply)

    def reply_error(self, status: int, error: Any = None, **headers: str) -> None:
        body = b"" if error is None else json.dumps({"error": error}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.replies.append(Reply([body], status, {"content-type": "application/json", **named}))

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def handle(self, stream: anyio.abc.ByteStream) -> None:
        self.connections += 1
        self.open_connections += 1
        self._tell()
        try:
            await self._serve(stream)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, h11.RemoteProtocolError):
            pass
        finally:
            self.open_connections -= 1
            self._tell()
            with anyio.move_on_after(1, shield=True):
                await stream.aclose()

    async def _serve(self, stream: anyio.abc.ByteStream) -> None:
        conn = h11.Connection(h11.SERVER)
        while True:
            request = await self._read_request(conn, stream)
            if request is None:
                return
            self.requests.append(request)
            self._tell()
            position = min(len(self.requests), len(self.replies)) - 1
            if not await self._answer(conn, stream, self.replies[position]):
                return
            if conn.our_state is not h11.DONE or conn.their_state is not h11.DONE:
                return
            conn.start_next_cycle()

    async def _read_request(self, conn: h11.Connection, stream: anyio.abc.ByteStream) -> Request | None:
        head: h11.Request | None = None
        body = b""
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                try:
                    conn.receive_data(await stream.receive())
                except anyio.EndOfStream:
                    return None
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                headers = {name.decode(): value.decode() for name, value in head.headers}
                return Request(head.method.decode(), head.target.decode(), headers, body)
            else:
                return None

    async def _answer(self, conn: h11.Connection, stream: anyio.abc.ByteStream, reply: Reply) -> bool:
        if reply.before is not None:
            await reply.before()
        if reply.drop:
            return False
        headers = [("transfer-encoding", "chunked"), *reply.headers.items()]
        try:
            await stream.send(conn.send(h11.Response(status_code=reply.status, headers=headers)) or b"")
            for step in reply.steps:
                if isinstance(step, bytes):
                    await stream.send(conn.send(h11.Data(data=step)) or b"")
                elif isinstance(step, Abort):
                    return False
                elif isinstance(step, Hang):
                    await stream.receive()
                    raise AssertionError("the client sent something where it should have gone")
                else:
                    await step()
            await stream.send(conn.send(h11.EndOfMessage()) or b"")
            if reply.close:
                return False
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            self.gone += 1
            self._tell()
            return False
        return True


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A running server, with TLS when a context is given."""
    server = Server()
    async with AsyncExitStack() as stack:
        listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
        server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        if context is not None:
            server.scheme = "https"
            listener = TLSListener(listener, context, standard_compatible=False)
        stack.push_async_callback(listener.aclose)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(listener.serve, server.handle)
        try:
            yield server
        finally:
            tasks.cancel_scope.cancel()
