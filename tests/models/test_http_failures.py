"""Everything that can go wrong on the wire, with both adapters, both clients and on both backends."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import httpx
import pytest
import trustme

from agentrun.core.errors import ModelError
from agentrun.core.events import TextDelta
from agentrun.core.model import ModelRequest, ModelSettings, ResponseEnded

from . import recordings as rec
from .asking import REQUEST, collect, failure
from .conftest import MakeModel
from .server import Abort, Hang, Server, serving

TEXT = {"responses": rec.RESPONSES_TEXT, "chat": rec.CHAT_TEXT}
FIRST = {
    "responses": rec.sse(rec.response("created"), rec.text_delta("Hi")),
    "chat": rec.chat(rec.chunk({"role": "assistant", "content": ""}), rec.chunk({"content": "Hi"})),
}
ERROR_EVENT = {
    "responses": rec.sse({"type": "error", "code": "server_error", "message": "Oops"}),
    "chat": rec.chat({"error": {"message": "Oops", "type": "server_error"}}),
}


async def test_an_answer_arrives(api: str, server: Server, make_model: MakeModel, client: Any) -> None:
    server.reply(TEXT[api])
    events = await collect(make_model(client=client))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Blåbær ☂\n🌧!"
    assert isinstance(events[-1], ResponseEnded)
    [request] = server.requests
    assert request.method == "POST"
    assert request.path == ("/v1/responses" if api == "responses" else "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer sk-test"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "text/event-stream"


async def test_headers_of_one_request_win(server: Server, make_model: MakeModel, api: str) -> None:
    server.reply(TEXT[api])
    settings = ModelSettings(extra_headers={"Authorization": "Bearer other", "X-Extra": "1"})
    await collect(make_model(headers={"X-Extra": "0"}), ModelRequest(None, [], settings=settings))
    assert server.requests[0].headers["authorization"] == "Bearer other"
    assert server.requests[0].headers["x-extra"] == "1"


async def test_connections_are_used_again(api: str, server: Server, make_model: MakeModel, client: Any) -> None:
    server.reply(TEXT[api])
    model = make_model(client=client)
    for _ in range(3):
        await collect(model)
    assert len(server.requests) == 3
    assert server.connections == 1


async def test_a_refused_connection(make_model: MakeModel, client: Any, waits: list[float], free_tcp_port: int) -> None:
    error = await failure(make_model(client=client, base_url=f"http://127.0.0.1:{free_tcp_port}/v1"))
    assert error.status is None
    assert error.retryable
    assert "could not connect to 127.0.0.1" in str(error)
    assert waits == [0.5, 1.0]
    assert error.__notes__ == ["gave up after 3 attempts"]


async def test_a_certificate_that_nobody_vouches_for(
    api: str, make_model: MakeModel, client: Any, waits: list[float]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with serving(context) as server:
        error = await failure(make_model(client=client, base_url=server.url))
    assert not error.retryable
    assert "TLS" in str(error)
    assert "certificate" in str(error).lower()
    assert waits == []


async def test_a_certificate_that_the_users_client_trusts(api: str, make_model: MakeModel) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    async with serving(context) as server, httpx.AsyncClient(verify=trusting) as client:
        server.reply(FIRST[api], Hang())
        model = make_model(client=client, base_url=server.url)
        async with model.stream(REQUEST) as stream:
            await anext(stream)
        await server.until(lambda: server.open_connections == 0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_an_error_that_waiting_does_not_cure(
    status: int, server: Server, make_model: MakeModel, client: Any, waits: list[float]
) -> None:
    error = {"message": "No such thing.", "type": "invalid_request_error", "param": None, "code": "model_not_found"}
    server.reply_error(status, error, x_request_id="req_9")
    caught = await failure(make_model(client=client))
    assert (caught.status, caught.request_id, caught.code) == (status, "req_9", "model_not_found")
    assert not caught.retryable
    assert "No such thing." in str(caught)
    assert len(server.requests) == 1
    assert waits == []


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_an_error_that_may_pass_is_tried_again(
    status: int, api: str, server: Server, make_model: MakeModel, waits: list[float]
) -> None:
    server.reply_error(status, {"message": "Busy."})
    server.reply_error(status)
    server.reply(TEXT[api])
    events = await collect(make_model())
    assert isinstance(events[-1], ResponseEnded)
    assert waits == [0.5, 1.0]
    assert len({request.body for request in server.requests}) == 1


async def test_retries_end(server: Server, make_model: MakeModel, client: Any, waits: list[float]) -> None:
    server.reply_error(429, {"message": "Slow down.", "code": "rate_limit_exceeded"})
    error = await failure(make_model(client=client, max_retries=4))
    assert (error.status, error.retryable, error.retry_after, error.code) == (429, True, None, "rate_limit_exceeded")
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("headers", "wait"),
    [({"retry-after": "3"}, 3.0), ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5), ({"retry-after": "x"}, 0.5)],
)
async def test_the_provider_says_how_long_to_wait(
    headers: dict[str, str], wait: float, api: str, server: Server, make_model: MakeModel, waits: list[float]
) -> None:
    server.reply_error(429, {"message": "Slow down."}, **headers)
    server.reply(TEXT[api])
    await collect(make_model())
    assert waits == [wait]


async def test_the_provider_names_a_date(api: str, server: Server, make_model: MakeModel, waits: list[float]) -> None:
    server.reply_error(503, None, retry_after=format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    server.reply_error(503, None, retry_after="Fri, 31 Dec 1999 23:59:59 GMT")
    server.reply(TEXT[api])
    await collect(make_model())
    assert 25 < waits[0] <= 30
    assert waits[1] == 0


async def test_a_wait_that_is_too_long_is_left_to_the_caller(
    server: Server, make_model: MakeModel, waits: list[float]
) -> None:
    server.reply_error(429, {"message": "Slow down."}, retry_after="3600")
    error = await failure(make_model(max_retry_wait=60))
    assert error.retryable
    assert error.retry_after == 3600
    assert "max_retry_wait" in error.__notes__[0]
    assert waits == []


async def test_an_empty_account_is_not_retried(server: Server, make_model: MakeModel, waits: list[float]) -> None:
    server.reply_error(429, {"message": "You exceeded your current quota.", "code": "insufficient_quota"})
    assert not (await failure(make_model())).retryable
    assert waits == []


async def test_the_provider_decides_on_retries_if_it_wants(
    server: Server, make_model: MakeModel, waits: list[float]
) -> None:
    server.reply_error(500, {"message": "Oops"}, x_should_retry="false")
    assert not (await failure(make_model())).retryable
    server.reply_error(400, {"message": "Oops"}, x_should_retry="true")
    assert (await failure(make_model())).retryable


async def test_an_html_page(server: Server, make_model: MakeModel, client: Any) -> None:
    server.reply(b"<html><body>Bad\n gateway" + b"x" * 200_000, status=502, headers={"content-type": "text/html"})
    error = await failure(make_model(client=client, max_retries=0))
    assert error.status == 502
    assert error.retryable
    assert "<html><body>Bad gatewayxxx" in str(error)
    assert len(str(error)) < 500


async def test_an_error_without_a_body(server: Server, make_model: MakeModel, client: Any) -> None:
    server.reply(status=404, headers={})
    error = await failure(make_model(client=client))
    assert error.status == 404
    assert "an empty body" in str(error)
    assert "base_url" in str(error)


async def test_an_error_whose_body_breaks_off(server: Server, make_model: MakeModel, client: Any) -> None:
    server.reply(b'{"error": {"mess', Abort(), status=400, headers={"content-type": "application/json"})
    error = await failure(make_model(client=client))
    assert error.status == 400


async def test_a_redirect_names_its_target(server: Server, make_model: MakeModel) -> None:
    server.reply(status=307, headers={"location": "https://elsewhere.example/v1"})
    error = await failure(make_model())
    assert "https://elsewhere.example/v1" in str(error)


async def test_an_answer_that_is_no_stream(server: Server, make_model: MakeModel, client: Any) -> None:
    body = json.dumps({"id": "resp_1", "output": []}).encode()
    server.reply(body, headers={"content-type": "application/json", "x-request-id": "req_9"})
    error = await failure(make_model(client=client))
    assert (error.status, error.request_id, error.retryable) == (200, "req_9", False)
    assert "application/json" in str(error)


async def test_a_missing_key_is_pointed_out(server: Server, make_model: MakeModel) -> None:
    server.reply_error(401, {"message": "Missing bearer."})
    assert "pass api_key=" in str(await failure(make_model(api_key=None)))
    assert "check the API key" in str(await failure(make_model()))
    assert "authorization" not in server.requests[0].headers


async def test_a_stream_that_breaks_off_in_the_middle(
    api: str, server: Server, make_model: MakeModel, client: Any, waits: list[float]
) -> None:
    server.reply(FIRST[api], Abort())
    seen: list[Any] = []
    with pytest.raises(ModelError, match="broke off") as caught:
        async with make_model(client=client).stream(REQUEST) as stream:
            async for event in stream:
                seen.append(event)  # noqa: PERF401
    assert seen == [TextDelta("Hi")]
    assert caught.value.retryable
    assert waits == []  # something was handed out


async def test_a_stream_that_ends_too_early(api: str, server: Server, make_model: MakeModel, client: Any) -> None:
    server.reply(FIRST[api])
    assert "broke off" in str(await failure(make_model(client=client)))


async def test_a_stream_that_breaks_off_before_its_first_event_is_tried_again(
    api: str, server: Server, make_model: MakeModel, client: Any, waits: list[float]
) -> None:
    server.reply(b": hello\n\n", Abort())
    server.reply(drop=True)
    server.reply(TEXT[api])
    events = await collect(make_model(client=client))
    assert isinstance(events[-1], ResponseEnded)
    assert waits == [0.5, 1.0]


async def test_an_error_event_that_comes_first_is_tried_again(
    api: str, server: Server, make_model: MakeModel, client: Any, waits: list[float]
) -> None:
    server.reply(ERROR_EVENT[api])
    server.reply(TEXT[api])
    events = await collect(make_model(client=client))
    assert isinstance(events[-1], ResponseEnded)
    assert waits == [0.5]


async def test_an_error_event_in_mid_stream_comes_after_what_was_said(
    api: str, server: Server, make_model: MakeModel, client: Any, waits: list[float]
) -> None:
    server.reply(FIRST[api] + ERROR_EVENT[api], headers={"content-type": "text/event-stream", "x-request-id": "req_9"})
    async with make_model(client=client).stream(REQUEST) as stream:
        assert await anext(stream) == TextDelta("Hi")
        with pytest.raises(ModelError, match="Oops") as caught:
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert (caught.value.request_id, caught.value.code) == ("req_9", "server_error")
    assert waits == []


async def test_malformed_json_in_mid_stream(api: str, server: Server, make_model: MakeModel, client: Any) -> None:
    server.reply(FIRST[api], b"data: {oops\n\n", Hang())
    assert "not valid JSON" in str(await failure(make_model(client=client)))
    await server.until(lambda: server.open_connections == 0)


async def test_an_event_of_an_odd_shape(api: str, server: Server, make_model: MakeModel) -> None:
    if api == "responses":
        server.reply(rec.sse({"type": "response.output_text.delta", "delta": 5}, rec.response("completed")))
    else:
        server.reply(rec.chat(rec.chunk({"refusal": 5}, "stop")))
    error = await failure(make_model())
    assert "unexpected shape" in str(error)
    assert not error.retryable


async def test_a_stall_before_the_first_event(
    api: str, server: Server, make_model: MakeModel, client: Any, waits: list[float]
) -> None:
    server.reply(b": hello\n\n", Hang())
    # Long enough for the request to be there on a machine that is busy with other things.
    error = await failure(make_model(client=client, first_token_timeout=0.3, max_retries=1))
    assert "first_token_timeout" in str(error)
    assert error.retryable
    assert len(server.requests) == 2
    await server.until(lambda: server.gone == 2 and server.open_connections == 0)


async def test_a_stall_before_the_headers(server: Server, make_model: MakeModel, client: Any) -> None:
    server.reply(before=anyio.sleep_forever)
    error = await failure(make_model(client=client, first_token_timeout=0.05, max_retries=0))
    assert "first_token_timeout" in str(error)


async def test_a_stall_in_mid_stream(api: str, server: Server, make_model: MakeModel, client: Any) -> None:
    server.reply(FIRST[api], Hang())
    error = await failure(make_model(client=client, chunk_timeout=0.05))
    assert "chunk_timeout" in str(error)
    await server.until(lambda: server.open_connections == 0)


async def test_a_slow_stream_is_not_a_stall(api: str, server: Server, make_model: MakeModel) -> None:
    async def wait() -> None:
        await anyio.sleep(0.35)

    server.reply(FIRST[api], wait, b": still here\n\n", wait, b": still here\n\n", wait, TEXT[api])
    events = await collect(make_model(chunk_timeout=1.0, first_token_timeout=None))
    assert isinstance(events[-1], ResponseEnded)
