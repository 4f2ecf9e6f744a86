"""The short profile of the fuzzer: the same programs each time. ``nox -s fuzz`` goes on for as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentrun.runtime.tool_run import ToolRun
from agentrun.testing import programs as vocabulary
from agentrun.testing.laws import broken_laws
from agentrun.testing.programs import run_program
from tests.fuzz.campaign import run_campaign

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_all_laws_hold_in_programs_of_all_kinds_whatever_is_done_to_them(backend: Any) -> None:
    tally = run_campaign(0, backends=[backend], most=80)
    print(tally)
    assert not tally.violations, f"{tally.smallest!r}\n" + "\n".join(tally.violations)
    assert tally.programs == 80
    assert tally.injections > 80
    assert {"completed", "interrupted", "failed"} <= set(tally.endings)


def test_both_backends_agree_on_programs_of_all_kinds() -> None:
    tally = run_campaign(1, most=40)
    assert not tally.violations, f"{tally.smallest!r}\n" + "\n".join(tally.violations)


async def forget_the_cleanups(self: ToolRun, raised: BaseException | None) -> None:
    self._cleanups.clear()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program_that_breaks_a_law_shrinks_to_a_few_lines_that_can_be_pasted(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToolRun, "_run_cleanups", forget_the_cleanups)
    tally = run_campaign(2, backends=[backend], most=100)
    assert any("law 7" in violation for violation in tally.violations)
    text = repr(tally.smallest)
    print(text)
    assert len(text.splitlines()) <= 6
    program = eval(text, {name: getattr(vocabulary, name) for name in vocabulary.__all__})
    assert program == tally.smallest
    assert [len(turn) for turn in program.agent.turns] == [1]
    assert [len(tool.body) for tool in program.agent.tools if tool.name == program.agent.turns[0][0].name] == [1]
    assert any(broken.law == 7 for broken in broken_laws(run_program(program, backend)))
    monkeypatch.undo()
    assert broken_laws(run_program(program, backend)) == []


def test_the_same_seed_gives_the_same_report_in_each_process() -> None:
    reports = [
        subprocess.run(
            [sys.executable, "-m", "tests.fuzz", "--seed", "7", "--programs", "10"],
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
