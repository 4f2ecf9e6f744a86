"""``python -m tests.benchmarks [--quick] [--backend asyncio|trio] [name ...]``.

Prints what agentrun costs, absolutely and as a ratio to plain programs that do the same work, and whether the aims
are met. Missing an aim is no failure: the exit status is 0 unless something broke.
"""

from __future__ import annotations

import argparse
import pkgutil
import platform
import sys
from importlib import import_module
from importlib.metadata import version

from . import measures
from .harness import Settings
from .report import Report


def main() -> None:
    """Run the measures that were asked for, or all."""
    names = sorted(module.name for module in pkgutil.iter_modules(measures.__path__))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="What agentrun costs.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"measures to run (default: all): {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds")
    parser.add_argument("--backend", choices=["asyncio", "trio"], help="measure on this event loop only")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown measure {min(unknown)!r}; choose from {', '.join(names)}")
    settings = Settings(options.quick, (options.backend,) if options.backend else ("asyncio", "trio"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("anyio", "trio", "httpx", "pydantic"))
    print(f"Python {platform.python_version()}, {versions}{', quick' if options.quick else ''}")
    report = Report(sys.stdout)
    for name in options.names or names:
        module = import_module(f"{measures.__name__}.{name}")
        report.title(f"{name}: {module.TITLE}")
        for comparison in module.measure(settings):
            report.add(comparison)
    report.end()


if __name__ == "__main__":
    main()
