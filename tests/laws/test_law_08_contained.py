"""Law 8: no piece of user code can take another down by accident."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pydantic
import pytest

from agentrun import Agent, RunConfig, RunContext, RunHooks, RunResult, ToolError, ToolOutput, Trip, open_run, run, tool
from agentrun.errors import AgentRunError, CallCancelled, ModelError
from agentrun.events import Event, RunEnded
from agentrun.runtime.backend import running_backend
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Fail, Say, ScriptedModel

from .support import check_ended, watch

GRACE = RunConfig(cleanup_grace=0.2)

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire


def outputs(items: Any) -> dict[str, ToolOutput]:
    return {item.call_id: item for item in items if isinstance(item, ToolOutput)}


class Siblings:
    """Two good tools around a bad one: all three are at work at once, and the bad one misbehaves then."""

    def __init__(self) -> None:
        self.bad_done = anyio.Event()
        self.both_started = anyio.Event()
        self.started = 0
        self.cleaned: list[str] = []

    async def good(self, name: str) -> str:
        self.started += 1
        if self.started == 2:
            self.both_started.set()
        try:
            await self.bad_done.wait()
            await anyio.lowlevel.checkpoint()
            return f"{name} is fine"
        finally:
            await anyio.lowlevel.checkpoint()
            self.cleaned.append(name)

    def tools(self, bad: Callable[..., Any], **options: Any) -> list[Any]:
        async def left() -> str:
            return await self.good("left")

        async def right() -> str:
            return await self.good("right")

        async def middle(ctx: RunContext[Any]) -> Any:
            await self.both_started.wait()
            try:
                return await bad(ctx)
            finally:
                self.bad_done.set()

        return [left, tool(middle, **options), right]


def three_calls() -> list[Call]:
    return [Call("left", call_id="l"), Call("middle", call_id="m"), Call("right", call_id="r")]


async def run_siblings(bad: Callable[..., Any], **options: Any) -> tuple[Any, dict[str, ToolOutput], list[Event]]:
    siblings = Siblings()
    model = ScriptedModel([three_calls(), Say("done")])
    agent = Agent("a", tools=siblings.tools(bad, **options), model=model)
    seen: list[Event] = []
    async with open_run(agent, "go", config=GRACE) as live:
        await watch(live, seen)
    result = check_ended(live, model, seen)
    assert sorted(siblings.cleaned) == ["left", "right"]
    return result, outputs(result.items), seen


def assert_siblings_unharmed(got: dict[str, ToolOutput]) -> None:
    assert got["l"] == ToolOutput("l", "left is fine")
    assert got["r"] == ToolOutput("r", "right is fine")


# A tool that raises, under each policy ---------------------------------------------------------------------------


async def raises(ctx: RunContext[Any]) -> str:
    await anyio.lowlevel.checkpoint()
    raise ValueError("out of paper")


async def test_one_of_three_raises_and_the_model_is_told() -> None:
    result, got, _ = await run_siblings(raises)
    assert result.status == "completed"
    assert got["m"] == ToolOutput("m", "Error: ValueError: out of paper", "failed")
    assert_siblings_unharmed(got)
    assert result.errors == ()
    assert result.teardown.clean


async def test_one_of_three_raises_and_its_handler_answers() -> None:
    async def answer(ctx: RunContext[Any], error: Exception) -> dict[str, str]:
        await anyio.lowlevel.checkpoint()
        return {"sorry": f"{ctx.call_id}: {error}"}

    result, got, _ = await run_siblings(raises, on_error=answer)
    assert result.status == "completed"
    assert got["m"] == ToolOutput("m", {"sorry": "m: out of paper"}, "failed")
    assert_siblings_unharmed(got)


async def test_one_of_three_raises_and_its_policy_fails_the_run() -> None:
    siblings = Siblings()
    siblings.bad_done = anyio.Event()  # the good ones wait for ever now
    model = ScriptedModel([three_calls()])

    async def bad() -> str:
        await siblings.both_started.wait()
        raise ValueError("out of paper")

    left, _, right = siblings.tools(raises)
    agent = Agent("a", tools=[left, tool(bad, name="middle", on_error="raise"), right], model=model)
    seen: list[Event] = []
    with pytest.raises(ValueError, match="^out of paper$"):
        async with open_run(agent, "go", config=GRACE) as live:
            await watch(live, seen)
    result = check_ended(live, model, seen)
    assert result.status == "failed"
    assert isinstance(result.error, ValueError)
    assert sorted(siblings.cleaned) == ["left", "right"]
    got = outputs(result.items)
    assert got["m"] == ToolOutput("m", "Error: ValueError: out of paper", "failed")
    assert got["l"].status == got["r"].status == "cancelled"
    assert "out of paper" in got["l"].text
    assert result.teardown.cancelled_tools == ["left (l)", "right (r)"]
    assert result.teardown.clean


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


MUTE = "Unprintable: (it cannot say what is wrong: RuntimeError in its __str__)"


async def raises_mutely(ctx: RunContext[Any]) -> str:
    await anyio.lowlevel.checkpoint()
    raise Unprintable


async def test_an_error_that_cannot_be_printed_is_an_error_like_any_other() -> None:
    result, got, _ = await run_siblings(raises_mutely)
    assert result.status == "completed"
    assert_siblings_unharmed(got)
    assert got["m"] == ToolOutput("m", f"Error: {MUTE}", "failed")


async def test_an_error_that_cannot_be_printed_can_fail_the_run() -> None:
    agent = Agent("a", tools=[tool(raises_mutely, on_error="raise")], model=ScriptedModel([Call("raises_mutely")]))
    with pytest.raises(Unprintable):
        await run(agent, "go")
    async with open_run(agent, "go", config=RunConfig(model=ScriptedModel([Fail(Unprintable())]))) as live:
        events = [event async for event in live.events()]
        with pytest.raises(Unprintable):
            await live.wait()
    assert events[-1] == RunEnded("failed", MUTE)


async def test_a_cleanup_whose_error_cannot_be_printed_is_in_the_report() -> None:
    started = anyio.Event()

    async def cleans() -> None:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            raise Unprintable

    async with open_run(Agent("a", tools=[cleans], model=ScriptedModel([Call("cleans", call_id="c")])), "go") as live:
        await started.wait()
        live.interrupt()
        result = await live.wait()
    assert result.status == "interrupted"
    assert result.teardown.cleanup_errors == [f"tool cleans (c): {MUTE}"]


async def test_a_handler_that_raises_fails_the_run_with_its_own_error() -> None:
    def answer(ctx: RunContext[Any], error: Exception) -> str:
        raise LookupError("no answer") from error

    siblings = Siblings()
    agent = Agent("a", tools=siblings.tools(raises, on_error=answer), model=ScriptedModel([three_calls()]))
    with pytest.raises(LookupError, match="no answer") as caught:
        await run(agent, "go", config=GRACE)
    assert isinstance(caught.value.__cause__, ValueError)


async def test_a_tool_error_fails_the_run_whatever_the_policy() -> None:
    async def bad(ctx: RunContext[Any]) -> str:
        raise ToolError("the printer burns")

    siblings = Siblings()
    agent = Agent("a", tools=siblings.tools(bad, retries=3), model=ScriptedModel([three_calls()]))
    with pytest.raises(ToolError, match="the printer burns") as caught:
        await run(agent, "go", config=GRACE)
    assert caught.value.result is not None
    assert caught.value.result.status == "failed"


async def test_a_group_that_a_tool_raises_is_one_failure_like_any_other() -> None:
    async def bad(ctx: RunContext[Any]) -> str:
        async def child(name: str) -> None:
            await anyio.lowlevel.checkpoint()
            raise ValueError(name)

        async with anyio.create_task_group() as group:
            group.start_soon(child, "one")
            group.start_soon(child, "two")
        return "never"

    result, got, _ = await run_siblings(bad)
    assert got["m"].status == "failed"
    assert_siblings_unharmed(got)


# Cancellations that nobody asked for -----------------------------------------------------------------------------


async def test_a_foreign_cancellation_let_out_by_a_tool_is_its_own_error() -> None:
    async def bad(ctx: RunContext[Any]) -> str:
        if asyncio_is_running():
            raise asyncio.CancelledError
        foreign: BaseException | None = None
        with anyio.move_on_after(0):
            try:
                await anyio.sleep_forever()
            except BaseException as exc:
                foreign = exc
                raise
        assert foreign is not None
        raise foreign

    result, got, _ = await run_siblings(bad)
    assert result.status == "completed"
    assert got["m"].status == "failed"
    assert "let a cancellation out" in got["m"].text
    assert_siblings_unharmed(got)


async def test_a_foreign_cancellation_follows_the_error_policy_of_its_tool() -> None:
    async def bad(ctx: RunContext[Any]) -> str:
        raise anyio.get_cancelled_exc_class().__new__(anyio.get_cancelled_exc_class())

    agent = Agent("a", tools=Siblings().tools(bad, on_error="raise"), model=ScriptedModel([three_calls()]))
    with pytest.raises(ToolError, match="let a cancellation out") as caught:
        await run(agent, "go", config=GRACE)
    assert caught.value.call_id == "m"


@pytest.mark.parametrize("moment", ["before an await", "before its return", "in its cleanup", "swallowed"])
async def test_a_tool_that_cancels_its_own_task_natively_harms_nobody(moment: str, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")

    async def bad(ctx: RunContext[Any]) -> str:
        task = asyncio.current_task()
        assert task is not None
        if moment == "in its cleanup":
            try:
                return "returned"
            finally:
                task.cancel()
        task.cancel()
        if moment == "before an await":
            await anyio.sleep(0)
        elif moment == "swallowed":
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                pass
        return "returned"

    ended: list[str] = []

    class Hooks(RunHooks):
        async def on_tool_end(self, ctx: Any, call: Any, output: Any) -> None:
            await anyio.sleep(0)
            await anyio.sleep(0)
            ended.append(call.call_id)

    siblings = Siblings()
    model = ScriptedModel([three_calls(), Say("done")])
    agent = Agent("a", tools=siblings.tools(bad), model=model)
    seen: list[Event] = []
    async with open_run(agent, "go", config=GRACE, hooks=Hooks()) as live:
        await watch(live, seen)
        result = await live.wait()
    assert check_ended(live, model, seen) is result
    assert result.status == "completed"
    got = outputs(result.items)
    assert_siblings_unharmed(got)
    assert sorted(ended) == ["l", "m", "r"]
    if moment == "before an await":
        assert got["m"].status == "cancelled"
        assert "its task was cancelled" in got["m"].text
    else:
        assert got["m"] == ToolOutput("m", "returned")


@pytest.mark.parametrize("where", ["approval", "guardrail", "hook", "on_cancel", "stream"])
async def test_native_self_cancellation_outside_tools_stays_where_it_is(where: str, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")

    def cancel_myself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    def approval(ctx: RunContext[Any], arguments: Any) -> bool:
        if where == "approval":
            cancel_myself()
        return False

    def on_cancel() -> None:
        if where == "on_cancel":
            cancel_myself()

    async def work() -> str:
        return "worked"

    async def slow() -> str:
        await anyio.sleep_forever()
        return "never"

    async def guard(items: Any) -> None:
        if where == "guardrail":
            cancel_myself()

    class Hooks(RunHooks):
        async def on_model_end(self, ctx: Any, status: str) -> None:
            if where == "hook":
                cancel_myself()

    model = ScriptedModel([[Call("work"), Call("slow")], Say("done")])
    agent = Agent(
        "a",
        tools=[tool(work, needs_approval=approval), tool(slow, timeout=0.05, on_cancel=on_cancel)],
        model=SelfCancelling(model, cancel_myself) if where == "stream" else model,
        input_guardrails=[guard],
        hooks=Hooks(),
    )
    seen: list[Event] = []
    async with open_run(agent, "go", config=GRACE) as live:
        await watch(live, seen)
        result = await live.wait()
    check_ended(live, model, seen)
    assert result.status == "completed"
    assert [item.status for item in result.items if isinstance(item, ToolOutput)] == ["completed", "timed_out"]
    await anyio.sleep(0)  # nothing is left pending in this task either


class SelfCancelling:
    """A model whose stream cancels its task natively when all has been said."""

    def __init__(self, model: ScriptedModel, cancel_myself: Callable[[], None]) -> None:
        self._model = model
        self._cancel_myself = cancel_myself

    def stream(self, request: Any) -> Any:
        return _Closing(self._model.stream(request), self._cancel_myself)


class _Closing:
    def __init__(self, inner: Any, then: Callable[[], None]) -> None:
        self._inner = inner
        self._then = then

    async def __aenter__(self) -> Any:
        return await self._inner.__aenter__()

    async def __aexit__(self, *exc: object) -> Any:
        try:
            return await self._inner.__aexit__(*exc)
        finally:
            self._then()


async def test_call_cancelled_raised_out_of_turn_is_the_tools_own_error() -> None:
    async def bad(ctx: RunContext[Any]) -> str:
        raise CallCancelled("by hand")

    result, got, _ = await run_siblings(bad)
    assert result.status == "completed"
    assert got["m"].status == "failed"
    assert_siblings_unharmed(got)


async def test_a_cancellation_of_another_event_loop_is_the_tools_own_error() -> None:
    async def bad(ctx: RunContext[Any]) -> str:
        raise asyncio.CancelledError  # on trio, too

    result, got, _ = await run_siblings(bad)
    assert result.status == "completed"
    assert got["m"].status == "failed"
    assert "let a cancellation out" in got["m"].text
    assert_siblings_unharmed(got)


async def run_with_validator(error: BaseException) -> tuple[RunResult[Any], list[Event], BaseException | None]:
    """A run whose model calls a tool twice, and an argument of the first call makes its validator raise ``error``."""

    def validate(value: int) -> int:
        if value:
            raise error
        return value

    async def work(number: Annotated[int, pydantic.AfterValidator(validate)]) -> str:
        await anyio.lowlevel.checkpoint()
        return "worked"

    model = ScriptedModel(
        [[Call("work", {"number": 1}, call_id="bad"), Call("work", {"number": 0}, call_id="good")], Say("done")]
    )
    seen: list[Event] = []
    raised: BaseException | None = None
    try:
        async with open_run(Agent("a", tools=[work], model=model), "go") as live:
            await watch(live, seen)
    except BaseException as exc:
        raised = exc
    return check_ended(live, model, seen), seen, raised


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        CallCancelled("by hand"),
        BaseExceptionGroup("g", [ValueError(), asyncio.CancelledError()]),
    ],
    ids=repr,
)
async def test_a_cancellation_out_of_a_validator_is_the_error_of_that_call(error: BaseException) -> None:
    result, _, raised = await run_with_validator(error)
    assert (result.status, raised) == ("completed", None)
    got = outputs(result.items)
    assert (got["bad"].status, got["good"].output) == ("failed", "worked")
    assert got["bad"].text.startswith("Error: the arguments could not be validated: ")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Odd("odd")], ids=repr)
async def test_an_exit_out_of_a_validator_fails_the_run_as_itself(error: BaseException) -> None:
    result, _, raised = await run_with_validator(error)
    assert result.status == "failed"
    assert raised is error
    got = outputs(result.items)
    assert (got["bad"].status, got["good"].status) == ("failed", "cancelled")


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyError("no"), Odd("odd")], ids=repr)
async def test_what_the_validator_of_an_output_lets_out_fails_the_run_and_the_answer_is_stored(
    error: BaseException,
) -> None:
    def validate(value: int) -> int:
        raise error

    agent = Agent("a", model=ScriptedModel([Say("5")]), output_type=Annotated[int, pydantic.AfterValidator(validate)])
    session = MemorySession()
    raised: BaseException | None = None
    try:
        async with open_run(agent, "go", session=session) as live:
            await live.wait()
    except BaseException as exc:
        raised = exc
    result = check_ended(live)
    assert result.status == "failed"
    assert tuple(session.items) == result.history
    if isinstance(error, asyncio.CancelledError):
        assert str(raised) == "the output_type of agent 'a' let a cancellation out that agentrun did not ask for"
    else:
        assert raised is error


# Swallowing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("afterwards", ["nothing", "sleeps"])
async def test_a_tool_that_swallows_its_cancellation_is_reported_and_does_not_count(afterwards: str) -> None:
    started = anyio.Event()
    cleaned: list[str] = []

    async def stubborn() -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            pass
        finally:
            if afterwards == "sleeps":
                await anyio.sleep(0.01)
                await anyio.sleep(0.01)
        return "as if nothing had been"

    async def polite() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.lowlevel.checkpoint()
            cleaned.append("polite")
        return "never"

    model = ScriptedModel([[Call("stubborn", call_id="s"), Call("polite", call_id="p")]])
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[stubborn, polite], model=model), "go", config=GRACE) as live:
        async with anyio.create_task_group() as group:
            group.start_soon(watch, live, seen)
            await started.wait()
            live.interrupt("enough")
    result = check_ended(live, model, seen)
    assert result.status == "interrupted"
    assert result.teardown.swallowed_cancellations == ["tool stubborn (s)"]
    assert result.teardown.cancelled_tools == ["stubborn (s)", "polite (p)"]
    assert cleaned == ["polite"]
    got = outputs(result.items)
    assert got["s"].status == "cancelled"
    assert got["s"].text.endswith("It returned nevertheless: as if nothing had been")
    assert got["p"] == ToolOutput("p", "Cancelled before it finished: enough.", "cancelled")


async def test_a_tool_that_swallows_its_cancellation_and_goes_on_is_cut_when_its_grace_is_over() -> None:
    steps = 0
    started = anyio.Event()

    async def stubborn() -> str:
        nonlocal steps
        started.set()
        while steps < 1000:
            try:
                await anyio.sleep(3600)
            except BaseException:
                steps += 1
                if steps > 3:
                    raise
        return "never"

    model = ScriptedModel([Call("stubborn", call_id="s"), Say("done")])
    seen: list[Event] = []
    config = RunConfig(cleanup_grace=0.05)
    async with open_run(Agent("a", tools=[stubborn], model=model), "go", config=config) as live:
        async with anyio.create_task_group() as group:
            group.start_soon(watch, live, seen)
            await started.wait()
            live.interrupt_tool("s", "no more")
    result = check_ended(live, model, seen)
    assert result.status == "completed"
    assert outputs(result.items)["s"].status == "cancelled"
    assert result.teardown.expired_graces == ["tool stubborn (s)"]
    assert steps > 1


async def test_a_model_stream_that_swallows_its_cancellation_is_cut_all_the_same() -> None:
    class Stubborn:
        def stream(self, request: Any) -> Any:
            return self

        async def __aenter__(self) -> Any:
            return self._play()

        async def __aexit__(self, *exc: object) -> None:
            return None

        async def _play(self) -> Any:
            from agentrun.core.events import TextDelta
            from agentrun.items import ToolCall

            yield TextDelta("so far")
            try:
                await anyio.sleep_forever()
            except BaseException:
                pass
            yield ToolCall("c", "work", "{}")

    ran: list[str] = []

    def work() -> None:
        ran.append("work")

    seen: list[Event] = []
    async with open_run(Agent("a", tools=[work], model=Stubborn()), "go", config=GRACE) as live:
        async for event in live.events():
            seen.append(event)
            if type(event).__name__ == "TextDelta":
                live.interrupt("stop")
    result = check_ended(live, None, seen)
    assert result.status == "interrupted"
    assert result.text == "so far"
    assert ran == []
    assert result.teardown.swallowed_cancellations == ["model Stubborn"]


async def test_a_guardrail_that_swallows_its_cancellation_never_lets_anything_pass() -> None:
    async def stubborn(items: Any) -> None:
        try:
            await anyio.sleep_forever()
        except BaseException:
            pass

    from agentrun import InputGuardrailTripped, input_guardrail

    guard = input_guardrail(timeout=0.05)(stubborn)
    agent = Agent("a", input_guardrails=[guard], model=ScriptedModel([Say("hi")]))
    with pytest.raises(InputGuardrailTripped, match=r"did not answer within 0\.05 seconds") as caught:
        await run(agent, "go", config=GRACE)
    assert caught.value.result is not None
    assert caught.value.result.teardown.swallowed_cancellations == ["input guardrail stubborn"]


# Cleanup that fails ----------------------------------------------------------------------------------------------


async def test_a_cleanup_that_raises_is_kept_and_nobody_else_notices() -> None:
    started = anyio.Event()
    cleaned: list[str] = []

    async def clumsy() -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("cannot close")

    async def polite() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            cleaned.append("polite")
        return "never"

    model = ScriptedModel([[Call("clumsy", call_id="c"), Call("polite", call_id="p")]])
    seen: list[Event] = []
    async with open_run(Agent("a", tools=[clumsy, polite], model=model), "go", config=GRACE) as live:
        async with anyio.create_task_group() as group:
            group.start_soon(watch, live, seen)
            await started.wait()
            live.interrupt("enough")
    result = check_ended(live, model, seen)
    assert result.status == "interrupted"
    assert cleaned == ["polite"]
    assert result.teardown.cleanup_errors == ["tool clumsy (c): OSError: cannot close"]
    assert [type(error) for error in result.errors] == [OSError]
    assert {output.status for output in outputs(result.items).values()} == {"cancelled"}


async def test_a_cancelled_tool_whose_cleanup_raises_is_not_tried_again() -> None:
    attempts = 0
    started = anyio.Event()

    async def flaky() -> str:
        nonlocal attempts
        attempts += 1
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("cannot close")

    model = ScriptedModel([Call("flaky", call_id="f")])
    async with open_run(Agent("a", tools=[tool(flaky, retries=5)], model=model), "go", config=GRACE) as live:
        await started.wait()
        live.interrupt("enough")
    check_ended(live, model)
    assert attempts == 1


async def test_one_registered_cleanup_that_raises_does_not_keep_the_others_from_running() -> None:
    cleaned: list[str] = []

    async def work(ctx: RunContext[Any]) -> str:
        async def slow(name: str) -> None:
            await anyio.lowlevel.checkpoint()
            cleaned.append(name)

        def broken() -> None:
            raise OSError("cannot close")

        ctx.on_cleanup(lambda: slow("first"))
        ctx.on_cleanup(broken)
        ctx.on_cleanup(lambda: slow("last"))
        return "worked"

    result = await run(Agent("a", tools=[work], model=ScriptedModel([Call("work", call_id="w"), Say("done")])), "go")
    assert cleaned == ["last", "first"]
    assert outputs(result.items)["w"].output == "worked"
    assert result.teardown.cleanup_errors == ["cleanup of tool work (w): OSError: cannot close"]


async def test_a_value_that_is_not_json_fails_its_own_call_only() -> None:
    async def bad(ctx: RunContext[Any]) -> object:
        return object()

    result, got, _ = await run_siblings(bad)
    assert result.status == "completed"
    assert got["m"].status == "failed"
    assert_siblings_unharmed(got)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_an_exit_out_of_a_tool_ends_the_run_and_siblings_are_torn_down_in_order(
    exception: type[BaseException],
) -> None:
    siblings = Siblings()
    siblings.bad_done = anyio.Event()

    async def bad() -> str:
        await siblings.both_started.wait()
        raise exception

    left, _, right = siblings.tools(raises)
    model = ScriptedModel([three_calls()])
    seen: list[Event] = []
    with pytest.raises(exception):
        async with open_run(Agent("a", tools=[left, tool(bad, name="middle"), right], model=model), "go") as live:
            await watch(live, seen)
    result = check_ended(live, model, seen)
    assert result.status == "failed"
    assert sorted(siblings.cleaned) == ["left", "right"]


# Others than tools -----------------------------------------------------------------------------------------------


async def test_hooks_that_raise_or_let_cancellations_out_touch_nothing() -> None:
    class Broken(RunHooks):
        async def on_run_start(self, ctx: Any) -> None:
            raise ValueError("run start")

        async def on_run_end(self, ctx: Any, result: Any) -> None:
            raise ValueError("run end")

        async def on_model_start(self, ctx: Any, request: Any) -> None:
            raise ValueError("model start")

        async def on_model_end(self, ctx: Any, status: str) -> None:
            raise ValueError("model end")

        async def on_tool_start(self, ctx: Any, call: Any) -> None:
            raise ValueError("tool start")

        async def on_tool_end(self, ctx: Any, call: Any, output: Any) -> None:
            raise ValueError("tool end")

    async def work() -> str:
        return "worked"

    model = ScriptedModel([Call("work"), Say("done")])
    result = await run(Agent("a", tools=[work], model=model), "go", hooks=Broken())
    assert result.status == "completed"
    assert result.output == "done"
    said = {str(error) for error in result.errors}
    assert said == {"run start", "run end", "model start", "model end", "tool start", "tool end"}


@pytest.mark.parametrize("of_another_loop", [False, True])
async def test_a_stream_that_lets_a_foreign_cancellation_out_fails_with_a_model_error(of_another_loop: bool) -> None:
    cancelled = asyncio.CancelledError if of_another_loop else anyio.get_cancelled_exc_class()
    from agentrun.testing import Fail

    model = ScriptedModel([[Say("so far"), Fail(cancelled.__new__(cancelled))]])
    seen: list[Event] = []
    with pytest.raises(ModelError, match="let a cancellation out"):
        async with open_run(Agent("a", model=model), "go") as live:
            await watch(live, seen)
    result = check_ended(live, model, seen)
    assert result.status == "failed"
    assert result.text == "so far"


@pytest.mark.parametrize("of_another_loop", [False, True])
async def test_a_guardrail_that_lets_a_foreign_cancellation_out_fails_the_run_by_name(of_another_loop: bool) -> None:
    async def guard(items: Any) -> Trip | None:
        cancelled = asyncio.CancelledError if of_another_loop else anyio.get_cancelled_exc_class()
        raise cancelled.__new__(cancelled)

    agent = Agent("a", input_guardrails=[guard], model=ScriptedModel([Say("hi")]))
    with pytest.raises(AgentRunError, match="input guardrail guard let a cancellation out"):
        await run(agent, "go")


def asyncio_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# Scopes that user code leaves open --------------------------------------------------------------------------------


class LeftOpen:
    """User code that enters a scope or a task group, as a client may do inside, and goes away without leaving it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.started = anyio.Event()
        self.child_ended = False
        self.kept: list[Any] = []

    async def enter(self) -> None:
        if self.kind == "scope":
            scope = anyio.CancelScope()
            scope.__enter__()
            self.kept.append(scope)
            return
        group = anyio.create_task_group()
        await group.__aenter__()
        self.kept.append(group)
        if self.kind == "task group at work":
            group.start_soon(self._child)
            await self.started.wait()

    async def _child(self) -> None:
        self.started.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.child_ended = True


