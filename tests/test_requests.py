"""What a request to a run changes, and what is told of it."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from laws.support import check_ended, watch

from agentrun import Agent, RunContext, RunHooks, ToolOutput, UserMessage, events, open_run, run, run_sync, tool
from agentrun.core.config import RunConfig
from agentrun.errors import ToolCallLimitExceeded
from agentrun.events import Event
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Hang, Say, ScriptedModel
from agentrun.testing.sweeping.virtual_time import run_virtual


class Broken(Exception):
    pass


def outputs(items: Any) -> dict[str, ToolOutput]:
    return {item.call_id: item for item in items if isinstance(item, ToolOutput)}


class Waiting:
    """A tool that waits for ever, and says when it does."""

    def __init__(self) -> None:
        self.started = anyio.Event()

    async def wait(self) -> str:
        self.started.set()
        await anyio.sleep_forever()
        return "never"


# What is told -----------------------------------------------------------------------------------------------------


async def test_an_interrupt_is_told_with_its_reason_and_again_when_it_escalates() -> None:
    waiting = Waiting()
    seen: list[Event] = []
    model = ScriptedModel([Call("wait", call_id="c")])
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=[waiting.wait], model=model), "go") as live:
            group.start_soon(watch, live, seen)
            await waiting.started.wait()
            assert live.interrupt("enough", mode="after_turn")
            assert not live.interrupt("again", mode="after_turn")
            assert live.interrupt("at once")
            await live.wait()
    check_ended(live, model, seen)
    assert [event for event in seen if isinstance(event, events.InterruptRequested)] == [
        events.InterruptRequested("enough", "after_turn"),
        events.InterruptRequested("enough", "immediate"),
    ]


@pytest.mark.parametrize(("reason", "told"), [("no more", "no more"), (None, "the call was interrupted")])
async def test_the_interrupt_of_a_call_is_told_with_its_id_and_its_reason(reason: str | None, told: str) -> None:
    waiting = Waiting()
    seen: list[Event] = []
    model = ScriptedModel([Call("wait", call_id="c"), Say("done")])
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=[waiting.wait], model=model), "go") as live:
            group.start_soon(watch, live, seen)
            await waiting.started.wait()
            assert live.interrupt_tool("c", reason)
            assert not live.interrupt_tool("c", "again")
            result = await live.wait()
    check_ended(live, model, seen)
    assert [event for event in seen if isinstance(event, events.InterruptRequested)] == [
        events.InterruptRequested(reason, "immediate", "c")
    ]
    assert outputs(result.items)["c"] == ToolOutput("c", f"Cancelled before it finished: {told}.", "cancelled")


@pytest.mark.parametrize("deliver", ["now", "next", "idle"])
async def test_an_injection_is_told_with_what_is_in_it(deliver: Any) -> None:
    seen: list[Event] = []
    async with open_run(Agent("a", model=ScriptedModel([Say("hm"), Say("done")])), "go") as live:
        injection = live.inject("and?", deliver=deliver)
        await watch(live, seen)
    assert [event for event in seen if isinstance(event, events.InputInjected)] == [
        events.InputInjected(injection.id, deliver, (UserMessage("and?"),))
    ]


# Why a call was cancelled -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("interrupted", "enough"),
        ("interrupted without a reason", "the run was interrupted"),
        ("failed", "the run failed: Broken: out of paper"),
        ("cancelled", "the run was cancelled"),
        ("cut", "cut short by new input"),
    ],
)
async def test_the_output_of_a_cancelled_call_says_why(how: str, why: str) -> None:
    waiting = Waiting()

    async def fail() -> str:
        await waiting.started.wait()
        if how == "failed":
            raise Broken("out of paper\nand of ink\nand of patience")
        return "fine"

    model = ScriptedModel([[Call("wait", call_id="c"), Call("fail", call_id="f")], Say("done")])
    agent = Agent("a", tools=[waiting.wait, tool(fail, on_error="raise")], model=model)
    with anyio.CancelScope() as scope:
        try:
            async with open_run(agent, "go") as live:
                await waiting.started.wait()
                if how == "interrupted":
                    live.interrupt("enough")
                elif how == "interrupted without a reason":
                    live.interrupt()
                elif how == "cancelled":
                    scope.cancel()
                elif how == "cut":
                    live.inject("else", deliver="now")
                await live.wait()
        except Broken:
            assert how == "failed"
    result = check_ended(live, model)
    assert outputs(result.history)["c"].output == f"Cancelled before it finished: {why}."


async def test_an_error_of_several_lines_is_told_by_its_first() -> None:
    async def broken() -> str:
        raise Broken("\nout of paper\nand of ink\nand of patience")

    result = await run(
        Agent("a", tools=[broken], model=ScriptedModel([Call("broken", call_id="c"), Say("done")])), "go"
    )
    assert outputs(result.items)["c"].output == "Error: Broken: out of paper"


# How long the teardown took ---------------------------------------------------------------------------------------


async def test_a_run_that_was_cut_by_new_input_and_completed_had_no_teardown() -> None:
    waiting = Waiting()
    model = ScriptedModel([Call("wait"), Say("done")])
    async with open_run(Agent("a", tools=[waiting.wait], model=model), "go") as live:
        await waiting.started.wait()
        live.inject("else", deliver="now")
        result = await live.wait()
    assert result.status == "completed"
    assert result.teardown.seconds == 0


async def test_a_limit_that_is_passed_starts_the_teardown() -> None:
    model = ScriptedModel([[Call("wait"), Call("wait")]])
    agent = Agent("a", tools=[Waiting().wait], model=model)
    with pytest.raises(ToolCallLimitExceeded):
        async with open_run(agent, "go", config=RunConfig(max_tool_calls=1)) as live:
            await live.wait()
    assert live.result is not None
    assert live.result.teardown.seconds > 0


@pytest.mark.parametrize("first", ["interrupt", "cancel"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_teardown_begins_with_the_first_reason_to_stop(backend: Any, first: str) -> None:
    async def main() -> None:
        started = anyio.Event()

        async def slow() -> str:
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                await anyio.sleep(1)
                stop("interrupt" if first == "cancel" else "cancel")
                await anyio.sleep(2)
            return "never"

        def stop(how: str) -> None:
            if how == "cancel":
                scope.cancel()
            else:
                live.interrupt("stop")

        with anyio.CancelScope() as scope:
            async with open_run(Agent("a", tools=[slow], model=ScriptedModel([Call("slow")])), "go") as live:
                await started.wait()
                stop(first)
                await live.wait()
        assert live.result is not None
        assert live.result.teardown.seconds == 3

    run_virtual(main, backend=backend)


# run_sync, and runs beside each other -----------------------------------------------------------------------------


class Noting(RunHooks):
    def __init__(self) -> None:
        self.noted: list[str] = []

    async def on_run_start(self, ctx: RunContext[Any]) -> None:
        import sniffio

        self.noted += [sniffio.current_async_library(), ctx.call_id, ctx.tool_name]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_sync_passes_on_all_that_it_is_given(backend: Any) -> None:
    stopped = run_sync(Agent("a", model=ScriptedModel([Say("one")])), "go", backend=backend)
    session, hooks, deps = MemorySession(), Noting(), object()

    def instructions(ctx: RunContext[Any]) -> str:
        assert ctx.deps is deps
        assert ctx.usage.requests == 0
        return "Be brief."

    model = ScriptedModel([Say("two")])
    agent = Agent("a", instructions, model=ScriptedModel([]))
    result = run_sync(
        agent,
        "on",
        deps=deps,
        session=session,
        resume_from=stopped,
        config=RunConfig(model=model),
        hooks=hooks,
        backend=backend,
    )
    assert result.output == "two"
    assert [request.instructions for request in model.requests] == ["Be brief."]
    assert tuple(session.items) == result.history
    assert hooks.noted == [backend, "", ""]
    again = run_sync(Agent("a", model=ScriptedModel([Say("two")])), "on", resume_from=stopped, backend=backend)
    assert [getattr(item, "text", "") for item in again.history] == ["go", "one", "on", "two"]


async def test_a_run_that_is_started_by_what_a_call_left_behind_is_nobodys() -> None:
    ended = anyio.Event()
    inner: list[Any] = []

    async def later() -> None:
        await ended.wait()
        inner.append(await run(Agent("inner", model=ScriptedModel([Say("inner")])), "go"))

    seen: list[Event] = []
    async with anyio.create_task_group() as group:

        async def leave() -> str:
            group.start_soon(later)
            return "left"

        class Hooks(RunHooks):
            async def on_model_start(self, ctx: Any, request: Any) -> None:
                if len(request.items) > 1:  # the call has ended
                    ended.set()
                    while not inner:
                        await anyio.lowlevel.checkpoint()

        model = ScriptedModel([Call("leave"), Say("done")])
        async with open_run(Agent("outer", tools=[leave], model=model), "go", hooks=Hooks()) as live:
            await watch(live, seen)
    result = check_ended(live, model)
    assert inner[0].output == "inner"
    assert {event.path for event in seen} == {()}
    assert result.usage.requests == 2


async def test_input_that_was_to_cut_in_waits_for_its_turn_when_the_run_is_resumed() -> None:
    class Hooks(RunHooks):
        async def on_run_end(self, ctx: Any, result: Any) -> None:
            ctx.run.inject("late", deliver="now")

    stopped = await run(Agent("a", model=ScriptedModel([Say("one")]), hooks=Hooks()), "go")
    assert [waiting.deliver for waiting in stopped.undelivered] == ["now"]
    async with open_run(Agent("a", model=ScriptedModel([Hang()])), resume_from=stopped) as live:
        assert [waiting.deliver for waiting in live.state().inbox] == ["next"]
        live.interrupt("stop")
