"""Programs: data that prints as code, played in virtual time, and held against the laws."""

from __future__ import annotations

from typing import Any

import pytest

from agentrun.testing import programs as vocabulary
from agentrun.testing.laws import broken_laws, disagreements
from agentrun.testing.programs import (
    AgentPlan,
    Call,
    Cleanup,
    Enter,
    GuardPlan,
    HooksPlan,
    Program,
    Raise,
    RunConfig,
    Say,
    SessionPlan,
    Sleep,
    Steer,
    ToolPlan,
    Wait,
    WatcherPlan,
    run_program,
)

LIVELY = Program(
    AgentPlan(
        turns=[[Say("Let me see.", chunks=2, delay=0.1), Call("t1"), Call("t2"), Call("expert", {"input": "x"})]],
        tools=[
            ToolPlan("t1", [Sleep(1.0), Enter(0.1, 0.1)], cleanup=Cleanup(0.2)),
            ToolPlan("t2", [Sleep(2.0)], approval="asks", on_cancel="slow"),
        ],
        guards=[GuardPlan("input", 0.2), GuardPlan("output", 0.3)],
        experts=[AgentPlan("expert", [[Call("t3")]], [ToolPlan("t3", [Sleep(0.5)])])],
        closing=Cleanup(0.1),
    ),
    hooks=HooksPlan(0.05),
    session=SessionPlan(0.1),
    watchers=[WatcherPlan("slow", 4)],
)


def evaluated(text: str) -> Any:
    return eval(text, {name: getattr(vocabulary, name) for name in vocabulary.__all__})


def test_a_program_prints_as_code_that_makes_it_again() -> None:
    assert evaluated(repr(LIVELY)) == LIVELY
    steered = Program(
        steers=[Steer("interrupt", 0.5), Steer("native", after=1.0, times=2)], config=RunConfig(max_turns=2)
    )
    assert evaluated(repr(steered)) == steered
    assert repr(Program()) == "Program()"
    assert repr(Steer("cancel", 0.25)) == "Steer('cancel', 0.25)"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_clean_run_leaves_marks_of_all_its_user_code_and_breaks_no_law(backend: Any) -> None:
    record = run_program(LIVELY, backend)
    assert record.live is not None
    assert record.live.status == "completed"
    assert broken_laws(record) == []
    kinds = {mark.kind for mark in record.marks}
    assert kinds == {
        "approval", "body", "cleanup", "entering", "guardrail", "hook", "leaving", "session", "stream",
    }  # fmt: skip
    assert all(mark.ended is not None for mark in record.marks)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_program_gives_the_same_record_on_both_backends(seed: int) -> None:
    records = [run_program(LIVELY, "asyncio"), run_program(LIVELY, "trio", seed)]
    assert list(disagreements(*records)) == []


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_stream_that_is_cut_ends_before_the_guardrails_that_race_it(seed: int) -> None:
    program = Program(
        AgentPlan(turns=[[Wait(3.0)]], guards=[GuardPlan(seconds=3.0)]),
        config=RunConfig(max_seconds=0.27),
    )
    records = [run_program(program, "asyncio"), run_program(program, "trio", seed)]
    assert list(disagreements(*records)) == []
    names = [type(event).__name__ for event in records[1].events]
    assert names.index("ModelCallEnded") < names.index("GuardrailEnded")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("after", "kind"), [(0.25, "stream"), (0.57, "body")])
def test_what_a_hook_precedes_does_not_begin_when_the_hook_s_cleanup_raises_in_place_of_the_cancellation(
    backend: Any, after: float, kind: str
) -> None:
    program = Program(
        AgentPlan(turns=[[Call("t1")]], tools=[ToolPlan("t1", [Sleep(1.0)])]),
        [Steer("interrupt", after=after)],
        hooks=HooksPlan(0.1, cleanup=Cleanup(0.1, raises=True)),
    )
    record = run_program(program, backend)
    assert broken_laws(record) == []
    assert record.live is not None
    assert record.live.status == "interrupted"
    assert [mark for mark in record.marks if mark.kind == kind] == []


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_what_is_told_when_a_run_stops_while_it_waits_for_a_guardrail_is_the_same_on_both_backends(seed: int) -> None:
    program = Program(
        AgentPlan(turns=[[Call("t1")]], tools=[ToolPlan("t1")], guards=[GuardPlan(seconds=0.1)]),
        [Steer("interrupt", after=0.071)],
    )
    records = [run_program(program, "asyncio"), run_program(program, "trio", seed)]
    assert list(disagreements(*records)) == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_cleanup_of_a_tool_that_raised_a_cancellation_itself_has_no_grace_to_keep_to(backend: Any) -> None:
    tool = ToolPlan("t1", [Raise("cancellation")], cleanup=Cleanup(1.0))
    record = run_program(
        Program(AgentPlan(turns=[[Call("t1")]], tools=[tool]), config=RunConfig(cleanup_grace=0.5)), backend
    )
    [cleanup] = [mark for mark in record.marks if mark.kind == "cleanup"]
    assert cleanup.ended is not None
    assert cleanup.ended - cleanup.began == pytest.approx(1.0)
    assert broken_laws(record) == []
