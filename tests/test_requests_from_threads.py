"""The requests of a run, made from other threads: `from_thread` does what the run itself does, and only it may."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from agentrun import ActiveRun, Agent, Injection, RunContext, ToolOutput, UserError, UserMessage, open_run, tool
from agentrun.events import ApprovalRequested, ToolProgress
from agentrun.testing import Call, Hang, Say, ScriptedModel


class Waiting:
    """An agent whose first answer calls a tool, ``hold``, that waits to be cancelled or for approval."""

    def __init__(self, **options: Any) -> None:
        self.started = anyio.Event()

        @tool(**options)
        async def hold(ctx: RunContext[Any]) -> str:
            self.started.set()
            if not options:
                await anyio.sleep_forever()
            return "held"

        self.model = ScriptedModel([Call("hold", call_id="c"), Say("and on")])
        self.agent = Agent("a", tools=[hold], model=self.model)


async def in_thread(request: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(request)


def outputs(live: ActiveRun[Any]) -> list[tuple[str, Any]]:
    assert live.result is not None
    return [(item.status, item.output) for item in live.result.items if isinstance(item, ToolOutput)]


@pytest.mark.parametrize("thread", [False, True])
async def test_an_injection_says_how_it_wants_to_be_delivered(thread: bool) -> None:
    model = ScriptedModel([[Hang()], Say("one"), Say("two")])
    async with open_run(Agent("a", model=model), "go") as live:
        handle = live.from_thread
        requests: list[Callable[[], Injection]] = [
            lambda: handle.inject("idle", deliver="idle"),
            lambda: handle.inject("next"),
            lambda: handle.inject([{"role": "user", "content": "now"}], deliver="now"),
        ]
        with anyio.fail_after(10):
            while not model.open_streams:
                await anyio.sleep(0)
            injected = [await in_thread(request) if thread else request() for request in requests]
            result = await live.wait()
    assert [injection.status for injection in injected] == ["delivered"] * 3
    assert [injection.turn for injection in injected] == [3, 2, 2]
    texts = [item.text for item in result.items if isinstance(item, UserMessage)]
    assert texts == ["next", "now", "idle"]


@pytest.mark.parametrize("thread", [False, True])
async def test_an_interrupt_has_its_reason_its_mode_and_its_patience(thread: bool) -> None:
    waiting = Waiting()
    async with open_run(waiting.agent, "go") as live:
        await waiting.started.wait()

        def ask() -> None:
            handle = live.from_thread
            assert handle.interrupt("enough", mode="after_turn")
            assert handle.state().interrupt == live._run.machine.interrupts.current
            asked = handle.state().interrupt
            assert asked is not None
            assert (asked.reason, asked.mode) == ("enough", "after_turn")
            assert not handle.interrupt("again", mode="after_turn", escalate_after=0.0)

        if thread:
            await in_thread(ask)
        else:
            ask()
        with anyio.fail_after(10):
            result = await live.wait()
    assert result.interrupt is not None
    assert (result.interrupt.reason, result.interrupt.mode) == ("enough", "immediate")
    assert outputs(live)[0][0] == "cancelled"


async def test_an_interrupt_from_a_thread_is_immediate_unless_it_says_otherwise() -> None:
    waiting = Waiting()
    async with open_run(waiting.agent, "go") as live:
        await waiting.started.wait()
        assert await in_thread(live.from_thread.interrupt)
        with anyio.fail_after(10):
            result = await live.wait()
    assert result.interrupt is not None
    assert (result.interrupt.reason, result.interrupt.mode) == (None, "immediate")


@pytest.mark.parametrize("reason", [None, "not this one"])
async def test_one_tool_can_be_interrupted(reason: str | None) -> None:
    waiting = Waiting()
    async with open_run(waiting.agent, "go") as live:
        await waiting.started.wait()
        assert await in_thread(lambda: live.from_thread.interrupt_tool("c", reason)) is True
        result = await live.wait()
    assert result.output == "and on"
    ((status, output),) = outputs(live)
    assert status == "cancelled"
    assert ("not this one" in output) is (reason is not None)


@pytest.mark.parametrize(
    ("decide", "expected"),
    [
        (lambda handle: handle.approve("c"), ("completed", "held")),
        (lambda handle: handle.reject("c", "no money"), ("rejected", "no money")),
        (lambda handle: handle.reject("c"), ("rejected", "The call was rejected.")),
    ],
)
async def test_calls_can_be_approved_and_rejected(decide: Callable[[Any], bool], expected: tuple[str, str]) -> None:
    waiting = Waiting(needs_approval=True)
    async with open_run(waiting.agent, "go") as live:
        with anyio.fail_after(10):
            async for event in live.events():
                if isinstance(event, ApprovalRequested):
                    assert await in_thread(lambda: decide(live.from_thread)) is True
    assert outputs(live) == [expected]


async def test_what_a_request_raises_is_raised_in_the_thread() -> None:
    model = ScriptedModel([[Hang()]])
    async with open_run(Agent("a", model=model), "go") as live:
        with pytest.raises(UserError, match="input is empty"):
            await in_thread(lambda: live.from_thread.inject(""))
        live.interrupt()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("events", ()),
        ("inject", ("x",)),
        ("interrupt", ()),
        ("interrupt_tool", ("c",)),
        ("approve", ("c",)),
        ("reject", ("c",)),
        ("state", ()),
    ],
)
async def test_the_run_itself_refuses_other_threads_and_says_where_to_go(name: str, arguments: tuple[Any, ...]) -> None:
    model = ScriptedModel([[Hang()]])
    async with open_run(Agent("a", model=model), "go") as live:
        message = (
            rf"^{name}\(\) was called from another thread than the run's; use the same method of run\.from_thread$"
        )
        with pytest.raises(UserError, match=message):
            await in_thread(lambda: getattr(live, name)(*arguments))
        live.interrupt()
        result = await live.wait()
    assert result.interrupt is not None
    assert result.interrupt.reason is None


async def test_a_thread_that_the_event_loop_knows_nothing_of_may_ask_and_tell_too() -> None:
    told: list[Any] = []

    async def work(ctx: RunContext[Any]) -> str:
        def elsewhere() -> None:
            ctx.progress("half")
            ctx.run.from_thread.interrupt("seen enough")

        thread = threading.Thread(target=elsewhere)
        thread.start()
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.to_thread.run_sync(thread.join)
        return "never"

    model = ScriptedModel([Call("work", call_id="w")])
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=[work], model=model), "go") as live:
            async for event in live.events():
                if isinstance(event, ToolProgress):
                    told.append(event.data)
            result = await live.wait()
    assert told == ["half"]
    assert result.interrupt is not None
    assert result.interrupt.reason == "seen enough"


async def test_a_thread_takes_back_what_it_injected_and_those_who_wait_for_it_learn_of_it() -> None:
    model = ScriptedModel([[Hang()]])
    statuses: list[str] = []
    async with open_run(Agent("a", model=model), "go") as live, anyio.create_task_group() as group:
        injection: Injection = await in_thread(lambda: live.from_thread.inject("more", deliver="idle"))

        async def wait() -> None:
            statuses.append(await injection.wait())
            live.interrupt("withdrawn")  # nothing else ends the run

        group.start_soon(wait)
        while not injection._entry.on_settled:
            await anyio.sleep(0)
        with anyio.fail_after(10):
            assert await in_thread(injection.withdraw) is True
            assert await in_thread(injection.withdraw) is False
            assert await in_thread(lambda: injection.status) == "undelivered"
            result = await live.wait()
    assert statuses == ["undelivered"]
    assert result.undelivered == ()


def test_what_was_injected_cannot_be_taken_back_once_the_event_loop_has_ended(anyio_backend_name: str) -> None:
    async def main() -> Injection:
        async with open_run(Agent("a", model=ScriptedModel([[Hang()]])), "go") as live:
            injection = live.inject("more")
            live.interrupt()
        return injection

    answers: list[bool] = []
    injection = anyio.run(main, backend=anyio_backend_name)
    thread = threading.Thread(target=lambda: answers.append(injection.withdraw()))
    thread.start()
    thread.join(10)
    assert answers == [injection.withdraw()] == [False]
    assert injection.status == "undelivered"


async def test_an_injection_cannot_be_waited_for_in_another_event_loop(anyio_backend_name: str) -> None:
    async with open_run(Agent("a", model=ScriptedModel([[Hang()]])), "go") as live:
        injection = live.inject("more")
        where = (
            r"^Injection.wait\(\) was called in another event loop than the run's; look at its status there instead$"
        )
        with pytest.raises(UserError, match=where):
            await in_thread(lambda: anyio.run(injection.wait, backend=anyio_backend_name))
