"""Threads in a sweep: they take turns with the event loop, in virtual time, in the same order each time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from time import monotonic, sleep
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from agentrun.testing import SweepReport, cancel_everywhere, replay
from agentrun.testing.sweeping.engine import Conditions, Engine
from agentrun.testing.sweeping.points import Trial

BACKENDS: list[Any] = ["asyncio", "trio"]
both = pytest.mark.parametrize("backend", BACKENDS)

NOTHING: dict[str, str] = {}
in_thread = anyio.to_thread.run_sync


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever a scenario does, its threads have ended when the sweep is over."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("Trio thread"):  # trio keeps its own
            thread.join(10)  # a real one of anyio's may be on its way out
            assert not thread.is_alive()


def once(scenario: Callable[[], Awaitable[object]], backend: Any) -> Trial:
    """Run a scenario once, undisturbed."""

    async def run(_: Trial) -> None:
        await scenario()

    with Engine(Conditions(run), [backend]) as engine:
        trial = engine.trial(backend, keep_trace=True)
    assert not trial.violations, [str(violation) for violation in trial.violations]
    return trial


def checks(report: SweepReport) -> set[str]:
    return {violation.check for failure in report.failures for violation in failure.violations}


@both
def test_sleeping_in_a_thread_takes_virtual_time_and_lets_the_others_go_on(backend: Any) -> None:
    said: list[tuple[str, float]] = []

    def work() -> str:
        time.sleep(3600)
        said.append(("time.sleep", anyio.from_thread.run_sync(anyio.current_time)))
        sleep(3600)  # a name of its own for the same function
        said.append(("sleep", anyio.from_thread.run_sync(anyio.current_time)))
        return "worked"

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            assert await in_thread(work) == "worked"

    async def tick() -> None:
        for _ in range(2):
            await anyio.sleep(3000)
            said.append(("task", anyio.current_time()))

    began = time.monotonic()
    once(scenario, backend)
    assert said == [("task", 3000), ("time.sleep", 3600), ("task", 6000), ("sleep", 7200)]
    assert time.monotonic() - began < 60


@both
def test_the_clocks_of_a_thread_show_virtual_time(backend: Any) -> None:
    passed: dict[str, float] = {}

    def work() -> None:
        clocks: dict[str, Callable[[], float]] = {
            "time": time.time,
            "monotonic": time.monotonic,
            "imported": monotonic,
            "perf_counter": time.perf_counter,
            "time_ns": lambda: time.time_ns() / 1e9,
            "monotonic_ns": lambda: time.monotonic_ns() / 1e9,
        }
        before = {name: clock() for name, clock in clocks.items()}
        time.sleep(1000)
        passed.update({name: clock() - before[name] for name, clock in clocks.items()})

    once(lambda: in_thread(work), backend)
    assert passed == {name: pytest.approx(1000, abs=0.001) for name in passed}
    assert len(passed) == 6


@both
def test_sleep_refuses_what_the_real_one_refuses(backend: Any) -> None:
    def work() -> None:
        with pytest.raises(ValueError, match="sleep length must be non-negative"):
            time.sleep(-1)
        with pytest.raises(OverflowError):
            time.sleep(float("inf"))
        time.sleep(0)

    once(lambda: in_thread(work), backend)


@both
def test_a_thread_begins_in_a_later_step_and_each_of_its_steps_is_a_point(backend: Any) -> None:
    def work() -> None:
        time.sleep(1)
        time.sleep(2)

    async def scenario() -> None:
        await in_thread(work)

    trial = once(scenario, backend)
    steps = [point for point in trial.trace or () if point.task.startswith("thread ")]
    assert [point.task.partition("(")[2].rpartition(".")[2] for point in steps] == ["work)"] * 3
    assert [point.after.source if point.after is not None else None for point in steps] == [
        "time.sleep(1)",
        "time.sleep(2)",
        None,
    ]
    assert [point.before.source for point in steps][1:] == ["time.sleep(1)", "time.sleep(2)"]
    assert "in_thread(work)" in steps[0].before.source  # where it was asked for
    asked = next(point for point in trial.trace or () if point.number == steps[0].number - 1)
    assert asked.task == "task 1 (the scenario)"


@both
def test_context_variables_go_into_the_thread_and_do_not_come_back(backend: Any) -> None:
    variable = ContextVar("variable", default="unset")
    seen: list[str] = []

    def work() -> None:
        seen.append(variable.get())
        variable.set("in the thread")
        time.sleep(1)
        seen.append(variable.get())

    async def scenario() -> None:
        variable.set("in the task")
        await in_thread(work)
        seen.append(variable.get())

    once(scenario, backend)
    assert seen == ["in the task", "in the thread", "in the task"]


@both
def test_a_thread_is_in_no_event_loop_and_has_a_name(backend: Any) -> None:
    def work() -> str:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        with pytest.raises(RuntimeError):
            trio.lowlevel.current_task()
        assert threading.current_thread() is not threading.main_thread()
        return threading.current_thread().name

    async def scenario() -> None:
        names = [await in_thread(work), await in_thread(work)]
        assert len(set(names)) == 2

    once(scenario, backend)


@both
def test_what_a_thread_raises_comes_out_as_ever(backend: Any) -> None:
    def fail() -> None:
        time.sleep(1)
        raise LookupError("not there")

    async def scenario() -> None:
        with pytest.raises(LookupError, match="not there"):
            await in_thread(fail)
        with pytest.raises(KeyError):
            await in_thread(NOTHING.__getitem__, "key")
        with pytest.raises(RuntimeError) as caught:
            await in_thread(next, iter(()))
        assert isinstance(caught.value.__cause__, StopIteration)

    once(scenario, backend)


@both
def test_a_thread_can_call_the_event_loop(backend: Any) -> None:
    async def later(value: str) -> str:
        await anyio.sleep(5)
        return value

    async def fails() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("not there")

    def work() -> list[object]:
        with pytest.raises(LookupError, match="not there"):
            anyio.from_thread.run(fails)
        with pytest.raises(KeyError):
            anyio.from_thread.run_sync(NOTHING.__getitem__, "key")
        return [anyio.from_thread.run(later, "late"), anyio.from_thread.run_sync(anyio.current_time)]

    async def scenario() -> None:
        assert await in_thread(work) == ["late", 5.0]
        assert await in_thread(work, abandon_on_cancel=True) == ["late", 10.0]

    once(scenario, backend)


def test_trio_itself_and_asyncio_itself_have_such_threads_too() -> None:
    def on_trio() -> float:
        time.sleep(2)
        return trio.from_thread.run_sync(trio.current_time)

    async def scenario_of_trio() -> None:
        assert await trio.to_thread.run_sync(on_trio) == 2.0

    def on_asyncio(loop: asyncio.AbstractEventLoop) -> float:
        time.sleep(2)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(3), loop).result()
        with pytest.raises(TimeoutError):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(30), loop).result(1)
        return loop.time()

    async def scenario_of_asyncio() -> None:
        loop = asyncio.get_running_loop()
        assert await asyncio.to_thread(on_asyncio, loop) == 6.0
        assert await loop.run_in_executor(None, functools.partial(len, "four")) == 4
        with pytest.raises(LookupError):
            await loop.run_in_executor(None, NOTHING.__getitem__, "key")
        await asyncio.sleep(30)

    once(scenario_of_trio, "trio")
    trial = once(scenario_of_asyncio, "asyncio")
    assert {record.name.rpartition(".")[2] for record in trial.records if record.kind == "thread"} == {
        "on_asyncio",
        "len",
        "__getitem__",
    }


@both
def test_threads_beside_each_other_take_their_steps_in_the_same_order_each_time(backend: Any) -> None:
    orders: list[list[str]] = []

    async def scenario() -> None:
        orders.append([])

        def work(name: str) -> None:
            for _ in range(5):
                orders[-1].append(name)
                time.sleep(1)

        async with anyio.create_task_group() as group:
            for name in "abcde":
                group.start_soon(in_thread, work, name)

    report = cancel_everywhere(scenario, backends=[backend], modes=["suspended"], limit=20)
    report.raise_if_failed()
    assert report.diverged == 0
    clean = orders[:2]
    assert clean[0] == clean[1]
    assert len(clean[0]) == 25
    assert all(clean[0][: len(order)] == order or len(order) < 25 for order in orders)


_TWO_THREADS = """
import time, anyio, anyio.to_thread
from agentrun.testing.sweeping.engine import Conditions, Engine

