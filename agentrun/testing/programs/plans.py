"""What a program is: plain data that says what everybody in a run does, and what is done to the run.

All times are seconds of virtual time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, TypeAlias, cast

from agentrun.core.config import RunConfig
from agentrun.core.errors import UserError
from agentrun.testing.programs.rendering import Plan
from agentrun.testing.programs.steps import (
    Cleanup,
    Group,
    Look,
    LoopCall,
    Raise,
    Request,
    Sleep,
    Step,
    ThreadStep,
    UntilInterrupted,
    check_seconds,
)
from agentrun.testing.scripted import Call, Hang, Say, Wait

__all__ = [
    "ACTIONS",
    "Action",
    "AgentPlan",
    "Garbage",
    "GuardPlan",
    "HooksPlan",
    "ModelFails",
    "Program",
    "SessionPlan",
    "Steer",
    "StreamPart",
    "ToolPlan",
    "WatcherPlan",
]

Action: TypeAlias = Literal[
    "interrupt",
    "after_turn",
    "escalate",
    "interrupt_tool",
    "inject_next",
    "inject_now",
    "inject_idle",
    "withdraw",
    "approve",
    "reject",
    "leave",
    "raise",
    "cancel",
    "cancel_outer",
    "native",
]
"""What may be done to a run.

