"""Law 11: the records of one program on both backends, compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from agentrun.core.events import (
    Event,
    GuardrailEnded,
    ReasoningDelta,
    RunStarted,
    TextDelta,
    ToolCallDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
)
from agentrun.testing.laws.record import RunRecord
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = ["disagreements", "structure"]

_SAME_MOMENT: Final = 1e-6  # seconds
_UNSTRUCTURAL = (TextDelta, ReasoningDelta, ToolCallDelta, ToolProgress)


def structure(events: Sequence[Event]) -> list[Event]:
    """The events that must be the same on each backend: all but the deltas."""
    return [event for event in events if not isinstance(event, _UNSTRUCTURAL)]


def disagreements(one: RunRecord, other: RunRecord) -> list[BrokenLaw]:
    """Where two records of the same run on two backends (or of two schedules) differ in what must be the same: how the
    run ended, its history, and its structural events. Empty if they do not.

    The events of each nested run have an order of their own: runs that are nested side by side are independent.
    """
    return list(_disagreements(one, other))


def _disagreements(one: RunRecord, other: RunRecord) -> Iterator[BrokenLaw]:
    names = one.backend or "one", other.backend or "the other"
    results = [record.live.result if record.live is not None else None for record in (one, other)]
    first, second = results
    if first is None or second is None:
        if first is not second:
            yield BrokenLaw(11, f"only on {names[first is None]} the run has a result")
        return
    if (first.status, first.history) != (second.status, second.history):
        ends = [
            f"{name}: {result.status}, {result.history!r}" for name, result in zip(names, (first, second), strict=True)
        ]
        yield BrokenLaw(11, "the runs end differently:\n    " + "\n    ".join(ends))
        return
    for path in sorted({event.path for record in (one, other) for event in record.events}):
        told = [[repr(_plain(event)) for event in _in_order_of_calls(record, path)] for record in (one, other)]
        if told[0] != told[1]:
            pairs = zip(*told, strict=False)
            difference = next(
                (f"{names[0]}: {left}\n    {names[1]}: {right}" for left, right in pairs if left != right),
                f"{len(told[0])} and {len(told[1])} events",
            )
            yield BrokenLaw(11, f"the runs tell of other events:\n    {difference}")


def _in_order_of_calls(record: RunRecord, path: tuple[str, ...]) -> list[Event]:
    """The structural events of one run. What is told of several tools in the same moment is put in an order.

    A tool's end is told when that tool ends. Of two tools that end in the same moment, but not in the same step, either
    may come first, as the event loop's schedule has it. If the times are not known, the events stay as they are.
    """
    order = {event.call_id: index for index, event in enumerate(record.events) if isinstance(event, ToolCallDelta)}
    times = record.times if len(record.times) == len(record.events) else list(range(len(record.events)))
    pairs = [
        (event, time)
        for event, time in zip(record.events, times, strict=True)
        if event.path == path and not isinstance(event, _UNSTRUCTURAL)
    ]
    told: list[Event] = []
    while pairs:
        now = pairs[0][1]
        moment = [event for event, time in pairs if time - now < _SAME_MOMENT]
        del pairs[: len(moment)]
        # A guardrail that answers in the moment in which the stream ends may be told of before or after that.
        first: list[Event] = [
            event for event in moment if isinstance(event, GuardrailEnded) and event.outcome != "cancelled"
        ]
        rest: list[Event] = [event for event in moment if event not in first]
        places = [place for place, event in enumerate(rest) if isinstance(event, (ToolStarted, ToolEnded))]
        tools = [rest[place] for place in places]
        tools.sort(key=lambda event: (order.get(getattr(event, "call_id", ""), -1), isinstance(event, ToolEnded)))
        for place, event in zip(places, tools, strict=True):
            rest[place] = event
        told += first + rest
    return told


def _plain(event: Event) -> Event:
    return replace(event, run_id="") if isinstance(event, RunStarted) else event
