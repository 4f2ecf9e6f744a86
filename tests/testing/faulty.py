"""Programs with the classic bugs of async code, one each, and the line that has it marked with BUG."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpcore


def line_of(function: Callable[..., Any], mark: str = "# BUG") -> int:
    """The number of the marked line."""
    lines, first = inspect.getsourcelines(function)
    return first + next(index for index, line in enumerate(lines) if mark in line)


class State:
    """What the programs leave for their oracles."""

    limiter: anyio.CapacityLimiter
    closed: bool
    pool: httpcore.AsyncConnectionPool


state = State()


async def acquire_before_try() -> None:
    state.limiter = anyio.CapacityLimiter(1)

    async def work() -> None:
        borrower = object()
        await state.limiter.acquire_on_behalf_of(borrower)
        await anyio.sleep(1)  # BUG
        try:
            await anyio.sleep(1)
        finally:
            state.limiter.release_on_behalf_of(borrower)

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        group.start_soon(work)


def limiter_is_free() -> None:
    assert state.limiter.borrowed_tokens == 0, "a token of the limiter is lost"


async def await_in_finally() -> None:
    state.closed = False

    async def session() -> None:
        try:
            await anyio.sleep(1)
        finally:
            await anyio.sleep(0.1)  # BUG
            state.closed = True

    async with anyio.create_task_group() as group:
        group.start_soon(session)


def session_is_closed() -> None:
    assert state.closed, "the session is still open"


async def shield_orphan() -> None:
    async def save() -> None:
        await asyncio.sleep(5)  # BUG

    await asyncio.shield(save())


async def unseen_error() -> None:
    async def save() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            raise OSError("the disk is full")  # BUG

    task = asyncio.ensure_future(save())
    try:
        await asyncio.sleep(1)
    finally:
        task.cancel()
        await asyncio.sleep(0.1)


async def error_in_a_callback() -> None:
    def fail() -> None:
        raise OSError("the disk is full")  # BUG

    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(1)


async def forgotten_timer() -> None:
    def remind() -> None:  # BUG
        raise AssertionError("too late")

    timer = asyncio.get_running_loop().call_later(5, remind)
    await asyncio.sleep(1)
    timer.cancel()


async def swallowing_retry_loop() -> None:
    async def fetch() -> None:
        await anyio.sleep(1)

    async def client() -> None:
        for _ in range(2):
            try:
                await fetch()  # BUG
            except BaseException:
                continue

    async with anyio.create_task_group() as group:
        group.start_soon(client)


async def swallowing_retry_of_a_group() -> None:
    for _ in range(2):
        try:
            async with anyio.create_task_group() as group:  # BUG
                group.start_soon(anyio.sleep, 1)
                group.start_soon(anyio.sleep, 2)
            return
        except BaseException:
            continue


async def endless_retry_loop() -> None:
    async def client() -> None:
        while True:
            try:
                await anyio.sleep(1)  # BUG
                return
            except BaseException:
                pass

    async with anyio.create_task_group() as group:
        group.start_soon(client)


async def slow_shielded_cleanup() -> None:
    try:
        await anyio.sleep(1)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(100)  # BUG


async def cleanup_waits_for_ever() -> None:
    done = anyio.Event()

    async def other() -> None:
        await anyio.sleep(2)
        done.set()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        try:
            await anyio.sleep(1)
        finally:
            with anyio.CancelScope(shield=True):
                await done.wait()  # BUG


async def forgotten_stream() -> None:
    send, receive = anyio.create_memory_object_stream[int](1)
    await send.send(1)
    await receive.receive()  # BUG
    send.close()
    receive.close()


async def forgotten_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2  # BUG
        finally:
            await anyio.sleep(0)

    async for _ in numbers():
        await anyio.sleep(1)


async def forgotten_inner_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1  # BUG
        finally:
            await anyio.sleep(1)

    async def doubled() -> AsyncGenerator[int]:
        async for number in numbers():
            yield 2 * number

    async with contextlib.aclosing(doubled()) as closed:
        async for _ in closed:
            await anyio.sleep(1)


async def late_coroutine() -> None:
    async def job() -> None:
        await anyio.sleep(1)

    coro = job()  # BUG
    await anyio.sleep(1)
    await coro


async def forgotten_thread() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, args=(0.2,), name="forgotten")
    thread.start()
    await anyio.sleep(1)  # BUG
    stop.set()
    thread.join()


async def forgotten_descriptor() -> None:
    read, write = os.pipe()
    await anyio.sleep(1)  # BUG
    os.close(read)
    os.close(write)


async def wrong_exception() -> None:
    try:
        await anyio.sleep(1)
    except BaseException:
        raise KeyError("cleanup failed") from None  # BUG


async def lost_pool_slot() -> None:
    """httpcore 1.0.9 #1093: a request that is cancelled while a connection has just been given to it."""
    state.pool = pool = httpcore.AsyncConnectionPool(max_connections=1, network_backend=MemoryNetwork())

    async def get() -> None:
        async with pool.stream("GET", "http://example.org/") as response:
            await response.aread()

    async with anyio.create_task_group() as group:
        group.start_soon(get)
        group.start_soon(get)


async def pool_has_a_slot() -> None:
    async with state.pool as pool:
        with contextlib.suppress(httpcore.ReadError):
            await pool.request("GET", "http://example.org/", extensions={"timeout": {"pool": 5.0}})


class MemoryNetwork(httpcore.AsyncNetworkBackend):
    """Connections that answer any request, and take a moment for each step."""

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        await anyio.sleep(0.1)
        return MemoryConnection()


class MemoryConnection(httpcore.AsyncNetworkStream):
    def __init__(self) -> None:
        self._answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"Hello"] * 3

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await anyio.sleep(0.1)
        return self._answer.pop(0) if self._answer else b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return None
