"""The fuzzer's command line. Its report, on standard output, depends on the seed and the number of programs alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from .campaign import Tally, run_campaign, search_nests


def main() -> int:
    """Returns 1 if a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the runtime with whole programs.")
    parser.add_argument("--seed", type=int, default=0, help="chooses the programs and their points (default: 0)")
    parser.add_argument("--seconds", type=float, help="how long to go on (default: 60, unless --programs is given)")
    parser.add_argument("--programs", type=int, help="how many programs to play")
    parser.add_argument("--backend", choices=["asyncio", "trio"], help="play on one backend only (default: both)")
    parser.add_argument(
        "--database", metavar="DIR", help="keep failing programs there, and play them first (not of nests)"
    )
    parser.add_argument("--nests", action="store_true", help="play nests of scopes instead of whole programs")
    given = parser.parse_args()
    seconds = given.seconds if given.seconds is not None or given.programs is not None else 60.0
    backends = [given.backend] if given.backend else ["asyncio", "trio"]
    began = time.monotonic()

    if given.nests:
        return _search_nests(given.seed, backends, given.programs, seconds, began)

    def progress(tally: Tally) -> None:
        passed = time.monotonic() - began
        print(f"{tally.programs:,} programs, {tally.injections:,} injections, {passed:.0f} s", file=sys.stderr)

    tally = run_campaign(
        given.seed,
        backends=backends,
        most=given.programs,
        seconds=seconds,
        database=given.database,
        progress=progress,
    )
    if tally.smallest is not None:
        print(f"the smallest program that breaks a law:\n\n{tally.smallest!r}\n")
        for violation in tally.violations:
            print(violation)
        print()
    print(tally)
    return 1 if tally.smallest is not None else 0


def _search_nests(number: int, backends: Sequence[str], most: int | None, seconds: float | None, began: float) -> int:
    def progress(drawn: int) -> None:
        print(f"{drawn:,} nests, {time.monotonic() - began:.0f} s", file=sys.stderr)

    drawn, smallest, found = search_nests(number, backends=backends, most=most, seconds=seconds, progress=progress)
    if smallest is not None:
        print(f"the smallest nest in which something breaks:\n\n{smallest!r}\n", *found, "", sep="\n")
    print(f"nests {drawn:,}\nviolations {len(found):,}")
    return 1 if smallest is not None else 0


if __name__ == "__main__":
    sys.exit(main())
