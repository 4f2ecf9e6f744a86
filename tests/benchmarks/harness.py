"""Measuring programs against each other: interleaved, warmed up, medians, and the garbage collector handled alike.

The programs of one comparison run in turns, in one process and one event loop, so that whatever disturbs the machine
disturbs them all; each round begins with another of them, since what ran before leaves its code and data in the caches.
The ratio is the median of the rounds' ratios: it is steadier than the times themselves. The event loops take turns as
well, round by round, each in a thread of its own while the others stand still: what trio costs is compared with what
asyncio costs.
"""

from __future__ import annotations

import gc
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import anyio

__all__ = [
    "AGENTRUN",
    "BARE",
    "FLOOR",
    "LEAN",
    "LOOPS",
    "UVLOOP",
    "Aim",
    "Comparison",
    "Program",
    "Settings",
    "compare",
    "growth",
    "on_backends",
]

AGENTRUN: Final = "agentrun"
FLOOR: Final = "SC floor"
LEAN: Final = "SC floor, only calls without a task"
BARE: Final = "bare loop"
UVLOOP: Final = "uvloop"
LOOPS: Final = ("asyncio", "trio", UVLOOP)

Program: TypeAlias = Callable[[], Awaitable[Any]]
"""Does the work once and returns what it made of it: programs that are compared must return the same."""


@dataclass(frozen=True)
class Settings:
    """How thorough to be.

    Attributes:
        quick: Fewer and smaller rounds: says whether everything works, and what the ratios are, more or less.
        backends: The event loops to measure on.
        tiny: Next to nothing of everything: says that the measures run, and no more.
    """

    quick: bool = False
    backends: tuple[str, ...] = LOOPS
    tiny: bool = False

    def pick(self, quick: int, full: int, tiny: int = 1) -> int:
        """A number of rounds, or the size of the work."""
        return tiny if self.tiny else quick if self.quick else full


@dataclass(frozen=True)
class Aim:
    """``program`` shall cost ``at_least`` to ``at_most`` times as much as ``against``, on asyncio."""

    against: str
    at_most: float = math.inf
    program: str = AGENTRUN
    at_least: float = 0.0


@dataclass
class Comparison:
    """What was measured of several programs that do the same work.

    Attributes:
        what: What one number stands for, such as "one delta".
        samples: By program, one value for each round.
        unit: ``"s"`` for seconds, ``"B"`` for bytes, ``"%"`` for a share of one.
        aims: What the ratios should be.
        findings: Whatever else is to be said: a sentence, and whether an aim was met (``None`` if it is none).
    """

    what: str
    backend: str
    samples: Mapping[str, Sequence[float]]
    unit: str = "s"
    aims: Sequence[Aim] = ()
    findings: list[tuple[str, bool | None]] = field(default_factory=list)

    def median(self, program: str) -> float:
        """The middle of the rounds."""
        return statistics.median(self.samples[program])

    def ratio(self, program: str, against: str) -> float | None:
        """How many times as much ``program`` costs as ``against``; ``None`` where that cannot be said."""
        if program == against or against not in self.samples:
            return None
        pairs = zip(self.samples[program], self.samples[against], strict=True)
        ratios = [a / b for a, b in pairs if b > 0]
        return statistics.median(ratios) if ratios else None


async def compare(
    programs: Mapping[str, Program],
    *,
    rounds: int,
    per: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    own_clock: bool = False,
    warm: bool = False,
    collecting: bool = False,
) -> dict[str, list[float]]:
    """Run the programs in turns, each round from the next one on.

    Args:
        programs: By name.
        rounds: How often each; one more round warms up and does not count.
        per: The work is this many units; the values are for one.
        clock: What to read the time from.
        warm: They are warmed up already.
        collecting: The garbage collector works meanwhile, as it does in most programs.
        own_clock: The program returns ``(seconds, result)`` itself, because not all that it does counts.

    Raises:
        AssertionError: Two programs returned different results: they did not do the same work.
    """
    samples: dict[str, list[float]] = {name: [] for name in programs}
    order = deque(programs.items())
    for number in range(int(warm), rounds + 1):
        results: dict[str, Any] = {}
        for name, program in order:
            gc.collect()
            if not collecting:
                gc.disable()
            try:
                started = clock()
                result = await program()
                seconds = clock() - started
            finally:
                gc.enable()
            if own_clock:
                seconds, result = result
            results[name] = result
            if number:
                samples[name].append(seconds / per)
        order.rotate(-1)
        check_same(results)
        _after_round.get()()
    return samples


def check_same(results: Mapping[str, Any]) -> None:
    """All programs must have come to the same result."""
    names = list(results)
    for name in names[1:]:
        if results[name] != results[names[0]]:
            both = f"{results[name]!r:.200} against {results[names[0]]!r:.200}"
            raise AssertionError(f"{name} and {names[0]} did not do the same work: {both}")


def on_backends(settings: Settings, measure: Callable[[str], Awaitable[Comparison]]) -> Iterable[Comparison]:
    """Run ``measure(backend)`` in an event loop of each backend: a round of each, then the next."""
    turns = _Turns(settings.backends)

    def run(backend: str) -> Comparison:
        options = {"use_uvloop": True} if backend == UVLOOP else {}
        loop = "asyncio" if backend == UVLOOP else backend
        _after_round.set(lambda: turns.pass_on(backend))
        try:
            turns.wait_for(backend)
            return anyio.run(measure, backend, backend=loop, backend_options=options)
        finally:
            turns.leave(backend)

    with ThreadPoolExecutor(len(settings.backends)) as threads:
        return list(threads.map(run, settings.backends))


_after_round: ContextVar[Callable[[], object]] = ContextVar("after_round", default=lambda: None)


class _Turns:
    """Lets one thread run at a time: the first in the queue."""

    def __init__(self, names: Iterable[str]) -> None:
        self._queue = deque(names)
        self._moved = threading.Condition()

    def wait_for(self, name: str) -> None:
        """Wait, and with the thread its event loop, until it is the turn of ``name``."""
        with self._moved:
            self._moved.wait_for(lambda: self._queue[0] == name)

    def pass_on(self, name: str) -> None:
        """Let the others run, one after the other, and wait until it is the turn of ``name`` again."""
        with self._moved:
            self._queue.rotate(-1)
            self._moved.notify_all()
        self.wait_for(name)

    def leave(self, name: str) -> None:
        """Have no more turns."""
        with self._moved:
            self._queue.remove(name)
            self._moved.notify_all()


def growth(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The exponent ``k`` of ``cost = c * size ** k`` that fits best (least squares of the logarithms)."""
    # A cost that is a difference may come out negative where the sizes are so small that it is noise.
    xs, ys = [math.log(size) for size in sizes], [math.log(max(cost, 1e-9)) for cost in costs]
    return statistics.linear_regression(xs, ys).slope
