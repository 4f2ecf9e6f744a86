"""Small runs in which a fault can show itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from agentrun import Agent, RunConfig, RunResult
from agentrun.errors import InputGuardrailTripped, ToolError
from agentrun.testing import Call, Say, ScriptedModel
from agentrun.testing.laws import RunRecord

from .around import CheckingSession, ClosingModel, Hooks, breaks, sober, strict, truthful
from .bad_tools import (
    cancels_itself,
    fails,
    fails_later,
    fails_softly,
    fails_too,
    lets_out,
    swallows,
    unsure,
    untidy,
    untidy_child,
)
from .ledger import book
from .oracles import (
    a_trip_is_right,
    careful_is_right,
    cleanup_errors_are_told,
    cut_and_reported,
    each_is_cut_alone,
    errors_are_told,
    not_let_pass,
    swallowing_is_reported,
    told_once,
    two_tools_are_right,
    unsure_has_not_run,
    watched_slowly_is_right,
)
from .over_http import all_is_given_back, http_model
from .tools import asks_twice, careful, dangerous, guarded_work, has_enough, patient, quick, slow, tells
from .watchers import failure_caught, left_early, watched_slowly, watcher_leaves

__all__ = ["SCENES", "Scene", "begin", "spare"]


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of run.

    Attributes:
        make: Makes its agent, with all its state.
        actions: What is done to it when no fault is planted.
        options: For `interrupt_everywhere`.
        oracle: What must be true after each run, besides the ledger's own checks.
        backends: Where it can be played.
        limit: Points for each action and mode.
    """

    make: Callable[[], Agent[Any, Any]]
    actions: tuple[str, ...] = ("interrupt", "cancel")
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    oracle: Callable[[RunRecord, RunResult[Any]], object] | None = None
    backends: tuple[str, ...] = ("asyncio", "trio")
    limit: int = 16

    async def judge(self, record: RunRecord) -> None:
        """The oracle of the sweep."""
        book.check()
        if self.oracle is not None and record.live is not None and record.live.result is not None:
            value = self.oracle(record, record.live.result)
            if isinstance(value, Awaitable):
                await value


def spare(*turns: Any) -> ScriptedModel:
    """A script with turns to spare for what is injected."""
    return ScriptedModel([*turns, *[Say("Very well.")] * 4])


def begin() -> None:
    """Each scene's agent is made afresh for each run; so is the ledger."""
    book.begin()
    book.notes["news"] = anyio.Event()


def two_tools() -> Agent[Any, Any]:
    begin()
    first: list[Any] = [Say("On my way.", chunks=3, delay=0.1), Call("slow"), Call("quick")]
    model = ClosingModel([first, Say("All done.", chunks=2, delay=0.1), *[Say("Very well.")] * 4])
    return Agent("a", tools=[slow, quick], model=model)


def a_careful_tool() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[careful], model=spare([Say("Hm."), Call("careful")], Say("Done.")))


def a_cleanup_without_end() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[patient], model=spare([Call("patient")], Say("Done.")))


def hooked() -> Agent[Any, Any]:
    begin()
    model = ClosingModel([[Say("Hm."), Call("quick")], Say("Done."), *[Say("Very well.")] * 4])
    return Agent("a", tools=[quick], model=model)


def guardrails() -> Agent[Any, Any]:
    begin()
    model = spare([Say("Hm.", chunks=2, delay=0.1), Call("guarded_work")], Say("Done."))
    return Agent("a", tools=[guarded_work], model=model, input_guardrails=[sober], output_guardrails=[truthful])


def a_guarded_answer() -> Agent[Any, Any]:
    begin()
    return Agent("a", model=spare(Say("Hm.", chunks=2, delay=0.1)), input_guardrails=[sober])


def a_trip() -> Agent[Any, Any]:
    begin()
    model = ClosingModel([[Say("Never, never.", chunks=10, delay=0.1), Call("guarded_work")], *[Say("What?")] * 4])
    return Agent("a", tools=[guarded_work], model=model, input_guardrails=[strict])


def a_broken_guardrail() -> Agent[Any, Any]:
    begin()
    return Agent(
        "a", model=spare([Say("Hm.", chunks=2, delay=0.1), Call("slow")]), tools=[slow], input_guardrails=[breaks]
    )


def approvals() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[dangerous, quick], model=spare([Call("dangerous"), Call("quick")], Say("Done.")))


def a_tool_fails_the_run() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[fails, slow, tells], model=spare([Call("slow"), Call("fails"), Call("tells")]))


def two_tools_fail_the_run() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[fails, fails_too, tells], model=spare([Call("fails"), Call("fails_too"), Call("tells")]))


def a_soft_failure() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[fails_softly, slow], model=spare([Call("fails_softly"), Call("slow")], Say("Done.")))


def cleanups_that_fail() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[untidy, untidy_child], model=spare([Call("untidy"), Call("untidy_child")], Say("Done.")))


def a_tool_that_swallows() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[swallows, tells], model=spare([Call("swallows"), Call("tells")], Say("Done.")))


def nested_runs() -> Agent[Any, Any]:
    begin()
    inner = Agent("inner", tools=[quick], model=spare([Say("Let me see."), Call("quick")], Say("Seen.")))
    return Agent("outer", tools=[inner.as_tool()], model=spare(Call("inner", {"input": "Look!"}), Say("Done.")))


def a_run_that_ends_itself() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[has_enough, slow], model=spare([Call("has_enough"), Call("slow")], Say("Never.")))


