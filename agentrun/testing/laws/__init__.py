"""The laws of a run, checked on the record of one.

Each check sees only what a user can see: the result, the events, the requests that the model got, the handle, and the
marks that user code has left. It shares no code with the runtime. The numbers are those of the page "The semantics of a
run".
"""

from __future__ import annotations

from agentrun.testing.laws.agreement import disagreements, structure
from agentrun.testing.laws.marks import CHECKS_OF_MARKS
from agentrun.testing.laws.record import Deed, Mark, RunRecord
from agentrun.testing.laws.results import CHECKS_OF_RESULTS
from agentrun.testing.laws.threads import CHECKS_OF_THREADS
from agentrun.testing.laws.titles import LAWS, LAWS_OF_CHECKS
from agentrun.testing.laws.told import CHECKS_OF_EVENTS
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = [
    "LAWS",
    "LAWS_OF_CHECKS",
    "BrokenLaw",
    "Deed",
    "Mark",
    "RunRecord",
    "broken_laws",
    "disagreements",
    "structure",
]


def broken_laws(record: RunRecord) -> list[BrokenLaw]:
    """The laws that a run, which must have ended, has broken; empty if there are none."""
    live = record.live
    if live is None:
        return list(record.found)
    result = live.result
    if result is None:
        return [*record.found, BrokenLaw(2, "the block was left, and the run has no result")]
    checks = (*CHECKS_OF_RESULTS, *CHECKS_OF_EVENTS, *CHECKS_OF_MARKS, *CHECKS_OF_THREADS)
    return [*record.found, *(broken for check in checks for broken in check(record, live, result))]
