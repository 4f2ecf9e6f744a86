"""Cancel an async program at every scheduling point, on both backends, and look what comes of it.

`cancel_everywhere` knows nothing of agents. It takes any async function of no arguments.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from agentrun.core.errors import UserError
from agentrun.testing.sweep_arguments import (
    BASELINE,
    Mode,
    ModeName,
    check_injected,
    check_modes,
    check_numbers,
    check_sizes,
    choose_checks,
    choose_modes,
)
from agentrun.testing.sweeping.engine import (
    BackendName,
    Baseline,
    Conditions,
    Engine,
    check_backends,
    first_difference,
)
from agentrun.testing.sweeping.places import Place, first_line
from agentrun.testing.sweeping.points import Point, Shot, Trial
from agentrun.testing.sweeping.progress import Progress
from agentrun.testing.sweeping.report import Failure, SweepReport
from agentrun.testing.sweeping.verdicts import Check, SweepRefused, Violation, hidden_in_pytest

__all__ = [
    "Failure",
    "SweepRefused",
    "SweepReport",
    "cancel_everywhere",
    "replay",
    "sweep",
]

__tracebackhide__ = hidden_in_pytest

T = TypeVar("T")

_MOST_SUSPECTS: Final = 16


def cancel_everywhere(
    scenario: Callable[[], Awaitable[Any]],
    *,
    backends: Sequence[BackendName] = ("asyncio", "trio"),
    modes: Iterable[ModeName] | None = None,
    oracle: Callable[[], Any] | None = None,
    raises: type[BaseException] | tuple[type[BaseException], ...] = (),
    seed: int = 0,
    grace: float = 30.0,
    ignore: Iterable[Check] = (),
    second: int = 0,
    limit: int | None = None,
    only: str | None = None,
    max_points: int = 20_000,
    max_seconds: float = 30.0,
    progress: bool | None = None,
) -> SweepReport:
    """Run a scenario once for each of its scheduling points, and cancel it there.

    A scheduling point is one step of one task of the scenario. A clean run counts them; then each gets a fresh run, in
    a fresh event loop in virtual time, in the same order of steps, with the cancellation at that point. After each run
    nothing may be left (tasks, threads, asynchronous generators, memory streams and whatever else warns that it was
    not closed, file descriptors, processes), no task may have returned although it was cancelled, nothing but the
    cancellation may have been raised, the teardown must have ended in time, and the oracle must be content. If one of
    these runs leaves something to those after it, so that an undisturbed one is no longer what it was, the sweep ends
    there, and blames that run.

    Call it from an ordinary function. Use in-memory fakes for what would be sockets or subprocesses. The worker
    threads of anyio, trio and ``asyncio.to_thread`` take turns with the event loop: each of their steps, from one
    ``time.sleep`` or call of the event loop to the next, is a scheduling point, and sleeping takes virtual time.

    Args:
        scenario: An async function without arguments. It must make everything it uses afresh each time.
        backends: Where to run it.
        modes: How to cancel: ``"suspended"`` cancels when a task has just begun to wait, ``"resuming"`` when one is
            about to go on (its value is ready, and the cancellation must wait for its next await); ``"native"`` is
            ``Task.cancel()`` on the scenario's task, once, twice and three times (``"native-1"`` ... ``"native-3"``),
            on asyncio only. By default all.
        oracle: Called after each run, in the same event loop: a function without arguments that raises if something
            is wrong, such as a lock that is still held, and returns nothing. It may be async.
        raises: Exceptions that the scenario may raise. It fails if it raises others, with and without injection.
        seed: Chooses the order in which trio runs tasks that are ready together; try several.
        grace: Seconds of virtual time that the scenario may take to end from its cancellation on.
        ignore: Checks whose findings do not count, such as ``["asyncgen"]`` for a library that leaves its generators
            to the garbage collector. (Those of httpx and httpcore never count, nor does one that is left at a ``yield``
            that is in no ``try`` and no ``with``, and so has no cleanup.)
        second: So many of the points after each injection get a second one in a run of their own: a native cancel
            after a scoped one, or the other way round.
        limit: At most so many points for each backend and mode, evenly spread; ``None`` means all.
        only: The ``id`` of a failure: inject only there.
        max_points: A clean run with more points is refused.
        max_seconds: Real seconds that one run may take.
        progress: Whether to show a progress line; by default on a terminal, when it takes more than two seconds.

    Returns:
        A report; ``cancel_everywhere(...).raise_if_failed()`` is a test in one line.

    Raises:
        SweepRefused: The scenario is not deterministic, uses sockets or processes, or one of its threads waits for
            something real, such as a lock or a pipe.
        UserError: An argument is not valid, or such that nothing would be cancelled; or it was called inside an event
            loop or another sweep.
    """
    if not callable(scenario):
        raise UserError(f"scenario must be an async function without arguments, not {type(scenario).__name__}")
    check_numbers(max_seconds=max_seconds)
    check_sizes(grace=grace, max_points=max_points, second=second, limit=limit)

    async def run(_: Trial) -> None:
        awaitable = scenario()
        if not isinstance(awaitable, Awaitable):
            raise SweepRefused(f"scenario must be an async function; it returned {type(awaitable).__name__}")
        await awaitable

    conditions = Conditions(
        run,
        oracle,
        seed,
        grace,
        raises if isinstance(raises, tuple) else (raises,),
        choose_checks(ignore),
        max_points,
        max_seconds,
        begins_at=first_line(scenario),
    )
    backends = check_backends(backends)
    chosen = choose_modes(modes)
    check_modes("modes", chosen, backends)
    report = sweep(
        conditions,
        backends,
        chosen,
        second=second,
        limit=limit,
        only=only,
        progress=progress,
        title=getattr(scenario, "__qualname__", "sweep"),
    )
    check_injected(report, only)
    return report


def replay(failure: Failure) -> Failure | None:
    """Run the one run of a failure again.

    Returns:
        What is wrong with it now; ``None`` if nothing is any more.
    """
    report: SweepReport = failure.rerun(failure.id)
    return report.failures[0] if report.failures else None


def sweep(
    conditions: Conditions,
    backends: Sequence[BackendName],
    modes: Sequence[Mode],
    *,
    second: int = 0,
    limit: int | None = None,
    only: str | None = None,
    progress: bool | None = None,
    title: str = "sweep",
    choose: Callable[[Sequence[Point]], Sequence[Point]] | None = None,
) -> SweepReport:
    """The engine's loop, for any scenario and any actions: what `cancel_everywhere` and other sweeps are made of.

    ``choose`` picks the points of the clean run that are worth an injection; by default all are.
    """
    chosen = _Only.parse(only, modes) if only is not None else None
    if chosen is not None:
        backends, modes = (chosen.backend,), [mode for mode in modes if mode.name == chosen.mode]

    def rerun(failure_id: str) -> SweepReport:
        return sweep(conditions, given_backends, given_modes, only=failure_id, choose=choose)

    given_backends, given_modes = tuple(backends), tuple(modes)
    report = SweepReport()
    began = time.perf_counter()
    with Engine(conditions, backends) as engine, Progress(title, progress) as bar, suppress(_StateChangedError):
        for backend in backends:
            _Backend(engine, backend, conditions, report, bar, rerun, choose).sweep(modes, second, limit, chosen)
    report.seconds = time.perf_counter() - began
    return report


class _StateChangedError(Exception):
    """A run has changed what later ones find. They would tell what comes of that, and no more about the scenario."""


class _Backend:
    """The part of a sweep on one backend."""

    def __init__(
        self,
        engine: Engine,
        backend: BackendName,
        conditions: Conditions,
        report: SweepReport,
        progress: Progress,
        rerun: Callable[[str], SweepReport],
        choose: Callable[[Sequence[Point]], Sequence[Point]] | None,
    ) -> None:
        self._engine = engine
        self._name: BackendName = backend
        self._conditions = conditions
        self._report = report
        self._progress = progress
        self._rerun = rerun
        self._choose = choose
        self._baseline: Baseline
        # The runs before this one, whether they failed or not. Not the trials, which keep what the scenario has left.
        self._latest: deque[Failure] = deque(maxlen=_MOST_SUSPECTS)

    def sweep(self, modes: Sequence[Mode], second: int, limit: int | None, only: _Only | None) -> None:
        self._baseline = baseline = self._engine.baseline(self._name)
        self._report.points += len(baseline.points)
        if baseline.violations and (only is None or only.mode == BASELINE):
            self._report.failures.append(self._failure(Mode(BASELINE, "after", ""), (), None, baseline.violations))
        if any(violation.check in ("deadlock", "grace") for violation in baseline.violations):
            return  # it has no end of its own
        plans = [(mode, self._shots(mode, limit, only)) for mode in modes if self._name in mode.backends]
        self._progress.expect(sum(len(shots) for _, shots in plans))
        for mode, shots in plans:
            for shot in shots:
                if only is not None and only.second is not None:
                    self._again(mode, shot, [only.second])
                    continue
                trial = self._inject(mode, (shot,), baseline.sequence)
                if second and trial.steps > shot.point:
                    self._again(mode, shot, _spread(range(shot.point + 1, trial.steps), second), trial.sequence)
        self._look_back()

    def _shots(self, mode: Mode, limit: int | None, only: _Only | None) -> list[Shot]:
        shots: list[Shot] = []
        last = len(self._baseline.points)
        points = self._baseline.points
        for point in points if self._choose is None else self._choose(points):
            if mode.when == "before":
                shots.append(Shot(point.number, "before", mode.action, mode.times, point.before))
            elif point.after is not None and point.number < last:
                shots.append(Shot(point.number, "after", mode.action, mode.times, point.after))
        if only is not None:
            return [shot for shot in shots if shot.point == only.point]
        return shots if limit is None else _spread(shots, limit)

    def _again(self, mode: Mode, first: Shot, points: Sequence[int], sequence: list[int] | None = None) -> None:
        """A second injection at each of the points, which come after the first one."""
        if sequence is None:
            sequence = self._engine.trial(self._name, (first,), self._baseline.sequence).sequence
        action = mode.second[self._name == "trio"]
        self._progress.expect(len(points))
        for point in points:
            self._inject(mode, (first, Shot(point, "after", action)), sequence)

    def _inject(self, mode: Mode, shots: tuple[Shot, ...], expected: list[int]) -> Trial:
        trial = self._engine.trial(self._name, shots, expected)
        report = self._report
        report.injections += 1
        if trial.fired < len(shots):
            self._look_back()  # it was not as before already when nothing had been done to it
        violations = trial.violations
        if trial.diverged is not None:
            report.diverged += 1
            point = self._baseline.points[min(trial.diverged, len(self._baseline.points)) - 1]
            text = f"not the same steps as in the clean run, from point {trial.diverged} on, where {point.task} was at"
            violations = [self._violation("diverged", text, point.before), *violations]
        ran = self._failure(mode, shots, trial, violations)
        self._latest.append(ran)
        report.delivered += bool(ran.delivered)
        if violations:
            report.failures.append(ran)
        self._progress.step(bool(violations))
        return trial

    def _look_back(self) -> None:
        """Look whether the latest run has left something behind that later ones find.

        Raises:
            _StateChangedError: It has; the report says so.
        """
        if not self._latest or (changed := self._aftermath()) is None:
            return
        suspects = list(self._latest)
        # A run that was disturbed early may not have been told from others. If it was stopped where an undisturbed one
        # waits now, and none did before, it has found things so, and has not brought them about.
        if changed.place not in [point.after for point in self._baseline.points]:
            while len(suspects) > 1 and any(place == changed.place for _, place in suspects[-1].cut):
                suspects.pop()
        to_blame = suspects[-1]
        failures = self._report.failures
        if to_blame in failures:
            failures.remove(to_blame)
        failures.append(replace(to_blame, violations=(*to_blame.violations, changed)))
        raise _StateChangedError

    def _aftermath(self) -> Violation | None:
        """What an undisturbed run does now that it did not do at first. Twice, or else it is only not deterministic."""
        if "aftermath" in self._conditions.ignore:
            return None
        points = self._baseline.points
        now = self._engine.trial(self._name, keep_trace=True)
        difference = first_difference(points, now.trace or [])
        if difference is None and not (now.violations and not self._baseline.violations):
            return None
        again = self._engine.trial(self._name, keep_trace=True)
        if first_difference(now.trace or [], again.trace or []) is not None:
            return None
        first, then = difference if difference is not None else (None, None)
        place: Place | None = None
        if then is not None and then.after is not None and (first is None or first.before == then.before):
            what, place = f"{then.task} now waits at", then.after
        elif then is not None:
            what, place = f"{then.task} is now at", then.before
        elif first is not None:
            what, place = f"it now ends while {first.task} is at", first.before
        else:
            what = str(now.violations[0])
        return self._violation("aftermath", f"with nothing done to it, {what}", place)

    def _violation(self, check: Check, message: str, place: Place | None) -> Violation:
        return Violation(check, message, place, self._conditions.laws.get(check))

    def _failure(
        self, mode: Mode, shots: tuple[Shot, ...], trial: Trial | None, violations: Sequence[Violation]
    ) -> Failure:
        points = self._baseline.points
        point, place = (shots[0].point, shots[0].place) if shots else (0, None)
        second = shots[1].point if len(shots) > 1 else None
        records = trial.records if trial is not None else []
        delivered = [f"{record.label} at {where}" for record in records for where in record.deliveries]
        return Failure(
            str(_Only(self._name, mode.name, point, second)),
            self._name,
            mode.name,
            point,
            len(points),
            second,
            points[point - 1].task if shots else "",
            place,
            tuple(dict.fromkeys(delivered)),
            tuple(violations),
            self._conditions.seed,
            self._rerun,
            trial.cut if trial is not None else (),
        )


@dataclass(frozen=True, slots=True)
class _Only:
    """The id of a failure, taken apart."""

    backend: BackendName
    mode: str
    point: int
    second: int | None = None

    def __str__(self) -> str:
        return f"{self.backend}:{self.mode}:{self.point}" + (f":{self.second}" if self.second is not None else "")

    @classmethod
    def parse(cls, text: str, modes: Sequence[Mode]) -> _Only:
        """Read an id.

        Raises:
            UserError: It is none.
        """
        parts = text.split(":") if isinstance(text, str) else []
        names = [mode.name for mode in modes]
        if len(parts) not in (3, 4) or not all(part.isdecimal() for part in parts[2:]):
            raise UserError(f"only must be the id of a failure, such as 'asyncio:{names[0]}:17', not {text!r}")
        backend = check_backends((parts[0],))[0]
        if parts[1] not in (*names, BASELINE):
            raise UserError(f"only={text!r}: there is no mode {parts[1]!r}; expected one of {', '.join(names)}")
        return cls(backend, parts[1], int(parts[2]), int(parts[3]) if len(parts) == 4 else None)


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly spread, the first and the last among them."""
    count = len(items)
    if count <= most:
        return list(items)
    if most == 1:
        return [items[count // 2]]
    return [items[index * (count - 1) // (most - 1)] for index in range(most)]
