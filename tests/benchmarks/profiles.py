"""``python -m tests.benchmarks.profiles [--publish] [row ...]``: where the time of agentrun goes, row by row.

The rows are those in which agentrun is compared to others (`contest.rows`), so what is profiled is what is measured.
cProfile slows small functions down more than large ones: read the shares, take the times from the benchmarks.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pathlib
import pstats
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

from .contest.driver import Driver
from .contest.rows import ROWS
from .contest.worker import driver_of
from .publish import put_into_docs
from .report import quantity
from .server import serving

_SIZES: Final = {
    "delta": 20000,
    "delta_http": 2000,
    "turn": 200,
    "further": 20,
    "turn_http": 200,
    "concurrent": 300,
    "stop": 300,
}
_UNITS: Final = {
    "delta": "a delta",
    "delta_http": "a delta over HTTP",
    "turn": "a turn with one tool",
    "further": "a further call",
    "turn_http": f"a turn over HTTP (of {_SIZES['turn_http']})",
}
_DELTAS: Final = _SIZES["delta_http"]
_LAYERS: Final = {  # by a part of the path; the first that fits
    "agentrun/core": "agentrun.core",
    "agentrun/runtime": "agentrun.runtime",
    "agentrun/models": "agentrun.models",
    "agentrun/tools": "agentrun.tools",
    "agentrun/sessions": "agentrun.sessions",
    "agentrun/": "agentrun, the rest",
    "tests/benchmarks": "the benchmark: model, tool, watcher",
    "site-packages/anyio": "anyio",
    "site-packages/httpx": "httpx",
    "site-packages/httpcore": "httpcore",
    "site-packages/h11": "h11",
    "site-packages/pydantic": "pydantic",
    "asyncio/": "asyncio",
    "selectors.py": "asyncio",
    "json/": "json",
}
_PURPOSES: Final = {  # what each file of agentrun is for
    "runtime/containment.py": "containment",
    "runtime/suspension.py": "containment",
    "runtime/own_context.py": "containment",
    "runtime/hub.py": "events",
    "core/turns.py": "history and decisions",
    "core/transcript.py": "history and decisions",
    "core/inbox.py": "history and decisions",
    "core/response.py": "history and decisions",
    "agentrun/core/": "history and decisions",
    "models/history.py": "the request",
    "models/openai_responses.py": "the request",
    "models/http_connection.py": "HTTP (connections, h11)",
    "models/http_pool.py": "HTTP (connections, h11)",
    "agentrun/models/": "the stream",
    "agentrun/runtime/": "steps, limits, hooks, teardown",
    "agentrun/tools/": "steps, limits, hooks, teardown",
    "site-packages/anyio": "scopes and tasks (anyio, asyncio)",
    "site-packages/sniffio": "scopes and tasks (anyio, asyncio)",
    "asyncio/": "scopes and tasks (anyio, asyncio)",
    "selectors.py": "scopes and tasks (anyio, asyncio)",
    "site-packages/http": "HTTP (connections, h11)",
    "site-packages/h11": "HTTP (connections, h11)",
    "tests/benchmarks": "model, tool and watcher",
}
_NOT_COUNTED: Final = ("_quiet", "select")  # the collection of garbage before each round; waiting for the server
_ROUNDS: Final = 5
_CHECKOUT: Final = str(pathlib.Path(__file__).resolve().parents[2]) + "/"

_Function: TypeAlias = tuple[str, int, str]
_Times: TypeAlias = dict[_Function, float]
_Stats: TypeAlias = Mapping[_Function, tuple[int, int, float, float, Mapping[_Function, tuple[int, int, float, float]]]]


def main() -> None:
    """Profile the rows that were asked for, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.profiles", description="Where the time goes.")
    parser.add_argument("rows", nargs="*", metavar="row", help=f"default: all of {', '.join(_SIZES)}")
    parser.add_argument("--top", type=int, default=15, help="how many functions to show (default: 15)")
    parser.add_argument("--of", default="own_agentrun", help="file of the contestant (default: own_agentrun)")
    parser.add_argument("--publish", action="store_true", help="put what each thing costs into docs/benchmarks.md")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(_SIZES):
        parser.error(f"unknown row {min(unknown)!r}; choose from {', '.join(_SIZES)}")
    costs: dict[str, tuple[float, _Times]] = {}
    with serving(_DELTAS) as url:
        for row in options.rows or _SIZES:
            each, times, calls = profiled(driver_of(options.of), row, _SIZES[row], url)
            _show(row, each, times, calls, options.top)
            costs[row] = each, times
    if options.publish:
        put_into_docs("costs", list(_costs_table(costs)))