def injections_by_a_tool() -> Agent[Any, Any]:
    begin()
    model = spare([Call("asks_twice")], [Say("Hm."), Call("quick")], Say("Good."))
    return Agent("a", tools=[asks_twice, quick], model=model)


def one_at_a_time() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[slow, quick], model=spare([Call("slow"), Call("quick")], Say("Done.")))


def a_talker() -> Agent[Any, Any]:
    begin()
    return Agent(
        "a", tools=[quick], model=spare([Say("One two three four five six.", chunks=6), Call("quick")], Say("Done."))
    )


def fatal_and_untidy() -> Agent[Any, Any]:
    begin()
    calls = [Call("fails"), Call("fails_later"), Call("tells")]
    return Agent("a", tools=[fails, fails_later, tells], model=spare(calls))


def a_model_over_http() -> Agent[Any, Any]:
    begin()
    return Agent("a", model=http_model())


def an_approval_check_that_breaks() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[unsure, quick], model=spare([Call("unsure"), Call("quick")], Say("Done.")))


def foreign_cancellation() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[lets_out, careful], model=spare([Call("lets_out"), Call("careful")], Say("Done.")))


def a_native_cancellation() -> Agent[Any, Any]:
    begin()
    return Agent(
        "a", tools=[cancels_itself, careful], model=spare([Call("cancels_itself"), Call("careful")], Say("Done."))
    )


ALL = ("interrupt", "interrupt_after_turn", "interrupt_tool", "inject_next", "inject_now", "inject_idle", "cancel")

SCENES: dict[str, Scene] = {
    "two tools": Scene(two_tools, ALL, {"session": CheckingSession}, two_tools_are_right, limit=14),
    "steered twice": Scene(
        two_tools,
        ("inject_next", "inject_idle"),
        {"second": 3, "session": CheckingSession},
        two_tools_are_right,
        limit=6,
    ),
    "native": Scene(two_tools, ("native",), {}, two_tools_are_right, ("asyncio",)),
    "careful": Scene(a_careful_tool, ("interrupt", "interrupt_tool", "cancel"), {}, careful_is_right, limit=40),
    "without end": Scene(
        a_cleanup_without_end,
        ("interrupt", "cancel"),
        {"config": RunConfig(cleanup_grace=2.0), "tidy": False},
        cut_and_reported,
    ),
    "hooks": Scene(hooked, ("interrupt", "cancel"), {"hooks": Hooks, "session": CheckingSession}),
    "guardrails": Scene(guardrails, ("interrupt", "inject_next", "cancel")),
    "guarded answer": Scene(a_guarded_answer, ("interrupt", "inject_next")),
    "trip": Scene(a_trip, ("interrupt", "cancel"), {"raises": InputGuardrailTripped}, a_trip_is_right),
    "broken guardrail": Scene(a_broken_guardrail, ("interrupt",), {"raises": KeyError}, not_let_pass),
    "approvals": Scene(approvals, ("approve", "reject", "interrupt")),
    "not approved": Scene(approvals, ("approve", "reject", "interrupt"), {"on_approval": "reject"}),
    "fatal": Scene(a_tool_fails_the_run, ("interrupt", "cancel"), {"raises": ToolError}, errors_are_told),
    "two fatal": Scene(two_tools_fail_the_run, ("interrupt", "cancel"), {"raises": ToolError}, errors_are_told),
    "soft": Scene(a_soft_failure, ("interrupt", "cancel")),
    "untidy": Scene(cleanups_that_fail, ("interrupt", "cancel"), {"tidy": False}, cleanup_errors_are_told),
    "swallows": Scene(a_tool_that_swallows, ("interrupt", "inject_now"), {"tidy": False}, swallowing_is_reported),
    "nested": Scene(nested_runs, ("interrupt", "interrupt_tool", "inject_now", "cancel")),
    "ends itself": Scene(a_run_that_ends_itself, ("interrupt", "interrupt_after_turn", "inject_next", "cancel")),
    "injections": Scene(injections_by_a_tool, ALL),
    "one at a time": Scene(
        one_at_a_time,
        ("interrupt", "interrupt_tool"),
        {"config": RunConfig(max_parallel_tools=1)},
        each_is_cut_alone,
    ),
    "timer": Scene(one_at_a_time, ("interrupt",), {"config": RunConfig(max_seconds=300.0)}),
    "slow watcher": Scene(
        a_talker,
        ("interrupt", "inject_now", "cancel"),
        {"program": watched_slowly, "config": RunConfig(cleanup_grace=60.0)},
        watched_slowly_is_right,
    ),
    "watcher leaves": Scene(a_talker, ("inject_next",), {"program": watcher_leaves}),
    "left early": Scene(two_tools, ("native",), {"program": left_early}, two_tools_are_right, ("asyncio",)),
    "fatal and untidy": Scene(fatal_and_untidy, ("interrupt",), {"raises": ToolError, "tidy": False}, errors_are_told),
    "caught": Scene(a_tool_fails_the_run, ("interrupt",), {"program": failure_caught, "raises": ToolError}, told_once),
    "cancels itself": Scene(a_native_cancellation, ("interrupt",), {}, None, ("asyncio",)),
    "over http": Scene(a_model_over_http, ("interrupt", "inject_now", "cancel"), {}, all_is_given_back, limit=20),
    "unsure": Scene(an_approval_check_that_breaks, ("interrupt", "approve"), {}, unsure_has_not_run),
    "foreign": Scene(foreign_cancellation, ("interrupt", "cancel"), {}, None, ("asyncio",)),
}
