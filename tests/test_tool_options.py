"""What each option of a tool does in a run."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from laws.support import check_ended, checkpoints, watch
from tools import functions_for_processes

from agentrun import Agent, RunConfig, RunContext, RunHooks, ToolError, ToolOutput, events, open_run, run, tool
from agentrun.errors import CallCancelled
from agentrun.events import Event
from agentrun.testing import Call, Say, ScriptedModel

QUICK = RunConfig(cleanup_grace=0.2)


def time_sleeper() -> None:
    """Runs in a process of its own, which Python's own signal handling can end."""
    time.sleep(60)


class Broken(Exception):
    pass


def outputs(items: Any) -> dict[str, ToolOutput]:
    return {item.call_id: item for item in items if isinstance(item, ToolOutput)}


async def call(function: Any, *, config: RunConfig = QUICK, **arguments: Any) -> tuple[ToolOutput, Any]:
    """One call of one tool; its output and the result."""
    name = function.name if hasattr(function, "name") else function.__name__
    model = ScriptedModel([Call(name, arguments, call_id="c"), Say("done")])
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[function], model=model), "go", config=config) as live:
        await watch(live, seen)
        result = await live.wait()
    check_ended(live, model, seen)
    return outputs(result.items)["c"], result


# timeout ---------------------------------------------------------------------------------------------------------


async def test_a_tool_that_takes_too_long_is_stopped_cleans_up_and_the_model_is_told() -> None:
    cleaned: list[str] = []

    async def slow() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(3)
            cleaned.append("slow")
        return "never"

    output, result = await call(tool(slow, timeout=0.02))
    assert output == ToolOutput(
        "c", "Error: the tool did not finish within 0.02 seconds and was stopped.", status="timed_out"
    )
    assert cleaned == ["slow"]
    assert result.status == "completed"
    assert result.teardown.cancelled_tools == []
    assert result.teardown.clean


async def test_the_configured_timeout_holds_for_tools_without_one_of_their_own() -> None:
    async def slow() -> str:
        await anyio.sleep(0.05)
        return "slow"

    config = RunConfig(tool_timeout=0.01, cleanup_grace=0.2)
    assert (await call(slow, config=config))[0].status == "timed_out"
    assert (await call(tool(slow, timeout=5), config=config))[0].output == "slow"


async def test_a_timeout_is_for_each_attempt() -> None:
    deadlines: list[float] = []

    async def flaky() -> str:
        deadlines.append(anyio.current_effective_deadline())
        await anyio.sleep(0.01)
        if len(deadlines) < 4:
            raise Broken
        return "at last"

    output, _ = await call(tool(flaky, timeout=60, retries=3))
    assert output == ToolOutput("c", "at last")
    assert all(later - earlier >= 0.005 for earlier, later in itertools.pairwise(deadlines))


async def test_a_tool_that_times_out_is_not_tried_again() -> None:
    attempts = 0

    async def slow() -> str:
        nonlocal attempts
        attempts += 1
        try:
            await anyio.sleep_forever()
        finally:
            raise Broken

    output, result = await call(tool(slow, timeout=0.02, retries=3))
    assert output.status == "timed_out"
    assert attempts == 1
    assert result.teardown.cleanup_errors == ["tool slow (c): Broken"]


async def test_a_tool_that_swallows_its_timeout_has_timed_out_all_the_same() -> None:
    async def stubborn() -> str:
        try:
            await anyio.sleep_forever()
        except BaseException:
            pass
        return "as if nothing had been"

    output, result = await call(tool(stubborn, timeout=0.02))
    assert output.status == "timed_out"
    assert result.teardown.swallowed_cancellations == ["tool stubborn (c)"]


async def test_the_time_of_a_tool_does_not_hold_for_the_model_call_after_it() -> None:
    deadlines: list[float] = []

    class Model(ScriptedModel):
        def stream(self, request: Any) -> Any:
            deadlines.append(anyio.current_effective_deadline())
            return super().stream(request)

    async def work() -> str:
        assert anyio.current_effective_deadline() < math.inf
        return "worked"

    model = Model([Call("work"), Call("work"), Say("done")])
    result = await run(Agent("a", tools=[tool(work, timeout=60, on_error="raise")], model=model), "go")
    assert result.output == "done"
    assert deadlines == [math.inf] * 3


