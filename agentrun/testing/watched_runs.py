"""The runs of a sweep over an agent: opened afresh each time, watched to their end, and held against the laws."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from operator import attrgetter
from types import TracebackType
from typing import Any, Literal, TypeAlias, cast

import anyio

from agentrun.core.config import RunConfig
from agentrun.core.errors import AgentRunError
from agentrun.core.events import ApprovalRequested, Event, InputInjected, InterruptRequested, RunStarted
from agentrun.core.items import RunInput, ToolOutput
from agentrun.core.results import RunResult
from agentrun.core.snapshot import RunSnapshot
from agentrun.runtime.agent import Agent
from agentrun.runtime.cancellations import native_cancellations, split_cancelled
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.hooks import RunHooks
from agentrun.runtime.hub import EventStream
from agentrun.runtime.opening import open_run
from agentrun.sessions.protocol import Session
from agentrun.testing.laws import RunRecord, broken_laws, structure
from agentrun.testing.steering import Steering
from agentrun.testing.sweeping.judging import ask
from agentrun.testing.sweeping.points import Trial
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = ["Approval", "Program", "RunPlan", "WatchedRuns"]

Approval: TypeAlias = Literal["approve", "reject"]

Program: TypeAlias = Callable[[AbstractAsyncContextManager[ActiveRun[Any]]], Awaitable[object]]
"""An async function that opens the run it is given, and does with it what a user's program would."""

_BUFFER = 100_000  # more events than a sweep's runs have: the sweep's own watching slows nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """How each run is made; see `agentrun.testing.interrupt_everywhere`, whose arguments these are."""

    make: Callable[[], Agent[Any, Any]]
    input: RunInput | None
    deps: Callable[[], Any] | None = None
    session: Callable[[], Session] | None = None
    hooks: Callable[[], RunHooks | Sequence[RunHooks] | None] | None = None
    resume_from: RunSnapshot | RunResult[Any] | None = None
    config: RunConfig | None = None
    on_approval: Approval | None = "approve"
    on_event: Callable[[ActiveRun[Any], Event], object] | None = None
    program: Program | None = None
    tidy: bool = True
    same_on_both: bool | None = None
    oracle: Callable[..., Any] | None = None


