"""Programs: data that prints as code, played in virtual time, and held against the laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis.vendor.pretty import pretty

from agentrun import UserError
from agentrun.testing import programs as vocabulary
from agentrun.testing.laws import RunRecord, broken_laws, disagreements
from agentrun.testing.programs import (
    AgentPlan,
    Call,
    Cleanup,
    Critical,
    Enter,
    Group,
    GuardPlan,
    HooksPlan,
    Look,
    LoopCall,
    Native,
    OnCleanup,
    Program,
    Progress,
    Raise,
    RunConfig,
    Say,
    SessionPlan,
    Shielded,
    Sleep,
    Steer,
    Step,
    Swallow,
    Timeout,
    ToolPlan,
    UntilInterrupted,
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


def test_hypothesis_shows_a_program_as_that_code_too() -> None:
    assert pretty(LIVELY) == repr(LIVELY)
    shown = pretty([Steer("cancel", 0.25), LIVELY])
    assert evaluated(shown) == [Steer("cancel", 0.25), LIVELY]


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


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_error_in_the_cleanup_after_a_foreign_cancellation_takes_the_place_of_what_the_body_raised(
    backend: Any,
) -> None:
    # On trio there is no such cancellation, so there the body raises.
    tool = ToolPlan("t", [Raise("cancellation"), Raise()], cleanup=Cleanup(raises=True))
    record = run_program(Program(AgentPlan(turns=[[Call("t")]], tools=[tool])), backend)
    assert broken_laws(record) == []


@pytest.mark.parametrize("then", [Timeout(0.2), UntilInterrupted(0.2), Sleep(0.2), Shielded(0.2)])
def test_a_tool_that_has_swallowed_its_cancellation_and_goes_on_is_told_of_on_both_backends(then: Any) -> None:
    tool = ToolPlan("t", [Swallow(1.0), then], cleanup=Cleanup(0.2))
    program = Program(AgentPlan(turns=[[Call("t")]], tools=[tool]), config=RunConfig(tool_timeout=0.3))
    records = [run_program(program, backend) for backend in ("asyncio", "trio")]
    for record in records:
        assert broken_laws(record) == []
        assert record.live is not None
        assert record.live.result is not None
        assert record.live.result.teardown.swallowed_cancellations == ["tool t (call_1)"]
    assert disagreements(*records) == []


def test_what_steers_in_the_same_moment_comes_in_the_order_of_the_program() -> None:
    agent = AgentPlan(turns=[[Call("t")]], tools=[ToolPlan("t", [Sleep(0.1)])])
    for actions in (("interrupt", "after_turn"), ("after_turn", "interrupt")):
        program = Program(agent, [Steer(action, after=0.071) for action in actions])
        records = [run_program(program, backend, seed) for backend in ("asyncio", "trio") for seed in range(3)]
        for record in records[1:]:
            assert disagreements(records[0], record) == []


@pytest.mark.parametrize("at", [each / 100 for each in range(60, 90, 3)])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_several_tools_that_fail_the_run_as_its_block_is_left_surface_once(backend: Any, at: float) -> None:
    """On trio the group of their errors is a copy then: it has gone through the scope that was to leave the block."""
    tool = ToolPlan("t", [Critical(3.0, 1.02)], on_error="raise")
    program = Program(AgentPlan(turns=[[Call("t"), Call("t")]], tools=[tool]), [Steer("leave", at)])
    assert broken_laws(run_program(program, backend)) == []


@pytest.mark.parametrize("at", [each / 100 for each in range(40, 80)])
def test_a_task_group_that_fails_in_the_moment_of_the_cancellation_has_heard_of_it(at: float) -> None:
    """On asyncio it raises the errors of its tasks in the place of the cancellation, and the rest is cleanup."""
    tool = ToolPlan("t", [Group(cleanup=Cleanup(), fails=True)], cleanup=Cleanup(0.1))
    program = Program(AgentPlan(turns=[[Call("t")]], tools=[tool]), [Steer("interrupt", at)])
    for backend in ("asyncio", "trio"):
        assert broken_laws(run_program(program, backend)) == []


@pytest.mark.parametrize("how", ["gather", "wait_for", "timeout", "TaskGroup", "shield"])
def test_what_waits_natively_may_end_in_the_moment_of_its_cancellation(how: Any) -> None:
    """Before Python 3.12 `asyncio.wait_for` swallows it then, which is not the runtime's fault."""
    tools = [ToolPlan("t1", [Native(how, 0.1)]), ToolPlan("t2", approval="fails", on_error="raise")]
    record = run_program(Program(AgentPlan(turns=[[Call("t1"), Call("t2")]], tools=tools)), "asyncio")
    assert broken_laws(record) == []
    assert record.live is not None
    assert record.live.result is not None
    assert bool(record.live.result.teardown.swallowed_cancellations) == Native(how).may_swallow


