"""The laws of a run, checked on the record of one.

Each check sees only what a user can see: the result, the events, the requests that the model got, the handle, and the
marks that user code has left. It shares no code with the runtime. The numbers are those of the page "The semantics of a
run".
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrun.core.events import Event, ReasoningDelta, TextDelta, ToolCallDelta, ToolProgress
from agentrun.testing.laws.record import RunRecord
from agentrun.testing.laws.results import CHECKS_OF_RESULTS
from agentrun.testing.laws.titles import LAWS, LAWS_OF_CHECKS
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = ["LAWS", "LAWS_OF_CHECKS", "BrokenLaw", "RunRecord", "broken_laws", "structure"]

_UNSTRUCTURAL = (TextDelta, ReasoningDelta, ToolCallDelta, ToolProgress)


def broken_laws(record: RunRecord) -> list[BrokenLaw]:
    """The laws that a run, which must have ended, has broken; empty if there are none."""
    live = record.live
    if live is None:
        return []
    result = live.result
    if result is None:
        return [BrokenLaw(2, "the block was left, and the run has no result")]
    return [broken for check in CHECKS_OF_RESULTS for broken in check(record, live, result)]


def structure(events: Sequence[Event]) -> list[Event]:
    """The events that must be the same on each backend: all but the deltas."""
    return [event for event in events if not isinstance(event, _UNSTRUCTURAL)]
