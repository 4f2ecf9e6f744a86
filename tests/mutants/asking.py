"""Asking the tests about one mutant, in a process of its own: a mutant may leave anything in any state, or hang."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .forks import Fork
from .making import Mutant
from .planting import Overlay, plant
from .reached import Reach
from .running import run_test, set_clock

__all__ = ["Answer", "ask"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    Attributes:
        verdict: ``"noticed"``, ``"out of time"``, ``"crashed"``, or ``"survived"``.
        by: The test that noticed.
        asked: How many tests were run.
        seconds: What they usually take, together.
    """

    verdict: str
    by: str
    asked: int
    seconds: float


def ask(mutant: Mutant, tests: Sequence[tuple[pytest.Item, Reach]], overlay: Overlay, directory: Path) -> Answer:
    """Run these tests, in this order, until the first that fails.

    One that takes longer than five times its usual time and a second is out of time, which counts as noticed. In real
    time it has more, since it is asked twice, and may have been recorded in virtual time.
    """

    def work(say: Callable[[bytes], object]) -> None:
        plant(mutant)
        overlay.enter(directory)
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        for item, reach in tests:
            set_clock(item, virtual=reach.virtual)
            say(b".")
            # In real time a busy machine can make a test fail, so there it must fail twice.
            if not run_test(item) and (reach.virtual or not run_test(item)):
                say(b"F")
                return
        say(b"E")

    overlay.write(mutant.source)
    asked, patience = 0, 10.0
    with Fork(work) as fork:
        while (said := fork.hear(patience)) == b".":
            asked += 1
            reach = tests[asked - 1][1]
            patience = 1 + 5 * reach.seconds if reach.virtual else 5 + 10 * reach.seconds
    if asked == 0 and tests:
        raise RuntimeError(f"{mutant.module}:{mutant.line}: the mutant of {mutant.function} could not be planted")
    verdict = {b"F": "noticed", b"E": "survived", None: "out of time"}.get(said, "crashed")
    by = "" if verdict == "survived" else tests[asked - 1][0].nodeid
    return Answer(verdict, by, asked, round(sum(reach.seconds for _, reach in tests[:asked]), 2))
