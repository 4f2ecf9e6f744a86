"""`cancel_everywhere` finds the classic bugs of async code, and its report points at the line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from agentrun.testing import SweepReport, cancel_everywhere

from . import faulty

BACKENDS: list[Any] = ["asyncio", "trio"]

CASES: list[tuple[Callable[[], Any], Callable[[], Any] | None, str]] = [
    (faulty.acquire_before_try, faulty.limiter_is_free, "oracle"),
    (faulty.await_in_finally, faulty.session_is_closed, "oracle"),
    (faulty.swallowing_retry_loop, None, "swallowed"),
    (faulty.swallowing_retry_of_a_group, None, "swallowed"),
    (faulty.endless_retry_loop, None, "livelock"),
    (faulty.slow_shielded_cleanup, None, "grace"),
    (faulty.cleanup_waits_for_ever, None, "deadlock"),
    (faulty.forgotten_stream, None, "resource"),
    (faulty.forgotten_inner_generator, None, "asyncgen"),
    (faulty.late_coroutine, None, "resource"),
    (faulty.forgotten_thread, None, "thread"),
    (faulty.forgotten_descriptor, None, "fd"),
    (faulty.wrong_exception, None, "exception"),
]


def checks(report: SweepReport) -> set[str]:
    return {violation.check for failure in report.failures for violation in failure.violations}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("scenario", "oracle", "check"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_the_bug_is_found_by_its_check_and_the_report_points_at_its_line(
    backend: Any, scenario: Callable[[], Any], oracle: Callable[[], Any] | None, check: str
) -> None:
    report = cancel_everywhere(scenario, oracle=oracle, backends=[backend], modes=["suspended", "resuming"], limit=8)
    assert checks(report) == {check}
    if scenario is faulty.late_coroutine:
        assert "coroutine 'late_coroutine.<locals>.job' was never awaited" in str(report)
    elif scenario is faulty.swallowing_retry_loop:
        assert "returned, although it was cancelled at" in str(report)
        assert "fetch" in str(report)
    else:
        assert f"faulty.py:{faulty.line_of(scenario)} " in str(report)
    assert report.diverged == 0


def test_an_orphan_of_asyncio_shield_is_named_with_its_line() -> None:
    report = cancel_everywhere(faulty.shield_orphan, backends=["asyncio"])
    assert checks(report) == {"task"}
    line = faulty.line_of(faulty.shield_orphan)
    assert all(violation.place.line == line for f in report.failures for violation in f.violations if violation.place)
    assert "task 2 (save) is still alive" in str(report)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thread_without_a_name_of_its_own_is_called_the_same_in_each_run(backend: Any) -> None:
    async def scenario() -> None:
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, args=(0.2,))
        thread.start()
        await anyio.sleep(1)
        stop.set()
        thread.join()

    report = cancel_everywhere(scenario, backends=[backend])
    messages = {violation.message for failure in report.failures for violation in failure.violations}
    assert messages == {"'Thread (wait)' is still alive"}


def test_a_timer_of_the_event_loop_that_is_still_set_is_named_with_its_callback() -> None:
    report = cancel_everywhere(faulty.forgotten_timer, backends=["asyncio"], modes=["suspended"])
    assert checks(report) == {"resource"}
    assert "remind is still to be called by the event loop, at" in str(report)
    assert f"faulty.py:{faulty.line_of(faulty.forgotten_timer)} " in str(report)


@pytest.mark.parametrize(
    ("scenario", "what"),
    [
        (faulty.unseen_error, "task 2 (save) failed, and nobody has looked"),
        (faulty.error_in_a_callback, "Exception in callback"),
    ],
)
def test_an_error_that_asyncio_would_only_log_is_named_with_its_line(scenario: Callable[[], Any], what: str) -> None:
    report = cancel_everywhere(scenario, backends=["asyncio"], modes=["native-1"])
    assert checks(report) == {"unhandled"}
    [violation] = report.failures[0].violations
    assert violation.message.startswith(what)
    assert violation.message.endswith("OSError: the disk is full, raised at")
    assert violation.place is not None
    assert violation.place.line == faulty.line_of(scenario)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_asynchronous_generator_that_is_left_open_is_named_with_its_yield(backend: Any) -> None:
    report = cancel_everywhere(faulty.forgotten_generator, backends=[backend], modes=["suspended"])
    assert checks(report) == {"asyncgen"}
    assert "`yield 1`" in str(report)


@pytest.mark.parametrize("backend", BACKENDS)
def test_httpcore_loses_a_pool_slot_when_a_queued_request_is_cancelled(backend: Any) -> None:
    # https://github.com/encode/httpcore/issues/1093, in httpcore 1.0.9
    report = cancel_everywhere(
        faulty.lost_pool_slot,
        oracle=faulty.pool_has_a_slot,
        backends=[backend],
        modes=["suspended", "resuming"],
        ignore=["asyncgen"],
    )
    assert checks(report) == {"oracle"}
    assert "PoolTimeout" in str(report)
    # The second request, waiting in the pool's queue, was cut there.
    assert any("httpcore" in where and "AsyncEvent.wait" in where for f in report.failures for where in f.delivered)
    assert report.diverged == 0
