"""One execution of a scenario: its scheduling points, what is injected at which, and what was seen.

A scheduling point is one step of one task: the event loop resumes it, and it runs until it awaits again or ends. The
points of a trial are numbered from 1. The event loops (`asyncio_points`, `trio_points`) report the steps to the
`Trial`, which acts when the number is the one.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

import anyio

from agentrun.testing.sweeping.judging import ask, judge_exception, leaves
from agentrun.testing.sweeping.leaks import watch_async_generators
from agentrun.testing.sweeping.places import Place, Standing
from agentrun.testing.sweeping.relay import Relay, TaskRecord
from agentrun.testing.sweeping.verdicts import BrokenLaw, Check, SweepRefused, Violation, hidden_in_pytest

__all__ = ["Abandoned", "Backend", "Point", "Shot", "Stopping", "Trial"]

__tracebackhide__ = hidden_in_pytest

Stopping: TypeAlias = Callable[[], bool]
"""Asked when the grace of an action is over: whether what the action has stopped is there still."""

_MARGIN_STEPS: int = 5000  # steps that a teardown may take besides 20 times those of the baseline
_MOST_IDLE_TURNS: int = 10_000
_MOST_FORCE: int = 4  # attempts to get a stuck scenario to end before it is abandoned

_RANDOM = re.compile(r"[_ -]?[0-9a-f]{12,}")  # what makes a name unique, and a report different each time
_numbers = itertools.count(1)


class Abandoned(BaseException):
    """A scenario that nothing could end; the event loop is left as it is."""


@dataclass(slots=True)
class Point:
    """A step of a task in the baseline.

    Attributes:
        number: Its number, from 1.
        task: The task.
        before: Where the task stood when it was resumed.
        after: Where it awaits again; ``None`` if it has ended.
    """

    number: int
    task: str
    before: Place
    after: Place | None = None


@dataclass(frozen=True, slots=True)
class Shot:
    """An action to take at a point.

    Attributes:
        point: Number of the point.
        when: ``"before"`` the task is resumed, or ``"after"`` it has awaited again.
        action: Name of the action: ``"cancel"`` the scenario's scope, ``"cancel_outer"``, the scope around it,
            ``"native"`` (``Task.cancel()`` on the root), or one that the scenario offers (`Trial.actions`).
        times: How often: again each time the root has taken a step.
        place: Where the task stands then, in the baseline.
    """

    point: int
    when: Literal["before", "after"]
    action: str
    times: int = 1
    place: Place | None = None


class Backend(Protocol):
    """What a trial asks of the event loop it runs in."""

    def now(self) -> float:
        """Virtual time in seconds."""
        ...

    def cancel_root(self, token: str) -> None:
        """``Task.cancel()`` on the root, if the backend has it."""
        ...

    def begin_watching(self) -> TaskRecord | None:
        """Watch whether the task that runs now is told of a cancellation from outside by nothing but its own tasks.

        On trio a task that waits at the end of its nursery is. Its record will say so (``told_of_outside``).
        """
        ...

    def force(self) -> None:
        """Cancel all tasks as strongly as the backend can: the scenario is stuck."""
        ...

    def abandon(self) -> None:
        """Leave the event loop by an exception."""
        ...

    async def settle(self) -> None:
        """End the tasks that were left, and forget cancellations that are still in force on the root."""
        ...


class Trial:
    """One execution of a scenario in a fresh event loop.

    Attributes:
        backend: The event loop, once it runs.
        steps: Number of the latest point.
        sequence: The number of the task of each point, in order.
        trace: The points with their places, if asked for.
        records: The tasks, in the order of creation.
        violations: What was found wrong.
        refusals: What the scenario did that a sweep cannot deal with.
        refused: The refusal, if the scenario has let it out.
        diverged: The first point that was not as in the baseline.
        cut: The tasks that were cancelled between the injection and the end of the scenario, by whomever, and where.
        actions: What the scenario offers to do to itself, by name. An action that stops something returns a function
            that tells whether that goes on still.
        on_fire: Called with the name of each action before it is taken.
        why_stuck: Asked for the law that is broken when the scenario does not end; ``None`` for the usual one.
        fired: How many shots were fired.
        knows_thread: Asked whether somebody has reported the thread of this name, which the scenario has left behind;
            then the trial does not report it again.
        error: The type names of what the scenario raised; empty if it returned or was cancelled.
        returned: Whether the scenario returned.
    """

    def __init__(
        self,
        scenario: Callable[[Trial], Awaitable[Any]],
        *,
        shots: Sequence[Shot] = (),
        expected: Sequence[int] | None = (),
        keep_trace: bool = False,
        grace: float = 30.0,
        max_points: int = 20_000,
        max_seconds: float = 30.0,
        raises: tuple[type[BaseException], ...] = (),
        ignore: frozenset[str] = frozenset(),
        oracle: Callable[[], Any] | None = None,
        laws: Mapping[Check, int] = MappingProxyType({}),
        begins_at: Place | None = None,
    ) -> None:
        self._laws = laws
        self._begins_at = begins_at
        self.scenario = scenario
        self.oracle = oracle
        self.grace = grace
        self.raises = raises
        self.ignore = ignore
        self.token: str = f"agentrun.testing injection {next(_numbers)}"
        self.backend: Backend
        self.steps: int = 0
        self.sequence: list[int] = []
        self.trace: list[Point] | None = [] if keep_trace else None
        self.records: list[TaskRecord] = []
        self.violations: list[Violation] = []
        self.refusals: list[str] = []
        self.refused: SweepRefused | None = None
        self.diverged: int | None = None
        self.cut: tuple[tuple[str, Place], ...] = ()
        self.fired: int = 0
        self.returned: bool = False
        self.error: tuple[str, ...] = ()
        self.active: bool = False
        self.actions: dict[str, Callable[[], Stopping | None]] = {}
        self.on_fire: Callable[[str], object] | None = None
        self.why_stuck: Callable[[Check], int | None] | None = None
        self.knows_thread: Callable[[str], bool] | None = None
        self._expected = expected
        self._shots = list(shots)
        self._before_at = self._after_at = 0
        self._again: Shot | None = None
        self._again_left = 0
        self._stopping: list[tuple[float, Stopping]] = []  # when what was stopped must be gone
        self._max_steps = max_points
        self._real_end = perf_counter() + max_seconds
        self._max_seconds = max_seconds
        self._stage = 0
        self._steps_seen = self._turns_without_step = 0
        self._stuck: set[str] = set()
        self._cancel_at_start = self._given_up = False
        self._scopes: tuple[anyio.CancelScope, anyio.CancelScope] | None = None
        self._aim()

    # The root ---------------------------------------------------------------------------------------------------

    async def root(self) -> None:
        """What the root task runs: the scenario in its scopes, the checks of its end, the oracle."""
        inner, outer = anyio.CancelScope(), anyio.CancelScope()
        self._scopes = inner, outer
        if self._cancel_at_start:
            inner.cancel(self.token)
        try:
            with watch_async_generators(self), outer, inner:
                await self.scenario(self)
                self.returned = True
        except KeyboardInterrupt:
            raise
        except SweepRefused as exc:
            self.refused = exc
        except BaseException as exc:  # noqa: BLE001 - judged, and said
            self.error, violation = judge_exception(exc, self.raises)
            if violation is not None:
                self.violate(violation.check, violation.message, violation.place)
        self._finish()
        await self.backend.settle()
        if self.oracle is not None and not self._stuck and not self.refusals:
            await self._consult(self.oracle)

    def _finish(self) -> None:
        self.active = False
        cut = ((record.label, place) for record in self.records for place in record.cuts)
        self.cut = tuple(dict.fromkeys(cut))
        root = self.records[0]
        for record in self.records[1:]:
            if record.ending == "running" and not (record.may_be_left or self._is_known_thread(record)):
                place = record.place()
                self.violate(
                    record.kind, f"{record.label} is still alive after the scenario has ended; it waits at", place
                )
        for record in self.records:
            if record.deliveries and (self.returned if record is root else record.ending == "returned"):
                self.violate(
                    "swallowed", f"{record.label} returned, although it was cancelled at", record.deliveries[0]
                )
        if self._shots and self._expected is not None and self.diverged is None and not self._stuck:
            self.diverged = min(self.steps + 1, self._shots[0].point)

    def _is_known_thread(self, record: TaskRecord) -> bool:
        """Whether it is a thread that somebody has reported, or works for one, which waits for it."""
        thread: Any = record.coro if record.kind == "thread" else record.works_for
        return thread is not None and self.knows_thread is not None and self.knows_thread(thread.name)

    async def _consult(self, oracle: Callable[[], Any]) -> None:
        try:
            with anyio.fail_after(self.grace):
                await ask(oracle)
        except SweepRefused as exc:
            self.refused = exc
        except Exception as exc:  # noqa: BLE001 - the oracle's verdict
            for error in leaves(exc):
                if isinstance(error, BrokenLaw):
                    self.violate("law", error.evidence, law=error.law)
                else:
                    text = str(error) or "it raised it without a message"
                    self.violate("oracle", f"{type(error).__name__}: {text}")

    # What the event loops report --------------------------------------------------------------------------------

    def adopt(self, coro: Any, name: str, is_ours: Callable[[BaseException], bool]) -> tuple[TaskRecord, Any]:
        """A task was created: its record, and the coroutine to run in its place."""
        if not self.records:
            record = TaskRecord(1, "the scenario", coro, begins_at=self._begins_at)
        else:
            record = TaskRecord(len(self.records) + 1, _short(name), coro)
        self.records.append(record)
        return record, Relay(record, is_ours)

    def adopt_thread(self, thread: Standing, name: str) -> TaskRecord:
        """A virtual thread was asked for: its record."""
        record = TaskRecord(len(self.records) + 1, _short(name), thread, kind="thread")
        self.records.append(record)
        return record

    def before_step(self, record: TaskRecord) -> None:
        """A task is about to be resumed."""
        self.steps = number = self.steps + 1
        self.sequence.append(record.number)
        if self.trace is not None:
            self.trace.append(Point(number, record.label, record.place()))
        if number == self._before_at:
            self._fire(record)

    def after_step(self, record: TaskRecord, ended: bool) -> None:
        """A task has awaited again, or has ended."""
        if self.trace is not None and not ended:
            self.trace[-1].after = record.place()
        if self.steps == self._after_at:
            self._fire(record)
        elif self._again_left and record.number == 1 and not ended:
            self._again_left -= 1
            assert self._again is not None
            self._act(self._again)

    def on_iteration(self) -> None:
        """The event loop begins another turn."""
        if self._given_up:
            self.backend.abandon()
            return
        self._turns_without_step = self._turns_without_step + 1 if self.steps == self._steps_seen else 0
        self._steps_seen = self.steps
        if self.active and self._turns_without_step > _MOST_IDLE_TURNS:
            self._turns_without_step = 0
            self.stuck("livelock", "the event loop turns, and no task takes a step")
        elif self.steps > self._max_steps:
            self.stuck("livelock", f"it takes step after step and does not end ({self.steps} by now)")
        elif self._stopping and self.active and self._is_late():
            self.stuck("grace", f"it has not ended within {self.grace:g} s of virtual time")
        elif perf_counter() > self._real_end:
            self.stuck("livelock", f"it has not ended within {self._max_seconds:g} real seconds")

    def _is_late(self) -> bool:
        """Whether something that was stopped goes on although its time is up."""
        now = self.backend.now()
        over = [still_there for until, still_there in self._stopping if now > until]
        self._stopping = [each for each in self._stopping if now <= each[0]]
        return any(still_there() for still_there in over)

    def stuck(self, check: Check, message: str) -> None:
        """The scenario does not end: say so, and make it."""
        if check not in self._stuck and self.active:
            self._stuck.add(check)
            waiting = [record for record in self.records if record.ending == "running" and record.coro is not None]
            standing = "".join(f"\n    {record.label} waits at {record.place()}" for record in waiting)
            self.violate(check, message + standing, law=self.why_stuck(check) if self.why_stuck is not None else None)
        self._stage += 1
        self._max_steps = self.steps + 1000
        self._real_end = perf_counter() + 1.0
        if self.fired:
            self._stopping = [(self.backend.now() + self.grace, _the_scenario)]
        if self._stage == 1 and self._scopes is not None and not self._scopes[0].cancel_called:
            self._scopes[0].cancel("the scenario is stuck")
        elif self._stage <= _MOST_FORCE:
            self.backend.force()
        else:
            self.backend.abandon()

    def give_up(self) -> None:
        """The scenario cannot go on: leave the event loop at its next turn."""
        self.active = False
        self._given_up = True

    @property
    def real_end(self) -> float:
        """When it must have ended, by ``time.perf_counter()``."""
        return self._real_end

    def refuse(self, what: str) -> None:
        """The scenario does what a sweep cannot deal with."""
        if what not in self.refusals:
            self.refusals.append(what)

    def violate(self, check: Check, message: str, place: Place | None = None, *, law: int | None = None) -> None:
        """Something is wrong."""
        if check not in self.ignore:
            self.violations.append(Violation(check, message, place, law if law is not None else self._laws.get(check)))

    def cancelled_scopes(self) -> tuple[anyio.CancelScope, ...]:
        """The scopes around the scenario that are cancelled."""
        return tuple(scope for scope in self._scopes or () if scope.cancel_called)

    # Shooting ---------------------------------------------------------------------------------------------------

    def _aim(self) -> None:
        shot = self._shots[0] if self._shots else None
        self._before_at = shot.point if shot is not None and shot.when == "before" else 0
        self._after_at = shot.point if shot is not None and shot.when == "after" else 0

    def _fire(self, record: TaskRecord) -> None:
        shot = self._shots.pop(0)
        self._aim()
        number = shot.point
        expected = self._expected[:number] if self._expected is not None else self.sequence
        here = record.place() if record.coro is not None else None
        if self.sequence != expected or (shot.place is not None and here != shot.place):
            self.diverged = _first_difference(self.sequence, expected)
            self._shots.clear()
            self._before_at = self._after_at = 0
            return
        if self.fired == 0:
            self._max_steps = self.steps + _MARGIN_STEPS + 20 * len(self._expected or self.sequence)
            for each in self.records:
                each.cuts.clear()  # by timeouts and task groups of its own, which are no news
        self.fired += 1
        for each in self.records:
            if each.kind == "thread" and each.ending == "running":
                each.cuts.append(each.place())
        self._act(shot)
        if shot.times > 1:
            self._again, self._again_left = shot, shot.times - 1

    def act(self, action: str) -> None:
        """Take an action now, without a shot."""
        self._act(Shot(self.steps, "after", action))

    def _act(self, shot: Shot) -> None:
        if self.on_fire is not None:
            self.on_fire(shot.action)
        stopping: Stopping | None = None
        if shot.action == "native":
            stopping = _the_scenario
            self.backend.cancel_root(self.token)
        elif shot.action in ("cancel", "cancel_outer"):
            stopping = _the_scenario
            if self._scopes is None:
                self._cancel_at_start = True
            else:
                self._scopes[shot.action == "cancel_outer"].cancel(self.token)
        elif (action := self.actions.get(shot.action)) is not None:
            try:
                stopping = action()
            except Exception as exc:  # noqa: BLE001 - no action may fail, and the task that is to go on must do so
                self.violate("exception", f"{shot.action} raised {type(exc).__name__}: {exc}")
        if stopping is not None:
            self._stopping.append((self.backend.now() + self.grace, stopping))


def _the_scenario() -> bool:
    """All was stopped: who asks knows that the scenario goes on."""
    return True


def _short(name: str) -> str:
    """The name of a task without its module, and without the function that its function was defined in."""
    tail = name.rpartition("<locals>.")[2]
    if tail == name:
        while "." in tail and (split := tail.partition("."))[0] in sys.modules:
            tail = split[2]
    return _RANDOM.sub("", tail)


def _first_difference(seen: Sequence[int], expected: Sequence[int]) -> int:
    pairs: Iterable[tuple[int, int]] = zip(seen, expected, strict=False)
    for number, (one, other) in enumerate(pairs, 1):
        if one != other:
            return number
    return min(len(seen), len(expected)) or 1
