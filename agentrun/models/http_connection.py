"""One HTTP/1.1 connection that can be left at any moment: sockets and TLS by anyio, the protocol by h11.

Requests of a client such as httpx go through a pool with locks and waiting lists, and a stack of generators for the
body. That is two thirds of what a request costs, and where cancellations get lost (see `agentrun.models.http_client`).
A model needs none of it: whoever has a connection has it alone, and either reads the answer to its end or drops the
connection. Dropping is one synchronous step, so no cancellation can come in between, of whatever kind.

What else was considered: httpcore's connections without its pool (each of their steps may wait for a lock), and
asyncio's streams (there are none on trio).
"""

from __future__ import annotations

import math
import select
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import anyio
import h11

from agentrun.core.errors import UserError
from agentrun.models.http_errors import connect_error, connect_timeout_error
from agentrun.models.http_target import Target

if TYPE_CHECKING:
    from anyio.abc import ByteStream  # anyio imports what it has of sockets when that is first asked for

__all__ = ["Connection", "ConnectionAnswer", "connect"]

_MAX_HEAD_BYTES: Final = 100 * 1024  # of the head of an answer, as in httpcore
_READ_BYTES: Final = 64 * 1024
_BROKEN: Final = (OSError, anyio.BrokenResourceError, h11.RemoteProtocolError)


async def connect(target: Target, context: ssl.SSLContext | None, timeout: float | None) -> Connection:
    """Open a connection.

    Args:
        target: Where to.
        context: For TLS; ``None`` if the target has none.
        timeout: Seconds it may take; ``None`` for no limit.

    A checkpoint. Cancelled at whatever moment, it leaves nothing open.

    Raises:
        ModelError: There is no connection to be had.
    """
    _, host, port = target.origin
    deadline = math.inf if timeout is None else anyio.current_time() + timeout
    try:
        with anyio.CancelScope(deadline=deadline) as scope:
            stream: ByteStream = await anyio.connect_tcp(host, port)
            if context is not None:
                stream = await _wrap(stream, host, context)
            return Connection(target.origin, stream)
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as exc:
        raise connect_error(exc, host=host) from exc
    assert scope.cancelled_caught
    raise connect_timeout_error(host)


async def _wrap(stream: ByteStream, host: str, context: ssl.SSLContext) -> ByteStream:
    from anyio.streams.tls import TLSStream

    try:
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=host,
            ssl_context=context,
            # HTTP says itself where an answer ends, and many servers close without the farewell of TLS.
            standard_compatible=False,
        )
    except BaseException:
        await _drop(stream)
        raise


async def _drop(stream: ByteStream) -> None:
    # anyio's first step is to close the socket (trio) or to abort the transport (asyncio, whose socket closes before
    # any task goes on), and only then comes a checkpoint: a native cancellation that lands there is too late to harm.
    with anyio.CancelScope(shield=True):
        await stream.aclose()


