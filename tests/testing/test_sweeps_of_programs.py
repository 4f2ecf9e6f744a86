"""What `interrupt_everywhere` can be given: hooks, snapshots, watchers, programs; and what it refuses."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

from agentrun import ActiveRun, Agent, RunHooks, RunSnapshot, UserError, UserMessage, tool
from agentrun.core.snapshot import UndeliveredInput
from agentrun.events import Event, RunStarted, ToolStarted
from agentrun.testing import BrokenLaw, Call, Say, ScriptedModel, SweepReport, interrupt_everywhere
from agentrun.testing.laws import RunRecord

BACKENDS: list[Any] = ["asyncio", "trio"]
both = pytest.mark.parametrize("backend", BACKENDS)

Opening = AbstractAsyncContextManager[ActiveRun[Any]]


@tool
async def work() -> str:
    """Work."""
    await anyio.sleep(1)
    return "done"


def agent() -> Agent[Any, Any]:
    return Agent("worker", tools=[work], model=ScriptedModel([Call("work"), Say("Done.")]))


def sweep(backend: Any, **options: Any) -> SweepReport:
    options = {"input": "Go", "actions": ["interrupt", "cancel"], **options}
    return interrupt_everywhere(agent(), backends=[backend], **options)


def laws(report: SweepReport) -> set[int | None]:
    return {violation.law for failure in report.failures for violation in failure.violations}


@both
def test_hooks_are_made_afresh_for_each_run(backend: Any) -> None:
    made: list[RunHooks] = []

    def hooks() -> RunHooks:
        made.append(RunHooks())
        return made[-1]

    report = sweep(backend, hooks=hooks)
    report.raise_if_failed()
    # The clean run is played twice before, and once afterwards.
    assert len(set(map(id, made))) == len(made) == report.injections + 3


@both
def test_each_run_goes_on_from_the_snapshot(backend: Any) -> None:
    late = UserMessage("Late.")
    snapshot = RunSnapshot(
        run_id="run_1",
        status="interrupted",
        agent="worker",
        history=(UserMessage("Go."),),
        undelivered=(UndeliveredInput("injection-1", (late,), "idle"),),
    )
    seen: list[int] = []

    def once(record: RunRecord) -> None:
        if record.live is not None and record.live.result is not None:
            result = record.live.result
            seen.append([*result.history, *(i for e in result.undelivered for i in e.items)].count(late))

    sweep(backend, input=None, resume_from=snapshot, oracle=once).raise_if_failed()
    assert set(seen) == {1}


@both
def test_what_the_watcher_does_is_part_of_each_run_and_its_teardown_is_swept(backend: Any) -> None:
    statuses: list[str] = []

    def stop(live: ActiveRun[Any], event: Event) -> None:
        if isinstance(event, ToolStarted):
            live.interrupt("at the first tool")

    def note(record: RunRecord) -> None:
        if record.live is not None and record.live.result is not None:
            statuses.append(record.live.result.status)

    report = sweep(backend, on_event=stop, oracle=note)
    report.raise_if_failed()
    assert statuses[:2] == ["interrupted"] * 2
    assert set(statuses) == {"interrupted", "cancelled"}


@both
def test_a_program_has_the_run_in_its_hands_and_the_sweep_sees_all_the_same(backend: Any) -> None:
    first: list[Event] = []
    records: list[RunRecord] = []

    async def program(opening: Opening) -> None:
        with anyio.move_on_after(0.5):
            async with opening as live:
                first.append(await anext(live.events()))
                await live.wait()

    report = sweep(backend, program=program, oracle=records.append)
    report.raise_if_failed()
    assert report.points > 5
    assert not any(isinstance(event, RunStarted) for event in first)  # the sweep had asked before
    clean = records[0]
    assert clean.cancelled
    assert clean.live is not None
    assert clean.live.status == "cancelled"
    assert isinstance(clean.events[0], RunStarted)
    assert None in [record.live for record in records]  # those that were cancelled before the run was opened


@both
def test_a_program_and_an_oracle_may_say_which_law_is_broken(backend: Any) -> None:
    async def program(opening: Opening) -> None:
        async with opening as live:
            await live.wait()
        raise BrokenLaw(10, "said by the program")

    report = sweep(backend, program=program, actions=["interrupt"])
    assert laws(report) == {10}
    assert "law 10: said by the program" in str(report)

    def oracle(record: RunRecord) -> None:
        raise BrokenLaw(13, f"said by the oracle of {record.model.name}")

    report = sweep(backend, oracle=oracle, actions=["interrupt"])
    assert laws(report) == {13}
    assert "law 13: said by the oracle of scripted" in str(report)


@both
def test_a_block_that_swallows_a_cancellation_breaks_law_3(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentrun.runtime.nursery import RunNursery

    original = RunNursery.__aexit__

    async def swallowing(self: Any, *exc_info: Any) -> Any:
        try:
            await original(self, *exc_info)
        except anyio.get_cancelled_exc_class():
            return True
        return exc_info[0] is not None

    monkeypatch.setattr(RunNursery, "__aexit__", swallowing)
    report = sweep(backend, actions=["native"] if backend == "asyncio" else ["cancel"])
    assert 3 in laws(report)


def test_bad_options_are_named() -> None:
    with pytest.raises(UserError, match="hooks must be a function, not RunHooks"):
        sweep("asyncio", hooks=RunHooks())
    with pytest.raises(UserError, match="program must be a function, not int"):
        sweep("asyncio", program=5)
    with pytest.raises(UserError, match="on_approval must be 'approve', 'reject' or None, not 'maybe'"):
        sweep("asyncio", on_approval="maybe")
    with pytest.raises(UserError, match="on_event belongs to the watcher that program replaces"):
        sweep("asyncio", on_event=print, program=print)