@pytest.mark.parametrize("beside", [False, True])
async def test_the_cleanup_of_a_call_whose_time_is_up_can_ask_whether_it_is_cancelled(beside: bool) -> None:
    told: list[str] = []

    async def slow(ctx: RunContext[Any]) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            try:
                ctx.check_cancelled()
            except CallCancelled as exc:
                told.append(str(exc))
        return "never"

    async def other() -> str:
        return "other"

    calls = [Call("slow", call_id="c"), *([Call("other")] if beside else [])]
    model = ScriptedModel([calls, Say("done")])
    result = await run(Agent("a", tools=[tool(slow, timeout=0.01), other], model=model), "go")
    assert outputs(result.items)["c"].status == "timed_out"
    assert told == ["the call timed out"]


async def test_the_cleanup_of_a_cancelled_call_can_ask_why() -> None:
    started = anyio.Event()
    told: list[str | None] = []

    async def slow(ctx: RunContext[Any]) -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            try:
                ctx.check_cancelled()
            except CallCancelled as exc:
                told.append(str(exc))
            told.append(await ctx.wait_interrupted())
        return "never"

    model = ScriptedModel([Call("slow", call_id="c"), Say("done")])
    async with open_run(Agent("a", tools=[slow], model=model), "go", config=QUICK) as live:
        await started.wait()
        live.interrupt_tool("c", "no more")
        result = await live.wait()
    assert result.status == "completed"
    assert result.teardown.clean
    assert told == ["no more", "no more"]


@pytest.mark.parametrize("value", [None, object()], ids=["nothing", "what cannot be told"])
async def test_a_call_that_is_cancelled_and_returns_nothing_that_can_be_told_says_only_that(value: Any) -> None:
    started = anyio.Event()

    async def stubborn() -> Any:
        started.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            pass
        return value

    model = ScriptedModel([Call("stubborn", call_id="c"), Say("done")])
    async with open_run(Agent("a", tools=[stubborn], model=model), "go", config=QUICK) as live:
        await started.wait()
        live.interrupt_tool("c", "no more")
        result = await live.wait()
    assert result.status == "completed"
    assert outputs(result.items)["c"] == ToolOutput("c", "Cancelled before it finished: no more.", "cancelled")


async def test_a_thread_whose_time_is_up_is_told_and_what_it_returns_in_its_grace_counts() -> None:
    def polite(ctx: RunContext[Any]) -> str:
        try:
            while True:
                ctx.check_cancelled()
        finally:
            told.append("told")

    told: list[str] = []
    output, result = await call(tool(polite, timeout=0.05), config=RunConfig(cleanup_grace=10))
    assert output.status == "timed_out"
    assert told == ["told"]
    assert result.teardown.clean


async def test_a_thread_that_never_looks_is_named() -> None:
    release = threading.Event()
    try:

        def deaf() -> None:
            release.wait(30)

        output, result = await call(tool(deaf, timeout=0.03), config=RunConfig(cleanup_grace=0.03))
        assert output.status == "timed_out"
        [name] = result.teardown.abandoned_threads
        assert name.startswith("tool deaf (c) in thread ")
    finally:
        release.set()


# retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_tool_is_tried_again_as_often_as_it_may(is_async: bool) -> None:
    attempts = 0

    def flaky_sync() -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise Broken(f"attempt {attempts}")
        return f"attempt {attempts}"

    async def flaky() -> str:
        await anyio.lowlevel.checkpoint()
        return flaky_sync()

    function: Any = flaky if is_async else flaky_sync
    output, result = await call(tool(function, name="flaky", retries=2))
    assert output == ToolOutput("c", "attempt 3")
    assert result.errors == ()

    attempts = 0
    output, _ = await call(tool(function, name="flaky", retries=1))
    assert output == ToolOutput("c", "Error: Broken: attempt 2", "failed")
    assert attempts == 2


async def test_a_tool_error_is_not_tried_again() -> None:
    attempts = 0

    async def final() -> str:
        nonlocal attempts
        attempts += 1
        raise ToolError("no use")

    with pytest.raises(ToolError, match="no use"):
        await run(Agent("a", tools=[tool(final, retries=5)], model=ScriptedModel([Call("final")])), "go")
    assert attempts == 1


