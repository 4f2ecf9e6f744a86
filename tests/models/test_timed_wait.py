"""A deadline that costs nothing unless there is something to wait for."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from agentrun.models.timed_wait import TimedWait


def never() -> float:
    return float("inf")


def soon() -> float:
    return anyio.current_time() + 0.02


async def test_what_need_not_wait_is_given_without_asking_for_a_deadline() -> None:
    async def ready() -> int:
        return 7

    def deadline() -> float:
        raise AssertionError("nobody waits")

    assert await TimedWait(ready(), deadline) == 7


async def test_what_waits_in_scopes_of_its_own_is_given_in_the_end() -> None:
    async def slow() -> int:
        with anyio.move_on_after(5):
            await anyio.lowlevel.checkpoint()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
        await anyio.sleep(0)
        return 7

    with anyio.fail_after(5):
        assert await TimedWait(slow(), never) == 7


async def test_a_timeout_is_raised_inside_and_ordinary_cleanup_runs() -> None:
    cleaned: list[str] = []

    async def hang() -> None:
        try:
            with anyio.fail_after(60):
                await anyio.sleep_forever()
        except TimeoutError:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            cleaned.append("yes")
            raise

    wait = TimedWait(hang(), soon)
    with pytest.raises(TimeoutError):
        await wait
    assert wait.expired
    assert cleaned == ["yes"]
    await anyio.lowlevel.checkpoint()  # nothing of the cancellation is left over


async def test_an_outer_cancellation_passes_through() -> None:
    wait = TimedWait(anyio.sleep_forever(), never)
    with anyio.move_on_after(0.02) as scope:
        await wait
    assert scope.cancelled_caught
    assert not wait.expired


async def test_an_outer_cancellation_that_was_asked_for_before_passes_through() -> None:
    wait = TimedWait(anyio.sleep_forever(), lambda: anyio.current_time() + 60)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wait
    assert scope.cancelled_caught
    assert not wait.expired


async def test_an_inner_cancellation_stays_inside() -> None:
    async def moves_on() -> str:
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        return "moved on"

    wait = TimedWait(moves_on(), never)
    assert await wait == "moved on"
    assert not wait.expired


async def test_an_error_is_raised_as_itself() -> None:
    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise KeyError("x")

    with pytest.raises(KeyError):
        await TimedWait(fail(), never)
