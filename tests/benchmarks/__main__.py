"""``python -m tests.benchmarks [--quick] [--peers] [--backend LOOP] [--json FILE] [--publish] [name ...]``.

Prints what agentrun costs, absolutely and as a ratio to plain programs that do the same work (and with ``--peers`` to
other frameworks, each in an environment of its own), and whether the aims are met. Missing an aim is no failure: the
exit status is 0 unless something broke.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import pkgutil
import platform
import sys
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from . import measures
from .harness import LOOPS, UVLOOP, Settings
from .publish import publish
from .report import Report

_PEERS = "peers"


def main() -> None:
    """Run the measures that were asked for, or all."""
    names = sorted(module.name for module in pkgutil.iter_modules(measures.__path__))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="What agentrun costs.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"measures to run (default: all): {', '.join(names)}")
    parser.add_argument(
        "--quick", action="store_true", help="fewer and smaller rounds, about a minute; on asyncio and trio"
    )
    parser.add_argument("--tiny", action="store_true", help="only whether the measures run")
    parser.add_argument("--peers", action="store_true", help="also other frameworks, each in an environment of its own")
    parser.add_argument("--backend", choices=LOOPS, help="measure on this event loop only")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all figures to FILE as well")
    parser.add_argument("--publish", action="store_true", help="put the figures into docs/benchmarks.md and its chart")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown measure {min(unknown)!r}; choose from {', '.join(names)}")
    report = Report(sys.stdout)
    loops = [options.backend] if options.backend else list(LOOPS)
    if options.quick and not options.backend:
        report.skip(UVLOOP, "--quick measures it only if --backend names it")
        loops.remove(UVLOOP)
    if UVLOOP in loops and importlib.util.find_spec(UVLOOP) is None:
        report.skip(UVLOOP, "it is not installed (pip install uvloop)")
        loops.remove(UVLOOP)
    settings = Settings(options.quick or options.tiny, tuple(loops), options.tiny)
    chosen = options.names or [name for name in names if name != _PEERS]
    if options.peers and _PEERS not in chosen:
        chosen.append(_PEERS)
    print(about := _about(settings))
    started = time.monotonic()
    for name in chosen:
        module = import_module(f"{measures.__name__}.{name}")
        report.title(name, module.TITLE)
        for comparison in module.measure(settings):
            report.add(comparison)
    report.end()
    print(f"{time.monotonic() - started:.0f} s")
    figures = {"about": about, **report.as_json()}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.publish:
        publish(figures)


def _about(settings: Settings) -> str:
    versions = []
    for name in ("anyio", "trio", "uvloop", "httpx", "pydantic"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    size = ", tiny" if settings.tiny else ", quick" if settings.quick else ""
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores"
    return f"Python {platform.python_version()}, {', '.join(versions)}, {machine}{size}"


if __name__ == "__main__":
    main()