KINDS = ["scope", "task group", "task group at work"]
TOLD = (
    r"has entered a cancel scope or a task group \(a client may have one inside\) and left it open\. "
    r"Leave it in the same call, or enter it with `await ctx\.enter_async_context\(\.\.\.\)`; what shall live "
    "longer is opened around the run$"
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["alone", "beside others", "with a hook", "raising", "cancelled"])
@pytest.mark.parametrize("waits", [True, False], ids=["waits", "does not wait"])
async def test_a_tool_that_leaves_a_scope_open_fails_the_run_and_harms_no_other(
    kind: str, place: str, waits: bool
) -> None:
    left = LeftOpen(kind)
    siblings = Siblings()

    async def bad(ctx: RunContext[Any]) -> str:
        await left.enter()
        if place == "raising":
            raise ValueError("and it raises, too")
        if place == "cancelled":
            ctx.run.interrupt_tool(ctx.call_id)
            await anyio.sleep_forever()
        return "opened"

    async def alone(ctx: RunContext[Any]) -> str:
        return await bad(ctx)

    options: dict[str, Any] = {"on_cancel": lambda: None} if place == "with a hook" else {}
    only = place == "alone"
    model = ScriptedModel([Call("alone", call_id="m") if only else three_calls(), Say("never")])
    agent = Agent("a", tools=[alone] if only else siblings.tools(bad, **options), model=model)
    with anyio.fail_after(10):
        with pytest.raises(AgentRunError, match=rf"^tool \w+ \(m\) {TOLD}") as caught:
            async with open_run(agent, "go", config=GRACE) as live:
                if waits:
                    await live.wait()
                while live.result is None:  # the block may be cancelled here, as that of a task group is
                    await anyio.lowlevel.checkpoint()
    result = check_ended(live, model)
    assert result.status == "failed"
    assert result.error is caught.value
    assert result.teardown.cleanup_errors == []  # what it raised was its end, which the model has been told
    if not only:
        assert sorted(siblings.cleaned) == ["left", "right"]
    assert left.child_ended is (kind == "task group at work")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_block_that_is_cancelled_because_of_a_scope_left_open_says_so_without_a_timeout_around_it(
    kind: str,
) -> None:
    left = LeftOpen(kind)

    async def bad() -> str:
        await left.enter()
        return "opened"

    async def block() -> None:
        async with open_run(agent, "go", config=GRACE) as live:
            while live.result is None:
                await anyio.lowlevel.checkpoint()

    agent = Agent("a", tools=[bad], model=ScriptedModel([Call("bad", call_id="m"), Say("never")]))
    with pytest.raises(AgentRunError, match=rf"^tool bad \(m\) {TOLD}"):
        await block()