def test_a_guardrail_that_trips_when_the_model_goes_on_may_be_in_time_or_not() -> None:
    def same(**plan: Any) -> bool:
        return Program(AgentPlan(guards=[GuardPlan(**plan)], closing=Cleanup(0.1))).same_on_both

    assert not same(verdict="trip")
    assert not same(verdict="trip", seconds=0.1)
    assert not same(verdict="trip", seconds=0.07, cleanup=Cleanup(0.03))
    assert not same(seconds=0.1, cleanup=Cleanup(raises=True))
    assert same(verdict="trip", seconds=0.17)
    assert same(verdict="trip", seconds=0.1, cleanup=Cleanup(0.03))
    assert same(seconds=0.1)


def test_steers_of_the_same_moment_come_in_one_step() -> None:
    steers = [Steer("interrupt", after=0.337), Steer("inject_next", after=0.337)]
    program = Program(AgentPlan(turns=[[Wait(1.0)]]), steers=steers, watchers=[WatcherPlan("slow", 1)])
    records = [run_program(program, backend) for backend in ("asyncio", "trio")]
    assert disagreements(*records) == []
    names = [type(event).__name__ for event in records[0].events]
    assert names.index("InputInjected") == names.index("InterruptRequested") + 1


def test_a_task_group_whose_task_fails_after_its_cancellation_was_cancelled_on_both() -> None:
    cleanup = Cleanup(shielded=True)
    tool = ToolPlan("t1", [Group(1, cleanup=Cleanup(0.25, True), fails=True)], cleanup=cleanup, timeout=0.13)
    program = Program(AgentPlan(turns=[[Call("t1")]], tools=[tool]))
    assert program.same_on_both
    records = [run_program(program, backend) for backend in ("asyncio", "trio")]
    assert disagreements(*records) == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_expert_may_fail_in_the_moment_in_which_its_call_is_interrupted(backend: Any) -> None:
    expert = AgentPlan("ae", [[Call("fails")]], [ToolPlan("fails", [Raise("fatal")])])
    agent = AgentPlan(turns=[[Call("ae", {"input": "x"})]], experts=[expert])
    untidy = 0
    for at in range(1, 40):
        record = run_program(Program(agent, [Steer("interrupt", at)]), backend)
        assert broken_laws(record) == []
        assert record.live is not None
        assert record.live.result is not None
        untidy += not record.live.result.teardown.clean
    assert untidy