class WatchedRuns:
    """The scenario of a sweep over runs, and its oracle."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._oracle_takes_record = plan.oracle is not None and _takes_one(plan.oracle)
        self._trial: Trial
        self._record: RunRecord
        self._stream: EventStream | None = None
        self._clean: tuple[str, Any] | None = None
        self._steering: Steering

    async def scenario(self, trial: Trial) -> None:
        """One run, and what the user's program does with it."""
        plan = self._plan
        self._trial, self._stream = trial, None
        agent = plan.make()
        self._record = record = RunRecord(model=agent.model, tidy=plan.tidy)
        record.session = plan.session() if plan.session is not None else None
        self._steering = Steering(agent, record, alone=plan.program is None and plan.on_event is None)
        if plan.resume_from is not None:
            waiting = {call.call_id for call in plan.resume_from.pending_approvals}
            answered = {item.call_id for item in plan.resume_from.history if isinstance(item, ToolOutput)}
            record.settled = frozenset(answered - waiting)
        opening = open_run(
            agent,
            plan.input,
            deps=plan.deps() if plan.deps is not None else None,
            session=record.session,
            resume_from=plan.resume_from,
            config=plan.config,
            hooks=plan.hooks() if plan.hooks is not None else None,
        )
        opened = _Opened(opening, self._opened, self._left)
        if plan.program is None:
            await self._watch(opened)
            return
        try:
            await plan.program(opened)
        except BrokenLaw as exc:
            trial.violate("law", exc.evidence, law=exc.law)

    def _opened(self, live: ActiveRun[Any], leaving: Callable[[], bool]) -> None:
        self._record.live = live
        self._trial.actions.update(self._steering.actions(live, leaving))
        self._trial.why_stuck = self._steering.why_stuck
        self._trial.knows_thread = self._record.names_thread
        self._stream = live.events(buffer=_BUFFER)

    def _left(
        self, cancelled: bool, *, silent: bool, cut_short: bool, raised: BaseException | None, own: BaseException | None
    ) -> None:
        """The block has been left: cancelled from outside or not, and without that going on, if ``silent``; cancelled
        while the run was going on, if ``cut_short``; what it has raised; and what was raised inside of it."""
        self._record.cancelled = cancelled
        live, trial = self._record.live, self._trial
        if live is None or live.result is None:
            return
        result = live.result
        if silent and result.status == "cancelled":
            trial.violate("law", "the run is cancelled, and its block has swallowed the cancellation", law=3)
        if cut_short and result.status not in ("cancelled", "failed"):
            trial.violate("law", f"the run was cancelled from outside, and is {result.status!r}", law=3)
        if result.status == "interrupted" and isinstance(raised, AgentRunError) and self._plan.program is None:
            trial.violate("law", f"the run was interrupted, and wait() raised {raised!r} instead of a result", law=3)
        if raised is not own and raised is not result.error and isinstance(raised, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", raised)
            if result.error in group.exceptions:
                trial.violate("law", f"what made the run fail was not raised as itself, but as {group!r}", law=9)

    async def _watch(self, opened: AbstractAsyncContextManager[ActiveRun[Any]]) -> None:
        """What is done with a run by default."""
        async with opened as live:
            assert self._stream is not None
            async for event in self._stream:
                self._see(live, event)
            await live.wait()
            self._record.returned = True

    def _see(self, live: ActiveRun[Any], event: Event) -> None:
        plan = self._plan
        self._record.events.append(event)
        self._steering.look()
        if isinstance(event, ApprovalRequested) and not event.path:
            if plan.on_approval == "approve":
                self._steering.approve(event.call_id)
            elif plan.on_approval == "reject":
                live.reject(event.call_id, "no")
        if plan.on_event is not None:
            plan.on_event(live, event)

    async def oracle(self) -> None:
        """The laws of the run that has ended, and the user's own oracle."""
        plan, record, trial = self._plan, self._record, self._trial
        record.disturbed = trial.fired > 0
        if self._stream is not None and record.live is not None and record.live.result is not None:
            with anyio.move_on_after(1) as patience:
                async for event in self._stream:
                    record.events.append(event)
            if patience.cancelled_caught:
                trial.violate("law", "the run has ended, and its events have not", law=2)
        for broken in (*broken_laws(record), *self._steering.broken_laws()):
            trial.violate("law", broken.evidence, law=broken.law)
        if plan.oracle is not None:
            await ask(plan.oracle, *([record] if self._oracle_takes_record else []))
        if trial.fired == 0 and not trial.violations and self._must_be_same(record):
            self._compare(record)

    def _must_be_same(self, record: RunRecord) -> bool:
        """Whether law 11 says anything about the clean run.

        What somebody does to a run in the moment in which its tools go on comes before or after their next step, as
        the event loop has it. So they may have begun a nested run by then, or have ended, or not.
        """
        if self._plan.same_on_both is not None:
            return self._plan.same_on_both
        return not record.cancelled and not any(
            isinstance(event, (InterruptRequested, InputInjected)) for event in record.events
        )

    def _compare(self, record: RunRecord) -> None:
        """Law 11: the clean run is the same on both backends."""
        assert record.live is not None
        assert record.live.result is not None
        told = [
            replace(event, run_id="") if isinstance(event, RunStarted) else event for event in structure(record.events)
        ]
        # Runs in tools that work side by side are runs of their own: how their events interleave is nobody's promise.
        told.sort(key=attrgetter("path"))
        clean = (record.live.result.history, [repr(event) for event in told])
        backend = anyio.get_cancelled_exc_class().__module__.partition(".")[0]
        if self._clean is None:
            self._clean = backend, clean
        elif self._clean[0] != backend and self._clean[1] != clean:
            other, (history, events) = self._clean
            if history != clean[0]:
                difference = f"{history!r}\n    {clean[0]!r}"
            else:
                pairs = zip(events, clean[1], strict=False)
                difference = next(
                    (f"{one}\n    {two}" for one, two in pairs if one != two),
                    f"{len(events)} and {len(clean[1])} events",
                )
            self._trial.violate("law", f"the runs on {other} and {backend} differ:\n    {difference}", law=11)


class _Opened:
    """A run's block that is told of by what cancellation it was left."""

    def __init__(
        self,
        opening: AbstractAsyncContextManager[ActiveRun[Any]],
        on_open: Callable[[ActiveRun[Any], Callable[[], bool]], None],
        on_left: Callable[..., None],
    ) -> None:
        self._opening = opening
        self._on_open = on_open
        self._on_left = on_left
        self._live: ActiveRun[Any]
        self._leaving = False

    async def __aenter__(self) -> ActiveRun[Any]:
        self._live = live = await self._opening.__aenter__()
        self._on_open(live, lambda: self._leaving)
        return live

    def _goes_on(self) -> bool:
        return self._live.status == "running" and self._live.state().phase != "ending"

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        cancelled = _is_cancellation(exc) or _cancellation_in_force()
        cut_short = cancelled and self._goes_on()
        left_with: BaseException | None = exc
        self._leaving = True
        try:
            suppressed = await self._opening.__aexit__(exc_type, exc, tb)
            if suppressed:
                left_with = None
            return suppressed
        except BaseException as caught:
            left_with = caught
            raise
        finally:
            self._leaving = False
            going_on = _is_cancellation(left_with) or _cancellation_in_force()
            silent = left_with is None and not going_on
            self._on_left(cancelled or going_on, silent=silent, cut_short=cut_short, raised=left_with, own=exc)
            del left_with  # its traceback holds this frame


def _is_cancellation(exc: BaseException | None) -> bool:
    return exc is not None and split_cancelled(exc, anyio.get_cancelled_exc_class())[0] is not None


def _cancellation_in_force() -> bool:
    return anyio.current_effective_deadline() == -math.inf or native_cancellations() > 0


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter that must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)