async def test_a_tool_is_started_and_ended_once_however_often_it_is_tried() -> None:
    hooked: list[str] = []

    class Hooks(RunHooks):
        async def on_tool_start(self, ctx: Any, call: Any) -> None:
            hooked.append("start")

        async def on_tool_end(self, ctx: Any, call: Any, output: Any) -> None:
            hooked.append("end")

    async def broken() -> str:
        raise Broken

    model = ScriptedModel([Call("broken", call_id="c"), Say("done")])
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[tool(broken, retries=3)], model=model), "go", hooks=Hooks()) as live:
        await watch(live, seen)
    check_ended(live, model, seen)
    assert hooked == ["start", "end"]
    of_call = [type(event) for event in seen if getattr(event, "call_id", "") == "c"]
    assert of_call == [
        events.ToolCallDelta,
        events.ToolStarted,
        events.ToolEnded,
    ]


# parallel, max_parallel_tools ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, None])
async def test_no_more_tools_are_at_work_at_once_than_may(limit: int | None) -> None:
    running = most = 0

    async def work(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await checkpoints(4)
        running -= 1
        return n

    model = ScriptedModel([[Call("work", {"n": n}, call_id=f"c{n}") for n in range(7)], Say("done")])
    seen: list[Event] = []
    config = RunConfig(max_parallel_tools=limit)
    async with open_run(Agent("a", tools=[work], model=model), "go", config=config) as live:
        await watch(live, seen)
    result = check_ended(live, model, seen)
    assert most == (limit or 7)
    assert [output.output for output in outputs(result.items).values()] == list(range(7))
    # Watchers never see more at once either.
    alive = 0
    for event in seen:
        alive += isinstance(event, events.ToolStarted)
        alive -= isinstance(event, events.ToolEnded)
        assert alive <= (limit or 7)
    assert [event.call_id for event in seen if isinstance(event, events.ToolStarted)] == [f"c{n}" for n in range(7)]


async def test_a_tool_that_is_not_parallel_runs_alone_and_is_not_overtaken() -> None:
    log: list[str] = []

    async def plain(n: int) -> int:
        log.append(f"+{n}")
        await checkpoints(3)
        log.append(f"-{n}")
        return n

    model = ScriptedModel(
        [
            [Call("plain", {"n": 1}), Call("alone", {"n": 2}), Call("plain", {"n": 3}), Call("alone", {"n": 4})],
            Say("done"),
        ]
    )
    await run(Agent("a", tools=[plain, tool(plain, name="alone", parallel=False)], model=model), "go")
    assert log == ["+1", "-1", "+2", "-2", "+3", "-3", "+4", "-4"]


# on_error --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_error_handler_answers_the_model(is_async: bool) -> None:
    def answer(ctx: RunContext[Any], error: Exception) -> Any:
        return {"call": ctx.call_id, "tool": ctx.tool_name, "error": str(error)}

    async def answer_async(ctx: RunContext[Any], error: Exception) -> Any:
        await checkpoints(2)
        return answer(ctx, error)

    async def broken() -> str:
        raise Broken("out of paper")

    output, _ = await call(tool(broken, on_error=answer_async if is_async else answer))
    assert output == ToolOutput("c", {"call": "c", "tool": "broken", "error": "out of paper"}, "failed")


async def test_an_error_handler_that_hangs_is_cut_and_the_run_fails() -> None:
    async def answer(ctx: RunContext[Any], error: Exception) -> Any:
        await anyio.sleep_forever()

    async def broken() -> str:
        raise Broken("out of paper")

    with pytest.raises(Broken, match="out of paper"):
        await call(tool(broken, on_error=answer), config=RunConfig(cleanup_grace=0.03))


async def test_an_error_without_a_message_is_told_by_its_name() -> None:
    async def broken() -> str:
        raise Broken

    assert (await call(broken))[0].output == "Error: Broken"


@pytest.mark.parametrize("policy", ["model", "raise"])
async def test_what_cannot_be_told_to_the_model_is_an_error_that_follows_the_policy(policy: Any) -> None:
    async def odd() -> object:
        return object()

    if policy == "raise":
        with pytest.raises(ToolError, match="cannot be turned into JSON"):
            await call(tool(odd, on_error=policy))
    else:
        output, result = await call(tool(odd, on_error=policy))
        assert output.status == "failed"
        assert output.text.startswith("Error: ToolOutputError: the tool returned an object")
        assert result.status == "completed"


async def test_the_error_of_a_foreign_cancellation_names_the_tool_and_the_call() -> None:
    async def foreign() -> str:
        raise anyio.get_cancelled_exc_class().__new__(anyio.get_cancelled_exc_class())

    with pytest.raises(ToolError, match="let a cancellation out") as caught:
        await call(tool(foreign, on_error="raise"))
    assert (caught.value.tool_name, caught.value.call_id) == ("foreign", "c")


async def test_arguments_that_do_not_fit_are_told_to_the_model() -> None:
    async def add(n: int) -> int:
        raise AssertionError("it must not run")

    output, result = await call(add, n="many")
    assert output.status == "failed"
    assert output.text.startswith("Error: ")
    assert "n" in output.text
    assert result.status == "completed"


async def test_a_call_that_is_called_off_while_its_error_is_handled_takes_nothing_with_it() -> None:
    handling, go_on = anyio.Event(), anyio.Event()

    async def answer(ctx: RunContext[Any], error: Exception) -> str:
        handling.set()
        await go_on.wait()
        return "handled"

    async def broken() -> str:
        raise Broken

    model = ScriptedModel([Call("broken", call_id="c"), Say("done")])
    async with open_run(Agent("a", tools=[tool(broken, on_error=answer)], model=model), "go") as live:
        await handling.wait()
        live.interrupt_tool("c", "no more")
        go_on.set()
        result = await live.wait()
    check_ended(live, model)
    assert (result.status, result.output) == ("completed", "done")
    assert result.teardown.clean


async def test_an_error_that_comes_with_a_foreign_cancellation_is_kept() -> None:
    async def both() -> str:
        cancelled = anyio.get_cancelled_exc_class()
        raise BaseExceptionGroup("both", [cancelled.__new__(cancelled), Broken("out of paper")])

    output, result = await call(both)
    assert output.status == "failed"
    assert "let a cancellation out" in output.text
    assert result.teardown.cleanup_errors == ["tool both (c): Broken: out of paper"]


async def test_an_error_that_comes_with_a_native_cancellation_is_kept(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")

    async def both() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError as exc:
            raise BaseExceptionGroup("both", [exc, Broken("out of paper")]) from None
        return "never"

    output, result = await call(both)
    assert output == ToolOutput("c", "Cancelled before it finished: its task was cancelled.", "cancelled")
    assert result.teardown.cleanup_errors == ["tool both (c): Broken: out of paper"]


@pytest.mark.parametrize("how", ["returned", "raised", "foreign", "native"])
async def test_a_registered_cleanup_that_hangs_is_named_however_the_tool_ended(
    how: str, anyio_backend_name: str
) -> None:
    if how == "native" and anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")

    async def work(ctx: RunContext[Any]) -> str:
        ctx.on_cleanup(anyio.sleep_forever)
        if how == "raised":
            raise Broken
        if how == "foreign":
            raise anyio.get_cancelled_exc_class().__new__(anyio.get_cancelled_exc_class())
        if how == "native":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await anyio.sleep_forever()
        return "returned"

    output, result = await call(work, config=RunConfig(cleanup_grace=0.02))
    assert output.status == {"returned": "completed", "native": "cancelled"}.get(how, "failed")
    assert result.teardown.expired_graces == ["cleanup of tool work (c)", "tool work (c)"]


async def test_a_context_that_a_tool_has_entered_is_left_as_a_with_block_leaves_it() -> None:
    left: list[tuple[Any, ...]] = []

    class Entered:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *how: object) -> None:
            left.append(how)

    error = Broken("out of paper")

    async def enter(ctx: RunContext[Any], fail: bool) -> str:
        await ctx.enter_async_context(Entered())
        if fail:
            raise error
        return "entered"

    assert (await call(enter, fail=False))[0].output == "entered"
    assert left == [(None, None, None)]
    assert (await call(enter, fail=True))[0].status == "failed"
    kind, raised, traceback = left[1]
    assert (kind, raised) == (Broken, error)
    assert traceback is not None
    assert traceback is error.__traceback__


# on_cancel and the hooks of tool objects --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["interrupt", "interrupt_tool", "timeout", "now"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_on_cancel_is_called_once_shielded_and_finishes(how: str, is_async: bool) -> None:
    called: list[str] = []
    started = anyio.Event()

    def on_cancel_sync(ctx: RunContext[Any]) -> None:
        called.append(ctx.call_id)

    async def on_cancel(ctx: RunContext[Any]) -> None:
        await checkpoints(5)
        called.append(ctx.call_id)

    async def slow() -> str:
        started.set()
        await anyio.sleep_forever()
        return "never"

    timeout = 0.05 if how == "timeout" else None
    slow_tool = tool(slow, on_cancel=on_cancel if is_async else on_cancel_sync, timeout=timeout)
    model = ScriptedModel([Call("slow", call_id="c"), Say("done")])
    async with open_run(Agent("a", tools=[slow_tool], model=model), "go", config=QUICK) as live:
        await started.wait()
        if how == "interrupt":
            live.interrupt("stop")
            live.interrupt("stop again")
        elif how == "interrupt_tool":
            live.interrupt_tool("c")
            live.interrupt_tool("c")
        elif how == "now":
            live.inject("else", deliver="now")
        await live.wait()
    check_ended(live, model)
    assert called == ["c"]


async def test_on_cancel_is_not_called_for_a_call_that_ends_by_itself_or_never_ran() -> None:
    called: list[str] = []

    async def quick() -> str:
        return "quick"

    quick_tool = tool(quick, on_cancel=lambda: called.append("quick"))
    waiting = tool(quick, name="waiting", on_cancel=lambda: called.append("waiting"), needs_approval=True)
    model = ScriptedModel([[Call("quick"), Call("waiting")], Say("done")])
    await run(Agent("a", tools=[quick_tool, waiting], model=model), "go")
    assert called == []


async def test_on_cancel_reaches_a_tool_that_shields_itself() -> None:
    started, released = anyio.Event(), anyio.Event()

    async def deaf() -> str:
        started.set()
        with anyio.CancelScope(shield=True):
            await released.wait()
        return "released"

    model = ScriptedModel([Call("deaf", call_id="c"), Say("done")])
    agent = Agent("a", tools=[tool(deaf, on_cancel=released.set)], model=model)
    async with open_run(agent, "go", config=QUICK) as live:
        await started.wait()
        live.interrupt_tool("c", "no more")
        with anyio.fail_after(5):
            result = await live.wait()
    check_ended(live, model)
    assert result.status == "completed"


@pytest.mark.parametrize("waits_in", ["a shield", "its task group"])
async def test_on_cancel_reaches_a_tool_that_does_not_notice_that_its_time_is_up(waits_in: str) -> None:
    released = anyio.Event()

    async def wait() -> None:
        with anyio.CancelScope(shield=True):
            await released.wait()

    async def deaf() -> str:
        if waits_in == "a shield":
            await wait()
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
        await anyio.sleep_forever()
        return "never"

    model = ScriptedModel([Call("deaf", call_id="c"), Say("done")])
    agent = Agent("a", tools=[tool(deaf, on_cancel=released.set, timeout=0.05)], model=model)
    async with open_run(agent, "go", config=QUICK) as live:
        with anyio.fail_after(5):
            result = await live.wait()
    check_ended(live, model)
    assert [item.status for item in result.items if isinstance(item, ToolOutput)] == ["timed_out"]


async def test_on_cancel_is_not_called_when_the_time_of_a_call_is_up_that_has_ended() -> None:
    called: list[str] = []

    async def quick() -> str:
        return "quick"

    async def slow() -> str:
        await anyio.sleep(0.1)
        return "slow"

    tools: list[Any] = [tool(quick, on_cancel=lambda: called.append("quick"), timeout=0.05), slow]
    model = ScriptedModel([[Call("quick"), Call("slow")], Say("done")])
    result = await run(Agent("a", tools=tools, model=model), "go")
    assert result.status == "completed"
    assert called == []


async def test_the_end_of_a_call_is_told_when_its_on_cancel_is_done() -> None:
    started, telling, go_on = anyio.Event(), anyio.Event(), anyio.Event()

    async def on_cancel() -> None:
        telling.set()
        await go_on.wait()

    async def slow() -> str:
        started.set()
        await anyio.sleep_forever()
        return "never"

    model = ScriptedModel([Call("slow", call_id="c"), Say("done")])
    seen: list[Event] = []
    agent = Agent("a", tools=[tool(slow, on_cancel=on_cancel)], model=model)
    async with anyio.create_task_group() as group:
        async with open_run(agent, "go", config=RunConfig(cleanup_grace=60)) as live:
            group.start_soon(watch, live, seen)
            await started.wait()
            live.interrupt_tool("c", "no more")
            await telling.wait()
            await checkpoints(10)
            assert not [event for event in seen if isinstance(event, events.ToolEnded)]
            go_on.set()
            await live.wait()
    check_ended(live, model, seen)
    assert [event.status for event in seen if isinstance(event, events.ToolEnded)] == ["cancelled"]


async def test_an_on_cancel_that_raises_or_hangs_is_reported() -> None:
    started = anyio.Event()

    async def slow() -> str:
        started.set()
        await anyio.sleep_forever()
        return "never"

    def broken() -> None:
        raise Broken("no answer")

    async def hangs() -> None:
        await anyio.sleep_forever()

    for on_cancel, errors, graces in (
        (broken, ["cancel hook of tool slow (c): Broken: no answer"], []),
        (hangs, [], ["cancel hook of tool slow (c)"]),
    ):
        started = anyio.Event()
        model = ScriptedModel([Call("slow", call_id="c")])
        agent = Agent("a", tools=[tool(slow, on_cancel=on_cancel)], model=model)
        async with open_run(agent, "go", config=RunConfig(cleanup_grace=0.05)) as live:
            await started.wait()
            live.interrupt("stop")
        result = check_ended(live, model)
        assert result.teardown.cleanup_errors == errors
        assert result.teardown.expired_graces == graces


class Machine:
    """A tool object with such methods as it is told to have."""

    name = "machine"

    def __init__(self, *methods: str) -> None:
        self.called: list[str] = []
        self.started = anyio.Event()
        for name in methods:
            setattr(self, name, lambda name=name: self.called.append(name))

    async def __call__(self) -> str:
        self.started.set()
        await anyio.sleep_forever()
        return "never"


@pytest.mark.parametrize(
    ("methods", "called"),
    [
        (("stop", "terminate", "cancel"), ["cancel"]),
        (("stop", "terminate"), ["terminate"]),
        (("stop",), ["stop"]),
        ((), []),
    ],
)
async def test_a_tool_object_gets_the_first_of_its_stop_methods_called_once(
    methods: tuple[str, ...], called: list[str]
) -> None:
    machine = Machine(*methods)
    model = ScriptedModel([Call("machine", call_id="c")])
    async with open_run(Agent("a", tools=[machine], model=model), "go", config=QUICK) as live:
        await machine.started.wait()
        live.interrupt("stop")
    result = check_ended(live, model)
    assert machine.called == called
    assert outputs(result.items)["c"].status == "cancelled"


async def test_an_async_stop_method_is_awaited_to_its_end() -> None:
    stopped: list[str] = []

    class Server:
        name = "server"
        started = anyio.Event()

        async def __call__(self) -> str:
            self.started.set()
            await anyio.sleep_forever()
            return "never"

        async def terminate(self) -> None:
            await checkpoints(5)
            stopped.append("terminated")

    server = Server()
    model = ScriptedModel([Call("server", call_id="c")])
    async with open_run(Agent("a", tools=[server], model=model), "go", config=QUICK) as live:
        await server.started.wait()
        live.interrupt("stop")
    check_ended(live, model)
    assert stopped == ["terminated"]


# isolation -------------------------------------------------------------------------------------------------------


async def test_a_tool_in_a_process_of_its_own_returns_its_value_or_fails_like_any_other() -> None:
    output, _ = await call(functions_for_processes.add, config=RunConfig(), a=2, b=3)
    assert output.output == 5
    output, result = await call(
        tool(functions_for_processes.raises, isolation="process"), config=RunConfig(), kind="value"
    )
    assert output.status == "failed"
    assert result.status == "completed"


@pytest.mark.parametrize("policy", ["model", "raise"])
async def test_what_a_process_returned_and_cannot_be_told_to_the_model_is_an_error_that_follows_the_policy(
    policy: Any,
) -> None:
    hopeless = tool(functions_for_processes.hopeless, isolation="process", on_error=policy)
    if policy == "raise":
        with pytest.raises(ToolError, match="cannot be turned into JSON"):
            await call(hopeless, config=RunConfig())
    else:
        output, result = await call(hopeless, config=RunConfig())
        assert output.status == "failed"
        assert "cannot be turned into JSON" in output.text
        assert result.status == "completed"


async def test_a_tool_in_a_process_of_its_own_is_killed_when_its_time_is_up() -> None:
    slow = tool(time_sleeper, isolation="process", timeout=1.0)
    output, result = await call(slow, config=RunConfig(cleanup_grace=5))
    assert output.status == "timed_out"
    assert result.status == "completed"


async def test_the_process_of_a_tool_is_killed_when_most_of_the_grace_is_over_so_that_it_is_gone_within_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graces: list[float] = []

    async def run_in_process(function: Any, args: Any, kwargs: Any, *, grace: float, on_killed: Any) -> str:
        graces.append(grace)
        return "done"

    monkeypatch.setattr("agentrun.tools.processes.run_in_process", run_in_process)
    sleeper = tool(time_sleeper, isolation="process")
    for grace in (2.0, 10.0):
        assert (await call(sleeper, config=RunConfig(cleanup_grace=grace)))[0].output == "done"
    assert graces == [1.6, 8.0]


async def test_a_thread_tool_does_not_hold_the_loop_up() -> None:
    release = threading.Event()

    def blocking() -> str:
        assert release.wait(10)
        return threading.current_thread().name

    model = ScriptedModel([Call("blocking", call_id="c"), Say("done")])
    async with open_run(Agent("a", tools=[blocking], model=model), "go") as live:
        async for event in live.events():
            if isinstance(event, events.ToolStarted):
                release.set()
        result = await live.wait()
    assert outputs(result.items)["c"].output != threading.current_thread().name


# is_enabled ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["static", "sync", "async"])
async def test_a_disabled_tool_is_not_offered_and_does_not_run_when_guessed(kind: str) -> None:
    ran: list[str] = []

    def secret() -> str:
        ran.append("secret")
        return "secret"

    def public() -> str:
        return "public"

    async def is_admin(ctx: RunContext[Any]) -> bool:
        await anyio.lowlevel.checkpoint()
        return bool(ctx.deps)

    condition: Any = {"static": False, "sync": lambda ctx: bool(ctx.deps), "async": is_admin}[kind]
    model = ScriptedModel([[Call("secret", call_id="s"), Call("public", call_id="p")], Say("done")])
    agent = Agent("a", tools=[tool(secret, is_enabled=condition), public], model=model)
    result = await run(agent, "go", deps=False)
    assert [spec.name for spec in model.requests[0].tools] == ["public"]
    assert ran == []
    assert outputs(result.items)["s"] == ToolOutput(
        "s", "Error: there is no tool named 'secret'. Available tools: public.", "failed"
    )
    assert outputs(result.items)["p"].output == "public"
    if kind != "static":
        model = ScriptedModel([Call("secret", call_id="s"), Say("done")])
        result = await run(agent.clone(model=model), "go", deps=True)
        assert ran == ["secret"]


async def test_a_tool_may_be_enabled_in_one_turn_and_not_in_the_next() -> None:
    ran: list[str] = []

    def once() -> str:
        ran.append("once")
        return "ran"

    model = ScriptedModel([Call("once", call_id="c1"), Call("once", call_id="c2"), Say("done")])
    result = await run(Agent("a", tools=[tool(once, is_enabled=lambda ctx: not ran)], model=model), "go")
    assert ran == ["once"]
    assert outputs(result.items)["c2"].status == "failed"


async def test_a_condition_that_raises_fails_the_run() -> None:
    def broken(ctx: Any) -> bool:
        raise Broken("no list of rights")

    agent = Agent("a", tools=[tool(lambda: 1, name="x", is_enabled=broken)], model=ScriptedModel([Say("hi")]))
    with pytest.raises(Broken, match="no list of rights"):
        await run(agent, "go")


async def test_a_tool_that_the_input_filter_took_out_does_not_run() -> None:
    from dataclasses import replace

    ran: list[str] = []

    def work() -> str:
        ran.append("work")
        return "worked"

    model = ScriptedModel([Call("work", call_id="c"), Say("done")])
    config = RunConfig(input_filter=lambda request: replace(request, tools=()))
    result = await run(Agent("a", tools=[work], model=model), "go", config=config)
    assert ran == []
    assert outputs(result.items)["c"].output == "Error: there is no tool named 'work'. Available tools: none."


# The context -----------------------------------------------------------------------------------------------------


async def test_progress_reaches_the_watchers_from_the_loop_and_from_threads() -> None:
    async def in_loop(ctx: RunContext[Any]) -> str:
        ctx.progress({"step": 1})
        return "ok"

    def in_thread(ctx: RunContext[Any]) -> str:
        ctx.progress("half")
        ctx.progress("whole")
        return "ok"

    model = ScriptedModel([[Call("in_loop", call_id="l"), Call("in_thread", call_id="t")], Say("done")])
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[in_loop, in_thread], model=model), "go") as live:
        await watch(live, seen)
    told = [(e.call_id, e.name, e.data) for e in seen if isinstance(e, events.ToolProgress)]
    assert sorted(told, key=str) == sorted(
        [("l", "in_loop", {"step": 1}), ("t", "in_thread", "half"), ("t", "in_thread", "whole")], key=str
    )


