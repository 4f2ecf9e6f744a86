"""Threads in a sweep that wait for something real: they are refused by name and place, and hang nothing."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agentrun.testing import SweepRefused, cancel_everywhere
from agentrun.testing.sweeping import blocking
from agentrun.testing.sweeping.engine import Conditions, Engine
from agentrun.testing.sweeping.points import Trial

BACKENDS: list[Any] = ["asyncio", "trio"]
both = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def release() -> Iterator[list[Callable[[], object]]]:
    """What lets the blocked threads of a test go on, at its end; then they have ended."""
    before = set(threading.enumerate())
    waiting: list[Callable[[], object]] = []
    yield waiting
    for let_go in waiting:
        let_go()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with less patience."""
    monkeypatch.setattr(blocking, "_LOOK_EVERY", 0.05)


def refusal(work: Callable[[], object], backend: Any, **options: Any) -> str:
    async def scenario() -> None:
        await anyio.to_thread.run_sync(work)

    with pytest.raises(SweepRefused) as caught:
        cancel_everywhere(scenario, backends=[backend], **options)
    return str(caught.value)


@both
def test_a_thread_that_waits_for_a_lock_of_the_loop_is_refused_with_its_place(
    backend: Any, release: list[Callable[[], object]]
) -> None:
    lock = threading.Lock()
    lock.acquire()
    release.append(lock.release)

    def locked() -> None:
        time.sleep(1)
        with lock:
            pass

    began = time.monotonic()
    message = refusal(locked, backend)
    assert time.monotonic() - began < 25
    assert "locked), a thread that waits for something real, at " in message
    assert f"{Path(__file__).name}:" in message
    assert "`with lock:`" in message


@both
@pytest.mark.usefixtures("quickly")
def test_sockets_and_queues_and_threads_of_its_own_block_a_thread_too(
    backend: Any, release: list[Callable[[], object]]
) -> None:
    one, other = socket.socketpair()
    release += [lambda: other.send(b"x"), one.close, other.close]
    letters: queue.Queue[str] = queue.Queue()
    release.append(lambda: letters.put(""))
    stop = threading.Event()
    release.append(stop.set)

    def own_thread() -> None:
        thread = threading.Thread(target=stop.wait)
        thread.start()
        thread.join()

    assert "one.recv(1)" in refusal(lambda: one.recv(1), backend)
    assert "letters.get()" in refusal(lambda: letters.get(), backend)
    assert "`thread.join()`" in refusal(own_thread, backend)


@both
@pytest.mark.usefixtures("quickly")
def test_two_threads_that_wait_for_each_other_are_refused(backend: Any, release: list[Callable[[], object]]) -> None:
    locks: list[threading.Lock] = []

    def hold() -> None:
        with locks[-1]:
            time.sleep(1)  # which takes real time if the trial is over before the lock is free

    async def scenario() -> None:
        locks.append(threading.Lock())
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, hold)
            group.start_soon(anyio.to_thread.run_sync, hold)

    with pytest.raises(
        SweepRefused, match=r"thread \d \(.*hold\), a thread that waits for something real, at .*with locks"
    ):
        cancel_everywhere(scenario, backends=[backend])


@both
def test_a_thread_that_works_is_waited_for(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "_LOOK_EVERY", 0.1)

    def busy() -> int:
        end = time.thread_time() + 1.2  # seconds of work: more than the patience with one that waits
        turns = 0
        while time.thread_time() < end:
            turns += 1
        return turns

    async def scenario(_: Trial) -> None:
        assert await anyio.to_thread.run_sync(busy) > 0

    with Engine(Conditions(scenario), [backend]) as engine:
        assert engine.trial(backend).violations == []


@both
def test_a_thread_that_works_without_end_is_refused(backend: Any, release: list[Callable[[], object]]) -> None:
    stop: list[bool] = []
    release.append(lambda: stop.append(True))

    def busy() -> None:
        while not stop:
            pass

    message = refusal(busy, backend, max_seconds=1)
    assert "has not ended" in message
    assert "is at work, and gives no sign of ending; it is at" in message
    assert "busy" in message


@both
def test_a_thread_of_the_scenarios_own_that_stays_is_found(backend: Any, release: list[Callable[[], object]]) -> None:
    stop = threading.Event()
    release.append(stop.set)

    def starts_another() -> None:
        threading.Thread(target=stop.wait, name="the stray").start()

    async def scenario() -> None:
        await anyio.to_thread.run_sync(starts_another)

    report = cancel_everywhere(scenario, backends=[backend], limit=1, modes=["resuming"])
    assert "'the stray' is still alive" in str(report)


@both
@pytest.mark.usefixtures("quickly")
def test_where_the_system_does_not_tell_what_a_thread_does_it_gets_more_patience(
    backend: Any, release: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "_work", lambda thread: None)
    stop = threading.Event()
    release.append(stop.set)
    assert "waits for something real" in refusal(stop.wait, backend)
