"""What the marks of threads say about the laws: who looks hears of a stop, and who does not is left after its grace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from agentrun.core.results import RunResult
from agentrun.runtime.handle import ActiveRun
from agentrun.testing.laws.record import RunRecord
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = ["CHECKS_OF_THREADS"]

_EPSILON: Final = 1e-6  # seconds; sums of floats


def _who_looks_hears(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 6: a thread that looks at its cancellation hears of a stop the next time it does."""
    stop = next((deed for deed in record.deeds if deed.stops), None)
    if stop is None:
        return
    for mark in record.marks:
        if mark.kind == "looking" and mark.open_at(stop.order):
            heard = mark.ended if mark.ended is not None else float("inf")
            if heard > stop.time + mark.planned + _EPSILON:
                yield BrokenLaw(
                    6, f"{stop.action!r} came at {stop.time:g} s, and it looks every {mark.planned:g} s: {mark}"
                )


def _left_after_its_grace(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 1: a thread that was left behind had its grace, and has not ended in it."""
    for mark in record.marks:
        if mark.kind not in ("body", "guardrail") or mark.nested or not record.names_thread(mark.thread):
            continue
        until = mark.ended if mark.ended is not None else record.left
        if mark.thread and until is not None and until - mark.began < record.grace - _EPSILON:
            yield BrokenLaw(1, f"it was left behind before its grace of {record.grace:g} s was over: {mark}")


CHECKS_OF_THREADS: Final[tuple[Callable[[RunRecord, ActiveRun[Any], RunResult[Any]], Iterator[BrokenLaw]], ...]] = (
    _who_looks_hears,
    _left_after_its_grace,
)
"""Each is a function of a record, its handle and its result, and yields the laws that are broken."""
