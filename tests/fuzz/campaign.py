"""Program after program, drawn by Hypothesis, played on the backends and held against the laws; and what was hit."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from agentrun.testing.laws import BrokenLaw, RunRecord, broken_laws, disagreements
from agentrun.testing.programs import Player, Program
from agentrun.testing.strategies import programs

from .nests import Nest, nests, what_breaks

BATCH = 100  # programs with one seed of Hypothesis; the time is looked at in between
SCHEDULES = (0, 1)  # of trio, for the comparison with asyncio

# What may be going on when a run is interrupted, cancelled, left or cut, by the name that `Deed.during` has for it.
RARE_PATHS = {
    "in an ordinary cleanup": ("cleanup",),
    "in a registered cleanup": ("registered", "leaving"),
    "in __aenter__": ("entering",),
    "in a critical section": ("critical",),
    "in a shield of the tool's own": ("shielded",),
    "in a cancellation hook": ("on_cancel",),
    "while the shield is being raised": ("cancelled, not told",),
    "in an approval function": ("approval",),
    "in a call that waits for approval": ("tool waiting for approval",),
    "in the session's load": ("session load",),
    "in the session's append": ("session append",),
    "in a hook of a start": ("hook on_run_start", "hook on_model_start", "hook on_tool_start"),
    "in a hook of an end": ("hook on_run_end", "hook on_model_end", "hook on_tool_end"),
    "in a guardrail": ("guardrail",),
    "in a thread": ("thread",),
    "in a model's stream": ("stream",),
    "between two tool ends": ("between tool ends",),
    "with a tool that waits for its turn": ("tool queued",),
    "during a handoff of an item": ("pending input",),
    "in a nested run": ("nested run",),
    "while a watcher holds the run": ("blocked on watchers",),
    "in the teardown of another": ("teardown",),
}
_INTRUSIVE = {"interrupt", "interrupt_tool", "inject_now", "leave", "raise", "cancel", "cancel_outer", "native"}


@dataclass
class Tally:
    """What a campaign has done.

    Attributes:
        programs: How many programs were drawn.
        runs: How many runs there were of them.
        points: Scheduling points of all runs.
        injections: Interrupts, cancellations, injections and so on.
        endings: How the runs have ended.
        rare: How often each of `RARE_PATHS` was hit.
        violations: What was found in the smallest program that breaks a law.
        smallest: That program.
    """

    programs: int = 0
    runs: int = 0
    points: int = 0
    injections: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    rare: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    smallest: Program | None = None

    def add(self, record: RunRecord) -> None:
        """Count a run."""
        self.runs += 1
        self.points += record.points
        self.injections += len(record.deeds)
        live = record.live
        self.endings[live.status if live is not None else "not begun"] += 1
        for deed in record.deeds:
            if deed.action in _INTRUSIVE:
                self.rare.update(
                    path for path, names in RARE_PATHS.items() if any(name in deed.during for name in names)
                )

    def __str__(self) -> str:
        rows = [("programs", self.programs), ("runs", self.runs), ("points", self.points)]
        rows += [("injections", self.injections)]
        rows += [(f"runs {name}", self.endings[name]) for name in sorted(self.endings)]
        rows += [(f"injections {name}", self.rare[name]) for name in RARE_PATHS]
        rows += [("violations", len(self.violations))]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}} {count:>9,}" for name, count in rows)


def check(player: Player, program: Program, backends: Sequence[Any], tally: Tally) -> list[str]:
    """Play a program on the backends, without its steers and with them, and say which laws are broken."""
    found: list[str] = []

    def play(version: Program, backend: Any, schedule: int = 0) -> RunRecord:
        record = player.play(version, backend, schedule)
        tally.add(record)
        for broken in broken_laws(record):
            found.append(f"{backend}, {'steered' if version.steers else 'clean'}: {broken}")
        return record

    for version in [program.unsteered(), program] if program.steers else [program]:
        records = [play(version, backend) for backend in backends]
        if len(backends) > 1 and version.same_on_both:
            records += [play(version, "trio", schedule) for schedule in SCHEDULES[1:]]
            for other in records[1:]:
                found += [f"{broken}" for broken in disagreements(records[0], other)]
    return found


def run_campaign(
    number: int,
    *,
    backends: Sequence[Any] = ("asyncio", "trio"),
    most: int | None = None,
    seconds: float | None = None,
    database: str | None = None,
    progress: Callable[[Tally], object] | None = None,
) -> Tally:
    """Draw programs until so many were played, or the time is up, or a law is broken.

    Args:
        number: The seed: the same one gives the same programs, points and reports.
        backends: Where to play them; with both, they are compared to each other, too.
        most: How many programs.
        seconds: How long (by the clock on the wall); looked at after each `BATCH`.
        database: Directory of Hypothesis's examples: programs that once failed are played first.
        progress: Called after each batch.
    """
    tally = Tally()
    for batch, (batch_seed, count) in enumerate(_batches(number, most, seconds, lambda: tally.programs)):
        _play_batch(batch_seed, count, backends, database if batch == 0 else None, tally)
        if progress is not None:
            progress(tally)
        if tally.smallest is not None:
            break
    return tally


def _batches(
    number: int, most: int | None, seconds: float | None, drawn: Callable[[], int]
) -> Iterator[tuple[int, int]]:
    """The seed and the size of each batch, until so many were drawn or the time is up."""
    end = time.monotonic() + seconds if seconds is not None else None
    for batch in itertools.count():
        left = most - drawn() if most is not None else BATCH
        if left <= 0 or (end is not None and time.monotonic() >= end):
            return
        yield number * 1_000_003 + batch, min(BATCH, left)


def search_nests(
    number: int,
    *,
    backends: Sequence[str] = ("asyncio", "trio"),
    most: int | None = None,
    seconds: float | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[int, Nest | None, list[str]]:
    """Draw nests of scopes instead of whole programs; see `tests.fuzz.nests`. Otherwise as `run_campaign`.

    Returns:
        How many were drawn, the smallest in which something breaks, if any does, and what that is.
    """
    drawn = 0
    failing: tuple[Nest, list[str]] | None = None

    def play(nest: Nest) -> None:
        nonlocal drawn, failing
        drawn += failing is None
        found = [each for backend in backends for each in what_breaks(nest, backend)]
        if "trio" in backends:
            found += [each for schedule in SCHEDULES[1:] for each in what_breaks(nest, "trio", schedule)]
        if found:
            failing = nest, found
            raise BrokenProgram

    for batch_seed, count in _batches(number, most, seconds, lambda: drawn):
        with contextlib.suppress(BrokenProgram):
            seed(batch_seed)(_searching(count)(given(nests())(play)))()
        if progress is not None:
            progress(drawn)
        if failing is not None:
            break
    return (drawn, *(failing or (None, [])))


def _searching(count: int, database: DirectoryBasedExampleDatabase | None = None) -> settings:
    phases = [Phase.generate, Phase.shrink] if database is None else [Phase.reuse, Phase.generate, Phase.shrink]
    return settings(
        max_examples=count,
        database=database,
        phases=phases,
        deadline=None,
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def _play_batch(number: int, count: int, backends: Sequence[Any], database: str | None, tally: Tally) -> None:
    examples = DirectoryBasedExampleDatabase(database) if database is not None else None
    failing: tuple[Program, list[str]] | None = None
    drawn = 0

    with Player(backends) as player:

        @seed(number)
        @_searching(count, examples)
        @given(programs())
        def all_laws_hold(program: Program) -> None:
            nonlocal failing, drawn
            drawn += failing is None
            found = check(player, program, backends, tally if failing is None else Tally())
            if found:
                failing = program, found
                raise BrokenProgram

        try:
            all_laws_hold()
        except BrokenProgram:
            assert failing is not None
            tally.smallest, tally.violations = failing
    tally.programs += drawn


class BrokenProgram(AssertionError):
    """A program breaks a law."""


__all__ = ["BATCH", "RARE_PATHS", "BrokenLaw", "Tally", "check", "run_campaign"]