async def test_progress_that_comes_after_the_end_of_the_call_is_not_told() -> None:
    kept: list[RunContext[Any]] = []

    async def first(ctx: RunContext[Any]) -> str:
        kept.append(ctx)
        ctx.progress("in time")
        return "first"

    async def second() -> str:
        kept[0].progress("too late")
        return "second"

    model = ScriptedModel([Call("first"), Call("second"), Say("done")])
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[first, tool(second, on_error="raise")], model=model), "go") as live:
        await watch(live, seen)
        await live.wait()
    assert [event.data for event in seen if isinstance(event, events.ToolProgress)] == ["in time"]


async def test_a_tool_sees_its_run(tmp_path: Path) -> None:
    async def look(ctx: RunContext[Path]) -> str:
        assert ctx.deps is tmp_path
        assert ctx.call_id == "c"
        assert ctx.tool_name == "look"
        assert ctx.agent.name == "a"
        assert ctx.usage.requests == 1
        assert ctx.run.state().phase == "tools"
        return "looked"

    model = ScriptedModel([Call("look", call_id="c"), Say("done")])
    result = await run(Agent("a", tools=[tool(look, on_error="raise")], model=model), "go", deps=tmp_path)
    assert result.output == "done"


async def test_a_tool_that_asks_after_the_interrupt_is_told_at_once() -> None:
    started, asked = anyio.Event(), anyio.Event()

    async def patient(ctx: RunContext[Any]) -> str:
        started.set()
        await asked.wait()
        return f"stopped: {await ctx.wait_interrupted()}"

    model = ScriptedModel([Call("patient", call_id="c")])
    async with open_run(Agent("a", tools=[patient], model=model), "go") as live:
        await started.wait()
        live.interrupt("soon", mode="after_turn")
        asked.set()
        with anyio.fail_after(5):
            result = await live.wait()
    assert outputs(result.items)["c"] == ToolOutput("c", "stopped: soon")


