"""Law 11: the records of one program on both backends, compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from agentrun.core.events import (
    Event,
    ReasoningDelta,
    RunStarted,
    TextDelta,
    ToolCallDelta,
    ToolProgress,
)
from agentrun.testing.laws.record import RunRecord
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = ["disagreements", "structure"]

_UNSTRUCTURAL = (TextDelta, ReasoningDelta, ToolCallDelta, ToolProgress)


def structure(events: Sequence[Event]) -> list[Event]:
    """The events that must be the same on each backend: all but the deltas."""
    return [event for event in events if not isinstance(event, _UNSTRUCTURAL)]


def disagreements(one: RunRecord, other: RunRecord) -> Iterator[BrokenLaw]:
    """Where two records of the same run on two backends (or of two schedules) differ in what must be the same: how the
    run ended, its history, and its structural events.

    The events of each nested run have an order of their own: runs that are nested side by side are independent.
    """
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
        told = [
            [repr(_plain(event)) for event in structure(record.events) if event.path == path] for record in (one, other)
        ]
        if told[0] != told[1]:
            pairs = zip(*told, strict=False)
            difference = next(
                (f"{names[0]}: {left}\n    {names[1]}: {right}" for left, right in pairs if left != right),
                f"{len(told[0])} and {len(told[1])} events",
            )
            yield BrokenLaw(11, f"the runs tell of other events:\n    {difference}")


def _plain(event: Event) -> Event:
    return replace(event, run_id="") if isinstance(event, RunStarted) else event
