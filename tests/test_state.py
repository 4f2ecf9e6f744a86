"""What `state()` shows while user code is at work: what it is, its name, and since when."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import (
    ActiveRun,
    Agent,
    RunConfig,
    RunContext,
    RunHooks,
    input_guardrail,
    open_run,
    output_guardrail,
    tool,
)
from agentrun.core.model import ModelRequest
from agentrun.core.results import RunState, ScopeState
from agentrun.errors import UserError
from agentrun.items import Item, ToolCall, ToolOutput, UserMessage
from agentrun.testing import Call, Hang, Say, ScriptedModel

Child = tuple[str, str, str, str]


class Album:
    """Pictures of a run, taken by the user code that it runs: one for each place."""

    def __init__(self) -> None:
        self.live: ActiveRun[Any]
        self.states: dict[str, RunState] = {}

    def take(self, place: str, ctx: RunContext[Any] | None = None) -> None:
        self.states[place] = self.live.state()
        if ctx is not None:
            ctx.check_cancelled()  # nobody has cancelled anything, anywhere

    def shown(self) -> dict[str, tuple[str, list[Child]]]:
        return {
            place: (state.phase, [(c.kind, c.name, c.id, c.status) for c in state.scope.children])
            for place, state in self.states.items()
        }


class Seen(RunHooks):
    def __init__(self, album: Album) -> None:
        self.album = album

    async def on_run_start(self, ctx: RunContext[Any]) -> None:
        self.album.take("on_run_start", ctx)

    async def on_run_end(self, ctx: RunContext[Any], result: Any) -> None:
        self.album.take("on_run_end", ctx)

    async def on_model_start(self, ctx: RunContext[Any], request: Any) -> None:
        self.album.take(f"on_model_start {ctx.run.state().turn}", ctx)

    async def on_model_end(self, ctx: RunContext[Any], response: Any) -> None:
        self.album.take(f"on_model_end {ctx.run.state().turn}", ctx)


class Store:
    def __init__(self, album: Album) -> None:
        self.album = album
        self.items: list[Item] = []

    async def load(self) -> Sequence[Item]:
        self.album.take("load")
        return ()

    async def append(self, items: Sequence[Item]) -> None:
        self.album.take(f"append {len(self.items)}")
        self.items.extend(items)


class Named(ScriptedModel):
    name = "scripted"


async def test_each_piece_of_user_code_is_seen_at_work() -> None:
    album = Album()

    async def instructions(ctx: RunContext[Any]) -> str:
        album.take(f"instructions {ctx.run.state().turn}", ctx)
        return "Be brief."

    @input_guardrail(blocking=True)
    async def first(ctx: RunContext[Any], items: Any) -> None:
        album.take("first", ctx)

    @input_guardrail
    async def racing(ctx: RunContext[Any], items: Any) -> None:
        while "on_model_start 1" not in album.states:
            await anyio.sleep(0)
        album.take("racing", ctx)

    @output_guardrail
    async def last(ctx: RunContext[Any], output: Any) -> None:
        album.take("last", ctx)

    @tool(parallel=False)
    async def work(ctx: RunContext[Any]) -> str:
        album.take(f"tool {ctx.call_id}", ctx)
        return "worked"

    model = Named([[Say("hm"), Call("work", call_id="c1"), Call("work", call_id="c2")], Say("done")])
    agent = Agent(
        "a", instructions, [work], model, input_guardrails=[racing, first], output_guardrails=[last], hooks=Seen(album)
    )
    async with open_run(agent, "go", session=Store(album)) as live:
        album.live = live
        result = await live.wait()
    assert result.errors == ()
    preparing: Child = ("run", "preparing a", "", "running")
    at_model: Child = ("model", "scripted", "", "running")
    shown = album.shown()
    # The model's stream races one guardrail; which of the two is at work first is the scheduler's doing.
    phase, children = shown.pop("on_model_start 1")
    assert phase == "model"
    assert children == [at_model, ("guardrail", "racing", "", "running")]
    phase, children = shown.pop("racing")
    assert children[-1] == ("guardrail", "racing", "", "running")
    assert shown.pop("on_model_end 1")[1] in ([], [("guardrail", "racing", "", "running")])
    assert shown == {
        "on_run_start": ("starting", [("hook", "on_run_start", "", "running")]),
        "load": ("starting", [("session", "load", "", "running")]),
        "first": ("guardrails", [("guardrail", "first", "", "running")]),
        "instructions 0": ("starting", [preparing]),
        "tool c1": ("tools", [("tool", "work", "c1", "running"), ("tool", "work", "c2", "queued")]),
        "tool c2": ("tools", [("tool", "work", "c2", "running")]),
        "append 0": ("model", [("session", "append", "", "running")]),
        "append 1": ("tools", [("session", "append", "", "running")]),
        "instructions 1": ("starting", [preparing]),
        "on_model_start 2": ("model", [at_model]),
        "on_model_end 2": ("model", []),
        "append 6": ("model", [("session", "append", "", "running")]),
        "last": ("guardrails", [("guardrail", "last", "", "running")]),
        "on_run_end": ("ending", []),
    }
    for state in album.states.values():
        for scope in (state.scope, *state.scope.children):
            assert 0 <= scope.seconds < 60
    end = live.state().scope
    assert end == ScopeState("run", "a", live.id, "completed", end.seconds, ())


async def test_the_picture_says_since_when_each_thing_is_at_work() -> None:
    async def work() -> str:
        await anyio.sleep_forever()
        return "never"

    model = Named([Call("work", call_id="c")])
    async with open_run(Agent("a", tools=[work], model=model), "go") as live:
        await anyio.sleep(0.05)
        [call] = live.state().scope.children
        assert 0 < call.seconds <= live.state().scope.seconds < 60
        live.interrupt("stop")
        await live.wait()


@pytest.mark.parametrize("what", ["model", "session", "guardrail", "instructions"])
async def test_what_is_being_cancelled_is_shown_as_that(what: str) -> None:
    album, started, cleaning = Album(), anyio.Event(), anyio.Event()

    async def hang() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                cleaning.set()
                await anyio.sleep(0)
                album.take(what)

    class Hanging(Store):
        async def load(self) -> Sequence[Item]:
            await hang()
            return ()

    class Model:
        name = "slow"

        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[Any]]:
            await hang()
            yield iter(())  # type: ignore[misc]

    async def instructions(ctx: RunContext[Any]) -> str:
        await hang()
        return "never"

    async def gate(items: Any) -> None:
        await hang()

    agent = Agent(
        "a",
        instructions if what == "instructions" else None,
        model=Model() if what == "model" else ScriptedModel([[Hang()]]),
        input_guardrails=[input_guardrail(blocking=True)(gate)] if what == "guardrail" else [],
    )
    async with open_run(
        agent, "go", session=Hanging(album) if what == "session" else None, config=RunConfig(cleanup_grace=10)
    ) as live:
        album.live = live
        with anyio.fail_after(10):
            await started.wait()
            assert live.state().status == "running"
            live.interrupt("stop")
            result = await live.wait()
    assert result.status == "interrupted"
    expected = {
        "model": ("model", "slow", "", "cancelling"),
        "session": ("session", "load", "", "cancelling"),
        "guardrail": ("guardrail", "gate", "", "cancelling"),
        "instructions": ("run", "preparing a", "", "cancelling"),
    }
    assert album.states[what].status == "interrupting"
    assert album.shown()[what][1] == [expected[what]]


async def test_a_call_that_is_being_cancelled_is_shown_as_that() -> None:
    album, started = Album(), anyio.Event()

    async def hang(name: str) -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            album.take("cleanup")
        return name

    model = Named([[Call("hang", {"name": "one"}, call_id="c")], Say("done")])
    async with open_run(Agent("a", tools=[hang], model=model), "go") as live:
        album.live = live
        with anyio.fail_after(10):
            await started.wait()
            album.take("body")
            live.interrupt_tool("c")
            await live.wait()
    assert album.shown() == {
        "body": ("tools", [("tool", "hang", "c", "running")]),
        "cleanup": ("tools", [("tool", "hang", "c", "cancelling")]),
    }


async def test_a_call_that_is_shown_as_waiting_for_approval_can_be_decided() -> None:
    async def work() -> str:
        return "worked"

    async def needs(ctx: RunContext[Any], arguments: Any) -> bool:
        await anyio.sleep(0)
        return True

    seen: list[str] = []
    model = Named([Call("work", call_id="c"), Say("done")])
    agent = Agent("a", tools=[tool(work, needs_approval=needs)], model=model)
    async with open_run(agent, "go") as live:
        with anyio.fail_after(10):
            while "waiting for approval" not in seen:
                await anyio.sleep(0)
                seen.extend(child.status for child in live.state().scope.children if child.kind == "tool")
            assert live.approve("c")  # in the very step in which it is shown
            result = await live.wait()
    assert result.output == "done"
    assert set(seen) == {"checking", "waiting for approval"}


async def test_the_picture_names_the_run_and_its_agent_and_what_it_has_used_so_far() -> None:
    async def look(ctx: RunContext[Any]) -> str:
        states.append(ctx.run.state())
        return "looked"

    states: list[RunState] = []
    model = Named([Call("look", call_id="c"), Say("done")])
    async with open_run(Agent("a", tools=[look], model=model), "go") as live:
        result = await live.wait()
    [state] = states
    assert (state.run_id, state.agent, state.turn) == (live.id, "a", 1)
    assert (state.scope.kind, state.scope.name, state.scope.id) == ("run", "a", live.id)
    assert state.usage.requests == 1  # a copy: it does not go on counting
    assert result.usage.requests == 2


async def test_waiting_for_a_watcher_that_lags_is_shown() -> None:
    model = Named([[Say("x"), Call("look")], Say("done")])

    async def look() -> str:
        return "looked"

    async with open_run(Agent("a", tools=[look], model=model), "go") as live:
        stream = live.events(buffer=1)
        with anyio.fail_after(10):
            while not live.state().blocked_on_watchers:
                await anyio.sleep(0)
        before = live.state()
        assert [(c.kind, c.name) for c in before.scope.children] == [("run", "waiting for watchers")]
        with anyio.fail_after(10):
            async for _ in stream:
                pass
        assert (await live.wait()).output == "done"
    assert not live.state().blocked_on_watchers


async def test_what_is_at_work_tells_since_when() -> None:
    @input_guardrail
    async def guard(value: Any) -> None:
        await anyio.sleep_forever()

    async def work() -> None:
        await anyio.sleep_forever()

    async def ages(live: ActiveRun[Any], *kinds: str) -> dict[str, float]:
        while [child.kind for child in live.state().scope.children] != list(kinds):
            await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.05)
        state = live.state().scope
        return {scope.kind: scope.seconds for scope in (state, *state.children)}

    await anyio.sleep(0.2)  # no clock may begin with the run
    began = anyio.current_time()
    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[guard])
    async with open_run(agent, "go") as live:
        at_model = await ages(live, "model", "guardrail")
        live.interrupt()
    async with open_run(Agent("a", tools=[work], model=ScriptedModel([Call("work")])), "go") as live:
        at_tool = await ages(live, "tool")
        live.interrupt()
    passed = anyio.current_time() - began
    assert sorted(at_model) == ["guardrail", "model", "run"]
    assert sorted(at_tool) == ["run", "tool"]
    for age in (*at_model.values(), *at_tool.values()):
        assert 0.04 < age <= passed


async def test_each_task_of_a_run_is_named_for_what_it_does() -> None:
    """For `asyncio.all_tasks()`, a debugger, or a dump of trio's tasks."""
    release, unhook = threading.Event(), anyio.Event()

    @input_guardrail
    async def guard(value: Any) -> None:
        await anyio.sleep_forever()

    async def work() -> None:
        await anyio.sleep_forever()

    @tool
    def threaded() -> None:
        release.wait(10)

    async def at_work(live: ActiveRun[Any], *expected: str) -> None:
        """Wait until exactly these tasks are there."""
        names: list[str] = []
        with anyio.move_on_after(5):
            while names != list(expected):
                infos = [info for info in anyio.get_running_tasks() if info.id not in before]
                names = sorted((info.name or "").replace(live.id, "RUN") for info in infos)
                await anyio.sleep(0.001)
        assert names == list(expected)

    before = {info.id for info in anyio.get_running_tasks()}
    limited = RunConfig(max_seconds=60)
    agent = Agent("a", model=ScriptedModel([Hang()]), input_guardrails=[guard])
    async with open_run(agent, "go", config=limited) as live:
        await at_work(live, "agentrun RUN", "agentrun guardrail guard", "agentrun timer RUN")
        live.interrupt()
    tools: list[Any] = [tool(work), threaded, tool(work, name="hooked", on_cancel=unhook.wait)]
    calls = [Call("work", call_id="c1"), Call("threaded", call_id="c2"), Call("hooked", call_id="c3")]
    async with open_run(Agent("a", tools=tools, model=ScriptedModel([calls])), "go", config=limited) as live:
        kept = ["agentrun RUN", "agentrun RUN tools 1"]
        of_thread, of_call = "agentrun thread", "agentrun tool threaded (c2)"
        await at_work(live, *kept, of_thread, "agentrun timer RUN", "agentrun tool hooked (c3)", of_call)
        release.set()
        live.interrupt_tool("c3")
        await at_work(live, *kept, "agentrun hook of tool hooked (c3)", "agentrun timer RUN")
        unhook.set()
        live.interrupt()


