"""The short profile of the fuzzer: the same programs each time. ``nox -s fuzz`` goes on for as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fuzz.campaign import RARE_PATHS, Tally, run_campaign

from agentrun.runtime.tool_run import ToolRun
from agentrun.testing import programs as vocabulary
from agentrun.testing.laws import broken_laws
from agentrun.testing.programs import (
    Action,
    AgentPlan,
    Call,
    Cleanup,
    Critical,
    Enter,
    GuardPlan,
    HooksPlan,
    Look,
    OnCleanup,
    Player,
    Program,
    RunConfig,
    Say,
    SessionPlan,
    Shielded,
    Sleep,
    Steer,
    ToolPlan,
    WatcherPlan,
    run_program,
)

ROOT = Path(__file__).parents[2]
PROOF = pytest.mark.oldest_python("it is about the fuzzer: what it reaches, how it shrinks and repeats itself")


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


BUSY = Program(
    AgentPlan(
        turns=[
            [
                Say("words", 4, 0.1),
                Call("entering"),
                Call("careful"),
                Call("gated"),
                Call("expert", {"input": "x"}),
                Call("last"),
            ],
        ],
        tools=[
            ToolPlan("entering", [Enter(0.2, 0.2), OnCleanup(0.2), Sleep(0.3)], cleanup=Cleanup(0.2)),
            ToolPlan("careful", [Critical(0.3), Shielded(0.3), Sleep(1.0)], on_cancel="slow"),
            ToolPlan("gated", [Sleep(0.1)], approval="asks"),
            ToolPlan("last", [Look(0.1, 2)], sync=True),
        ],
        guards=[GuardPlan(seconds=0.3)],
        experts=[AgentPlan("expert", [[Say("words", 2, 0.1)]])],
        closing=Cleanup(0.1),
    ),
    hooks=HooksPlan(0.1),
    session=SessionPlan(0.1),
    config=RunConfig(max_parallel_tools=3),
    watchers=[WatcherPlan("slow", 2)],
    approvals=None,
    patience=10.0,
)


@PROOF
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_injections_in_a_busy_program_hit_every_rare_path_and_break_no_law(backend: Any) -> None:
    tally = Tally()
    pairs: list[tuple[Action, Action, int]] = [("interrupt", "cancel", 1), ("inject_next", "interrupt", 1)]
    pairs += [("interrupt", "cancel", later) for later in (8, 16)]
    found: list[str] = []
    with Player([backend]) as player:
        points = player.play(BUSY, backend).points
        for first, second, later in pairs:
            for point in range(1, points, 1 if later == 1 else 2):
                program = replace(BUSY, steers=[Steer(first, point), Steer(second, point + later)])
                record = player.play(program, backend)
                tally.add(record)
                found += [f"{program.steers}: {broken}" for broken in broken_laws(record)]
    print(tally)
    assert not found, "\n".join(found[:20])
    assert not [path for path in RARE_PATHS if not tally.rare[path]]


async def forget_the_cleanups(self: ToolRun, raised: BaseException | None) -> None:
    self._cleanups.clear()


@PROOF
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


@PROOF
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