def test_which_of_two_calls_ends_first_that_take_a_few_steps_each_is_the_schedulers_business() -> None:
    def same(approval: Any, approvals: Any = "reject", on_error: Any = "model") -> bool:
        tools = [ToolPlan("asks", approval=approval), ToolPlan("fails", approval="fails", on_error=on_error)]
        return Program(AgentPlan(turns=[[Call("asks"), Call("fails")]], tools=tools), approvals=approvals).same_on_both

    assert not same("asks", on_error="answers")
    assert not same("yes")
    assert same("no", on_error="answers")
    assert same("asks", approvals=None)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_may_return_in_the_moment_in_which_its_grace_is_over(backend: Any) -> None:
    tools = [
        ToolPlan("t1", [Sleep(7.0)], cleanup=Cleanup(1.0), sync=True),
        ToolPlan("t2", [Raise("fatal")], cleanup=Cleanup(3.0)),
    ]
    record = run_program(Program(AgentPlan(turns=[[Call("t1"), Call("t2")]], tools=tools)), backend)
    assert record.grace == 5.0
    assert broken_laws(record) == []


def test_a_guardrail_that_answers_when_the_model_call_fails_may_be_in_time_or_not() -> None:
    def same(seconds: float) -> bool:
        return Program(AgentPlan(guards=[GuardPlan(seconds=seconds)], closing=Cleanup(0.1, raises=True))).same_on_both

    assert not same(0.1)
    assert same(0.17)


def test_of_guardrails_that_answer_together_one_that_fails_may_cut_the_others_or_not() -> None:
    def same(seconds: float) -> bool:
        guards = [GuardPlan(seconds=0.17, verdict="trip"), GuardPlan(seconds=seconds, cleanup=Cleanup(0.05))]
        return Program(AgentPlan(guards=guards)).same_on_both

    assert not same(0.12)
    assert same(0.13)


def test_tasks_of_a_task_group_of_a_tool_that_fail_in_the_same_moment_may_cut_each_other_or_not() -> None:
    def same(group: Group) -> bool:
        return Program(AgentPlan(turns=[[Call("t")]], tools=[ToolPlan("t", [group])])).same_on_both

    assert not same(Group(cleanup=Cleanup(raises=True)))
    assert same(Group(tasks=1, cleanup=Cleanup(raises=True), fails=True))
    assert same(Group(cleanup=Cleanup(raises=True, shielded=True)))
    assert same(Group(cleanup=Cleanup(0.1), fails=True))


@pytest.mark.parametrize("shielded", [True, False])
def test_a_task_group_of_a_tool_whose_tasks_shield_themselves_has_noticed_its_cancellation_on_asyncio_alone(
    shielded: bool,
) -> None:
    """On trio it ends like one that was never cancelled, and so does the tool if it does not await any more."""
    tool = ToolPlan("t1", [Group(1, cleanup=Cleanup(0.25, shielded))], timeout=0.13)
    program = Program(AgentPlan(turns=[[Call("t1")]], tools=[tool]))
    records = [run_program(program, backend) for backend in ("asyncio", "trio")]
    for record in records:
        assert broken_laws(record) == []
    assert bool(disagreements(*records)) == shielded
    assert program.same_on_both != shielded


