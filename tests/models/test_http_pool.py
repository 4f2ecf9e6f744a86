"""The connections that agentrun makes itself: which are used again, which are not, and what is said when one fails."""

from __future__ import annotations

import functools
import gc
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trustme

from agentrun.core.errors import ModelError, UserError
from agentrun.core.model import ModelRequest, ModelSettings, ResponseEnded
from agentrun.models import OpenAIChatModel, OpenAIResponsesModel, http_pool
from agentrun.models.http_pool import _pools, limiter_for
from agentrun.models.http_target import target_of

from . import recordings as rec
from .asking import REQUEST, collect, failure
from .conftest import MakeModel
from .server import Abort, Hang, Server, serving

TEXT = {"responses": rec.RESPONSES_TEXT, "chat": rec.CHAT_TEXT}
DELTA = {"responses": rec.sse(rec.text_delta("Hi")), "chat": rec.chat(rec.chunk({"content": "Hi"}))}


def idle() -> list[Any]:
    return _pools.get()[0].idle


@asynccontextmanager
async def raw_server(handle: Callable[[anyio.abc.ByteStream], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that says whatever ``handle`` says; gives its address."""

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await handle(stream)

    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/v1"
        tasks.cancel_scope.cancel()


def answer(body: bytes, head: bytes = b"content-type: text/event-stream\r\n") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


# Which connection is used ------------------------------------------------------------------------------------------


async def test_one_connection_serves_one_request_after_the_other(
    api: str, server: Server, make_model: MakeModel
) -> None:
    server.reply(TEXT[api])
    model = make_model()
    for _ in range(3):
        assert isinstance((await collect(model))[-1], ResponseEnded)
    assert server.connections == 1
    assert len(idle()) == 1


async def test_a_connection_leads_to_one_server_only(api: str, server: Server, make_model: MakeModel) -> None:
    server.reply(TEXT[api])
    async with serving() as other:
        other.reply(TEXT[api])
        for url in (server.url, other.url, server.url, other.url):
            await collect(make_model(base_url=url))
        assert (len(server.requests), len(other.requests)) == (2, 2)
        assert (server.connections, other.connections) == (1, 1)


async def test_requests_at_once_have_a_connection_each_and_later_ones_use_the_latest(
    api: str, server: Server, make_model: MakeModel
) -> None:
    model = make_model(max_connections=None)
    together = anyio.Event()
    server.reply(DELTA[api], together.wait, TEXT[api])
    async with anyio.create_task_group() as tasks:
        for _ in range(120):
            tasks.start_soon(collect, model)
        await server.until(lambda: len(server.requests) == 120)
        assert server.connections == 120
        together.set()
    assert len(idle()) == 100  # the others were closed
    await server.until(lambda: server.open_connections == 100)
    latest = idle()[-1]
    async with model.stream(REQUEST):
        assert latest not in idle()
        assert len(idle()) == 99
    assert server.connections == 120


async def test_a_connection_that_was_idle_for_too_long_is_closed_instead_of_used(
    api: str, server: Server, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply(TEXT[api])
    model = make_model()
    await collect(model)
    monkeypatch.setattr(http_pool, "_IDLE_SECONDS", -1.0)
    await collect(model)
    assert server.connections == 2
    await server.until(lambda: server.open_connections == 1)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used(
    tls: bool, api: str, make_model: MakeModel, waits: list[float], tls_context: ssl.SSLContext
) -> None:
    async with serving(tls_context if tls else None) as server:
        server.reply(TEXT[api], close=True)
        model = make_model(base_url=server.url)
        for _ in range(3):
            await collect(model)
            await server.until(lambda: server.open_connections == 0)
        assert server.connections == 3
    assert waits == []


async def test_a_connection_that_the_server_closes_while_it_is_used_again_is_replaced_at_once(
    api: str, server: Server, make_model: MakeModel, waits: list[float]
) -> None:
    server.reply(TEXT[api])
    server.reply(drop=True)
    server.reply(TEXT[api])
    model = make_model(max_retries=1)
    await collect(model)
    assert isinstance((await collect(model))[-1], ResponseEnded)
    assert [request.body for request in server.requests[1:]] == [server.requests[0].body] * 2
    assert server.connections == 2
    assert waits == []


async def test_a_request_that_shall_not_be_tried_again_is_sent_once_though_its_connection_was_used_before(
    api: str, server: Server, make_model: MakeModel
) -> None:
    server.reply(TEXT[api])
    server.reply(drop=True)
    model = make_model(max_retries=0)
    await collect(model)
    error = await failure(model)
    assert str(error) == "the connection to 127.0.0.1 failed: the server closed it before it had answered"
    assert error.retryable
    assert len(server.requests) == 2


async def test_what_fails_on_a_new_connection_is_tried_again_only_after_a_wait(
    api: str, server: Server, make_model: MakeModel, waits: list[float]
) -> None:
    server.reply(drop=True)
    error = await failure(make_model(max_retries=1))
    assert "the connection to 127.0.0.1 failed" in str(error)
    assert len(server.requests) == 2
    assert waits == [0.5]


async def test_an_answer_that_has_begun_is_not_asked_for_again_in_silence(
    api: str, server: Server, make_model: MakeModel
) -> None:
    server.reply(TEXT[api])
    server.reply(DELTA[api], Abort())
    model = make_model(max_retries=0)
    await collect(model)
    assert "broke off" in str(await failure(model))
    assert len(server.requests) == 2


async def test_a_used_connection_that_breaks_within_the_head_of_an_answer_is_not_replaced_in_silence(
    api: str, make_model: MakeModel
) -> None:
    requests: list[bytes] = []

    async def handle(stream: anyio.abc.ByteStream) -> None:
        requests.append(await stream.receive())
        await stream.send(answer(TEXT[api]))
        requests.append(await stream.receive())
        await stream.send(b"HTTP/1.1 200 OK\r\ncont")

    async with raw_server(handle) as url:
        model = make_model(base_url=url, max_retries=0)
        await collect(model)
        assert "the connection to 127.0.0.1 failed" in str(await failure(model))
    assert len(requests) == 2


async def test_what_a_server_says_on_an_idle_connection_is_not_taken_for_an_answer(
    api: str, make_model: MakeModel
) -> None:
    """Some say that they got no request in time."""
    farewell = anyio.Event()

    async def handle(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(answer(TEXT[api]))
        if not farewell.is_set():
            await stream.send(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            farewell.set()
        await anyio.sleep_forever()

    async with raw_server(handle) as url:
        model = make_model(base_url=url, max_retries=0)
        await collect(model)
        await farewell.wait()
        assert isinstance((await collect(model))[-1], ResponseEnded)
        await idle().pop().drop()


async def test_an_answer_that_says_close_leaves_no_connection(api: str, server: Server, make_model: MakeModel) -> None:
    server.reply(TEXT[api], headers={"content-type": "text/event-stream", "connection": "close"})
    model = make_model()
    await collect(model)
    await collect(model)
    assert idle() == []
    assert server.connections == 2
    await server.until(lambda: server.open_connections == 0)


async def test_a_server_that_says_more_than_its_answer_is_not_trusted_again(api: str, make_model: MakeModel) -> None:
    async def handle(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(answer(TEXT[api]) + b"HTTP/1.1 200 OK\r\n")
        await stream.receive()
        raise AssertionError("used again")

    async with raw_server(handle) as url:
        assert isinstance((await collect(make_model(base_url=url)))[-1], ResponseEnded)
        assert idle() == []


async def test_cancelled_while_connecting_nothing_stays_open(api: str, server: Server, make_model: MakeModel) -> None:
    server.reply(TEXT[api])
    model = make_model(max_connections=1)
    for steps in range(12):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, model)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    await server.until(lambda: server.open_connections == len(idle()))
    assert limiter_for(model, 1).borrowed_tokens == 0
    gc.collect()  # a socket that nobody has closed would warn here
    assert isinstance((await collect(model))[-1], ResponseEnded)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_model_outlives_its_event_loop(backend: str, api: str) -> None:
    cls: Any = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
    models: dict[int, Any] = {}
    pools: list[Any] = []
    connections: list[Any] = []

    async def main(port: int) -> int:
        async with serving() as server:
            server.reply(TEXT[api])
            # The one thing of the model that changes, because each loop has a server of its own.
            model = models.setdefault(0, cls("test-model", base_url="http://127.0.0.1:1/v1", max_retries=0))
            model.base_url = server.url
            await collect(model)
            await collect(model)
            assert server.connections == 1
            pools.append(_pools.get()[0])
            connections.extend(idle())
        return port

    for run in range(3):
        assert anyio.run(main, run, backend=backend) == run
    gc.collect()  # a connection that was not closed would warn here
    assert len(set(map(id, pools))) == 3
    assert len(connections) == 3
    assert all(connection.closed for connection in connections)


# What is sent and what comes back ------------------------------------------------------------------------------------


async def test_a_server_that_answers_before_it_has_read_all_is_heard(api: str, make_model: MakeModel) -> None:
    async def handle(stream: anyio.abc.ByteStream) -> None:
        await stream.receive(1)
        await stream.send(b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig")

    async with raw_server(handle) as url:
        error = await failure(make_model(base_url=url, max_retries=0))
    assert error.status == 413 or "failed" in str(error)  # a reset may overtake the answer: that is the network's


async def test_what_comes_before_the_answer_is_passed_over(api: str, make_model: MakeModel) -> None:
    async def handle(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await stream.send(answer(TEXT[api]))
        await stream.receive()

    async with raw_server(handle) as url:
        assert isinstance((await collect(make_model(base_url=url)))[-1], ResponseEnded)
        assert len(idle()) == 1
        await idle().pop().drop()


async def test_a_body_that_ends_with_its_connection(api: str, make_model: MakeModel) -> None:
    async def handle(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + TEXT[api])

    async with raw_server(handle) as url:
        assert isinstance((await collect(make_model(base_url=url)))[-1], ResponseEnded)
        assert idle() == []


async def test_a_server_that_does_not_speak_http(api: str, make_model: MakeModel) -> None:
    async def handle(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    async with raw_server(handle) as url:
        error = await failure(make_model(base_url=url, max_retries=0))
    assert "the connection to 127.0.0.1 failed" in str(error)


async def test_what_came_before_broken_framing_is_handed_out_first(api: str, make_model: MakeModel) -> None:
    async def handle(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        await stream.send(head + b"%x\r\n%b\r\n" % (len(DELTA[api]), DELTA[api]) + b"no length\r\n")

    async with raw_server(handle) as url, make_model(base_url=url).stream(REQUEST) as stream:
        await anext(stream)
        with pytest.raises(ModelError, match="broke off"):
            await anext(stream)


async def test_an_encoded_answer_is_refused_by_name(api: str, make_model: MakeModel) -> None:
    async def handle(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(answer(b"\x1f\x8b", b"content-encoding: gzip\r\ncontent-type: text/event-stream\r\n"))

    async with raw_server(handle) as url:
        error = await failure(make_model(base_url=url))
    assert "encoded as gzip" in str(error)
    assert "httpx" in str(error)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"authorization": "Bearer sk-secret\n"}, "header 'authorization' begins or ends with white space"),
        ({"x-name": "sk-secret\n1"}, "the header 'x-name' has characters"),
        ({"x-name": "sk-secret é"}, "the header 'x-name' has characters"),
        ({"x name": "sk-secret"}, "the header 'x name' has characters"),
    ],
)
async def test_a_header_that_cannot_be_sent_is_named_and_its_value_is_not(
    headers: dict[str, str], says: str, server: Server, make_model: MakeModel
) -> None:
    with pytest.raises(UserError) as caught:
        await collect(make_model(headers=headers))
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert server.requests == []


async def test_headers_of_a_request_are_sent(api: str, server: Server, make_model: MakeModel) -> None:
    server.reply(TEXT[api])
    settings = ModelSettings(extra_headers={"X-Trace": "7"})
    await collect(make_model(), ModelRequest(None, REQUEST.items, settings=settings))
    sent = server.requests[0].headers
    assert sent["host"] == f"127.0.0.1:{server.port}"
    assert sent["x-trace"] == "7"
    assert sent["accept-encoding"] == "identity"
    assert int(sent["content-length"]) == len(server.requests[0].body)


async def test_a_name_and_a_password_in_the_address_are_sent_as_such(
    api: str, server: Server, make_model: MakeModel
) -> None:
    server.reply(TEXT[api])
    await collect(make_model(base_url=server.url.replace("//", "//me:pass%20word@"), api_key=None))
    assert server.requests[0].headers["authorization"] == "Basic bWU6cGFzcyB3b3Jk"


@pytest.mark.parametrize(
    ("url", "origin", "host", "path"),
    [
        ("http://a.example", (False, "a.example", 80), "a.example", "/"),
        ("https://A.example/v1", (True, "a.example", 443), "a.example", "/v1"),
        ("https://a.example:8443/v1?b=c d", (True, "a.example", 8443), "a.example:8443", "/v1?b=c%20d"),
        ("http://[::1]:80/a%20b", (False, "::1", 80), "[::1]", "/a%20b"),
        ("http://bücher.example/ü", (False, "xn--bcher-kva.example", 80), "xn--bcher-kva.example", "/%C3%BC"),
    ],
)
def test_addresses_are_taken_apart(url: str, origin: tuple[bool, str, int], host: str, path: str) -> None:
    target = target_of(url)
    assert (target.origin, target.host_header, target.path) == (origin, host, path)


# TLS and proxies -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """For a server whose certificate is trusted, as one says it in the environment."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setattr(http_pool, "_ssl_context", functools.cache(http_pool._ssl_context.__wrapped__))
    return context


async def test_over_tls_a_connection_is_used_again_and_a_stream_can_be_cut(
    api: str, make_model: MakeModel, tls_context: ssl.SSLContext
) -> None:
    async with serving(tls_context) as server:
        server.reply(TEXT[api])
        server.reply(TEXT[api])
        server.reply(DELTA[api], Hang())
        model = make_model(base_url=server.url)
        assert isinstance((await collect(model))[-1], ResponseEnded)
        assert isinstance((await collect(model))[-1], ResponseEnded)
        assert server.connections == 1
        async with model.stream(REQUEST) as stream:
            await anext(stream)
        await server.until(lambda: server.open_connections == 0)
        assert idle() == []


async def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time(api: str, make_model: MakeModel) -> None:
    """TLS needs an answer to be connected."""
    async with raw_server(lambda _: anyio.sleep_forever()) as url:
        model = make_model(base_url=url.replace("http:", "https:"), connect_timeout=0.05, max_retries=0)
        assert "could not connect to 127.0.0.1 in time" in str(await failure(model))


async def test_of_many_first_requests_one_reads_the_certificates_and_if_it_fails_another_does(
    make_model: MakeModel, api: str, tls_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[threading.Thread] = []
    all_wait = threading.Event()
    original = http_pool._ssl_context.__wrapped__

    def prepare() -> Any:
        prepared.append(threading.current_thread())
        all_wait.wait(10)
        if len(prepared) == 1:
            raise ValueError("no certificates today")
        return original()

    monkeypatch.setattr(http_pool, "_ssl_context", functools.cache(prepare))
    ends: list[Any] = []

    async with serving(tls_context) as server:
        server.reply(TEXT[api])
        model = make_model(base_url=server.url, max_connections=None)

        async def ask() -> None:
            try:
                ends.append(await collect(model))
            except ValueError as error:
                ends.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            all_wait.set()
    assert len(ends) == 5
    assert [str(end) for end in ends if isinstance(end, ValueError)] == ["no certificates today"]
    assert len(prepared) == 2
    assert threading.main_thread() not in prepared


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_the_proxies_of_the_environment_are_heeded(name: str, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls: Any = OpenAIResponsesModel if api == "responses" else OpenAIChatModel

    async def main() -> None:
        async with serving() as proxy, serving() as server:
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            proxy.reply(TEXT[api])
            server.reply(TEXT[api])
            await collect(cls("m", base_url="http://model.invalid/v1", api_key="k"))
            await collect(cls("m", base_url=server.url, api_key="k"))
            assert [request.headers["host"] for request in proxy.requests] == ["model.invalid"]
            assert len(server.requests) == 1

    anyio.run(main)


def test_without_proxies_httpx_is_not_even_imported(api: str) -> None:
    """It costs tens of milliseconds."""
    cls = "OpenAIResponsesModel" if api == "responses" else "OpenAIChatModel"
    code = f"""
import sys, anyio
from agentrun.errors import ModelError
from agentrun.models import {cls}
from agentrun.items import UserMessage
from agentrun.models import ModelRequest
async def main():
    try:
        async with {cls}("m", base_url="http://127.0.0.1:1/v1", api_key="k", max_retries=0).stream(
            ModelRequest(None, [UserMessage("Hi")])
        ):
            pass
    except ModelError as error:
        print(error)
anyio.run(main)
print("httpx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "could not connect to 127.0.0.1" in done.stdout
    assert done.stdout.endswith("False\n")