def work(name):
    for _ in range(3):
        time.sleep(0.5)
    anyio.from_thread.run(anyio.sleep, 1)

async def scenario(_):
    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(anyio.to_thread.run_sync, work, name)

with Engine(Conditions(scenario), ["asyncio", "trio"]) as engine:
    for backend in ("asyncio", "trio"):
        print(backend, engine.trial(backend).sequence, engine.trial(backend).sequence)
"""


def test_the_points_are_the_same_in_each_process() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", _TWO_THREADS],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1
    for line in said.pop().splitlines():
        sequences = line.partition("[")[2].rstrip("]").split("] [")
        assert sequences[0] == sequences[1]


@both
def test_a_thread_that_is_waited_for_holds_up_a_cancellation_and_its_value_is_kept(backend: Any) -> None:
    done: list[str] = []

    async def scenario() -> None:
        def work() -> None:
            time.sleep(10)
            done.append("worked")

        with anyio.move_on_after(5):
            await in_thread(work)
            done.append("value")
        done.append(f"{anyio.current_time():g} s")

    once(scenario, backend)
    # anyio waits for the thread, and delivers the cancellation at the next await: there is none in the scope.
    assert done == ["worked", "value", "10 s"]
    report = cancel_everywhere(scenario, backends=[backend], grace=5, modes=["suspended"])
    assert checks(report) == {"grace"}
    assert "time.sleep(10)" in str(report)


@both
def test_a_thread_that_was_abandoned_is_found_named_and_ended(backend: Any) -> None:
    ended: list[str] = []

    async def scenario() -> None:
        def work() -> None:
            try:
                time.sleep(100)
            finally:
                ended.append("cleanup")
                time.sleep(1)

        with anyio.move_on_after(5):
            await in_thread(work, abandon_on_cancel=True)

    report = cancel_everywhere(scenario, backends=[backend], modes=["suspended"])
    assert checks(report) == {"thread"}
    text = str(report)
    assert "a thread was left behind: thread 2 (" in text
    assert "work) is still alive after the scenario has ended; it waits at " in text
    assert "`time.sleep(100)`" in text
    # Two clean runs before, whose failure is told once, and one afterwards.
    assert len(ended) == 2 + len(report.failures)
    assert replay(report.failures[0]) is not None
    cancel_everywhere(scenario, backends=[backend], limit=1, ignore=["thread"]).raise_if_failed()


@both
def test_a_thread_that_cannot_be_ended_is_reported_and_left(backend: Any) -> None:
    released = threading.Event()
    threads: list[threading.Thread] = []

    async def scenario() -> None:
        def work() -> None:
            threads.append(threading.current_thread())
            while not released.is_set():
                try:
                    time.sleep(100)
                except BaseException:
                    pass

        with anyio.move_on_after(5):
            await in_thread(work, abandon_on_cancel=True)

    async def run(_: Trial) -> None:
        await scenario()

    with Engine(Conditions(run), [backend]) as engine:
        trial = engine.trial(backend)
    assert [violation.check for violation in trial.violations] == ["thread", "thread", "thread"]
    assert "could not be ended; it is at" in str(trial.violations[1])
    released.set()
    for thread in threads:
        _release(thread)


def _release(thread: threading.Thread) -> None:
    """Let a thread go on that was left for good."""
    target: Any = thread._target.__self__  # type: ignore[attr-defined]
    target._to_thread.release()
    thread.join(10)


@both
def test_check_cancelled_works_in_a_thread(backend: Any) -> None:
    looked: list[float] = []

    async def scenario() -> None:
        def work() -> None:
            while True:
                anyio.from_thread.check_cancelled()
                time.sleep(1)

        with anyio.move_on_after(4.5):
            await in_thread(work)
        looked.append(anyio.current_time())

    once(scenario, backend)
    assert looked == [5.0]
    report = cancel_everywhere(scenario, backends=[backend], modes=["suspended", "resuming"])
    report.raise_if_failed()
    assert report.delivered


@both
def test_the_limiter_has_its_tokens_back(backend: Any) -> None:
    limiters: list[anyio.CapacityLimiter] = []

    async def scenario() -> None:
        limiters.append(limiter := anyio.CapacityLimiter(1))
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(functools.partial(in_thread, time.sleep, 1, limiter=limiter))
        assert anyio.current_time() == 3.0

    def tokens_are_back() -> None:
        assert limiters[-1].borrowed_tokens == 0

    once(scenario, backend)
    modes: list[Any] = ["suspended", "resuming"]  # a native cancellation goes through anyio's shield
    cancel_everywhere(scenario, backends=[backend], oracle=tokens_are_back, modes=modes).raise_if_failed()


def test_a_native_cancellation_that_leaves_a_thread_behind_is_found() -> None:
    async def scenario() -> None:
        await in_thread(time.sleep, 10)

    report = cancel_everywhere(scenario, backends=["asyncio"], modes=["native-1"])
    assert checks(report) == {"thread"}


@both
def test_cancelled_before_it_has_begun_a_thread_of_asyncio_does_not_begin(backend: Any) -> None:
    begun: list[str] = []

    async def scenario() -> None:
        begun.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(in_thread, begun.append, "begun", abandon_on_cancel=True))
            await anyio.sleep(0)
            await anyio.sleep(10)
            assert begun

    seen: list[int] = []
    cancel_everywhere(scenario, backends=[backend], oracle=lambda: seen.append(len(begun))).raise_if_failed()
    assert set(seen) == {0, 1}


@both
def test_a_deadlock_of_a_thread_and_a_task_is_found(backend: Any) -> None:
    async def scenario() -> None:
        event = anyio.Event()
        await in_thread(anyio.from_thread.run, event.wait)

    report = cancel_everywhere(scenario, backends=[backend])
    assert checks(report) == {"deadlock"}
    assert "thread 2 (run) waits at" in str(report)
    assert report.injections == 0


@both
def test_threads_outside_of_sweeps_are_as_ever(backend: Any) -> None:
    before = time.sleep, time.monotonic, monotonic, concurrent.futures.Future.result

    async def scenario() -> None:
        await in_thread(sleep, 1)

    once(scenario, backend)
    assert (time.sleep, time.monotonic, monotonic, concurrent.futures.Future.result) == before
    name = anyio.run(lambda: in_thread(lambda: threading.current_thread().name), backend=backend)
    assert name
    began = time.monotonic()
    anyio.run(in_thread, time.sleep, 0.05, backend=backend)
    assert time.monotonic() - began >= 0.05
