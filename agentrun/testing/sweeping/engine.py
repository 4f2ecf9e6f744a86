"""Running a scenario again and again under the same conditions."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from agentrun.core.errors import UserError
from agentrun.testing.sweeping import asyncio_points, asyncio_threads, trio_points, trio_threads
from agentrun.testing.sweeping.baton import current_thread
from agentrun.testing.sweeping.leaks import LeakWatch
from agentrun.testing.sweeping.places import Place
from agentrun.testing.sweeping.points import Point, Shot, Trial
from agentrun.testing.sweeping.real_sockets import no_real_sockets
from agentrun.testing.sweeping.thread_patches import exchanged
from agentrun.testing.sweeping.verdicts import Check, SweepRefused, Violation, hidden_in_pytest

__all__ = ["BackendName", "Baseline", "Conditions", "Engine", "check_backends", "first_difference"]

__tracebackhide__ = hidden_in_pytest

BackendName: TypeAlias = Literal["asyncio", "trio"]

_busy = threading.local()
_running: dict[int, Trial] = {}
"""The trial that runs in each thread; there is hardly more than one of them."""


def check_backends(backends: Sequence[str]) -> tuple[BackendName, ...]:
    """The backends, checked.

    Raises:
        UserError: One is unknown, or not installed.
    """
    if isinstance(backends, str):
        backends = (backends,)
    names = tuple(backends)
    if not names:
        raise UserError("backends is empty; expected 'asyncio', 'trio' or both")
    for name in names:
        if name not in ("asyncio", "trio"):
            raise UserError(f"backends contains {name!r}; expected 'asyncio' or 'trio'")
    if "trio" in names and importlib.util.find_spec("trio") is None:
        raise UserError("backends contains 'trio', which is not installed: pip install trio, or backends=['asyncio']")
    return names  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same in each trial of a sweep; see `agentrun.testing.cancel_everywhere`."""

    scenario: Callable[[Trial], Awaitable[Any]]
    oracle: Callable[[], Any] | None = None
    seed: int = 0
    grace: float = 30.0
    raises: tuple[type[BaseException], ...] = ()
    ignore: frozenset[str] = frozenset()
    max_points: int = 20_000
    max_seconds: float = 30.0
    laws: Mapping[Check, int] = field(default_factory=dict[Check, int])
    begins_at: Place | None = None


@dataclass(frozen=True, slots=True)
class Baseline:
    """The clean run of a scenario on one backend.

    Attributes:
        points: Its points.
        sequence: The number of the task of each point.
        violations: What was wrong without any injection.
    """

    points: list[Point]
    sequence: list[int]
    violations: list[Violation]


