"""`interrupt_everywhere` finds planted faults of the runtime and names the law; a good runtime passes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import Agent, RunContext, UserError, tool
from agentrun.core.events import RunEnded, ToolEnded, ToolStarted
from agentrun.core.inbox import Inbox
from agentrun.core.turns import TurnMachine
from agentrun.runtime.hub import EventHub
from agentrun.runtime.run import Run
from agentrun.testing import Call, Say, ScriptedModel, SweepReport, interrupt_everywhere, replay
from agentrun.testing.sweeping.asyncio_points import SweepLoop

BACKENDS: list[Any] = ["asyncio", "trio"]
both = pytest.mark.parametrize("backend", BACKENDS)

closed: list[bool] = []


@tool
async def work() -> str:
    """Work, and clean up."""
    closed.append(False)
    try:
        await anyio.sleep(1)
    except BaseException:
        await anyio.sleep(0.1)
        closed[-1] = True
        raise
    closed[-1] = True
    return "done"


def agent() -> Agent[Any, Any]:
    return Agent("worker", tools=[work], model=ScriptedModel([[Say("Go.", chunks=2), Call("work")], Say("Done.")]))


def all_closed() -> None:
    seen = list(closed)
    closed.clear()
    assert all(seen), "a tool has not cleaned up"


def sweep(backend: Any, **options: Any) -> SweepReport:
    closed.clear()
    return interrupt_everywhere(agent(), "Go", backends=[backend], oracle=all_closed, **options)


@both
def test_a_good_run_passes_and_its_agent_is_played_from_the_beginning_each_time(backend: Any) -> None:
    report = sweep(backend, second=2, limit=10)
    report.raise_if_failed()
    assert report.injections > 300
    assert report.diverged == 0


def input_dropped_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Inbox.close

    def close(self: Inbox) -> Any:
        self.pending = ()
        return original(self)

    monkeypatch.setattr(Run, "undelivered", lambda self: ())
    monkeypatch.setattr(Inbox, "close", close)


def ends_of_cancelled_tools_untold(monkeypatch: pytest.MonkeyPatch) -> None:
    original = EventHub.publish

    def publish(self: EventHub, event: Any) -> None:
        if not (isinstance(event, ToolEnded) and event.status == "cancelled"):
            original(self, event)

    monkeypatch.setattr(EventHub, "publish", publish)


def two_endings(monkeypatch: pytest.MonkeyPatch) -> None:
    original = EventHub.end

    def end(self: EventHub, event: Any) -> None:
        if event.status == "interrupted":
            self.publish(RunEnded("completed"))
        original(self, event)

    monkeypatch.setattr(EventHub, "end", end)


FAULTS: list[tuple[Callable[[pytest.MonkeyPatch], None], list[Any], str]] = [
    (input_dropped_at_the_end, ["inject_idle", "inject_next", "cancel"], "law 5"),
    (ends_of_cancelled_tools_untold, ["interrupt"], "law 12"),
    (two_endings, ["interrupt"], "law 2: 2 RunEnded events"),
]


@both
@pytest.mark.parametrize(("plant", "actions", "told"), FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS])
def test_a_planted_fault_is_found_and_the_report_names_the_law(
    backend: Any, plant: Any, actions: list[Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    report = sweep(backend, actions=actions, second=3 if "cancel" in actions else 0)
    assert report.failures
    assert told in str(report)
    again = replay(report.failures[0])
    assert again is not None
    assert again.violations == report.failures[0].violations


def test_backends_that_disagree_are_found_by_law_11() -> None:
    @tool
    async def where() -> str:
        """Say what is different."""
        await anyio.sleep(1)
        return anyio.get_cancelled_exc_class().__module__.partition(".")[0]

    model = ScriptedModel([Call("where"), Say("Ah.")])
    report = interrupt_everywhere(Agent("a", tools=[where], model=model), "Where?", actions=["interrupt"], limit=1)
    assert "law 11" in str(report.failures[0])


@tool
async def quick() -> str:
    """End at once."""
    return "done"


@tool
async def stops(ctx: RunContext[Any]) -> str:
    """Interrupt the run that it is part of."""
    ctx.run.interrupt("enough")
    return "done"


def stop_at_a_start(live: Any, event: Any) -> None:
    if isinstance(event, ToolStarted):
        live.interrupt("enough")


def steer_at_an_end(live: Any, event: Any) -> None:
    if isinstance(event, ToolEnded) and live.status == "running":
        live.inject("Enough.", deliver="now")


async def leave_at_a_start(opening: Any) -> None:
    async with opening as live:
        async for event in live.events():
            if isinstance(event, ToolStarted):
                break


@pytest.mark.parametrize(
    ("called", "options"),
    [
        ("quick", {"on_event": stop_at_a_start}),
        ("work", {"on_event": steer_at_an_end}),
        ("work", {"program": leave_at_a_start}),
        ("stops", {}),
    ],
)
def test_what_comes_in_the_moment_in_which_tools_go_on_comes_in_another_step_on_each_backend(
    called: str, options: dict[str, Any]
) -> None:
    def make() -> Agent[Any, Any]:
        expert: Agent[Any, Any] = Agent("expert", tools=[work], model=ScriptedModel([Call("work"), Say("So it is.")]))
        ask = expert.as_tool(name="ask", description="Ask.")
        model = ScriptedModel([[Call(called), Call("ask", {"input": "Well?"}), Call("quick")], Say("Done.")])
        return Agent("front", tools=[quick, work, stops, ask], model=model)

    found: set[int | None] = set()
    for seed in range(8):
        interrupt_everywhere(make, "Go", actions=["cancel"], limit=1, seed=seed, **options).raise_if_failed()
        again = interrupt_everywhere(make, "Go", actions=["cancel"], limit=1, seed=seed, same_on_both=True, **options)
        found |= {v.law for failure in again.failures for v in failure.violations}
    assert found == {11}


@both
def test_sync_tools_and_guardrails_run_in_threads_that_the_sweep_can_stop(backend: Any) -> None:
    started: list[str] = []

    @tool
    def sync(ctx: RunContext[Any]) -> str:
        """Look, and sleep."""
        for _ in range(3):
            ctx.check_cancelled()
            time.sleep(1)
            ctx.progress("one more")
        started.append("tool")
        return "done"

    def sober(text: Any) -> None:
        time.sleep(0.5)
        started.append("guardrail")

    def make() -> Agent[Any, Any]:
        model = ScriptedModel([Call("sync"), Say("Ah."), *[Say("Very well.")] * 4])
        return Agent("a", tools=[sync], model=model, input_guardrails=[sober], output_guardrails=[sober])

    report = interrupt_everywhere(make, "Go", backends=[backend], limit=12)
    report.raise_if_failed()
    assert report.diverged == 0
    assert set(started) == {"tool", "guardrail"}


@both
def test_a_thread_that_does_not_look_is_a_broken_law_unless_the_run_may_be_untidy(backend: Any) -> None:
    @tool
    def stubborn() -> str:
        """Sleep, whatever happens."""
        time.sleep(30)
        return "done"

    def make() -> Agent[Any, Any]:
        return Agent("a", tools=[stubborn], model=ScriptedModel([Call("stubborn"), *[Say("Very well.")] * 4]))

    report = interrupt_everywhere(make, "Go", backends=[backend], actions=["interrupt"])
    assert {v.law for failure in report.failures for v in failure.violations} == {1}
    assert "abandoned threads: stubborn (call_1) in thread '" in str(report).replace("tool ", "")
    again = interrupt_everywhere(make, "Go", backends=[backend], actions=["interrupt"], tidy=False)
    again.raise_if_failed()  # it was left behind, and named


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UserError, match="must have a ScriptedModel"):
        interrupt_everywhere(Agent("a", model="local"), "Hello")
    with pytest.raises(UserError, match="actions contains 'dance'"):
        interrupt_everywhere(agent(), "Hello", actions=["dance"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="agent must be an Agent or a function"):
        interrupt_everywhere(5, "Hello")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="agent must be an Agent or a function that makes one; this one made int"):
        interrupt_everywhere(lambda: 5, "Hello")  # type: ignore[arg-type, return-value]


@both
def test_nothing_of_a_swept_run_stays_in_memory(backend: Any) -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, (SweepLoop, TurnMachine)) for thing in gc.get_objects())

    before = alive()
    sweep(backend, limit=2)
    assert alive() - before <= 1  # the last one may still be referred to


@both
def test_the_models_of_an_agent_that_is_made_afresh_have_spare_turns_too(backend: Any, scripted_model: Any) -> None:
    models: list[ScriptedModel] = []

    def make() -> Agent[Any, Any]:
        models[:] = scripted_model([Call("transfer_to_expert")]), scripted_model([Say("Yes.")], name="expert")
        expert: Agent[Any, Any] = Agent("expert", model=models[1])
        return Agent("front", model=models[0], handoffs=[expert])

    def seen(record: Any) -> None:
        assert record.model is models[0]
        if not record.disturbed:
            assert [len(model.requests) for model in models] == [1, 1]

    interrupt_everywhere(make, "Go", backends=[backend], oracle=seen).raise_if_failed()


@both
def test_a_run_to_which_nothing_was_done_may_take_as_long_as_it_likes(backend: Any) -> None:
    @tool
    async def patient() -> str:
        """Take longer than any teardown may."""
        await anyio.sleep(100)
        return "done"

    def make() -> Agent[Any, Any]:
        return Agent("a", tools=[patient], model=ScriptedModel([Call("patient"), *[Say("Very well.")] * 4]))

    report = interrupt_everywhere(make, "Go", backends=[backend], actions=["interrupt"], grace=10)
    report.raise_if_failed()
    assert len(report.failures) == 0 < report.injections  # the first ones come before there is a run


@both
@pytest.mark.parametrize("on_approval", ["approve", "reject"])
def test_only_what_an_action_stops_has_to_end_within_the_grace(on_approval: Any, backend: Any) -> None:
    @tool
    async def hours() -> str:
        """Take hours."""
        await anyio.sleep(7200)
        return "done"

    @tool(needs_approval=True)
    async def asked() -> str:
        """Take hours, after approval."""
        await anyio.sleep(7200)
        return "done"

    async def around(opening: Any) -> None:
        async with opening as live:
            await live.wait()
        await anyio.sleep(7200)

    script = ScriptedModel([[Call("hours"), Call("asked")], Say("Done.", delay=7200)])
    long = Agent("a", tools=[hours, asked], model=script)
    interrupt_everywhere(long, "Go", on_approval=on_approval, backends=[backend], grace=10, limit=8).raise_if_failed()
    stopping: list[Any] = ["interrupt"]
    one = Agent("a", tools=[hours], model=ScriptedModel([Call("hours"), Say("Done.")]))
    interrupt_everywhere(
        one, "Go", program=around, backends=[backend], actions=stopping, grace=10, limit=8
    ).raise_if_failed()


@both
@pytest.mark.parametrize("first", ["inject_next", "interrupt_tool"])
def test_a_cancellation_that_comes_later_has_a_grace_of_its_own(first: Any, backend: Any) -> None:
    @tool
    async def hides() -> str:
        """Not to be stopped once it is at it."""
        await anyio.sleep(100)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(7200)  # BUG
        return "done"

    @tool
    async def other() -> str:
        """Take as long."""
        await anyio.sleep(0)
        return "done"

    script = ScriptedModel([[Call("other"), Call("hides")], Say("Done.")])
    report = interrupt_everywhere(
        Agent("a", tools=[hides, other], model=script), "Go", backends=[backend], actions=[first], second=40, limit=8
    )
    seconds = {failure.second is not None for failure in report.failures if failure.violations[0].check == "grace"}
    assert True in seconds
