"""Event loops whose clock jumps."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import pytest

from agentrun import UserError
from agentrun.testing import cancel_everywhere
from agentrun.testing.sweeping.virtual_time import Deadlock, run_virtual

BACKENDS: list[Any] = ["asyncio", "trio"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_year_takes_no_time_and_ends_in_order(backend: Any) -> None:
    order: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await anyio.sleep(seconds)
        order.append((name, anyio.current_time()))

    async def main() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(sleep, "year", 365 * 86400)
            group.start_soon(sleep, "hour", 3600)
            group.start_soon(sleep, "minute", 60)
        return "done"

    began = time.perf_counter()
    assert run_virtual(main, backend=backend) == "done"
    assert time.perf_counter() - began < 30
    assert order == [("minute", 60.0), ("hour", 3600.0), ("year", 365 * 86400.0)]


def test_waiting_for_nothing_is_a_deadlock_on_asyncio() -> None:
    with pytest.raises(Deadlock):
        run_virtual(anyio.sleep_forever)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UserError, match="'curio'"):
        run_virtual(anyio.sleep, 1, backend="curio")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("began", [0.1, 0.071, 1.173, 1000.3])
def test_what_ends_in_the_same_moment_but_for_rounding_ends_together(backend: Any, began: float) -> None:
    ended: dict[str, float] = {}

    async def sleeps(*parts: float) -> None:
        for part in parts:
            await anyio.sleep(part)
        ended[str(parts)] = anyio.current_time()

    async def main() -> None:
        await anyio.sleep(began)
        async with anyio.create_task_group() as group:
            group.start_soon(sleeps, 0.3)
            group.start_soon(sleeps, 0.1, 0.1, 0.1)
            group.start_soon(sleeps, 0.25, 0.05)
            group.start_soon(sleeps, *[0.03] * 10)

    run_virtual(main, backend=backend)
    assert len(ended) == 4
    [moment] = set(ended.values())
    assert moment == pytest.approx(began + 0.3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_timeout_that_has_passed_is_over_by_the_clock_too(backend: Any) -> None:
    async def main() -> list[bool]:
        over: list[bool] = []
        for seconds in (0.4, 0.05, 0.1, 0.7, 0.03):
            await anyio.sleep(seconds)
            with pytest.raises(TimeoutError), anyio.fail_after(0.05) as scope:
                await anyio.sleep(1)
            over.append(anyio.current_time() >= scope.deadline)
            with pytest.raises(TimeoutError), anyio.fail_after(0.1), anyio.fail_after(0.1 + 1e-12):
                await anyio.sleep(1)
        return over

    assert all(run_virtual(main, backend=backend))


def test_time_goes_on_while_a_cancelled_scope_cancels_again_and_again_what_waits_for_time() -> None:
    # A cancelled scope of anyio cancels its tasks in each turn of the loop; asyncio.TaskGroup waits on each time.
    took: list[float] = []

    async def job() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            began = anyio.current_time()
            for _ in range(3):
                await asyncio.sleep(0.1)
            took.append(anyio.current_time() - began)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(job())
            group.create_task(job())

    cancel_everywhere(main, backends=["asyncio"]).raise_if_failed()
    assert took == [pytest.approx(0.3)] * len(took)


def test_time_goes_on_while_a_condition_takes_its_lock_back_in_spite_of_cancellations() -> None:
    async def main() -> None:
        condition = asyncio.Condition()

        async def hold() -> None:
            async with condition:
                await asyncio.sleep(2)
                condition.notify()

        async with condition:
            holds = asyncio.ensure_future(hold())
            await condition.wait()
        await holds

    # A task that has not begun when the scenario is cancelled goes on behind it.
    cancel_everywhere(main, backends=["asyncio"], ignore=["task"]).raise_if_failed()


def test_time_stands_still_for_code_that_takes_its_cancellation_and_waits_on() -> None:
    async def main() -> None:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(5, event.set)
        while not event.is_set():
            try:
                await event.wait()
            except asyncio.CancelledError:
                continue

    report = cancel_everywhere(main, backends=["asyncio"], modes=["suspended"], ignore=["resource"])
    assert [violation.check for violation in report.failures[0].violations][0] == "livelock"


def test_time_stands_still_for_what_sets_its_timer_anew_each_time_that_it_is_cancelled() -> None:
    async def main() -> None:
        while True:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue
            return

    report = cancel_everywhere(main, backends=["asyncio"], modes=["suspended"])
    assert [violation.check for violation in report.failures[0].violations] == ["livelock"]
