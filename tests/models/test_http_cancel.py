"""Leaving a stream, in every way and at every moment: nothing stays open and the model stays usable."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from agentrun.core.errors import ModelError, UserError
from agentrun.core.events import TextDelta
from agentrun.core.model import ResponseEnded
from agentrun.models.http_pool import _pools, limiter_for

from . import recordings as rec
from .asking import REQUEST, collect
from .conftest import MakeModel
from .server import Hang, Server

TEXT = {"responses": rec.RESPONSES_TEXT, "chat": rec.CHAT_TEXT}
DELTA = {"responses": rec.sse(rec.text_delta("Hi")), "chat": rec.chat(rec.chunk({"content": "Hi"}))}


def pool_of(client: Any) -> Any:
    return client._transport._pool


async def assert_clean(server: Server, model: Any, client: Any) -> None:
    """No connection, no pool slot and no limiter token is held."""
    await server.until(lambda: server.open_connections == 0)
    if client is None:
        assert _pools.get()[0].idle == []
    else:
        assert not [c for c in pool_of(client).connections if not c.is_closed()]
        assert pool_of(client)._requests == []
    assert limiter_for(model if client is None else client, 100).borrowed_tokens == 0


async def test_200_streams_cancelled_in_mid_flight_leave_nothing_behind(
    api: str, server: Server, make_model: MakeModel, client: Any
) -> None:
    server.reply(b": hello\n\n", DELTA[api], DELTA[api], DELTA[api], Hang())
    model = make_model(client=client, max_retries=0)
    async with model.stream(REQUEST):
        pass  # what the first request of a process prepares takes longer than all the steps counted here
    dice = random.Random(7)
    reached = {"opening": 0, "open": 0, "reading": 0}

    async def one(read: int, steps: int) -> None:
        state = "opening"
        try:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def cancel_soon() -> None:
                        for _ in range(steps):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()

                    if read < 3:
                        tasks.start_soon(cancel_soon)
                    async with model.stream(REQUEST) as stream:
                        state = "open"
                        for _ in range(read):
                            await anext(stream)
                            state = "reading"
                        if read == 3:
                            tasks.start_soon(cancel_soon)
                        await anext(stream)
                        await anyio.sleep_forever()
        finally:
            reached[state] += 1
        assert scope.cancelled_caught

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(one, dice.randrange(4), dice.randrange(60))
    assert all(reached.values()), reached
    await assert_clean(server, model, client)
    server.replies.clear()
    server.reply(TEXT[api])
    assert isinstance((await collect(model))[-1], ResponseEnded)


async def test_streams_that_are_left_early_are_closed_without_a_warning(
    api: str, server: Server, make_model: MakeModel, client: Any
) -> None:
    server.reply(DELTA[api], DELTA[api], Hang())
    model = make_model(client=client)
    async with model.stream(REQUEST) as stream:
        assert await anext(stream) == TextDelta("Hi")
    async with model.stream(REQUEST):
        pass
    with pytest.raises(ZeroDivisionError):
        async with model.stream(REQUEST) as stream:
            await anext(stream)
            raise ZeroDivisionError
    gc.collect()  # generators of the client that nobody has finished would warn here
    await assert_clean(server, model, client)


async def test_a_cancelled_stream_tells_the_server_at_once(api: str, server: Server, make_model: MakeModel) -> None:
    server.reply(DELTA[api], Hang())
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            async with make_model().stream(REQUEST) as stream:
                async for _ in stream:
                    pass

        tasks.start_soon(ask)
        await server.until(lambda: len(server.requests) == 1)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(1):
        await server.until(lambda: server.gone == 1)


async def test_no_retry_follows_a_cancellation(server: Server, make_model: MakeModel, api: str) -> None:
    server.reply_error(500)
    model = make_model()
    with anyio.move_on_after(0.1) as scope:  # in the back-off of 0.25 s or more
        await collect(model)
    assert scope.cancelled_caught
    assert len(server.requests) == 1
    # An error answer that was read to its end leaves a connection that can be used again, and no more.
    assert limiter_for(model, 100).borrowed_tokens == 0


async def test_an_outer_deadline_is_not_taken_for_a_stall(api: str, server: Server, make_model: MakeModel) -> None:
    server.reply(DELTA[api], Hang())
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.1):
            await collect(make_model(chunk_timeout=60))  # no shorter: on a slow machine both might pass at once


@pytest.mark.parametrize("cancels", [1, 2, 3])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_closes_too(
    cancels: int, api: str, server: Server, make_model: MakeModel, client: Any
) -> None:
    server.reply(DELTA[api], Hang())
    model = make_model(client=client)
    for steps in range(40):
        before = len(server.requests)

        async def ask() -> None:
            async with model.stream(REQUEST) as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(ask())
        if steps >= 20:
            await server.until(lambda before=before: len(server.requests) > before)  # type: ignore[misc]
        for _ in range(steps % 20):
            await asyncio.sleep(0)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
    # The second cancellation can hit httpcore while it closes; its bookkeeping is beyond us then, its socket is not.
    if cancels == 1:
        await assert_clean(server, model, client)
    await server.until(lambda: server.open_connections == 0)
    assert limiter_for(model if client is None else client, 100).borrowed_tokens == 0


async def test_no_more_requests_than_allowed_are_under_way(
    api: str, server: Server, make_model: MakeModel, client: Any
) -> None:
    server.reply(DELTA[api], Hang())
    model = make_model(client=client, max_connections=2)
    async with model.stream(REQUEST), model.stream(REQUEST):
        with anyio.move_on_after(0.05) as scope:
            async with model.stream(REQUEST):
                pass
        assert scope.cancelled_caught
        assert len(server.requests) == 2
    async with model.stream(REQUEST), model.stream(REQUEST):
        pass
    await assert_clean(server, model, client)


async def test_a_back_off_holds_no_place(api: str, server: Server, make_model: MakeModel, waits: list[float]) -> None:
    server.reply_error(500)
    server.reply(TEXT[api])
    model = make_model(max_connections=1)
    async with model.stream(REQUEST) as stream:
        assert limiter_for(model, 1).borrowed_tokens == 1
        assert len([event async for event in stream]) > 1
        assert limiter_for(model, 1).borrowed_tokens == 0  # given back at the end of the answer
    assert len(waits) == 1


async def test_models_that_share_a_client_share_its_limit(server: Server, make_model: MakeModel) -> None:
    async with httpx.AsyncClient() as client:
        make_model(client=client, max_connections=5)
        assert limiter_for(client, 5) is limiter_for(client, 50)
        assert limiter_for(client, 3).total_tokens == 3


async def test_a_pool_of_the_users_that_is_too_small_is_named(api: str, server: Server, make_model: MakeModel) -> None:
    server.reply(DELTA[api], Hang())
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as client:
        model = make_model(client=client, connect_timeout=0.5, max_retries=0)
        async with model.stream(REQUEST):
            with pytest.raises(ModelError, match="max_connections"):
                await collect(model)


async def test_a_stream_can_be_entered_once(api: str, server: Server, make_model: MakeModel) -> None:
    server.reply(TEXT[api])
    stream = make_model().stream(REQUEST)
    async with stream:
        pass
    with pytest.raises(UserError, match="only once"):
        async with stream:
            pass