def profiled(
    driver: Driver, row: str, size: int, url: str
) -> tuple[float, dict[_Function, float], dict[_Function, int]]:
    """The figure of the row without the profiler; own seconds and calls by function in a round with it.

    Medians of some rounds, function by function: what else goes on on the machine hits another function each time.
    """
    profiles: list[cProfile.Profile] = []

    async def rounds() -> float:
        await ROWS[row](driver, size, url)
        each = statistics.median([(await ROWS[row](driver, size, url))[0] for _ in range(_ROUNDS)])
        for _ in range(_ROUNDS):
            profiles.append(profile := cProfile.Profile())
            profile.enable()
            try:
                await ROWS[row](driver, size, url)
            finally:
                profile.disable()
        return each

    each = asyncio.run(rounds())
    all_stats = [cast("_Stats", cast("Any", pstats.Stats(profile)).stats) for profile in profiles]
    all_times = [own_times(stats) for stats in all_stats]
    names = set[_Function]().union(*all_times)
    times = {name: statistics.median([times.get(name, 0.0) for times in all_times]) for name in names}
    return each, times, {name: stats[1] for name, stats in all_stats[0].items()}


def own_times(stats: _Stats) -> _Times:
    """Own seconds by function. What a function of C takes counts as time of those who called it."""
    times: defaultdict[_Function, float] = defaultdict(float)
    for function, (_, _, own, _, callers) in stats.items():
        if function[0] != "~" or not callers:
            times[function] += own
        else:
            for caller, (_, _, share, _) in callers.items():
                times[caller] += share
    return {function: seconds for function, seconds in times.items() if function[2] not in _NOT_COUNTED}


def layer_of(function: _Function) -> str:
    """The library that a function belongs to."""
    return _named(function, _LAYERS, "standard library and others")


def purpose_of(function: _Function) -> str:
    """What a function is there for."""
    return _named(function, _PURPOSES, "others")


def _named(function: _Function, names: Mapping[str, str], otherwise: str) -> str:
    path = function[0].replace("\\", "/").removeprefix(_CHECKOUT)
    return next((name for part, name in names.items() if part in path), otherwise)


def _costs_table(costs: Mapping[str, tuple[float, _Times]]) -> Iterator[str]:
    """What each thing costs, one column for each row of the benchmarks."""
    shown = [row for row in costs if row in _UNITS]
    yield f"| | {' | '.join(_UNITS[row] for row in shown)} |"
    yield f"| --- |{' ---: |' * len(shown)}"
    yield f"| all of it | {' | '.join(quantity(costs[row][0], 's') for row in shown)} |"
    for purpose in [*dict.fromkeys(_PURPOSES.values()), "others"]:
        cells: list[str] = []
        for row in shown:
            each, times = costs[row]
            part = sum(seconds for function, seconds in times.items() if purpose_of(function) == purpose)
            share = part / sum(times.values())
            cells.append(quantity(each * share, "s") if share >= 0.005 else "")
        yield f"| {purpose} | {' | '.join(cells)} |"


def _show(row: str, each: float, times: _Times, calls: Mapping[_Function, int], top: int) -> None:
    total = sum(times.values())
    print(f"\n{row}: {quantity(each, 's')} without the profiler, of which the shares below are parts")
    layers: defaultdict[str, float] = defaultdict(float)
    files: defaultdict[str, float] = defaultdict(float)
    purposes: defaultdict[str, float] = defaultdict(float)
    for function, seconds in times.items():
        purposes[purpose_of(function)] += seconds
        layers[layer_of(function)] += seconds
        if layer_of(function).startswith("agentrun"):
            files[function[0].removeprefix(_CHECKOUT)] += seconds
    for title, table in (("what for", purposes), ("layer", layers), ("file of agentrun", files)):
        print(f"\n  {'share':>6}  {'about':>10}  {title}")
        for name, seconds in sorted(table.items(), key=lambda item: -item[1])[:10]:
            print(f"  {seconds / total:6.1%}  {quantity(each * seconds / total, 's'):>10}  {name}")
    print(f"\n  {'share':>6}  {'us a call':>9}  {'calls':>8}  function (own time, with that of functions in C)")
    for function, seconds in sorted(times.items(), key=lambda item: -item[1])[:top]:
        count = calls.get(function, 1)
        path, line, name = function
        where = f"{path.removeprefix(_CHECKOUT).rpartition('site-packages/')[2]}:{line}"
        print(f"  {seconds / total:6.1%}  {seconds / count * 1e6:9.2f}  {count:8}  {name} ({where})")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
