"""The engine of `cancel_everywhere`: what it counts, where it cancels, and that it is the same each time."""

from __future__ import annotations

import asyncio
import functools
import time
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import UserError
from agentrun.testing import Failure, SweepReport, cancel_everywhere, replay

from . import faulty

BACKENDS: list[Any] = ["asyncio", "trio"]
both = pytest.mark.parametrize("backend", BACKENDS)


async def five_tasks() -> None:
    """Five tasks that hand values over, sleep, time out, and shield what must not be cut."""
    send, receive = anyio.create_memory_object_stream[int](1)

    async def produce() -> None:
        async with send:
            for value in range(3):
                await send.send(value)
                await anyio.sleep(1)

    async def consume() -> None:
        async with receive:
            async for _ in receive:
                with anyio.move_on_after(0.5):
                    await anyio.sleep(1)

    async def shielded() -> None:
        try:
            await anyio.sleep(2)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)

    async with send, receive, anyio.create_task_group() as group:
        group.start_soon(produce)
        group.start_soon(consume)
        group.start_soon(shielded)
        group.start_soon(anyio.sleep, 3)


@both
def test_a_correct_program_sweeps_clean_at_every_point_with_second_cancels_too(backend: Any) -> None:
    # A native cancel hits only the scenario's own task, which then closes the streams under the others.
    report = cancel_everywhere(five_tasks, backends=[backend], modes=["suspended", "resuming"])
    report.raise_if_failed()
    assert report.diverged == 0
    assert report.points > 20
    assert report.injections > report.points
    assert report.delivered > report.points
    again = cancel_everywhere(five_tasks, backends=[backend], modes=["suspended", "resuming"], second=3, limit=10)
    again.raise_if_failed()
    assert again.injections > 40


def test_native_cancels_hit_the_root_once_twice_and_three_times() -> None:
    seen: list[int] = []

    async def stubborn() -> None:
        cancels = 0
        try:
            for _ in range(6):
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    cancels += 1
            if cancels:
                raise asyncio.CancelledError
        finally:
            seen.append(cancels)

    cancel_everywhere(stubborn, modes=["native"], backends=["asyncio"], limit=1, raises=()).raise_if_failed()
    assert seen == [0, 0, 1, 2, 3, 0]  # and once more undisturbed, at the end


class Begins:
    """Scenarios of several kinds, that go wrong when they are cancelled before their first step."""

    async def method(self) -> None:
        await anyio.sleep(1)

    async def __call__(self) -> None:
        await anyio.sleep(1)


async def begins() -> None:
    await anyio.sleep(1)


async def begins_with(number: int) -> None:
    await anyio.sleep(number)


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper() -> None:
        await function()

    return wrapper


@both
@pytest.mark.parametrize(
    ("scenario", "function"),
    [
        (begins, begins),
        (partial(begins_with, 1), begins_with),
        (Begins().method, Begins.method),
        (Begins(), Begins.__call__),
        (decorated(begins), begins),
    ],
)
def test_a_scenario_that_has_not_begun_stands_at_its_own_first_line(scenario: Any, function: Any, backend: Any) -> None:
    def wrong() -> None:
        raise AssertionError("always")

    report = cancel_everywhere(scenario, backends=[backend], modes=["resuming"], oracle=wrong)
    first = next(failure for failure in report.failures if failure.point == 1)
    assert first.place is not None
    assert (first.place.line, first.place.function) == (function.__code__.co_firstlineno, function.__qualname__)
    assert first.place.file == __file__
    assert cancel_everywhere(scenario, backends=[backend], only=first.id, oracle=wrong).failures[-1].id == first.id


@both
def test_the_points_are_the_steps_of_the_tasks(backend: Any) -> None:
    async def child() -> None:
        await anyio.sleep(1)

    async def two_tasks() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)

    # Root: begins, ends. Child: begins, goes on after the sleep (trio's sleep is one await as well).
    report = cancel_everywhere(two_tasks, backends=[backend], modes=["resuming"])
    assert report.points == report.injections == 4


@both
def test_suspended_cuts_the_await_and_resuming_lets_the_value_through(backend: Any) -> None:
    steps: list[str] = []

    async def handover() -> None:
        steps.clear()
        event = anyio.Event()

        async def waiter() -> None:
            steps.append("begun")
            await event.wait()
            steps.append("value")
            await anyio.lowlevel.checkpoint()
            steps.append("after")

        async with anyio.create_task_group() as group:
            group.start_soon(waiter)
            await anyio.wait_all_tasks_blocked()
            event.set()

    endings: dict[str, set[tuple[str, ...]]] = {}
    for mode in ("suspended", "resuming"):
        found: set[tuple[str, ...]] = set()

        def note(found: set[tuple[str, ...]] = found) -> None:
            found.add(tuple(steps))

        cancel_everywhere(handover, backends=[backend], modes=[mode], oracle=note).raise_if_failed()
        endings[mode] = found
    assert ("begun",) in endings["suspended"]
    assert ("begun", "value") in endings["resuming"]


@both
def test_time_is_virtual_and_deadlines_fire_in_their_order(backend: Any) -> None:
    times: list[float] = []

    async def slow() -> None:
        with anyio.move_on_after(3600):
            await anyio.sleep(86400 * 365)
        times.append(anyio.current_time())

    began = time.perf_counter()
    cancel_everywhere(slow, backends=[backend], grace=5, limit=1).raise_if_failed()
    assert time.perf_counter() - began < 30
    assert times[:2] == [3600.0, 3600.0]  # the clean runs