async def test_a_tool_may_stop_by_itself_at_a_good_moment() -> None:
    started = anyio.Event()

    async def patient(ctx: RunContext[Any]) -> str:
        started.set()
        return f"stopped: {await ctx.wait_interrupted()}"

    model = ScriptedModel([Call("patient", call_id="c")])
    async with open_run(Agent("a", tools=[patient], model=model), "go") as live:
        await started.wait()
        live.interrupt("soon", mode="after_turn")
        result = await live.wait()
    assert result.status == "interrupted"
    assert outputs(result.items)["c"] == ToolOutput("c", "stopped: soon")


async def test_what_a_tool_registered_has_a_grace_of_its_own_and_no_more_after_the_tool_has_used_up_its_own() -> None:
    started = anyio.Event()

    @tool
    async def work(ctx: RunContext[Any]) -> None:
        ctx.on_cleanup(anyio.sleep_forever)
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            await anyio.sleep_forever()

    agent = Agent("a", tools=[work], model=ScriptedModel([Call("work", call_id="c")]))
    with anyio.fail_after(10):
        async with open_run(agent, "go", config=RunConfig(cleanup_grace=0.05)) as live:
            await started.wait()
            live.interrupt("stop")
            result = await live.wait()
    assert result.teardown.expired_graces == ["cleanup of tool work (c)", "tool work (c)"]
