"""The fuzzer's command line. Its report, on standard output, depends on the seed and the number of programs alone."""

from __future__ import annotations

import argparse
import sys
import time

from .campaign import Tally, run_campaign


def main() -> int:
    """Returns 1 if a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the runtime with whole programs.")
    parser.add_argument("--seed", type=int, default=0, help="chooses the programs and their points (default: 0)")
    parser.add_argument("--seconds", type=float, help="how long to go on (default: 60, unless --programs is given)")
    parser.add_argument("--programs", type=int, help="how many programs to play")
    parser.add_argument("--backend", choices=["asyncio", "trio"], help="play on one backend only (default: both)")
    parser.add_argument("--database", metavar="DIR", help="keep failing programs there, and play them first")
    given = parser.parse_args()
    seconds = given.seconds if given.seconds is not None or given.programs is not None else 60.0
    backends = [given.backend] if given.backend else ["asyncio", "trio"]
    began = time.monotonic()

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


if __name__ == "__main__":
    sys.exit(main())
