"""Law 5: each injected input reaches exactly one model call, in order, or comes back as undelivered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun import (
    ActiveRun,
    Agent,
    InboxFull,
    Injection,
    RunConfig,
    RunContext,
    RunEnded,
    RunHooks,
    ToolOutput,
    UserError,
    UserMessage,
    events,
    input_guardrail,
    open_run,
    tool,
)
from agentrun.core.inbox import Delivery
from agentrun.events import Event
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Say, ScriptedModel, assert_valid_history

from .support import check_ended, checkpoints, structural, watch

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire

DELIVERIES: tuple[Delivery, ...] = ("next", "now", "idle")


def user_texts(items: Any) -> list[str]:
    return [item.text for item in items if isinstance(item, UserMessage)]


def new_inputs(model: ScriptedModel) -> list[list[str]]:
    """The user's messages that each request has and the one before had not."""
    before: list[str] = []
    fresh: list[list[str]] = []
    for request in model.requests:
        texts = user_texts(request.items)
        assert texts[: len(before)] == before, "an earlier input has changed"
        fresh.append(texts[len(before) :])
        before = texts
    return fresh


@dataclass
class Injected:
    """What a test has injected, and what must hold of it in the end."""

    made: list[tuple[str, Injection]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def inject(self, live: ActiveRun[Any], text: str, deliver: Delivery) -> Injection | None:
        try:
            injection = live.inject(text, deliver=deliver)
        except RunEnded as exc:
            assert exc.result is live.result is not None  # noqa: PT017 - most of the time nothing is raised
            self.refused.append(text)
            return None
        self.made.append((text, injection))
        return injection

    def check(self, live: ActiveRun[Any], model: ScriptedModel, seen: list[Event]) -> None:
        result = live.result
        assert result is not None
        fresh = new_inputs(model)
        delivered = [text for turn in fresh for text in turn]
        undelivered = [
            item.text for entry in result.undelivered for item in entry.items if isinstance(item, UserMessage)
        ]
        withdrawn: list[str] = []
        for text, injection in self.made:
            assert injection.status != "pending"
            if injection.status == "delivered":
                assert delivered.count(text) == 1
                assert injection.turn is not None
                # Turns without a call of the model do not exist, so the turn's number is that of the request.
                assert text in fresh[injection.turn - 1]
                assert text not in undelivered
                assert user_texts(result.history).count(text) == 1
            else:
                assert text not in delivered
                assert text not in user_texts(result.history)
                if text not in undelivered:
                    withdrawn.append(text)
                else:
                    assert undelivered.count(text) == 1
        for text in self.refused:
            assert text not in delivered
            assert text not in undelivered
        told = [event.injection_id for event in seen if isinstance(event, events.InputDelivered)]
        assert told == [i.id for i in sorted((i for _, i in self.made if i.status == "delivered"), key=_delivery_order)]
        injected = [event.injection_id for event in seen if isinstance(event, events.InputInjected)]
        assert injected == [injection.id for _, injection in self.made]
        self.withdrawn = withdrawn


def _delivery_order(injection: Injection) -> tuple[int, int]:
    return (injection.turn or 0, int(injection.id.rsplit("-", 1)[1]))


class Scenario:
    """A run with every phase in it: guardrails, a stream, parallel tools, an approval, hooks, a session."""

    def __init__(self) -> None:
        self.model = ScriptedModel(
            [
                [Say("let me see", chunks=3), Call("look", call_id="c1"), Call("ask", call_id="c2")],
                *[[Say(f"answer {n}", chunks=2)] for n in range(8)],
            ]
        )
        self.session = MemorySession()

        async def look() -> str:
            await checkpoints(2)
            return "seen"

        async def ask() -> str:
            await checkpoints(1)
            return "asked"

        async def passes(items: Any) -> None:
            await checkpoints(2)

        class Hooks(RunHooks):
            async def on_run_start(self, ctx: Any) -> None:
                await checkpoints(1)

            async def on_model_end(self, ctx: Any, status: str) -> None:
                await checkpoints(1)

            async def on_run_end(self, ctx: Any, result: Any) -> None:
                await checkpoints(2)

        async def instructions(ctx: RunContext[Any]) -> str:
            await checkpoints(1)
            return "be brief"

        self.agent: Agent[Any, Any] = Agent(
            "a",
            instructions,
            tools=[look, tool(ask, needs_approval=True)],
            model=self.model,
            input_guardrails=[
                input_guardrail(name="racing")(passes),
                input_guardrail(name="first", blocking=True)(passes),
            ],
            output_guardrails=[passes],
            hooks=Hooks(),
        )

    async def play(
        self, steer: Callable[[ActiveRun[Any]], Coroutine[Any, Any, None]], *, config: RunConfig | None = None
    ) -> tuple[ActiveRun[Any], list[Event]]:
        """Run it to its end with ``steer`` as a task beside it; the approval is given as soon as it is asked for."""
        seen: list[Event] = []

        async def observe(live: ActiveRun[Any]) -> None:
            async for event in live.events():
                seen.append(event)
                if isinstance(event, events.ApprovalRequested):
                    await checkpoints(2)
                    live.approve(event.call_id)

        async with anyio.create_task_group() as group:
            async with open_run(self.agent, "begin", session=self.session, config=config) as live:
                group.start_soon(observe, live)
                group.start_soon(steer, live)
                await live.wait()
        assert_valid_history(self.session.items, what="session")
        assert live.result is not None
        assert tuple(self.session.items) == live.result.history
        check_ended(live, self.model, seen)
        return live, seen


async def steps_of(play: Callable[[int], Awaitable[bool]]) -> int:
    """Play with 0, 1, 2, ... steps until the run was over before its time had come; returns how many that took."""
    steps = 0
    while await play(steps):
        steps += 1
        assert steps < 400, "the run never ended by itself"
    return steps


@pytest.mark.parametrize("deliver", DELIVERIES)
async def test_an_input_injected_at_any_step_reaches_exactly_one_call_or_comes_back(deliver: Delivery) -> None:
    phases: set[str] = set()

    async def play(steps: int) -> bool:
        injected, scenario = Injected(), Scenario()
        in_time = False

        async def steer(live: ActiveRun[Any]) -> None:
            nonlocal in_time
            await checkpoints(steps)
            phases.add(live.state().phase)
            in_time = live.result is None
            injected.inject(live, "extra", deliver)

        live, seen = await scenario.play(steer)
        injected.check(live, scenario.model, seen)
        assert live.result is not None
        assert live.result.status == "completed"
        assert (injected.refused == []) is in_time
        return in_time

    steps = await steps_of(play)
    assert steps > 15
    assert phases == {"starting", "model", "tools", "guardrails", "ending", "ended"}


@pytest.mark.parametrize("deliver", DELIVERIES)
async def test_inputs_injected_at_any_two_steps_keep_their_order(deliver: Delivery) -> None:
    async def play(steps: int) -> bool:
        injected, scenario = Injected(), Scenario()
        in_time = False

        async def steer(live: ActiveRun[Any]) -> None:
            nonlocal in_time
            await checkpoints(steps)
            in_time = live.result is None
            for n in range(3):
                injected.inject(live, f"extra {n}", deliver)
                await checkpoints(n)

        live, seen = await scenario.play(steer)
        injected.check(live, scenario.model, seen)
        texts = [text for text in user_texts(live.result.history) if text != "begin"]  # type: ignore[union-attr]
        assert texts == sorted(texts)
        return in_time

    await steps_of(play)


async def test_inputs_of_all_kinds_at_any_step_are_neither_lost_nor_doubled() -> None:
    async def play(steps: int) -> bool:
        injected, scenario = Injected(), Scenario()
        in_time = False

        async def steer(live: ActiveRun[Any]) -> None:
            nonlocal in_time
            for n, deliver in enumerate(("idle", "next", "now", "idle")):
                await checkpoints(steps if n == 0 else steps % (n + 1))
                in_time = in_time or live.result is None
                injected.inject(live, f"extra {n}", deliver)  # type: ignore[arg-type]

        live, seen = await scenario.play(steer)
        injected.check(live, scenario.model, seen)
        return in_time

    await steps_of(play)


@pytest.mark.parametrize("deliver", DELIVERIES)
async def test_an_input_withdrawn_at_any_step_is_gone_or_was_delivered(deliver: Delivery) -> None:
    outcomes: set[bool] = set()

    async def play(steps: int) -> bool:
        injected, scenario = Injected(), Scenario()
        in_time = False

        async def steer(live: ActiveRun[Any]) -> None:
            nonlocal in_time
            await checkpoints(steps)
            injection = injected.inject(live, "extra", deliver)
            in_time = injection is not None
            if injection is None:
                return
            await checkpoints(3)
            pending = injection.status == "pending"
            withdrawn = injection.withdraw()
            assert withdrawn is pending
            assert injection.withdraw() is False
            outcomes.add(withdrawn)
            if withdrawn:
                assert injection.status == "undelivered"
                assert await injection.wait() == "undelivered"

        live, seen = await scenario.play(steer)
        injected.check(live, scenario.model, seen)
        assert live.result is not None
        assert live.result.status == "completed"
        withdrawn_texts = injected.withdrawn
        assert not (withdrawn_texts and live.result.undelivered), "what was withdrawn does not come back"
        # A call of the model that nothing asked for any more is not made.
        extra = sum(injection.status == "delivered" for _, injection in injected.made)
        assert len(scenario.model.requests) <= 2 + extra + (deliver == "now")
        return in_time

    await steps_of(play)
    assert outcomes == {True, False}


@pytest.mark.parametrize("deliver", DELIVERIES)
@pytest.mark.parametrize("mode", ["immediate", "after_turn"])
async def test_an_interrupt_at_any_step_gives_pending_inputs_back(deliver: Delivery, mode: Any) -> None:
    async def play(steps: int) -> bool:
        injected, scenario = Injected(), Scenario()
        in_time = False

        async def steer(live: ActiveRun[Any]) -> None:
            nonlocal in_time
            await checkpoints(steps)
            in_time = live.result is None
            injected.inject(live, "before", deliver)
            live.interrupt("stop", mode=mode)
            injected.inject(live, "after", deliver)

        live, seen = await scenario.play(steer)
        injected.check(live, scenario.model, seen)
        assert live.result is not None
        assert live.result.status in ("interrupted", "completed")
        return in_time

    await steps_of(play)


@pytest.mark.parametrize("deliver", DELIVERIES)
async def test_wait_tells_of_every_injection_what_became_of_it(deliver: Delivery) -> None:
    async def play(steps: int) -> bool:
        injected, scenario = Injected(), Scenario()
        told: list[str] = []

        async def steer(live: ActiveRun[Any]) -> None:
            await checkpoints(steps)
            injection = injected.inject(live, "extra", deliver)
            if injection is not None:
                told.append(await injection.wait())
                assert told == [injection.status]

        live, seen = await scenario.play(steer)
        injected.check(live, scenario.model, seen)
        assert len(told) == len(injected.made)
        return bool(injected.made)

    await steps_of(play)


async def test_a_failure_gives_pending_inputs_back() -> None:
    async def work(ctx: RunContext[Any]) -> str:
        ctx.run.inject("one")
        ctx.run.inject("two", deliver="idle")
        raise ValueError("broken")

    model = ScriptedModel([Call("work")])
    with pytest.raises(ValueError, match="broken"):
        async with open_run(Agent("a", tools=[tool(work, on_error="raise")], model=model), "go") as live:
            await live.wait()
    result = check_ended(live, model)
    assert [(user_texts(entry.items), entry.deliver) for entry in result.undelivered] == [
        (["one"], "next"),
        (["two"], "idle"),
    ]


async def test_a_cancellation_gives_pending_inputs_back() -> None:
    from agentrun.testing import Hang

    model = ScriptedModel([Hang()])
    with anyio.CancelScope() as scope:
        async with open_run(Agent("a", model=model), "go") as live:
            await checkpoints(3)
            injection = live.inject("one")
            scope.cancel()
            await live.wait()
    result = check_ended(live, model)
    assert result.status == "cancelled"
    assert [user_texts(entry.items) for entry in result.undelivered] == [["one"]]
    assert injection.status == "undelivered"


# What each way of delivery means ---------------------------------------------------------------------------------


async def test_now_cuts_the_stream_keeps_what_was_said_and_calls_again_at_once() -> None:
    from agentrun.testing import Hang

    model = ScriptedModel([[Say("I was going to say"), Hang()], Say("yes?")])
    async with open_run(Agent("a", model=model), "go") as live:
        async for event in live.events():
            if isinstance(event, events.TextDelta) and event.text.startswith("I was"):
                live.inject("wait", deliver="now")
        result = await live.wait()
    assert [(type(item).__name__, getattr(item, "text", "")) for item in result.history] == [
        ("UserMessage", "go"),
        ("AssistantMessage", "I was going to say"),
        ("UserMessage", "wait"),
        ("AssistantMessage", "yes?"),
    ]
    assert result.output == "yes?"


async def test_now_cuts_the_tools_and_says_why() -> None:
    started = anyio.Event()

    async def slow() -> str:
        started.set()
        await anyio.sleep_forever()
        return "never"

    async def asking() -> str:
        return "never"

    model = ScriptedModel([[Call("slow", call_id="s"), Call("asking", call_id="q")], Say("fine")])
    tools: list[Any] = [slow, tool(asking, needs_approval=True)]
    seen: list[Event] = []
    async with anyio.create_task_group() as group, open_run(Agent("a", tools=tools, model=model), "go") as live:
        group.start_soon(watch, live, seen)
        await started.wait()
        live.inject("do something else", deliver="now")
        result = await live.wait()
    check_ended(live, model, seen)
    outputs = [(item.call_id, item.status, item.output) for item in result.items if isinstance(item, ToolOutput)]
    assert outputs == [
        ("s", "cancelled", "Cancelled before it finished: cut short by new input."),
        ("q", "cancelled", "Cancelled before it started: cut short by new input."),
    ]
    assert result.pending_approvals == ()  # the run went on without it
    assert user_texts(result.history) == ["go", "do something else"]
    assert result.output == "fine"


async def test_now_between_the_stream_and_the_tools_keeps_the_tools_from_starting() -> None:
    ran: list[str] = []

    def work() -> None:
        ran.append("work")

    class Hooks(RunHooks):
        async def on_model_end(self, ctx: Any, status: str) -> None:
            if ctx.usage.requests == 1:
                ctx.run.inject("stop that", deliver="now")

    model = ScriptedModel([Call("work", call_id="w"), Say("fine")])
    async with open_run(Agent("a", tools=[work], model=model), "go", hooks=Hooks()) as live:
        result = await live.wait()
    assert ran == []
    assert result.items[1].output == "Cancelled before it started: cut short by new input."  # type: ignore[union-attr]
    assert user_texts(model.requests[1].items) == ["go", "stop that"]


async def test_next_waits_for_the_tools_and_keeps_a_run_going_that_was_about_to_finish() -> None:
    async def work(ctx: RunContext[Any]) -> str:
        ctx.run.inject("one more thing")
        await checkpoints(3)
        return "worked"

    class Hooks(RunHooks):
        async def on_model_end(self, ctx: Any, status: str) -> None:
            if ctx.usage.requests == 2:
                ctx.run.inject("and another")

    model = ScriptedModel([Call("work"), Say("done"), Say("really done")])
    async with open_run(Agent("a", tools=[work], model=model), "go", hooks=Hooks()) as live:
        result = await live.wait()
    assert new_inputs(model) == [["go"], ["one more thing"], ["and another"]]
    assert result.output == "really done"
    assert result.turns == 3


async def test_idle_waits_until_the_run_would_finish_and_keeps_it_going_then() -> None:
    async def work(ctx: RunContext[Any]) -> str:
        if ctx.usage.requests == 1:
            ctx.run.inject("later", deliver="idle")
        return "worked"

    model = ScriptedModel([Call("work"), Call("work"), Say("done"), Say("really done")])
    async with open_run(Agent("a", tools=[work], model=model), "go") as live:
        result = await live.wait()
    assert new_inputs(model) == [["go"], [], [], ["later"]]
    assert result.output == "really done"


async def test_idle_inputs_do_not_jump_ahead_of_what_is_due_before() -> None:
    async def work(ctx: RunContext[Any]) -> str:
        ctx.run.inject("idle", deliver="idle")
        ctx.run.inject("next")
        return "worked"

    model = ScriptedModel([Call("work"), Say("done"), Say("really done")])
    async with open_run(Agent("a", tools=[work], model=model), "go") as live:
        await live.wait()
    assert new_inputs(model) == [["go"], ["next"], ["idle"]]


async def test_several_items_of_one_injection_stay_together() -> None:
    async def work(ctx: RunContext[Any]) -> str:
        ctx.run.inject([{"role": "user", "content": "one"}, UserMessage("two"), {"role": "system", "content": "three"}])
        return "worked"

    model = ScriptedModel([Call("work"), Say("done")])
    async with open_run(Agent("a", tools=[work], model=model), "go") as live:
        result = await live.wait()
    assert [getattr(item, "text", "") for item in result.items[-4:]] == ["one", "two", "three", "done"]


# The end, and the bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("deliver", DELIVERIES)
async def test_injection_in_the_last_hook_is_undelivered_and_after_the_end_refused(deliver: Delivery) -> None:
    made: list[Injection] = []

    class Hooks(RunHooks):
        async def on_run_end(self, ctx: Any, result: Any) -> None:
            made.append(ctx.run.inject("too late", deliver=deliver))

    model = ScriptedModel([Say("done")])
    async with open_run(Agent("a", model=model), "go", hooks=Hooks()) as live:
        result = await live.wait()
        with pytest.raises(RunEnded, match="the run has ended") as caught:
            live.inject("after the end", deliver=deliver)
        assert caught.value.result is result
    with pytest.raises(RunEnded):
        live.inject("after the block", deliver=deliver)
    assert [injection.status for injection in made] == ["undelivered"]
    assert await made[0].wait() == "undelivered"
    assert [user_texts(entry.items) for entry in result.undelivered] == [["too late"]]
    assert result.status == "completed"


async def test_a_full_inbox_refuses_by_name_and_loses_nothing() -> None:
    async def work(ctx: RunContext[Any]) -> str:
        first = ctx.run.inject("one")
        ctx.run.inject("two", deliver="idle")
        with pytest.raises(InboxFull, match="max_pending_injections"):
            ctx.run.inject("three")
        with pytest.raises(InboxFull):
            ctx.run.inject("three", deliver="now")
        assert first.withdraw()
        ctx.run.inject("four")
        return "worked"

    model = ScriptedModel([Call("work"), Say("done"), Say("really done")])
    config = RunConfig(max_pending_injections=2)
    async with open_run(Agent("a", tools=[tool(work, on_error="raise")], model=model), "go", config=config) as live:
        result = await live.wait()
    assert new_inputs(model) == [["go"], ["four"], ["two"]]
    assert result.undelivered == ()
    assert "worked" in [getattr(item, "output", None) for item in result.items]


async def test_the_turn_limit_gives_back_what_it_keeps_from_being_delivered() -> None:
    from agentrun.errors import MaxTurnsExceeded

    async def work(ctx: RunContext[Any]) -> str:
        ctx.run.inject("one more")
        return "worked"

    model = ScriptedModel([Call("work")])
    with pytest.raises(MaxTurnsExceeded) as caught:
        async with open_run(Agent("a", tools=[work], model=model), "go", config=RunConfig(max_turns=1)) as live:
            await live.wait()
    assert caught.value.result is live.result is not None
    assert [user_texts(entry.items) for entry in live.result.undelivered] == [["one more"]]


@pytest.mark.parametrize("bad", ["", "   ", [], None, 5, b"bytes", [{"role": "alien", "content": "x"}], [{}], [7]])
async def test_input_that_is_none_is_refused_and_changes_nothing(bad: Any) -> None:
    async def work(ctx: RunContext[Any]) -> str:
        with pytest.raises(UserError, match="inject: input"):
            ctx.run.inject(bad)
        return "worked"

    model = ScriptedModel([Call("work"), Say("done")])
    async with open_run(Agent("a", tools=[tool(work, on_error="raise")], model=model), "go") as live:
        result = await live.wait()
    assert user_texts(result.history) == ["go"]


@pytest.mark.parametrize(
    "bad",
    [
        {"role": "assistant", "content": "I said"},
        {"type": "function_call", "call_id": "x", "name": "y", "arguments": "{}"},
        {"role": "tool", "tool_call_id": "x", "content": "z"},
    ],
)
async def test_only_messages_can_be_injected_not_pieces_of_a_conversation(bad: Any) -> None:
    async def work(ctx: RunContext[Any]) -> str:
        with pytest.raises(UserError, match="only user and system messages can be injected"):
            ctx.run.inject([{"role": "user", "content": "fine"}, bad])
        return "worked"

    model = ScriptedModel([Call("work"), Say("done")])
    async with open_run(Agent("a", tools=[tool(work, on_error="raise")], model=model), "go") as live:
        result = await live.wait()
    assert user_texts(result.history) == ["go"]


async def test_a_thousand_inputs_from_ten_tasks_arrive_once_each_and_each_tasks_in_order() -> None:
    injected = Injected()
    model = ScriptedModel([*[[Say("hm", chunks=3)] for _ in range(300)]])

    async def work(live: ActiveRun[Any], name: int) -> None:
        for n in range(20):
            injected.inject(live, f"{name:02}-{n:02}", DELIVERIES[(name + n) % 3])
            await checkpoints(1 + (name + n) % 3)

    seen: list[Event] = []
    config = RunConfig(max_turns=None)
    async with anyio.create_task_group() as group, open_run(Agent("a", model=model), "go", config=config) as live:
        group.start_soon(watch, live, seen)
        for name in range(10):
            group.start_soon(work, live, name)
        await live.wait()
    check_ended(live, model, seen)
    injected.check(live, model, seen)
    assert len(structural(seen)) > 20
