"""What must be true after each run of a scene, besides the laws on records and what the ledger says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio

from agentrun import RunResult, ToolOutput
from agentrun.errors import InputGuardrailTripped
from agentrun.events import ModelCallEnded, ModelCallStarted, RunEnded, TextDelta
from agentrun.items import AssistantMessage, Item
from agentrun.testing import BrokenLaw
from agentrun.testing.laws import RunRecord

from .ledger import book

__all__ = [
    "a_trip_is_right",
    "careful_is_right",
    "cleanup_errors_are_told",
    "cut_and_reported",
    "errors_are_told",
    "not_let_pass",
    "swallowing_is_reported",
    "told_once",
    "two_tools_are_right",
    "unsure_has_not_run",
    "watched_slowly_is_right",
]


def texts(items: Iterable[Item]) -> list[AssistantMessage]:
    """What the model said."""
    return [item for item in items if isinstance(item, AssistantMessage)]


def two_tools_are_right(record: RunRecord, result: RunResult[Any]) -> None:
    for said in texts(result.items):
        whole = said.text in ("On my way.", "All done.", "Very well.")
        if whole != (said.status == "completed") and said.text not in ("On my way.", "All done.", "Very well."):
            raise BrokenLaw(4, f"{said!r} is only a part of what the model was about to say")
    if result.teardown.seconds > 0.8 and record.interrupted:
        raise BrokenLaw(6, f"the teardown took {result.teardown.seconds:g} s, and the cleanups need 0.5 s at most")
    if record.session is not None and tuple(record.session.items) != result.history:
        raise BrokenLaw(4, f"the session has only {record.session.items} of the history")
    for item in result.items:
        if isinstance(item, ToolOutput) and item.status == "completed" and item.call_id not in book.returned:
            raise BrokenLaw(4, f"{item!r} is not what the tool has returned: it has been cancelled")


def careful_is_right(record: RunRecord, result: RunResult[Any]) -> None:
    order = [name for name in ("resource", "second", "first") if name in book.order]
    if book.order != order:
        raise BrokenLaw(6, f"the cleanups were made in the order {book.order}")
    calls = [count for name, count in book.notes.items() if name.startswith("on_cancel")]
    if any(count > 1 for count in calls):
        raise BrokenLaw(7, f"on_cancel was called {calls} times")
    if "stopped" in book.notes and not calls:
        raise BrokenLaw(7, "the tool was cancelled, and its on_cancel was not called")


def cut_and_reported(record: RunRecord, result: RunResult[Any]) -> None:
    if "told" in book.notes and "cut" not in book.notes:
        raise BrokenLaw(6, "a cleanup of 20 s was allowed, with a grace of 2 s")
    if "cut" in book.notes:
        if book.notes["cut"] < 1.99:
            raise BrokenLaw(7, f"a cleanup had {book.notes['cut']:g} s, with a grace of 2 s")
        if not result.teardown.expired_graces:
            raise BrokenLaw(1, "a cleanup that was cut by its grace is not in the teardown report")


def a_trip_is_right(record: RunRecord, result: RunResult[Any]) -> None:
    told = "".join(event.text for event in record.events if isinstance(event, TextDelta))
    if told.count(" ") and len(told) > 8:
        raise BrokenLaw(13, f"the model went on saying {told!r} after the guardrail had tripped")
    started = sum(isinstance(event, ModelCallStarted) for event in record.events)
    if isinstance(result.error, InputGuardrailTripped) and started > sum(
        isinstance(event, ModelCallEnded) for event in record.events
    ):
        raise BrokenLaw(13, "the trip was raised before the model's stream had closed")
    if book.notes.get("tripped") and result.status == "completed":
        raise BrokenLaw(13, "the run completed although an input guardrail tripped")


def not_let_pass(record: RunRecord, result: RunResult[Any]) -> None:
    if book.notes.get("broke") and result.status == "completed":
        raise BrokenLaw(13, "the run completed although an input guardrail broke")
    if any(isinstance(item, ToolOutput) and item.status == "completed" for item in result.items):
        raise BrokenLaw(13, "a tool ran although an input guardrail broke")


def errors_are_told(record: RunRecord, result: RunResult[Any]) -> None:
    told: list[BaseException] = []
    waiting = [error for error in (result.error, *result.errors) if error is not None]
    while waiting:
        error = waiting.pop()
        told.append(error)
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
    if isinstance(result.error, BaseExceptionGroup) and len(result.error.exceptions) == 1:
        raise BrokenLaw(9, f"one error has become a group: {result.error!r}")
    for error in book.raised:
        if told.count(error) != 1:
            raise BrokenLaw(9, f"{error!r} is {told.count(error)} times among the errors of the result")


def cleanup_errors_are_told(record: RunRecord, result: RunResult[Any]) -> None:
    errors_are_told(record, result)
    if len(result.teardown.cleanup_errors) < len(book.raised):
        raise BrokenLaw(8, f"not all of {book.raised} are in the teardown report")


def swallowing_is_reported(record: RunRecord, result: RunResult[Any]) -> None:
    if book.notes.get("swallowed") and not result.teardown.swallowed_cancellations:
        raise BrokenLaw(8, "a tool has swallowed its cancellation, and the teardown report does not say so")


async def watched_slowly_is_right(record: RunRecord, result: RunResult[Any]) -> None:
    if result.status == "failed":
        raise BrokenLaw(10, f"a watcher that lags has made the run fail: {result.error!r}")
    if result.teardown.seconds > 1:
        raise BrokenLaw(10, f"the end of the run waited {result.teardown.seconds:g} s for a watcher that lags")
    if "lossy" in book.notes:
        seen: list[Any] = []
        with anyio.move_on_after(1):
            async for event in book.notes["lossy"]:
                seen.append(event)  # noqa: PERF401 - what was seen until then counts
        if not seen or not isinstance(seen[-1], RunEnded):
            raise BrokenLaw(2, f"a watcher with a full buffer was not told of the end: {seen}")


def each_is_cut_alone(record: RunRecord, result: RunResult[Any]) -> None:
    for item in result.items:
        if isinstance(item, ToolOutput) and (item.status == "failed" or "its task was cancelled" in item.text):
            raise BrokenLaw(8, f"{item!r}: the cancellation of another call has cut it")


def told_once(record: RunRecord, result: RunResult[Any]) -> None:
    if "caught" in book.notes and "left" not in book.notes and not record.cancelled:
        raise BrokenLaw(9, "a failure that wait() had raised was raised by the block again")


def unsure_has_not_run(record: RunRecord, result: RunResult[Any]) -> None:
    if book.notes.get("ran"):
        raise BrokenLaw(13, "a tool ran though it is not known whether it may")
