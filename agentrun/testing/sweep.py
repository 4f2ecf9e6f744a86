"""Cancel an async program at every scheduling point, on both backends, and look what comes of it.

`cancel_everywhere` knows nothing of agents. It takes any async function of no arguments.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

from agentrun.core.errors import UserError
from agentrun.testing.sweeping.engine import BackendName, Baseline, Conditions, Engine, check_backends
from agentrun.testing.sweeping.places import Place, first_line
from agentrun.testing.sweeping.points import Point, Shot, Trial
from agentrun.testing.sweeping.progress import Progress
from agentrun.testing.sweeping.report import Failure, SweepReport
from agentrun.testing.sweeping.verdicts import CHECKS, Check, SweepRefused, Violation, hidden_in_pytest

__all__ = [
    "Failure",
    "Mode",
    "SweepRefused",
    "SweepReport",
    "cancel_everywhere",
    "check_injected",
    "check_modes",
    "check_sizes",
    "choose_checks",
    "replay",
    "sweep",
]

__tracebackhide__ = hidden_in_pytest

T = TypeVar("T")

ModeName: TypeAlias = Literal["suspended", "resuming", "native", "native-1", "native-2", "native-3"]


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to inject something at a point; see `Shot`.

    Attributes:
        name: For reports.
        when: Before the task of the point is resumed, or after it has awaited again.
        action: What to do.
        times: How often.
        second: What to do in a second injection, on asyncio and on trio.
        backends: Where it can be done.
    """

    name: str
    when: Literal["before", "after"]
    action: str
    times: int = 1
    second: tuple[str, str] = ("native", "cancel_outer")
    backends: tuple[BackendName, ...] = ("asyncio", "trio")


_BASELINE: Final = "baseline"  # the mode of a failure to which nothing was injected

_MODES: Final = (
    Mode("suspended", "after", "cancel"),
    Mode("resuming", "before", "cancel"),
    Mode("native-1", "after", "native", 1, ("cancel", "cancel"), ("asyncio",)),
    Mode("native-2", "after", "native", 2, ("cancel", "cancel"), ("asyncio",)),
    Mode("native-3", "after", "native", 3, ("cancel", "cancel"), ("asyncio",)),
)


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
    cancellation may have been raised, the teardown must have ended in time, and the oracle must be content.

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
        ignore: Checks whose findings do not count, such as ``["asyncgen"]`` for a library that leaves generators
            without cleanup to the garbage collector.
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
    _check_numbers(max_seconds=max_seconds)
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
    chosen = _choose_modes(modes)
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
    with Engine(conditions, backends) as engine, Progress(title, progress) as bar:
        for backend in backends:
            _Backend(engine, backend, conditions, report, bar, rerun, choose).sweep(modes, second, limit, chosen)
    report.seconds = time.perf_counter() - began
    return report


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

    def sweep(self, modes: Sequence[Mode], second: int, limit: int | None, only: _Only | None) -> None:
        self._baseline = baseline = self._engine.baseline(self._name)
        self._report.points += len(baseline.points)
        if baseline.violations and (only is None or only.mode == _BASELINE):
            self._fail(Mode(_BASELINE, "after", ""), 0, None, "", None, (), baseline.violations)
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
        first, second = shots[0], (shots[1].point if len(shots) > 1 else None)
        delivered = tuple(f"{record.label} at {place}" for record in trial.records for place in record.deliveries)
        report.delivered += bool(delivered)
        violations = trial.violations
        if trial.diverged is not None:
            report.diverged += 1
            point = self._baseline.points[min(trial.diverged, len(self._baseline.points)) - 1]
            text = f"not the same steps as in the clean run, from point {trial.diverged} on, where {point.task} was at"
            violations = [Violation("diverged", text, point.before, self._conditions.laws.get("diverged")), *violations]
        if violations:
            task = self._baseline.points[first.point - 1].task
            self._fail(mode, first.point, second, task, first.place, delivered, violations, trial.cut)
        self._progress.step(bool(violations))
        return trial

    def _fail(
        self,
        mode: Mode,
        point: int,
        second: int | None,
        task: str,
        place: Place | None,
        delivered: tuple[str, ...],
        violations: Sequence[Violation],
        cut: tuple[tuple[str, Place], ...] = (),
    ) -> None:
        seed = self._conditions.seed
        name = _Only(self._name, mode.name, point, second)
        total = len(self._baseline.points)
        distinct = tuple(dict.fromkeys(delivered))
        self._report.failures.append(
            Failure(
                str(name), self._name, mode.name, point, total, second, task, place, distinct, tuple(violations), seed,
                self._rerun, cut,
            )
        )  # fmt: skip


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
        if parts[1] not in (*names, _BASELINE):
            raise UserError(f"only={text!r}: there is no mode {parts[1]!r}; expected one of {', '.join(names)}")
        return cls(backend, parts[1], int(parts[2]), int(parts[3]) if len(parts) == 4 else None)


