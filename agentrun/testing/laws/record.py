"""What is known of a run that has ended: its record, and the marks that its user code has left."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from agentrun.core.events import Event
from agentrun.core.items import Item
from agentrun.core.results import RunState
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.injection import Injection
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = ["Deed", "Mark", "MarkKind", "RunRecord"]

MarkKind: TypeAlias = Literal[
    "body",
    "looking",
    "cleanup",
    "registering",
    "registered",
    "entering",
    "leaving",
    "shielded",
    "critical",
    "on_cancel",
    "approval",
    "stream",
    "guardrail",
    "hook",
    "session",
]
"""Kinds of user code: the body of a tool, a part of it in which a thread looks at its cancellation, an ordinary
``finally`` of anything, a call of ``ctx.on_cleanup``, and its callback, the entering and the leaving of a context
manager by ``ctx.enter_async_context``, a section that shields itself, a critical section, a cancellation hook of a
tool, an approval function, a model's stream, a guardrail, a hook of `RunHooks`, a method of a session.
"""


@dataclass(slots=True, eq=False)
class Mark:
    """A piece of user code that has begun, and perhaps ended. What happens first has the smaller order.

    Attributes:
        kind: What it is.
        name: Whose: the name of the tool, the agent of the stream, the guardrail, the hook, or the session's method.
        run: Id of the run it is part of; empty where user code is not told.
        nested: Whether that is a nested run.
        call_id: Id of the tool call it is part of, or empty.
        began: When it began, in virtual seconds, and ...
        began_order: ... in which order.
        ended: When it ended; ``None`` if it has not.
        ended_order: See there.
        ending: How: ``"cancelled"`` if a cancellation went out of it, ``"closed"`` if its frame was thrown away.
        because: Of a ``finally``: what it was entered with.
        cut_at: When a cancellation first reached the code it is part of; ``None`` if none has.
        planned: How long it would take, left alone.
        may_be_cut: Of a ``finally``: it need not finish even if it was entered with a cancellation.
        thread: Name of the thread that it runs in, if it is not the event loop's.
    """

    kind: MarkKind
    name: str
    run: str
    nested: bool
    call_id: str
    began: float
    began_order: int
    ended: float | None = None
    ended_order: int | None = None
    ending: Literal["returned", "raised", "cancelled", "closed"] | None = None
    because: Literal["returned", "raised", "cancelled"] = "returned"
    cut_at: float | None = None
    planned: float = 0.0
    may_be_cut: bool = False
    thread: str = ""

    def open_at(self, order: int) -> bool:
        """Whether it had begun, and not ended, at that moment."""
        return self.began_order < order and (self.ended_order is None or self.ended_order > order)

    def __str__(self) -> str:
        owner = f"{self.name} ({self.call_id})" if self.call_id else self.name
        until = f"to {self.ended:g} s" if self.ended is not None else "and has not ended"
        ending = f", {self.ending}" if self.ending is not None else ""
        return f"{self.kind} of {owner}, from {self.began:g} {until}{ending}"


@dataclass(slots=True)
class Deed:
    """Something that was done to the run.

    Attributes:
        action: What; the names are those of `agentrun.testing.programs.Action`, and ``"patience"``.
        time: When, in virtual seconds, and ...
        order: ... in which order.
        stops: It ended the run at once.
        during: What was going on just then.
    """

    action: str
    time: float
    order: int
    stops: bool = False
    during: tuple[str, ...] = ()


@dataclass(slots=True)
class RunRecord:
    """What one run did, as far as a user can see.

    What is not known may be left out: the laws are then checked on the rest.

    Attributes:
        live: Its handle; ``None`` if the run was cancelled before it began.
        model: Its model, if it records ``requests`` and ``open_streams`` as `ScriptedModel` does.
        session: Its session, if it has one with ``items``.
        events: All its events.
        times: When each of them was told, in virtual seconds; empty if that is not known.
        injections: What was injected, and where it is.
        interrupted: An immediate interrupt was accepted.
        cancelled: The block was cancelled from outside while the run was alive.
        returned: ``wait()`` has returned a result.
        tidy: Whether the teardown must have had nothing to report but cancelled tools.
        settled: Ids of the calls that had ended before it began, in the run that it resumes.
        backend: Where it ran.
        grace: Its ``cleanup_grace``; infinite if it is not known.
        marks: What its user code has left, in the order in which it began.
        deeds: What was done to it, in order.
        errors: What its user code has raised and not handled: each exception with who raised it.
        approved: Ids of the calls that were approved.
        rejected: Ids of the calls that were rejected.
        needing_approval: Names of the tools that need approval for each call.
        withdrawn: Ids of the injections that were withdrawn.
        raised: What the block of the run has raised.
        own_error: What the body of the block has raised of its own.
        left: When the block had been left, in virtual seconds; ``None`` if that was not seen.
        left_order: See `Mark`.
        watchers: How many watchers of it were slow or dead.
        disturbed: The harness has done something to it.
        points: How many scheduling points it had; 0 if they were not counted.
        state: Its state after its end; asked for if it is missing, which needs the event loop.
        found: What the harness that ran it has found wrong.
    """

    live: ActiveRun[Any] | None = None
    model: Any = None
    session: Any = None
    events: list[Event] = field(default_factory=list[Event])
    times: list[float] = field(default_factory=list[float])
    injections: list[tuple[Injection, Item]] = field(default_factory=list[tuple[Injection, Item]])
    interrupted: bool = False
    cancelled: bool = False
    returned: bool = False
    tidy: bool = True
    settled: frozenset[str] = frozenset()
    backend: str = ""
    grace: float = math.inf
    marks: list[Mark] = field(default_factory=list[Mark])
    deeds: list[Deed] = field(default_factory=list[Deed])
    errors: list[tuple[BaseException, str]] = field(default_factory=list[tuple[BaseException, str]])
    approved: set[str] = field(default_factory=set[str])
    rejected: set[str] = field(default_factory=set[str])
    needing_approval: set[str] = field(default_factory=set[str])
    withdrawn: set[str] = field(default_factory=set[str])
    raised: BaseException | None = None
    own_error: BaseException | None = None
    left: float | None = None
    left_order: int | None = None
    watchers: int = 0
    disturbed: bool = False
    points: int = 0
    state: RunState | None = None
    found: list[BrokenLaw] = field(default_factory=list[BrokenLaw])

    def awaited_marks(self) -> list[Mark]:
        """The marks of code that the run has waited for: not of threads that it has left behind, and named."""
        return [mark for mark in self.marks if not mark.thread or not self.names_thread(mark.thread)]

    def names_thread(self, name: str) -> bool:
        """Whether the run's teardown report names this thread as one that it has left behind."""
        result = self.live.result if self.live is not None else None
        return result is not None and any(repr(name) in entry for entry in result.teardown.abandoned_threads)
