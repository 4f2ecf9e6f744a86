"""Small runs with tools and guardrails in threads, in which a fault can show itself."""

from __future__ import annotations

import time
from typing import Any

from agentrun import Agent, RunConfig, RunContext, RunResult, ToolOutput, input_guardrail, tool
from agentrun.errors import InputGuardrailTripped, ToolError
from agentrun.testing import BrokenLaw, Call, Say
from agentrun.testing.laws import RunRecord

from .ledger import book
from .oracles import errors_are_told
from .scenes import Scene, begin, spare

__all__ = ["THREAD_SCENES"]


@tool
def looks(ctx: RunContext[Any]) -> str:
    """Look often."""
    for _ in range(4):
        ctx.check_cancelled()
        time.sleep(0.2)
    book.returned.append(ctx.call_id)
    return "looked"


@tool
def soon(ctx: RunContext[Any]) -> str:
    """Look at nothing, but be done soon."""
    time.sleep(0.5)
    book.returned.append(ctx.call_id)
    return "done"


@tool(timeout=0.5)
def endless(ctx: RunContext[Any]) -> str:
    """Look, for ever."""
    while True:
        ctx.check_cancelled()
        time.sleep(0.2)


@tool
def deaf() -> str:
    """Look at nothing, for longer than anybody waits."""
    time.sleep(200)
    return "done"


@tool(on_error="raise")
def fails(ctx: RunContext[Any]) -> str:
    """Fail the run."""
    time.sleep(0.3)
    ctx.check_cancelled()
    error = ToolError("out of paper")
    book.raised.append(error)
    raise error


@input_guardrail
def deaf_guardrail(items: Any) -> None:
    """Look at nothing, for longer than anybody waits."""
    time.sleep(200)


@input_guardrail(timeout=0.3)
def late_guardrail(items: Any) -> None:
    """Pass, but too late."""
    time.sleep(0.6)


def two_threads() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[looks, soon], model=spare([Call("looks"), Call("soon")], Say("Done.")))


def a_thread_without_end() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[endless], model=spare(Call("endless"), Say("Done.")))


def a_deaf_thread() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[deaf], model=spare(Call("deaf"), Say("Done.")))


def a_deaf_thread_in_a_nested_run() -> Agent[Any, Any]:
    begin()
    inner = Agent("inner", tools=[deaf], model=spare(Call("deaf"), Say("Seen.")))
    return Agent("outer", tools=[inner.as_tool()], model=spare(Call("inner", {"input": "Look!"}), Say("Done.")))


def a_thread_that_fails() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[fails, looks], model=spare([Call("fails"), Call("looks")]))


def a_deaf_guardrail() -> Agent[Any, Any]:
    begin()
    return Agent("a", model=spare(Say("Done.")), input_guardrails=[deaf_guardrail])


def a_late_guardrail() -> Agent[Any, Any]:
    begin()
    return Agent("a", tools=[looks], model=spare([Say("Hm."), Call("looks")]), input_guardrails=[late_guardrail])


def values_are_kept(record: RunRecord, result: RunResult[Any]) -> None:
    """What a thread has returned is the output of its call."""
    for item in result.items:
        if isinstance(item, ToolOutput) and (item.status == "completed") != (item.call_id in book.returned):
            raise BrokenLaw(4, f"returned have {book.returned}, and the history has {item!r}")


def it_timed_out(record: RunRecord, result: RunResult[Any]) -> None:
    """A thread that looks stops soon after its time is up."""
    for item in result.items:
        if isinstance(item, ToolOutput) and item.status not in ("timed_out", "cancelled"):
            raise BrokenLaw(6, f"it had half a second: {item!r}")


def it_does_not_pass(record: RunRecord, result: RunResult[Any]) -> None:
    """A guardrail that answers too late lets nothing pass."""
    if result.status == "completed" or book.returned:
        raise BrokenLaw(13, f"the guardrail was too late, and the run is {result.status!r}")


SHORT = RunConfig(cleanup_grace=1.0)
UNTIDY: dict[str, Any] = {"config": SHORT, "tidy": False}

THREAD_SCENES: dict[str, Scene] = {
    "threads": Scene(two_threads, ("interrupt", "interrupt_tool", "cancel"), {}, values_are_kept, limit=20),
    "thread without end": Scene(a_thread_without_end, ("interrupt", "cancel"), {}, it_timed_out),
    "deaf thread": Scene(a_deaf_thread, ("interrupt", "cancel"), UNTIDY),
    "deaf nested": Scene(
        a_deaf_thread_in_a_nested_run, ("interrupt",), {"config": RunConfig(cleanup_grace=20.0), "tidy": False}
    ),
    "failing thread": Scene(
        a_thread_that_fails, ("interrupt", "cancel"), {"raises": ToolError, "tidy": False}, errors_are_told
    ),
    "deaf guardrail": Scene(a_deaf_guardrail, ("interrupt", "cancel"), {**UNTIDY, "raises": InputGuardrailTripped}),
    "late guardrail": Scene(a_late_guardrail, ("interrupt",), {"raises": InputGuardrailTripped}, it_does_not_pass),
}