async def test_a_run_whose_driver_has_not_begun_is_starting() -> None:
    async with open_run(Agent("a", model=ScriptedModel([Say("Yes.")])), "Go.") as live:
        state = live.state()
        assert (state.status, state.phase, state.turn, state.scope.children) == ("running", "starting", 0, ())
        assert state.blocked_on_watchers is False
        await live.wait()
    assert live.state().phase == "ended"


async def test_of_two_runs_that_a_tool_has_opened_the_one_that_is_alive_is_shown() -> None:
    both, one_left, seen = anyio.Event(), anyio.Event(), anyio.Event()
    child = Agent("child", model=ScriptedModel([Hang(), Hang()]))
    opened: list[ActiveRun[Any]] = []

    @tool
    async def opens_two() -> str:
        async with open_run(child, "Go.") as first:
            opened.append(first)
            async with open_run(child, "Go."):
                both.set()
                await one_left.wait()
            seen.set()
            await anyio.sleep_forever()
        return "never"

    agent = Agent("outer", tools=[opens_two], model=ScriptedModel([Call("opens_two")]))

    def nested(live: ActiveRun[Any]) -> list[str]:
        (call,) = live.state().scope.children
        return [scope.id for scope in call.children]

    async with open_run(agent, "Go.") as live:
        await both.wait()
        assert len(nested(live)) == 2
        one_left.set()
        await seen.wait()
        assert nested(live) == [opened[0].state().run_id]
        live.interrupt()


async def test_a_call_is_known_while_guardrails_keep_it_from_starting_and_one_of_an_earlier_run_is_not() -> None:
    at_work, go_on = anyio.Event(), anyio.Event()

    @input_guardrail
    async def slow(_: Sequence[Item]) -> None:
        at_work.set()
        await go_on.wait()

    @tool
    async def work() -> str:
        return "done"

    model = ScriptedModel([Call("work", call_id="new"), Say("ok")])
    agent = Agent("a", tools=[work], model=model, input_guardrails=[slow])
    before: list[Item] = [
        UserMessage("Go."),
        ToolCall("old", "work", "{}"),
        ToolOutput("old", "done"),
        UserMessage("Again."),
    ]
    async with open_run(agent, before) as live:
        await at_work.wait()
        await anyio.wait_all_tasks_blocked()
        assert live.state().phase == "guardrails"
        assert not live.interrupt_tool("new")  # it has not started, and so it cannot be stopped
        with pytest.raises(UserError, match="no tool call with the id 'old'"):
            live.interrupt_tool("old")
        go_on.set()
        result = await live.wait()
    assert result.output == "ok"