def _choose_modes(names: Iterable[ModeName] | None) -> list[Mode]:
    if names is None:
        return list(_MODES)
    given: Iterable[str] = (names,) if isinstance(names, str) else names
    wanted: set[str] = set()
    known = {mode.name for mode in _MODES}
    for name in given:
        if name == "native":
            wanted |= {"native-1", "native-2", "native-3"}
        elif name in known:
            wanted.add(name)
        else:
            raise UserError(f"modes contains {name!r}; expected 'suspended', 'resuming' or 'native'")
    return [mode for mode in _MODES if mode.name in wanted]


def check_modes(name: str, modes: Sequence[Mode], backends: Sequence[BackendName]) -> None:
    """Check that something will be done.

    Raises:
        UserError: There are no modes, or none for these backends; ``name`` is the argument that is to blame.
    """
    if not modes:
        raise UserError(f"{name} is empty, so nothing would be done to any run; leave it out to have all")
    if not any(backend in mode.backends for mode in modes for backend in backends):
        names = ", ".join(mode.name for mode in modes)
        raise UserError(
            f"{name} has only what {' and '.join(backends)} cannot do ({names}), so nothing would be done to any run; "
            f"choose another backend, or others of the {name}"
        )


def check_injected(report: SweepReport, only: str | None) -> None:
    """Check that something was done, after a sweep in which nothing was wrong.

    Raises:
        UserError: Nothing was injected.
    """
    if report.injections or report.failures or (only is not None and _BASELINE in only.split(":")):
        return
    if only is not None:
        raise UserError(
            f"only={only!r}: there is nothing to inject at that point any more; the clean run has {report.points} "
            "points. The id of a failure is good for the same code, the same arguments and the same seed: sweep again "
            "without it"
        )
    raise UserError(
        f"nothing was injected: none of the {report.points} points of the clean runs is one at which that could be "
        "done; sweep in all modes, or a scenario that awaits something"
    )


def choose_checks(names: Iterable[str]) -> frozenset[str]:
    """The checks whose findings do not count.

    Raises:
        UserError: One is unknown.
    """
    chosen = frozenset((names,) if isinstance(names, str) else names)
    for name in chosen:
        if name not in CHECKS:
            raise UserError(f"ignore contains {name!r}; the checks are {', '.join(CHECKS)}")
    return chosen


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly spread, the first and the last among them."""
    count = len(items)
    if count <= most:
        return list(items)
    if most == 1:
        return [items[count // 2]]
    return [items[index * (count - 1) // (most - 1)] for index in range(most)]


def check_sizes(*, grace: Any, max_points: Any, second: Any, limit: Any) -> None:
    """Check the arguments that all sweeps have.

    Raises:
        UserError: One is not what it should be.
    """
    _check_numbers(grace=grace, max_points=max_points)
    _check_count("second", second, least=0)
    if limit is not None:
        _check_count("limit", limit, least=1)


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise UserError(f"{name} must be more than 0, not {value!r}")


def _check_count(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, not {value!r}")
