"""Being told what a run does: each start has its end, and no hook decides what happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from laws.support import check_ended, checkpoints

from agentrun import (
    Agent,
    InputGuardrailTripped,
    RunConfig,
    RunHooks,
    ToolOutput,
    Trip,
    UserError,
    events,
    open_run,
    run,
    tool,
)
from agentrun.testing import Call, Fail, Hang, Say, ScriptedModel

pytestmark = pytest.mark.agentrun_virtual_time  # a busy machine must not make a grace expire


class Broken(Exception):
    pass


class Log(RunHooks):
    """Writes down what it is told."""

    def __init__(self, log: list[str] | None = None, name: str = "") -> None:
        self.log = log if log is not None else []
        self.name = name

    def tell(self, what: str) -> None:
        self.log.append(f"{self.name}{what}")

    async def on_run_start(self, ctx: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.tell(f"run start {ctx.agent.name}")

    async def on_run_end(self, ctx: Any, result: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.tell(f"run end {result.status}")

    async def on_model_start(self, ctx: Any, request: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.tell(f"model start {len(request.items)}")

    async def on_model_end(self, ctx: Any, status: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.tell(f"model end {status}")

    async def on_tool_start(self, ctx: Any, call: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.tell(f"tool start {call.name} {ctx.call_id}")

    async def on_tool_end(self, ctx: Any, call: Any, output: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.tell(f"tool end {call.name} {output.status}")

    def check(self) -> None:
        """Each start is followed by its end."""
        for kind in ("run", "model", "tool"):
            starts = sum(line.startswith(f"{self.name}{kind} start") for line in self.log)
            ends = sum(line.startswith(f"{self.name}{kind} end") for line in self.log)
            assert starts == ends, self.log


async def work() -> str:
    return "worked"


async def test_hooks_are_told_of_all_a_run_does() -> None:
    hooks = Log()
    model = ScriptedModel([Call("work", call_id="c"), Say("done")])
    await run(Agent("a", tools=[work], model=model), "go", hooks=hooks)
    assert hooks.log == [
        "run start a",
        "model start 1",
        "model end completed",
        "tool start work c",
        "tool end work completed",
        "model start 3",
        "model end completed",
        "run end completed",
    ]


async def test_the_hooks_of_the_run_come_before_those_of_the_agent() -> None:
    log: list[str] = []
    agent = Agent("a", model=ScriptedModel([Say("hi")]), hooks=Log(log, "agent "))
    await run(agent, "go", hooks=[Log(log, "one "), Log(log, "two ")])
    assert log[:3] == ["one run start a", "two run start a", "agent run start a"]
    assert sorted(log[-3:]) == sorted(["one run end completed", "two run end completed", "agent run end completed"])


@pytest.mark.parametrize("steps", range(40))
async def test_each_start_has_its_end_wherever_the_run_is_interrupted(steps: int) -> None:
    log: list[str] = []
    first, second = Log(log, "1 "), Log(log, "2 ")
    model = ScriptedModel([[Say("hm", chunks=2), Call("work", call_id="c")], Say("done")])

    async def stop(live: Any) -> None:
        await checkpoints(steps)
        live.interrupt("stop")

    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", tools=[work], model=model), "go", hooks=[first, second]) as live:
            group.start_soon(stop, live)
            await live.wait()
    check_ended(live, model)
    # A start hook that was cut in its await has not written its line, but its end comes all the same.
    for hooks in (first, second):
        for kind in ("run", "model", "tool"):
            starts = sum(line.startswith(f"{hooks.name}{kind} start") for line in log)
            ends = sum(line.startswith(f"{hooks.name}{kind} end") for line in log)
            assert starts <= ends <= starts + 1


@pytest.mark.parametrize("ending", ["failed stream", "failed tool", "guardrail", "cancelled", "left", "timed out tool"])
async def test_each_start_has_its_end_in_every_ending(ending: str) -> None:
    hooks = Log()

    async def bad() -> str:
        raise Broken

    async def slow() -> str:
        await anyio.sleep_forever()
        return "never"

    async def guard(items: Any) -> Trip | None:
        await checkpoints(4)
        return Trip("no") if ending == "guardrail" else None

    turns: dict[str, Any] = {
        "failed stream": [[Say("hm"), Fail(Broken())]],
        "failed tool": [[Call("bad"), Call("slow")]],
        "guardrail": [[Say("hm"), Hang()]],
        "cancelled": [[Call("slow")]],
        "left": [[Call("slow")]],
        "timed out tool": [Call("brief"), Say("done")],
    }
    tools: list[Any] = [tool(bad, on_error="raise"), slow, tool(slow, name="brief", timeout=0.03)]
    model = ScriptedModel(turns[ending])
    agent = Agent("a", tools=tools, model=model, input_guardrails=[guard], hooks=hooks)
    live: Any = None
    with anyio.CancelScope() as scope:
        try:
            async with open_run(agent, "go", config=RunConfig(cleanup_grace=0.2)) as live:
                if ending in ("cancelled", "left"):
                    async for event in live.events():
                        if isinstance(event, events.ToolStarted):
                            await checkpoints(4)
                            break
                if ending == "cancelled":
                    scope.cancel()
                if ending != "left":
                    await live.wait()
        except (Broken, InputGuardrailTripped):
            pass
    result = check_ended(live, model)
    hooks.check()
    assert hooks.log[0] == "run start a"
    assert hooks.log[-1] == f"run end {result.status}"


async def test_the_last_hook_is_given_the_result_and_the_run_has_ended_for_it() -> None:
    told: list[Any] = []

    class Last(RunHooks):
        async def on_run_end(self, ctx: Any, result: Any) -> None:
            told.append((result.status, result.output, ctx.run.result, ctx.run.interrupt("too late")))

    async with open_run(Agent("a", model=ScriptedModel([Say("hi")]), hooks=Last()), "go") as live:
        await live.wait()
    assert told == [("completed", "hi", None, False)]
    assert live.result is not None
    assert live.result.interrupt is None


async def test_a_slow_hook_slows_the_run_and_a_hanging_end_hook_is_cut_and_reported() -> None:
    class Stuck(RunHooks):
        async def on_run_end(self, ctx: Any, result: Any) -> None:
            await anyio.sleep_forever()

        async def on_tool_end(self, ctx: Any, call: Any, output: Any) -> None:
            await anyio.sleep_forever()

        async def on_model_end(self, ctx: Any, status: str) -> None:
            if status == "completed" and ctx.run.state().turn == 2:
                await anyio.sleep_forever()

    model = ScriptedModel([Call("work", call_id="c"), Say("done")])
    result = await run(Agent("a", tools=[work], model=model, hooks=Stuck()), "go", config=RunConfig(cleanup_grace=0.03))
    assert result.output == "done"
    assert result.teardown.expired_graces == ["hook of tool work (c)", "hook on_model_end", "hook on_run_end"]


async def test_an_end_hook_that_is_cut_has_no_more_time_for_its_cleanup() -> None:
    reached: list[str] = []

    class Stuck(RunHooks):
        async def on_run_end(self, ctx: Any, result: Any) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                reached.append("cleanup")
                await anyio.sleep(0.5)
                reached.append("end of the cleanup")

    agent = Agent("a", model=ScriptedModel([Say("done")]), hooks=Stuck())
    result = await run(agent, "go", config=RunConfig(cleanup_grace=0.03))
    assert reached == ["cleanup"]
    assert result.teardown.expired_graces == ["hook on_run_end"]


async def test_a_hanging_start_hook_is_cancelled_with_the_run_and_cleans_up() -> None:
    cleaned: list[str] = []
    entered = anyio.Event()

    class Slow(RunHooks):
        async def on_model_start(self, ctx: Any, request: Any) -> None:
            entered.set()
            try:
                await anyio.sleep_forever()
            finally:
                await checkpoints(3)
                cleaned.append("hook")

    model = ScriptedModel([])
    async with open_run(Agent("a", model=model, hooks=Slow()), "go", config=RunConfig(cleanup_grace=1)) as live:
        await entered.wait()
        live.interrupt("stop")
    result = check_ended(live, model)
    assert result.status == "interrupted"
    assert cleaned == ["hook"]
    assert result.teardown.clean
    assert model.requests == []


METHODS = ("on_run_start", "on_run_end", "on_model_start", "on_model_end", "on_tool_start", "on_tool_end")


@pytest.mark.parametrize("keeps", [False, True], ids=["hangs", "keeps its cancellation to itself"])
@pytest.mark.parametrize("how", ["timeout", "interrupt_tool"])
@pytest.mark.parametrize("on_cancel", [None, lambda: None], ids=["", "on_cancel"])
async def test_a_tool_whose_start_hook_is_cut_does_not_begin(how: str, keeps: bool, on_cancel: Any) -> None:
    class Holding(RunHooks):
        started = anyio.Event()

        async def on_tool_start(self, ctx: Any, call: Any) -> None:
            self.started.set()
            try:
                await anyio.sleep_forever()
            except BaseException:
                if not keeps:
                    raise

    async def never() -> str:
        raise AssertionError("it must not begin")

    hooks = Holding()
    limited = tool(never, timeout=0.02 if how == "timeout" else 60, retries=1, on_cancel=on_cancel, on_error="raise")
    model = ScriptedModel([Call("never", call_id="c"), Say("done")])
    async with open_run(Agent("a", tools=[limited], model=model), "go", hooks=hooks) as live:
        await hooks.started.wait()
        if how == "interrupt_tool":
            live.interrupt_tool("c", "no more")
        with anyio.fail_after(5):
            result = await live.wait()
    check_ended(live, model)
    [output] = [item for item in result.items if isinstance(item, ToolOutput)]
    assert output.status == ("timed_out" if how == "timeout" else "cancelled")
    assert result.output == "done"
    assert result.errors == ()


async def test_the_hooks_of_a_tool_are_given_the_context_of_its_call() -> None:
    contexts: list[tuple[str, str, str]] = []

    class Looking(RunHooks):
        async def on_tool_start(self, ctx: Any, call: Any) -> None:
            contexts.append(("start", ctx.call_id, ctx.tool_name))

        async def on_tool_end(self, ctx: Any, call: Any, output: Any) -> None:
            contexts.append(("end", ctx.call_id, ctx.tool_name))

    model = ScriptedModel([Call("work", call_id="c"), Say("done")])
    await run(Agent("a", tools=[work], model=model), "go", hooks=Looking())
    assert contexts == [("start", "c", "work"), ("end", "c", "work")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["error", "group", "foreign"])
async def test_a_hook_that_raises_anything_is_kept_aside_and_touches_nothing(method: str, kind: str) -> None:
    raised: list[BaseException] = []

    async def bad(*args: Any) -> None:
        await anyio.lowlevel.checkpoint()
        cancelled = anyio.get_cancelled_exc_class()
        if kind == "error":
            raised.append(Broken("hook"))
        elif kind == "group":
            raised.append(ExceptionGroup("hooks", [Broken("one"), Broken("two")]))
        else:
            raised.append(cancelled.__new__(cancelled))
        raise raised[-1]

    hooks = RunHooks()
    setattr(hooks, method, bad)
    model = ScriptedModel([Call("work", call_id="c"), Say("done")])
    result = await run(Agent("a", tools=[work], model=model), "go", hooks=hooks)
    assert result.status == "completed"
    assert result.output == "done"
    assert [item.output for item in result.items if isinstance(item, ToolOutput)] == ["worked"]
    what = "hook of tool work (c)" if "tool" in method else f"hook {method}"
    foreign = f"{what} let a cancellation out that agentrun did not ask for"
    told = {"error": "Broken: hook", "group": "Broken: one; Broken: two", "foreign": f"AgentRunError: {foreign}"}[kind]
    assert raised
    assert result.teardown.cleanup_errors == [f"{what}: {told}"] * len(raised)
    if kind == "foreign":
        assert [str(error) for error in result.errors] == [foreign] * len(raised)
    else:
        assert list(result.errors) == raised


async def test_a_hook_that_is_not_async_works_too() -> None:
    told: list[str] = []

    class Plain(RunHooks):
        def on_run_start(self, ctx: Any) -> None:  # type: ignore[override]
            told.append("start")

        def on_tool_start(self, ctx: Any, call: Any) -> None:  # type: ignore[override]
            told.append(call.name)

    model = ScriptedModel([Call("work"), Say("done")])
    result = await run(Agent("a", tools=[work], model=model, hooks=Plain()), "go")
    assert told == ["start", "work"]
    assert result.errors == ()


async def test_the_context_of_a_hook_offers_what_belongs_to_no_call_by_refusing_it() -> None:
    refused: list[str] = []

    class Greedy(RunHooks):
        async def on_run_start(self, ctx: Any) -> None:
            asks: list[Callable[[], Any]] = [
                lambda: ctx.progress(1),
                lambda: ctx.on_cleanup(print),
                lambda: ctx.critical(1.0),
            ]
            for ask in asks:
                try:
                    ask()
                except UserError as exc:
                    refused.append(str(exc))
            waits: list[Callable[[], Any]] = [ctx.wait_interrupted, lambda: ctx.enter_async_context(None)]
            for ask_async in waits:
                try:
                    await ask_async()
                except UserError as exc:
                    refused.append(str(exc))

    await run(Agent("a", model=ScriptedModel([Say("hi")]), hooks=Greedy()), "go")
    assert [text.split("(")[0] for text in refused] == [
        "ctx.progress",
        "ctx.on_cleanup",
        "ctx.critical",
        "ctx.wait_interrupted",
        "ctx.enter_async_context",
    ]


async def test_hooks_of_a_nested_run_are_its_own() -> None:
    outer, inner = Log(), Log()
    nested = Agent("inner", model=ScriptedModel([Say("x")]), hooks=inner)
    model = ScriptedModel([Call("inner", {"input": "x"}), Say("done")])
    await run(Agent("outer", tools=[nested.as_tool()], model=model), "go", hooks=outer)
    assert inner.log == ["run start inner", "model start 1", "model end completed", "run end completed"]
    assert sum(line.startswith("model") for line in outer.log) == 4
    outer.check()


@pytest.mark.parametrize("method", ["on_model_start", "on_tool_start"])
async def test_a_hook_that_ends_the_program_does(method: str) -> None:
    async def leaves(*args: Any) -> None:
        raise SystemExit(3)

    hooks = RunHooks()
    setattr(hooks, method, leaves)
    model = ScriptedModel([Call("work", call_id="c"), Say("done")])
    with pytest.raises(SystemExit):
        await run(Agent("a", tools=[work], model=model), "go", hooks=hooks)


async def test_each_hook_is_given_a_context_of_its_run_and_that_of_the_call_where_there_is_one() -> None:
    deps = object()
    seen: dict[str, Any] = {}

    class Asks(RunHooks):
        def look(self, name: str, ctx: Any) -> None:
            seen[name] = (ctx.agent.name, ctx.deps, ctx.run, ctx.usage, ctx.call_id, ctx.tool_name)
            if not ctx.call_id:
                refused = r"^ctx\.progress\(\) is for tools: this context belongs to no tool call$"
                with pytest.raises(UserError, match=refused):
                    ctx.progress(1)
            ctx.check_cancelled()  # it is not

        async def on_run_start(self, ctx: Any) -> None:
            self.look("run start", ctx)

        async def on_model_start(self, ctx: Any, request: Any) -> None:
            self.look("model start", ctx)

        async def on_model_end(self, ctx: Any, status: str) -> None:
            self.look("model end", ctx)

        async def on_tool_start(self, ctx: Any, call: Any) -> None:
            self.look("tool start", ctx)

        async def on_tool_end(self, ctx: Any, call: Any, output: Any) -> None:
            self.look("tool end", ctx)

        async def on_run_end(self, ctx: Any, result: Any) -> None:
            self.look("run end", ctx)

    async def work() -> str:
        return "worked"

    model = ScriptedModel([[Call("work", call_id="c")], Say("done")])
    async with open_run(Agent("a", tools=[work], model=model), "go", deps=deps, hooks=Asks()) as live:
        usage = live._run.machine.usage
        result = await live.wait()
    assert result.errors == ()
    around = ("a", deps, live, usage, "", "")
    inside = ("a", deps, live, usage, "c", "work")
    assert seen == {
        "run start": around,
        "model start": around,
        "model end": around,
        "tool start": inside,
        "tool end": inside,
        "run end": around,
    }
