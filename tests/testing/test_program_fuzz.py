"""The short profile of the fuzzer: the same programs each time. ``nox -s fuzz`` goes on for as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.campaign import RARE_PATHS, run_campaign

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_all_laws_hold_in_programs_of_all_kinds_whatever_is_done_to_them(backend: Any) -> None:
    tally = run_campaign(0, backends=[backend], most=400)
    print(tally)
    assert not tally.violations, f"{tally.smallest!r}\n" + "\n".join(tally.violations)
    assert tally.programs == 400
    missed = [path for path in RARE_PATHS if not tally.rare[path]]
    assert not missed, f"no injection {missed}"
    assert {"completed", "interrupted", "failed", "cancelled"} <= set(tally.endings)


def test_both_backends_agree_on_programs_of_all_kinds() -> None:
    tally = run_campaign(1, most=60)
    assert not tally.violations, f"{tally.smallest!r}\n" + "\n".join(tally.violations)


def test_the_same_seed_gives_the_same_report_in_each_process() -> None:
    reports = [
        subprocess.run(
            [sys.executable, "-m", "tests.fuzz", "--seed", "7", "--programs", "20"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert reports[0] == reports[1]
    assert "programs" in reports[0]
