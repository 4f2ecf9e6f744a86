"""What is known of a run that has ended: its record, and the marks that its user code has left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentrun.core.events import Event
from agentrun.core.items import Item
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.injection import Injection

__all__ = ["RunRecord"]


@dataclass(slots=True)
class RunRecord:
    """What one run did, as far as a user can see.

    Attributes:
        live: Its handle; ``None`` if the run was cancelled before it began.
        model: Its model, if it records ``requests`` and ``open_streams`` as `ScriptedModel` does.
        session: Its session, if it has one with ``items``.
        events: All its events.
        injections: What was injected, and where it is.
        interrupted: An immediate interrupt was accepted.
        cancelled: The block was cancelled from outside while the run was alive.
        returned: ``wait()`` has returned a result.
        tidy: Whether the teardown must have had nothing to report but cancelled tools.
        settled: Ids of the calls that had ended before it began, in the run that it resumes.
    """

    live: ActiveRun[Any] | None = None
    model: Any = None
    session: Any = None
    events: list[Event] = field(default_factory=list[Event])
    injections: list[tuple[Injection, Item]] = field(default_factory=list[tuple[Injection, Item]])
    interrupted: bool = False
    cancelled: bool = False
    returned: bool = False
    tidy: bool = True
    settled: frozenset[str] = frozenset()
