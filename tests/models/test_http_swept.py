"""Requests over connections of agentrun's own, cancelled at every scheduling point, over sockets in memory."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trustme
from anyio.abc import ByteStream, SocketAttribute

from agentrun.core.errors import ModelError
from agentrun.core.model import ResponseEnded
from agentrun.models import OpenAIChatModel, http_connection
from agentrun.models.http_pool import _pools, limiter_for
from agentrun.models.http_target import target_of
from agentrun.testing import SweepReport, cancel_everywhere

from . import recordings as rec
from .asking import REQUEST

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(body: bytes, size: int = 300) -> list[bytes]:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return [b"%x\r\n%b\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"]


class _Wire(ByteStream):
    """The client's end of a connection: what it is sent counts only as the sign to play the next answer."""

    def __init__(self, answers: Iterator[list[bytes]]) -> None:
        self._answers = answers
        self._coming: list[bytes] = []
        self.closed = False

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.raw_socket: lambda: self}

    async def send(self, item: bytes) -> None:
        await anyio.sleep(0.1)
        self._coming = list(next(self._answers, ()))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.sleep(0.1)
        if not self._coming:
            raise anyio.EndOfStream
        return self._coming.pop(0)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True
        await anyio.lowlevel.checkpoint()


class _Net:
    """All connections of one run of the scenario."""

    def __init__(self, *answers: list[bytes], max_retries: int) -> None:
        self.answers = iter(answers)
        self.wires: list[_Wire] = []
        self.model = OpenAIChatModel("m", api_key="k", base_url="http://model.example/v1", max_retries=max_retries)

    async def connect(self, host: str, port: int) -> ByteStream:
        await anyio.sleep(0.1)
        wire = _Wire(self.answers)
        self.wires.append(wire)
        return wire


def sweep(
    monkeypatch: pytest.MonkeyPatch,
    answers: list[list[bytes]],
    requests: int,
    *,
    max_retries: int = 0,
    raises: tuple[type[Exception], ...] = (),
) -> tuple[SweepReport, list[_Net]]:
    """Cancel so many requests, one after the other, everywhere."""
    nets: list[_Net] = []
    monkeypatch.setattr(http_connection, "_is_readable", lambda _: False)

    async def scenario() -> None:
        net = _Net(*answers, max_retries=max_retries)
        nets.append(net)
        monkeypatch.setattr(anyio, "connect_tcp", net.connect)
        for _ in range(requests):
            async with net.model.stream(REQUEST) as stream:
                events = [event async for event in stream]
            assert isinstance(events[-1], ResponseEnded)

    def nothing_is_left() -> None:
        net = nets[-1]
        assert limiter_for(net.model, 100).borrowed_tokens == 0
        try:
            idle = _pools.get()[0].idle
        except LookupError:
            idle = []
        assert [wire.closed for wire in net.wires] == [not any(c._stream is wire for c in idle) for wire in net.wires]

    # The generator that closes the pool at the end of the loop lives as long as the loop.
    report = cancel_everywhere(scenario, oracle=nothing_is_left, raises=raises, ignore=["asyncgen"])
    return report, nets


ANSWER = [_HEAD, *chunked(rec.CHAT_TEXT)]


def test_a_request_that_is_cancelled_anywhere_leaves_no_connection_and_no_place_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report, _ = sweep(monkeypatch, [ANSWER, ANSWER], requests=2)
    report.raise_if_failed()
    assert report.injections > 100


def test_the_same_where_a_connection_breaks_as_it_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    report, nets = sweep(monkeypatch, [ANSWER, [], ANSWER], requests=2, max_retries=1)
    report.raise_if_failed()
    assert len(nets[0].wires) == 2


def test_the_same_where_the_answer_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = sweep(monkeypatch, [ANSWER[:3]], requests=1, raises=(ModelError,))
    report.raise_if_failed()


def test_the_same_where_the_server_wants_to_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    closing = [_HEAD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), *ANSWER[1:]]
    report, nets = sweep(monkeypatch, [closing, ANSWER], requests=2)
    report.raise_if_failed()
    assert len(nets[0].wires) == 2


def test_a_connection_that_is_cancelled_in_its_tls_handshake_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    authority, server_side = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("model.example").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    wires: list[_Wire] = []

    class Handshake(_Wire):
        """The server's half of the handshake, between the client's steps."""

        def __init__(self) -> None:
            super().__init__(iter(()))
            self._into, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = server_side.wrap_bio(self._into, self._out, server_side=True)

        async def send(self, item: bytes) -> None:
            await anyio.sleep(0.1)
            self._into.write(item)
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            if answer := self._out.read():
                self._coming.append(answer)

    async def connect(host: str, port: int) -> ByteStream:
        await anyio.sleep(0.1)
        wires.append(Handshake())
        return wires[-1]

    async def scenario() -> None:
        wires.clear()
        monkeypatch.setattr(anyio, "connect_tcp", connect)
        target = target_of("https://model.example/v1")
        connection = await http_connection.connect(target, client_side, None)
        await connection.drop()

    def all_are_closed() -> None:
        assert all(wire.closed for wire in wires)

    report = cancel_everywhere(scenario, oracle=all_are_closed)
    report.raise_if_failed()
    assert report.injections > 20