def leaves_open_in_its_cleanup(kind: str, started: anyio.Event) -> Callable[[], Awaitable[str]]:
    """A tool that works until it is stopped, and then enters a scope that it does not leave."""
    left = LeftOpen(kind)

    async def bad() -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            await left.enter()
        return "never"

    return bad


@pytest.mark.parametrize("kind", KINDS)
async def test_the_error_of_a_block_goes_on_though_a_scope_was_left_open_in_its_run(kind: str) -> None:
    started = anyio.Event()
    problem = ValueError("of the block")

    bad = leaves_open_in_its_cleanup(kind, started)
    model = ScriptedModel([Call("bad", call_id="m"), Say("never")])
    with anyio.fail_after(10):
        with pytest.raises(ValueError) as caught:
            async with open_run(Agent("a", tools=[bad], model=model), "go", config=GRACE) as live:
                await started.wait()
                raise problem
    assert caught.value is problem
    result = check_ended(live, model)
    assert result.status == "interrupted"
    assert any(re.search(TOLD, str(error)) for error in result.errors), result.errors


@pytest.mark.parametrize("kind", KINDS)
async def test_a_block_that_is_cancelled_from_outside_stays_so_though_a_scope_was_left_open_in_its_run(
    kind: str,
) -> None:
    started = anyio.Event()
    bad = leaves_open_in_its_cleanup(kind, started)
    model = ScriptedModel([Call("bad", call_id="m"), Say("never")])
    with anyio.fail_after(10):
        with anyio.CancelScope() as outside:
            async with open_run(Agent("a", tools=[bad], model=model), "go", config=GRACE) as live:
                await started.wait()
                outside.cancel()
                await anyio.sleep_forever()
    assert outside.cancelled_caught
    result = check_ended(live, model)
    assert result.status == "cancelled"
    assert any(re.search(TOLD, str(error)) for error in result.errors), result.errors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("only", [True, False])
