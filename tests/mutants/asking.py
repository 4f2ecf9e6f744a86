"""Asking the tests about one mutant, in a process of its own: a mutant may leave anything in any state, or hang."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .making import Mutant
from .planting import Overlay, plant
from .reached import Reach
from .running import run_test, set_clock

__all__ = ["Answer", "ask", "in_a_process"]


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

    One that takes longer than five times its usual time and a second is out of time, which counts as noticed.
    """
    overlay.write(mutant.source)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(mutant, tests, overlay, directory, writing)
    os.close(writing)
    try:
        return _watch(reading, tests)
    finally:
        os.close(reading)
        for kill in (os.killpg, os.kill):  # the group, and the child itself if it has not made its group yet
            try:
                kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os.waitpid(child, 0)


def _watch(reading: int, tests: Sequence[tuple[pytest.Item, Reach]]) -> Answer:
    """The child writes a dot before each test, ``F`` when it fails, and ``E`` at the end."""
    number = 0
    deadline = time.monotonic() + 10
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        said = os.read(reading, 1) if ready else b"T"
        if said == b".":
            number += 1
            deadline = time.monotonic() + 1 + 5 * tests[number - 1][1].seconds
            continue
        verdict = {b"F": "noticed", b"T": "out of time", b"E": "survived"}.get(said, "crashed")
        by = "" if verdict == "survived" or number == 0 else tests[number - 1][0].nodeid
        return Answer(verdict, by, number, round(sum(reach.seconds for _, reach in tests[:number]), 2))


def _child(
    mutant: Mutant, tests: Sequence[tuple[pytest.Item, Reach]], overlay: Overlay, directory: Path, writing: int
) -> None:
    code = 1
    try:  # nothing of what the parent does further out, such as removing files, is to happen here
        os.setsid()
        plant(mutant)
        overlay.enter(directory)
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        for item, reach in tests:
            set_clock(item, virtual=reach.virtual)
            os.write(writing, b".")
            if not run_test(item):
                os.write(writing, b"F")
                return
        os.write(writing, b"E")
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def in_a_process(what: str, function: object) -> None:
    """Call a function in a fork of this process, which stays as it is.

    Raises:
        RuntimeError: It did not come to its end.
    """
    assert callable(function)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError(f"{what} failed")