``"escalate"`` is an ``"after_turn"`` interrupt that becomes immediate 0.51 s later; ``"interrupt_tool"`` is for the
first tool at work, ``"withdraw"`` for the latest injection, ``"approve"`` and ``"reject"`` for the first call that
waits; ``"leave"`` leaves the run's block, ``"raise"`` raises in it; ``"cancel"`` and ``"cancel_outer"`` cancel scopes
around the run; ``"native"`` is ``Task.cancel()`` on the task that holds the run (asyncio; nothing on trio).
"""

ACTIONS: Final[tuple[Action, ...]] = Action.__args__  # type: ignore[attr-defined]
"""All of them."""


@dataclass(frozen=True, slots=True, repr=False)
class ModelFails(Plan):
    """A part of a turn: the stream raises a `ModelError`, or a ``RuntimeError`` if ``expected`` is false."""

    expected: bool = True


@dataclass(frozen=True, slots=True, repr=False)
class Garbage(Plan):
    """A part of a turn: the stream yields an object that is no model event."""


StreamPart: TypeAlias = Say | Call | Wait | Hang | ModelFails | Garbage


def _freeze(plan: Any, *names: str) -> None:
    """Lists that were passed become tuples, so that programs can be compared and hashed."""
    for name in names:
        value = getattr(plan, name)
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise UserError(f"{type(plan).__name__}.{name} must be a list, not {type(value).__name__}")
        items: Sequence[Any] = cast("Any", value)
        object.__setattr__(plan, name, tuple(items))


def _choose(plan: Any, name: str, *known: object) -> None:
    value = getattr(plan, name)
    if value not in known:
        raise UserError(f"{type(plan).__name__}.{name} must be one of {', '.join(map(repr, known))}, not {value!r}")


_ONLY_SYNC: Final = (Look, LoopCall)
_IN_THREADS: Final[tuple[type[Any], ...]] = ThreadStep.__args__


def _blind_seconds(step: Step) -> float:
    """For how long a step of a sync tool may go on without looking at the cancellation."""
    if isinstance(step, (Sleep, LoopCall)):
        return step.seconds
    return step.each if isinstance(step, Look) else 0.0


def _is_round(seconds: float) -> bool:
    """Whether it is a multiple of 0.05 seconds, as the times of most user code are."""
    return math.isclose(seconds * 20, round(seconds * 20), abs_tol=1e-9)


def _seconds_of(cleanup: Cleanup | None) -> float:
    return cleanup.seconds if cleanup is not None else 0.0


@dataclass(frozen=True, slots=True, repr=False)
class ToolPlan(Plan):
    """A tool.

    Attributes:
        name: Its name.
        body: What it does, in order.
        cleanup: What its ``finally`` does; ``None`` if it has none.
        timeout: As in ``@tool``, and so are the next ones.
        retries: See there.
        parallel: See there.
        approval: Whether it needs approval: ``"no"``, ``"yes"``, or an async function that says so (``"asks"``) or
            raises (``"fails"``).
        on_error: ``"model"``, ``"raise"``, or a function that answers (``"answers"``) or raises (``"fails"``).
        on_cancel: What its cancellation hook does: ``None``, ``"quick"``, ``"slow"`` (0.3 s), ``"raises"``.
        sync: Whether it is a sync function, which runs in a thread. Its body then has only steps of `ThreadStep`.
    """

    name: str
    body: Sequence[Step] = (Sleep(),)
    cleanup: Cleanup | None = None
    timeout: float | None = None
    retries: int = 0
    parallel: bool = True
    approval: Literal["no", "yes", "asks", "fails"] = "no"
    on_error: Literal["model", "raise", "answers", "fails"] = "model"
    on_cancel: Literal["quick", "slow", "raises"] | None = None
    sync: bool = False

    def __post_init__(self) -> None:
        _freeze(self, "body")
        for step in self.body:
            if self.sync != isinstance(step, _ONLY_SYNC) and (not self.sync or not isinstance(step, _IN_THREADS)):
                kind = "a sync" if self.sync else "an async"
                raise UserError(f"ToolPlan.body contains {step!r}, which {kind} tool cannot do")
        if self.sync and any(isinstance(step, Sleep) and step.seconds == math.inf for step in self.body):
            raise UserError("ToolPlan.body contains Sleep(inf), which no thread comes back from")
        _choose(self, "approval", "no", "yes", "asks", "fails")
        _choose(self, "on_error", "model", "raise", "answers", "fails")
        _choose(self, "on_cancel", None, "quick", "slow", "raises")

    def outlives(self, grace: float) -> bool:
        """Whether its thread may go on for longer than its grace, or raise something of its own, when cancelled."""
        return self.sync and (
            any(isinstance(step, Raise) for step in self.body)
            or sum(_blind_seconds(step) for step in self.body) + _seconds_of(self.cleanup) >= grace
        )


@dataclass(frozen=True, slots=True, repr=False)
class GuardPlan(Plan):
    """A guardrail.

    Attributes:
        kind: What it looks at.
        seconds: How long it takes.
        verdict: ``"pass"``, ``"trip"``, ``"raise"``, or ``"nonsense"`` (an answer that is none).
        blocking: For input: it runs before the model call instead of racing it.
        cleanup: What its ``finally`` does.
        sync: Whether it is a sync function, which runs in a thread, and does not look at its cancellation.
    """

    kind: Literal["input", "output"] = "input"
    seconds: float = 0.0
    verdict: Literal["pass", "trip", "raise", "nonsense"] = "pass"
    blocking: bool = False
    cleanup: Cleanup | None = None
    sync: bool = False

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")
        _choose(self, "kind", "input", "output")
        _choose(self, "verdict", "pass", "trip", "raise", "nonsense")

    @property
    def fails(self) -> bool:
        """Whether it lets nothing pass."""
        return self.verdict != "pass" or (self.cleanup is not None and self.cleanup.raises)

    @property
    def ends_after(self) -> float:
        """So many seconds it takes, with its cleanup."""
        return self.seconds + _seconds_of(self.cleanup)

    def outlives(self, grace: float) -> bool:
        """See `ToolPlan.outlives`."""
        return self.sync and (self.verdict == "raise" or self.ends_after >= grace)


@dataclass(frozen=True, slots=True, repr=False)
class HooksPlan(Plan):
    """A `RunHooks` whose hooks each take ``seconds``; the one named in ``raises`` raises then.

    Attributes:
        seconds: How long each hook takes.
        raises: Such as ``"on_tool_start"``.
        cleanup: What the ``finally`` of each hook of a start does.
    """

    seconds: float = 0.0
    raises: str | None = None
    cleanup: Cleanup | None = None

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")
        names = [f"on_{what}_{when}" for what in ("run", "model", "tool") for when in ("start", "end")]
        _choose(self, "raises", None, *names)


@dataclass(frozen=True, slots=True, repr=False)
class SessionPlan(Plan):
    """A session whose ``load`` and ``append`` each take ``seconds``; the one named in ``fails`` raises then."""

    seconds: float = 0.0
    fails: Literal["load", "append"] | None = None

    def __post_init__(self) -> None:
        check_seconds(self, "seconds")
        _choose(self, "fails", None, "load", "append")


@dataclass(frozen=True, slots=True, repr=False)
class WatcherPlan(Plan):
    """A watcher of the run's events.

    Attributes:
        kind: ``"quick"``, ``"slow"`` (0.2 s an event), ``"dead"`` (never reads), or ``"drop"`` (slow, and the run does
            not wait for it).
        buffer: As in ``live.events``.
    """

    kind: Literal["quick", "slow", "dead", "drop"] = "quick"
    buffer: int = 1024

    def __post_init__(self) -> None:
        _choose(self, "kind", "quick", "slow", "dead", "drop")


@dataclass(frozen=True, slots=True, repr=False)
class AgentPlan(Plan):
    """An agent.

    Attributes:
        name: Its name, which no other agent of the program has.
        turns: What its model says at each call, as in `ScriptedModel`. Beyond the last one it says "Very well.".
        tools: Its tools.
        guards: Its guardrails.
        handoffs: Agents it may hand over to, by calling ``transfer_to_NAME``.
        experts: Agents it may ask, by calling the tool ``NAME``: nested runs.
        closing: What the model's stream does when it is closed.
        opening: How long it takes to open the stream.
    """

    name: str = "a"
    turns: Sequence[Sequence[StreamPart]] = ()
    tools: Sequence[ToolPlan] = ()
    guards: Sequence[GuardPlan] = ()
    handoffs: Sequence[AgentPlan] = ()
    experts: Sequence[AgentPlan] = ()
    closing: Cleanup | None = None
    opening: float = 0.0

    def __post_init__(self) -> None:
        _freeze(self, "turns", "tools", "guards", "handoffs", "experts")
        check_seconds(self, "opening")
        parts = (Say, Call, Wait, Hang, ModelFails, Garbage)
        turns: list[tuple[StreamPart, ...]] = []
        for index, turn in enumerate(self.turns):
            turn_parts = (turn,) if isinstance(turn, parts) else tuple(turn)
            for part in turn_parts:
                if not isinstance(part, parts):
                    raise UserError(f"AgentPlan.turns[{index}] contains {part!r}; expected a part of a turn")
            turns.append(turn_parts)
        object.__setattr__(self, "turns", tuple(turns))

    @property
    def may_fail(self) -> bool:
        """Whether a run of it may fail because of what is in it, or in an agent that it asks or hands over to."""
        return (
            any(step.what == "fatal" for step in parts_of(self, Raise))
            or any(tool.on_error in ("raise", "fails") for tool in parts_of(self, ToolPlan))
            or any(guard.fails for guard in parts_of(self, GuardPlan))
            or bool(parts_of(self, ModelFails) or parts_of(self, Garbage))
        )

    @property
    def asks_one_twice(self) -> bool:
        """Whether an expert is asked more than once in a turn."""
        experts = {expert.name for expert in self.experts}
        asked = ([part.name for part in turn if isinstance(part, Call) and part.name in experts] for turn in self.turns)
        return any(len(names) > len(set(names)) for names in asked)

    def everybody(self) -> list[AgentPlan]:
        """This agent and all below it."""
        return [self, *(found for other in (*self.handoffs, *self.experts) for found in other.everybody())]


@dataclass(frozen=True, slots=True, repr=False)
class Steer(Plan):
    """Something that is done to the run while it lasts.

    Attributes:
        action: What; see `Action`.
        at: When: a fraction (0.0 to 1.0) of the scheduling points of the same program without its steers, or the number
            of a point, from 1.
        after: Instead of ``at``: seconds after the run was opened.
        resuming: At the point: as its task is about to be resumed, instead of when it awaits again.
        times: How often in a row (``"native"`` only).
    """

    action: Action
    at: float | None = None
    after: float | None = None
    resuming: bool = False
    times: int = 1

    def __post_init__(self) -> None:
        _choose(self, "action", *ACTIONS)
        if (self.at is None) == (self.after is None):
            raise UserError("Steer needs at=..., a fraction of the run's points or the number of one, or after=seconds")
        check_seconds(self, "after")
        if isinstance(self.at, float) and not 0.0 <= self.at <= 1.0:
            raise UserError(f"Steer.at must be a fraction from 0.0 to 1.0, or a whole number, not {self.at!r}")


@dataclass(frozen=True, slots=True, repr=False)
class Program(Plan):
    """One run, and all that goes on around it.

    Attributes:
        agent: Who runs.
        steers: What is done to the run.
        config: Its settings.
        hooks: Who is told.
        session: Where the history lives.
        watchers: Who watches.
        approvals: What becomes of a call that asks for approval, at once: ``"approve"``, ``"reject"``, or ``None``.
        patience: The block is left after so many seconds, so that every program ends.
    """

    agent: AgentPlan = AgentPlan()
    steers: Sequence[Steer] = ()
    config: RunConfig = field(default_factory=RunConfig)
    hooks: HooksPlan | None = None
    session: SessionPlan | None = None
    watchers: Sequence[WatcherPlan] = ()
    approvals: Literal["approve", "reject"] | None = "approve"
    patience: float = 50.0

    def __post_init__(self) -> None:
        _freeze(self, "steers", "watchers")
        check_seconds(self, "patience")
        _choose(self, "approvals", None, "approve", "reject")
        names = [agent.name for agent in self.agent.everybody()]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two agents of the program are named {name!r}; give each a name of its own")

    def unsteered(self) -> Program:
        """The same program, with nothing done to it."""
        return replace(self, steers=())

    @property
    def same_on_both(self) -> bool:
        """Whether the backends must agree on it.

        They need not (see law 11 in docs/semantics.md) if it has

        * what only one of them can do, or steers at scheduling points, of which each has its own;
        * tools that do something to their own run, or make it fail: which of the tools that go on in the same moment
          the event loop lets run first decides what the others have done by then;
        * tools in ``wait_interrupted``, which a cancellation releases and cancels in the same moment;
        * an expert that is asked twice in one turn: the two runs share its model, and either may be the first to ask;
        * a guardrail that does not pass, or whose model call fails, and that answers at a time at which other user code
          goes on, too: times are taken for such if they are multiples of 0.05 seconds, or those of other guardrails;
        * a call that is approved, or rejected, at once beside one whose error is answered: either takes some steps of
          the scheduler, and not the same number on both;
        * a task group of a tool's own whose tasks fail in the same moment: on trio the first may cut the others before
          they raise;
        * one whose tasks may return although they were cancelled: on trio, while it waits for its tasks, it has not
          noticed it then, on asyncio it has.
        """
        if any(steer.at is not None or steer.action == "native" for steer in self.steers):
            return False
        if parts_of(self, Request) or parts_of(self, UntilInterrupted):
            return False
        if any(agent.asks_one_twice for agent in self.agent.everybody()):
            return False
        tools = parts_of(self, ToolPlan)
        if any(tool.on_error in ("raise", "fails") for tool in tools):
            return False
        broken_off = any(agent.closing is not None and agent.closing.raises for agent in self.agent.everybody())
        guards: list[GuardPlan] = parts_of(self, GuardPlan)
        ends = [round(guard.ends_after, 6) for guard in guards]
        for guard, end in zip(guards, ends, strict=True):
            if (guard.fails or broken_off) and (_is_round(end) or ends.count(end) > 1):
                return False
        decided = self.approvals is not None and any(tool.approval in ("yes", "asks") for tool in tools)
        if decided and any(tool.approval == "fails" or tool.on_error == "answers" for tool in tools):
            return False
        groups = parts_of(self, Group)
        if any(group.tasks_fail_together or group.may_outlast_a_cancellation for group in groups):
            return False
        return not any(step.what != "error" for step in parts_of(self, Raise))

    @property
    def is_tidy(self) -> bool:
        """Whether nothing in it misbehaves, so that its teardown must be clean."""
        cleanups = parts_of(self, Cleanup)
        grace = self.config.cleanup_grace
        return (
            not any(part.misbehaves(grace) for step in _STEPS for part in parts_of(self, step))
            and not any(part.outlives(grace) for kind in (ToolPlan, GuardPlan) for part in parts_of(self, kind))
            and not any(cleanup.raises or cleanup.seconds >= grace for cleanup in cleanups)
            and not any(tool.on_cancel == "raises" for tool in parts_of(self, ToolPlan))
            # What makes the run of an expert fail may come together with the cancellation of the tool that it is.
            and not any(expert.may_fail for agent in self.agent.everybody() for expert in agent.experts)
            and not (self.hooks is not None and (self.hooks.raises or self.hooks.seconds >= grace))
            and not (self.session is not None and (self.session.fails or self.session.seconds >= grace))
            and grace > 0.3
        )


_STEPS: Final[tuple[Any, ...]] = Step.__args__


def parts_of(value: Any, kind: type[Any]) -> list[Any]:
    """All parts of this kind in a program, or in a part of one."""
    found: list[Any] = [value] if isinstance(value, kind) else []
    if isinstance(value, tuple):
        items: tuple[Any, ...] = cast("Any", value)
        for item in items:
            found += parts_of(item, kind)
    elif isinstance(value, Plan):
        for each in fields(cast("Any", value)):
            found += parts_of(getattr(value, each.name), kind)
    return found
