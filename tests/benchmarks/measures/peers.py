"""agentrun beside other frameworks: the same work for all, each in a process and an environment of its own.

The files in ``peers/`` are the contestants, `contest.rows` is the work. Every worker checks what it has seen against
the script, so a framework that did other work has no figure but a remark that says so.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from .. import peers
from ..contest.contestant import Broken, Contestant
from ..contest.environments import CannotInstall
from ..harness import AGENTRUN, BARE, FLOOR, Aim, Comparison, Settings
from ..server import serving

TITLE = "agentrun beside other frameworks, each in an environment of its own (asyncio)"

_OWN: Final = (AGENTRUN, FLOOR, BARE)
_SECONDS: Final = 180.0  # for one round of one row


@dataclass(frozen=True)
class _Row:
    what: str
    row: str
    size: int
    rounds: int
    unit: str = "s"
    warm: bool = True
    aims: bool = True


def _rows(settings: Settings) -> list[_Row]:
    deltas, turns = _deltas(settings), settings.pick(20, 50, tiny=2)
    few, some = settings.pick(2, 5), settings.pick(3, 9)
    long, stopped = settings.pick(200, 800, tiny=3), settings.pick(100, 500, tiny=3)
    runs, traced = settings.pick(200, 1000, tiny=3), settings.pick(100, 200, tiny=3)
    return [
        _Row("streamed delta, in process", "delta", deltas, some),
        _Row("streamed delta over HTTP", "delta_http", deltas, some),
        _Row(f"turn with one tool, {turns} turns", "turn", turns, some),
        _Row("each further parallel tool call", "further", settings.pick(3, 10), some),
        _Row(f"turn over HTTP, {turns} turns", "turn_http", turns, few),
        _Row(f"run of {long} turns in process", "run_of", long, settings.pick(1, 3), warm=False),
        _Row(f"{runs} concurrent runs, CPU time each", "concurrent", runs, settings.pick(1, 3)),
        # Fewer: the tracing makes some of them take minutes for a thousand, and what one run takes is the same.
        _Row(f"{traced} concurrent runs, memory each", "memory", traced, 1, "B", warm=False),
        _Row("cleanups lost when stopped twice", "stop_twice", settings.pick(10, 50, tiny=2), 1, "%", warm=False),
        _Row(f"stop of {stopped} runs at once", "stop", stopped, settings.pick(2, 5)),
        _Row("stop of one run, p50", "stop_one", settings.pick(10, 20, tiny=2), settings.pick(3, 15)),
        # Each contestant has waited for the others to have their turn, and what it needs has left the caches.
        _Row("stop of one run after other work, p50", "stop", 1, settings.pick(10, 100), aims=False),
        _Row("import", "import", 1, settings.pick(3, 9)),
    ]


def _deltas(settings: Settings) -> int:
    return settings.pick(500, 2000, tiny=3)


def measure(settings: Settings) -> Iterable[Comparison]:
    """One comparison for each row; rounds go through all contestants in turn."""
    with ExitStack() as stack:
        contestants = [contestant for name in _files() if (contestant := _enter(stack, name)) is not None]
        # agentrun and the floors first: the ratios are to them.
        contestants.sort(key=lambda one: _OWN.index(one.name) if one.name in _OWN else len(_OWN))
        url = stack.enter_context(serving(_deltas(settings)))
        losers: set[str] = set()
        for row in _rows(settings):
            comparison, remarks = _measured(row, contestants, url)
            if row.row == "stop_twice":
                losers |= {name for name in comparison.samples if comparison.median(name) > 0}
            elif row.aims:
                exempt = _quicker_than_the_floor(comparison, losers) if row.row in ("stop", "stop_one") else set()
                others = [name for name in comparison.samples if name not in {*_OWN, *exempt}]
                comparison.aims = [Aim(AGENTRUN, program=name, at_least=1.0) for name in others]
                why = "no aim, for it has no task group to unwind, and loses cleanup when it is stopped twice"
                remarks += [f"{name}: {why}" for name in sorted(exempt)]
            if row.aims and AGENTRUN not in comparison.samples:
                comparison.findings.append((f"{AGENTRUN} has no figure", False))
            elif not row.aims:
                remarks.append("no aim: it says as much about the caches of the machine")
            comparison.findings += [(remark, None) for remark in remarks]
            if row.row == "import":
                versions = (f"{one.name} {one.version}" for one in contestants if one.name not in (FLOOR, BARE))
                comparison.findings.append((f"versions: {', '.join(versions)}", None))
            yield comparison


def _quicker_than_the_floor(comparison: Comparison, losers: set[str]) -> set[str]:
    """They buy their speed with what structured concurrency is for; that is said, and they are no aim."""
    if FLOOR not in comparison.samples:
        return set()
    floor = comparison.median(FLOOR)
    return {name for name in losers & set(comparison.samples) if comparison.median(name) < floor}


def _files() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(peers.__path__))


def _enter(stack: ExitStack, name: str) -> Contestant | None:
    try:
        return stack.enter_context(Contestant(name))
    except CannotInstall as error:
        print(f"\n*** SKIPPED {name}: cannot be installed here: {error}\n", file=sys.stderr, flush=True)
        print(f"*** SKIPPED {name}: cannot be installed here (the reason is on standard error)", flush=True)
        return None


def _measured(row: _Row, contestants: list[Contestant], url: str) -> tuple[Comparison, list[str]]:
    samples: dict[str, list[float]] = {one.name: [] for one in contestants}
    remarks: dict[str, str] = {}
    for number in range(0 if row.warm else 1, row.rounds + 1):
        for one in contestants:
            if one.name not in samples:
                continue
            if reason := one.driver.cannot.get(row.row):
                remarks[one.name] = f"{one.name}: no figure: {reason}"
                del samples[one.name]
                continue
            try:
                value, remark = _ask(row, one, url)
            except Broken as error:
                remarks[one.name] = f"{one.name}: no figure: {error}"
                del samples[one.name]
                continue
            if number:
                samples[one.name].append(value)
            if remark:
                remarks[one.name] = f"{one.name}: {remark}"
    return Comparison(row.what, "asyncio", samples, unit=row.unit), list(remarks.values())


def _ask(row: _Row, one: Contestant, url: str) -> tuple[float, str]:
    if row.row == "import":
        return one.seconds_to_import(), ""
    return one.ask(row.row, row.size, url, _SECONDS)