IN_THREADS = Program(
    AgentPlan(
        turns=[[Call("looks"), Call("deaf"), Call("async")]],
        tools=[
            ToolPlan("looks", [OnCleanup(0.1), Look(0.1, 5), LoopCall(0.2)], cleanup=Cleanup(0.1), sync=True),
            ToolPlan("deaf", [Progress(2), Sleep(3.0)], sync=True),
            ToolPlan("async", [Sleep(0.4)]),
        ],
        guards=[GuardPlan("input", 0.2, sync=True), GuardPlan("output", 0.1, sync=True, cleanup=Cleanup(0.1))],
    ),
    config=RunConfig(cleanup_grace=1.03),
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sync_tools_and_guardrails_run_in_threads_and_break_no_law(backend: Any) -> None:
    assert evaluated(repr(IN_THREADS)) == IN_THREADS
    clean = run_program(IN_THREADS, backend)
    assert broken_laws(clean) == []
    assert {mark.name for mark in clean.marks if mark.thread} == {"looks", "deaf", "a 1", "a 2"}
    assert {"looking", "registering", "registered", "cleanup"} <= {mark.kind for mark in clean.marks}
    assert all(mark.ending == "returned" for mark in clean.marks)
    assert disagreements(clean, run_program(IN_THREADS, "trio", 1)) == []

    stopped = run_program(replace(IN_THREADS, steers=[Steer("interrupt", after=0.571)]), backend)
    assert broken_laws(stopped) == []
    assert stopped.live is not None
    assert stopped.live.result is not None
    [left] = stopped.live.result.teardown.abandoned_threads
    assert left.startswith("tool deaf (call_2) in thread ")
    endings = {mark.name: mark.ending for mark in stopped.marks if mark.kind == "body"}
    assert endings == {"looks": "cancelled", "deaf": "closed", "async": "cancelled"}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_an_abandoned_thread_asks_the_event_loop_for_belongs_to_that_thread(backend: Any) -> None:
    tool = ToolPlan("t1", [Sleep(6.0), LoopCall(5.0)], timeout=0.13, sync=True)
    record = run_program(Program(AgentPlan(turns=[[Call("t1")]], tools=[tool]), session=SessionPlan(1.0)), backend)
    assert broken_laws(record) == []
    assert record.live is not None
    assert record.live.result is not None
    assert len(record.live.result.teardown.abandoned_threads) == 1
    assert record.left is not None
    assert 1.0 + 6.0 < record.left < 1.0 + 6.0 + 5.0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_that_was_left_behind_and_not_named_has_broken_law_1(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunRecord, "names_thread", lambda self, name: False)
    record = run_program(replace(IN_THREADS, steers=[Steer("interrupt", after=0.571)]), backend)
    evidence = [broken.evidence for broken in broken_laws(record) if broken.law == 1]
    assert any("a thread was left behind: thread " in each for each in evidence)
    assert any("it was still at work when the block was left: body of deaf" in each for each in evidence)


def test_a_sync_tool_has_only_steps_that_a_thread_can_do() -> None:
    with pytest.raises(UserError, match=r"ToolPlan.body contains Shielded\(\), which a sync tool cannot do"):
        ToolPlan("t", [Shielded()], sync=True)
    with pytest.raises(UserError, match=r"ToolPlan.body contains Look\(\), which an async tool cannot do"):
        ToolPlan("t", [Look()])
    with pytest.raises(UserError, match=r"Sleep\(inf\), which no thread comes back from"):
        ToolPlan("t", [Sleep(float("inf"))], sync=True)
    grace = RunConfig(cleanup_grace=1.0)
    cases: list[tuple[list[Step], bool]] = [
        ([Look(0.5, 9)], True),
        ([Sleep(1.5)], False),
        ([Sleep(0.1), Raise()], False),
    ]
    for body, tidy in cases:
        assert Program(AgentPlan(tools=[ToolPlan("t", body, sync=True)]), config=grace).is_tidy is tidy


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_program_gives_the_same_record_on_both_backends(seed: int) -> None:
    records = [run_program(LIVELY, "asyncio"), run_program(LIVELY, "trio", seed)]
    assert disagreements(*records) == []


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_stream_that_is_cut_ends_before_the_guardrails_that_race_it(seed: int) -> None:
    program = Program(
        AgentPlan(turns=[[Wait(3.0)]], guards=[GuardPlan(seconds=3.0)]),
        config=RunConfig(max_seconds=0.27),
    )
    records = [run_program(program, "asyncio"), run_program(program, "trio", seed)]
    assert disagreements(*records) == []
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
    assert disagreements(*records) == []


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


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_approval_check_that_breaks_in_the_moment_of_a_cancellation_is_told_of(backend: Any) -> None:
    program = Program(AgentPlan(turns=[[Call("t1")]], tools=[ToolPlan("t1", approval="fails")]))
    points = run_program(program, backend).points
    for point in range(1, points):
        record = run_program(replace(program, steers=[Steer("inject_now", point, resuming=True)]), backend)
        assert broken_laws(record) == [], point