@both
def test_the_same_seed_gives_the_same_reports(backend: Any) -> None:
    def report(seed: int) -> SweepReport:
        return cancel_everywhere(
            faulty.acquire_before_try, oracle=faulty.limiter_is_free, backends=[backend], seed=seed
        )

    one, other = report(7), report(7)
    assert one.failures
    assert [str(failure) for failure in one.failures] == [str(failure) for failure in other.failures]
    if backend == "trio":
        assert "seed=7" in str(one.failures[0])


def test_seeds_explore_the_schedules_of_trio() -> None:
    orders: set[str] = set()
    order: list[int] = []

    async def three() -> None:
        order.clear()
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(note, number)

    async def note(number: int) -> None:
        order.append(number)

    for seed in range(20):
        cancel_everywhere(
            three,
            backends=["trio"],
            seed=seed,
            limit=1,
            oracle=lambda: orders.add(str(order)) if len(order) == 3 else None,
        )
    assert len(orders) == 6


@both
def test_a_failure_can_be_replayed_and_named(backend: Any) -> None:
    def sweep(**options: Any) -> SweepReport:
        return cancel_everywhere(
            faulty.await_in_finally, oracle=faulty.session_is_closed, backends=[backend], **options
        )

    failure = sweep().failures[-1]
    again = replay(failure)
    assert again == failure
    assert str(again) == str(failure)
    only = sweep(only=failure.id)
    assert only.injections == 1
    assert only.failures == [failure]
    assert f"only={failure.id!r}" in str(failure)


def test_replay_returns_none_when_it_is_mended() -> None:
    broken = True

    async def scenario() -> None:
        try:
            await anyio.sleep(1)
        except BaseException:
            if not broken:
                raise

    failure: Failure = cancel_everywhere(scenario).failures[0]
    assert replay(failure) is not None
    broken = False
    assert replay(failure) is None


@both
def test_a_second_injection_finds_what_one_cannot(backend: Any) -> None:
    async def scenario() -> None:
        faulty.state.closed = True
        try:
            await anyio.sleep(1)
        finally:
            faulty.state.closed = False
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            faulty.state.closed = True

    def sweep(**options: Any) -> SweepReport:
        return cancel_everywhere(
            scenario, oracle=faulty.session_is_closed, backends=[backend], modes=["suspended"], **options
        )

    sweep().raise_if_failed()
    twice = sweep(second=5)
    if backend == "trio":
        twice.raise_if_failed()  # there, nothing goes through a shield
    else:
        failure = twice.failures[0]
        assert failure.second is not None
        assert f"again at point {failure.second}" in str(failure)
        assert replay(failure) == failure


@both
def test_what_a_scenario_may_raise_is_said_and_anything_else_is_a_failure(backend: Any) -> None:
    async def fails() -> None:
        await anyio.sleep(1)
        raise LookupError("as expected")

    cancel_everywhere(fails, raises=LookupError, backends=[backend]).raise_if_failed()
    report = cancel_everywhere(fails, backends=[backend])
    assert report.failures[0].mode == "baseline"
    assert "without any injection" in str(report.failures[0])
    assert "LookupError: as expected" in str(report.failures[0])


@both
def test_the_oracle_runs_after_each_run_in_the_same_loop_and_may_be_async(backend: Any) -> None:
    calls: list[str] = []
    loops: list[object] = []

    async def scenario() -> None:
        loops.append(anyio.lowlevel.current_token())
        await anyio.sleep(1)

    async def oracle() -> None:
        await anyio.sleep(1)
        calls.append("called")
        assert loops[-1] == anyio.lowlevel.current_token()

    report = cancel_everywhere(scenario, oracle=oracle, backends=[backend], modes=["suspended"])
    report.raise_if_failed()
    assert len(calls) == report.injections + 3  # two clean runs before, and one afterwards


def test_an_oracle_that_never_ends_is_a_failure_too() -> None:
    async def oracle() -> None:
        await anyio.sleep_forever()

    report = cancel_everywhere(anyio.lowlevel.checkpoint, oracle=oracle)
    assert all("TimeoutError" in str(failure) for failure in report.failures)
    assert report.failures


@both
def test_a_limit_spreads_the_points_evenly(backend: Any) -> None:
    report = cancel_everywhere(five_tasks, backends=[backend], modes=["resuming"], limit=4)
    assert report.injections == 4


@both
def test_findings_can_be_ignored_by_name(backend: Any) -> None:
    cancel_everywhere(faulty.forgotten_generator, backends=[backend], ignore=["asyncgen"]).raise_if_failed()
    with pytest.raises(UserError, match="ignore contains 'nonsense'"):
        cancel_everywhere(five_tasks, ignore=["nonsense"])  # type: ignore[list-item]


def test_a_clean_report_and_a_failed_one_read_well() -> None:
    clean = cancel_everywhere(anyio.lowlevel.checkpoint)
    clean.raise_if_failed()
    assert "nothing was wrong" in str(clean)
    failed = cancel_everywhere(faulty.shield_orphan, backends=["asyncio"], modes=["suspended"])
    with pytest.raises(AssertionError, match=r"x a task was left behind") as caught:
        failed.raise_if_failed()
    text = str(caught.value)
    assert f"faulty.py:{faulty.line_of(faulty.shield_orphan)}" in text
    assert "await asyncio.sleep(5)" in text
