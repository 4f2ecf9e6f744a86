"""What a backend says of the running event loop, in public names of anyio or of its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from agentrun.runtime.backend import Backend, running_backend


@pytest.fixture
async def backend() -> Backend:
    return Backend(anyio.get_cancelled_exc_class())  # not one that was made before


async def test_its_kinds_are_those_of_anyio(backend: Backend) -> None:
    assert backend.scope is type(anyio.CancelScope())
    assert backend.event is type(anyio.Event())
    assert backend.task_group is type(anyio.create_task_group())
    assert backend.cancelled is anyio.get_cancelled_exc_class()
    assert backend.native_loop() is anyio.lowlevel.current_token().native_token


async def test_its_clock_is_that_of_the_loop(backend: Backend) -> None:
    before = anyio.current_time()
    assert before <= backend.time() <= backend.clock()() <= anyio.current_time()


async def lets_others_run(wait: Callable[[], Awaitable[object]]) -> bool:
    ran: list[str] = []

    async def other() -> None:
        ran.append("other")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await wait()
        await wait()  # the other one may come second in a step of trio's
        ran_meanwhile = len(ran)
    return ran_meanwhile == 1


async def is_cancelled_in(wait: Callable[[], Awaitable[object]]) -> bool:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wait()
        return False
    return True


async def test_its_checkpoint_lets_others_run_and_is_cancelled(backend: Backend) -> None:
    assert await lets_others_run(backend.checkpoint)
    assert await is_cancelled_in(backend.checkpoint)


async def test_its_checkpoint_if_cancelled_is_one_if_cancelled(backend: Backend) -> None:
    assert not await lets_others_run(backend.checkpoint_if_cancelled)
    assert await is_cancelled_in(backend.checkpoint_if_cancelled)


async def test_its_wake_up_wakes_one_task_once(backend: Backend) -> None:
    woken: list[int] = []
    wake_up = backend.wake_up()

    async def waits() -> None:
        await wake_up
        woken.append(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waits)
        await anyio.wait_all_tasks_blocked()
        assert not woken
        backend.wake(wake_up)
        backend.wake(wake_up)
    assert woken == [1]


async def test_its_wake_up_may_come_before_the_wait(backend: Backend) -> None:
    wake_up = backend.wake_up()
    backend.wake(wake_up)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wake_up  # not a checkpoint
    assert not scope.cancelled_caught


async def test_its_wake_up_may_come_after_the_wait_was_cancelled(backend: Backend) -> None:
    wake_up = backend.wake_up()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wake_up
    assert scope.cancelled_caught
    backend.wake(wake_up)
    await anyio.lowlevel.checkpoint()  # the task that waited is not disturbed where it waits now


async def test_its_current_task_is_that_of_asyncio(backend: Backend, anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        assert backend.current_task() is None
    else:
        assert id(backend.current_task()) == anyio.get_current_task().id


async def test_it_knows_which_scope_a_task_is_in(backend: Backend) -> None:
    """Of the versions of anyio and trio that are installed; if it fails, runs are slower, and all else holds."""

    def innermost() -> Any:
        return getattr(*backend.innermost(backend.current_task()))

    with anyio.CancelScope():
        outside = innermost()
        with anyio.CancelScope() as scope:
            inside = innermost()
            assert inside is not outside
            with anyio.CancelScope(deadline=math.inf):
                assert innermost() is not inside
            assert innermost() is inside
            scope.shield = True
            assert innermost() is inside
        assert innermost() is outside


async def test_it_says_so_if_it_does_not_know_which_scope_a_task_is_in(
    backend: Backend, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a version that keeps it elsewhere; and asyncio's tasks are in none before they enter the first."""
    if anyio_backend_name == "asyncio":
        monkeypatch.delattr("anyio._backends._asyncio._task_states")
    else:
        monkeypatch.setattr("trio.lowlevel.current_task", None)
    another = Backend(anyio.get_cancelled_exc_class())
    holder, attribute = another.innermost(another.current_task())
    assert holder is None
    assert getattr(holder, attribute, None) is None


async def test_it_is_looked_up_once() -> None:
    assert running_backend() is running_backend()
    assert type(running_backend()) is Backend


def test_a_trio_that_is_a_guest_of_asyncio_has_the_backend_of_trio() -> None:
    """Both event loops run in one thread then, in turns; agentrun tells by the task which of them it is in."""
    found: list[str] = []

    async def look() -> None:
        for _ in range(3):
            found.append(running_backend().cancelled.__module__.partition(".")[0])
            await anyio.lowlevel.checkpoint()

    async def host() -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        await look()
        trio.lowlevel.start_guest_run(
            look, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=ended.set_result
        )
        while not ended.done():
            await look()
        ended.result().unwrap()

    asyncio.run(host())
    assert found[:3] == ["asyncio"] * 3
    assert found.count("trio") == 3
    assert set(found) == {"asyncio", "trio"}