class Engine:
    """Makes trials; ``with Engine(conditions) as engine``. It patches the process meanwhile, so there is one at a time.

    Raises:
        UserError: When entered inside an event loop.
        SweepRefused: When entered inside a sweep, which ends as well, with the same.
    """

    def __init__(self, conditions: Conditions, backends: Sequence[BackendName]) -> None:
        self._conditions = conditions
        self._backends = backends
        self._stack = contextlib.ExitStack()
        self._leaks = LeakWatch()

    def __enter__(self) -> Self:
        trial = _trial_here()
        if trial is not None or getattr(_busy, "sweep", False):
            refusal = SweepRefused(
                "a sweep was started inside the scenario or the oracle of another; sweeps cannot be nested"
            )
            if trial is not None:
                trial.refused = refusal  # also if the scenario makes something else of it
            raise refusal
        _refuse_running_loop()
        with contextlib.ExitStack() as stack:
            _busy.sweep = True
            stack.callback(setattr, _busy, "sweep", False)
            stack.enter_context(asyncio_points.ordered_scopes())
            stack.enter_context(
                asyncio_threads.virtual_worker_threads(lambda loop: isinstance(loop, asyncio_points.SweepLoop))
            )
            stack.enter_context(no_real_sockets(_trial_here))
            if "trio" in self._backends:
                importlib.import_module("trio.testing")  # now, so that it is not taken for what a trial has left
                stack.enter_context(trio_points.no_sockets())
                stack.enter_context(trio_points.no_foreign_threads())
                stack.enter_context(trio_threads.virtual_worker_threads(trio_points.current_crew))
            stack.enter_context(exchanged())
            stack.enter_context(self._leaks)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def trial(
        self,
        backend: BackendName,
        shots: Sequence[Shot] = (),
        expected: list[int] | None = None,
        *,
        keep_trace: bool = False,
        seed: int | None = None,
    ) -> Trial:
        """Run the scenario once, in an event loop of its own.

        Args:
            backend: Which event loop.
            shots: What is done to it, in order.
            expected: The tasks of the points, as in the clean run: if they are not the same, the trial has diverged.
                ``None``: any will do.
            keep_trace: Whether to keep the places of the points.
            seed: Chooses trio's schedule, instead of that of the conditions.

        Raises:
            SweepRefused: The scenario does what a sweep cannot deal with.
        """
        given = self._conditions
        trial = Trial(
            given.scenario,
            shots=shots,
            expected=expected,
            keep_trace=keep_trace,
            grace=given.grace,
            max_points=given.max_points,
            max_seconds=given.max_seconds,
            raises=given.raises,
            ignore=given.ignore,
            oracle=given.oracle,
            laws=given.laws,
            begins_at=given.begins_at,
        )
        here = threading.get_ident()
        _running[here] = trial
        try:
            with self._leaks.around(trial):
                if backend == "asyncio":
                    asyncio_points.run_trial(trial)
                else:
                    trio_points.run_trial(trial, given.seed if seed is None else seed)
        finally:
            del _running[here]
        if trial.refusals:
            raise SweepRefused(
                f"the scenario uses {', and '.join(trial.refusals)}: what happens there is not in the hands of the "
                "event loop, so the same point would be another one each time; use in-memory fakes in a sweep"
            )
        if trial.refused is not None:
            raise trial.refused
        return trial

    def baseline(self, backend: BackendName) -> Baseline:
        """Two clean runs, which must be the same.

        Raises:
            SweepRefused: They are not; the message names the first point that differs.
        """
        first = self.trial(backend, keep_trace=True)
        points = first.trace or []
        if any(violation.check == "livelock" for violation in first.violations):
            raise SweepRefused(
                f"the scenario itself has not ended after {first.steps} points on {backend}; make it smaller, or raise "
                f"max_points\n  {first.violations[0]}"
            )
        second = self.trial(backend, keep_trace=True)
        _compare(backend, points, second.trace or [])
        return Baseline(points, first.sequence, first.violations)


def first_difference(one: Sequence[Point], other: Sequence[Point]) -> tuple[Point | None, Point | None] | None:
    """The first point that is not the same in two runs, as it is in each; ``None`` in place of one that there is not.

    Returns ``None`` if there is no difference.
    """
    for first, second in zip(one, other, strict=False):
        if (first.task, first.before, first.after) != (second.task, second.before, second.after):
            return first, second
    if len(one) == len(other):
        return None
    shared = min(len(one), len(other))
    return (one[shared], None) if len(one) > shared else (None, other[shared])


def _compare(backend: str, one: list[Point], other: list[Point]) -> None:
    difference = first_difference(one, other)
    if difference is None:
        return
    first, second = difference
    if first is not None and second is not None:
        raise SweepRefused(
            f"the scenario is not deterministic: two clean runs on {backend} differ at point {first.number}\n"
            f"  once:      {_describe(first)}\n"
            f"  the other: {_describe(second)}\n"
            "make sure that it starts from fresh state each time, and uses no real time, no randomness without a "
            "seed, and no order of sets"
        )
    only = first if first is not None else second
    assert only is not None
    raise SweepRefused(
        f"the scenario is not deterministic: two clean runs on {backend} have {len(one)} and {len(other)} points; "
        f"the first that only one of them has is {_describe(only)}"
    )


def _describe(point: Point) -> str:
    after = f", then waits at {point.after}" if point.after is not None else ", then ends"
    return f"{point.task} goes on from {point.before}{after}"


def _trial_here() -> Trial | None:
    """The trial that this code is part of, in the event loop's thread or in one that takes turns with it."""
    if current_thread() is not None:
        return next(iter(_running.values()), None)
    return _running.get(threading.get_ident())


def _refuse_running_loop() -> None:
    running = ""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        running = "asyncio"
    with contextlib.suppress(ImportError, RuntimeError):
        import trio

        trio.lowlevel.current_trio_token()
        running = "trio"
    if running:
        raise UserError(
            f"a sweep runs event loops of its own, and was started inside one of {running}'s; call it from an ordinary "
            "function (def, not async def)"
        )