async def test_a_scope_left_open_is_found_with_versions_of_anyio_and_trio_that_keep_their_scopes_elsewhere(
    kind: str, only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unknown(_: object) -> tuple[None, str]:
        asked.append("where it is")
        return None, "not_there"

    monkeypatch.setattr(running_backend(), "innermost", unknown)
    left = LeftOpen(kind)

    async def bad() -> str:
        await left.enter()
        return "opened"

    async def good() -> str:
        return "done"

    calls = [Call("bad", call_id="m")] if only else [Call("bad", call_id="m"), Call("good")]
    model = ScriptedModel([Call("good"), calls, Say("never")])
    with anyio.fail_after(10):
        with pytest.raises(AgentRunError, match=rf"^tool bad \(m\) {TOLD}"):
            async with open_run(Agent("a", tools=[bad, good], model=model), "go", config=GRACE) as live:
                while live.result is None:
                    await anyio.lowlevel.checkpoint()
    result = check_ended(live, model)
    assert [item.status for item in result.items if isinstance(item, ToolOutput)][0] == "completed"
    assert asked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["hook", "stream", "guardrail", "cleanup", "session"])
async def test_other_user_code_that_leaves_a_scope_open_fails_the_run(kind: str, place: str) -> None:
    left = LeftOpen(kind)

    async def work(ctx: RunContext[Any]) -> str:
        if place == "cleanup":
            ctx.on_cleanup(left.enter)
        return "worked"

    told: list[str] = []

    async def guard(items: Any) -> None:
        if place == "guardrail":
            await left.enter()
        elif place == "hook":
            try:
                await anyio.sleep_forever()
            finally:  # so that the driver has something to wait for at the end
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()

    class Hooks(RunHooks):
        async def on_model_end(self, ctx: Any, status: str) -> None:
            if place == "hook":
                await left.enter()

        async def on_run_end(self, ctx: Any, result: Any) -> None:
            await anyio.lowlevel.checkpoint()
            told.append(result.status)

    class Model(ScriptedModel):
        def stream(self, request: Any) -> Any:
            inner = super().stream(request)

            @contextlib.asynccontextmanager
            async def opened() -> Any:
                async with inner as events:
                    if place == "stream":
                        await left.enter()
                    yield events

            return opened()

    class Store(MemorySession):
        async def append(self, items: Any) -> None:
            await super().append(items)
            if place == "session":
                await left.enter()

    model = Model([Call("work"), Say("done")])
    agent = Agent("a", tools=[work], model=model, hooks=Hooks(), input_guardrails=[guard])
    with anyio.fail_after(10):
        with pytest.raises(AgentRunError, match=rf"^(hook|model|session|input guardrail|tool) \w.* {TOLD}"):
            async with open_run(agent, "go", config=GRACE, session=Store()) as live:
                await live.wait()
    assert told == ["failed"]
    assert check_ended(live, model).status == "failed"
    assert left.child_ended is (kind == "task group at work")