class Connection:
    """A connection, for one request after the other.

    Attributes:
        origin: Where it leads to; see `Target`.
        idle_since: When its latest answer had been read, on the clock of `anyio.current_time`.
        answered: Whether anything of the answer to the latest request has come.
        closed: Whether it was dropped.
    """

    __slots__ = ("_http", "_socket", "_stream", "answered", "closed", "idle_since", "origin")

    def __init__(self, origin: tuple[bool, str, int], stream: ByteStream) -> None:
        from anyio.abc import SocketAttribute  # who opens a connection has imported it

        self.origin: tuple[bool, str, int] = origin
        self.idle_since: float = 0.0
        self.answered: bool = False
        self.closed: bool = False
        self._stream = stream
        self._socket: Any = stream.extra(SocketAttribute.raw_socket)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)

    @property
    def is_stale(self) -> bool:
        """Whether something has come on the idle connection: nothing good can, and mostly it is the server's end."""
        return self.closed or _is_readable(self._socket)

    def broke(self, exc: BaseException) -> bool:
        """Whether what it has raised says that it broke, rather than that something was wrong with the request."""
        return isinstance(exc, _BROKEN)

    async def ask(
        self, target: Target, headers: Mapping[str, str], body: bytes, release: Callable[[Connection], bool]
    ) -> ConnectionAnswer:
        """Send a POST request and wait for the head of its answer. Drop the connection if this raises. A checkpoint.

        Args:
            target: Where to.
            headers: Besides ``host`` and ``content-length``.
            body: The body.
            release: Called when the answer has been read to its end and another request can be sent; takes the
                connection, or says that nobody wants it.

        Raises:
            UserError: A header cannot be sent.
            Exception: The connection broke; see `error_from_exception`.
        """
        http = self._http
        self.answered = False
        head = http.send(_request(target, headers, len(body)))
        http.send(h11.Data(data=body))
        http.send(h11.EndOfMessage())
        assert head is not None
        try:
            await self._stream.send(head + body)
        except anyio.BrokenResourceError:
            pass  # it may have answered before it had read all, and closed: too large, not allowed
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                await self.receive()
            elif isinstance(event, h11.Response):
                return ConnectionAnswer(self, event, release)
            # Else it is an informational response, such as 103: there is another to come.

    async def receive(self) -> None:
        """Wait for more of the answer. A checkpoint."""
        try:
            data = await self._stream.receive(_READ_BYTES)
            self.answered = True
        except anyio.EndOfStream:
            if self._http.their_state is h11.SEND_RESPONSE:
                raise h11.RemoteProtocolError("the server closed it before it had answered") from None
            data = b""
        self._http.receive_data(data)

    def next_event(self) -> Any:
        """The next event of the answer, as h11 has them."""
        return self._http.next_event()

    def ready_again(self) -> bool:
        """The answer has been read: whether another request can be sent."""
        http = self._http
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE or http.trailing_data[0]:
            return False
        http.start_next_cycle()
        self.idle_since = anyio.current_time()
        return True

    async def drop(self) -> None:
        """Close the connection, whatever is under way on it; synchronous up to a checkpoint at its end."""
        if not self.closed:
            self.closed = True
            await _drop(self._stream)


class ConnectionAnswer:
    """The answer to a request; see `agentrun.models.http_answer.Answer`."""

    __slots__ = ("_complete", "_connection", "_failure", "_release", "closed", "headers", "status")

    def __init__(self, connection: Connection, response: h11.Response, release: Callable[[Connection], bool]) -> None:
        self._connection = connection
        self._release = release
        self._complete = False
        self._failure: Exception | None = None
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers
        }
        self.closed: bool = False

    async def read(self) -> bytes:
        """The next bytes of the body, all that have come; ``b""`` at its end."""
        connection, parts = self._connection, list[bytes]()
        if self._failure is not None:
            raise self._failure
        while not self._complete:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as exc:
                if not parts:
                    raise
                self._failure = exc  # what came before it comes first
                break
            if event is h11.NEED_DATA:
                if parts:
                    break
                await connection.receive()
            elif isinstance(event, h11.Data):
                parts.append(event.data)
            else:
                self._complete = True
                self.closed = connection.ready_again() and self._release(connection)
        return b"".join(parts)

    async def close(self) -> None:
        """Drop the connection, unless it is ready for the next request. Not a checkpoint when it is."""
        if not self.closed:
            self.closed = True
            await self._connection.drop()


def _request(target: Target, headers: Mapping[str, str], length: int) -> h11.Request:
    every = {"host": target.host_header, **headers, "content-length": str(length)}
    try:
        return h11.Request(method="POST", target=target.path, headers=list(every.items()))
    except (h11.LocalProtocolError, UnicodeError):
        raise UserError(f"the request cannot be made: {_what_is_wrong(every)}") from None  # which shows no secret


def _what_is_wrong(headers: Mapping[str, str]) -> str:
    for name, value in headers.items():
        try:
            h11.Request(method="GET", target="/", headers=list({"host": "h", name: value}.items()))
        except (h11.LocalProtocolError, UnicodeError):
            if value != value.strip():
                return f"the value of the header {name!r} begins or ends with white space; an API key often has that"
            return f"the header {name!r} has characters that HTTP does not allow in its name or value"
    return "its headers are not valid together"


def _is_readable(sock: Any) -> bool:
    """Whether reading would not wait: something has come, the other side has closed, or the socket is broken."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return True
    if hasattr(select, "poll"):  # not on Windows; where it is, `select` cannot look at high descriptors
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([descriptor], [], [], 0)[0])
