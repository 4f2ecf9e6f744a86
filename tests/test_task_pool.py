"""The tasks that a run keeps from one tool call to the next."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from laws.support import check_ended, checkpoints

from agentrun import ActiveRun, Agent, RunConfig, RunContext, RunResult, ToolOutput, open_run, run, tool
from agentrun.runtime.backend import running_backend
from agentrun.runtime.task_pool import TaskPool
from agentrun.testing import Call, Say, ScriptedModel, Wait

WHOSE: ContextVar[str] = ContextVar("WHOSE", default="nobody's")


class Desk:
    """A tool that notes which task executes each call."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        self.arrived: set[str] = set()
        self.everybody = anyio.Event()

    async def work(self, ctx: RunContext[Any]) -> str:
        self.tasks[ctx.call_id] = anyio.get_current_task().id
        await anyio.lowlevel.checkpoint()
        return "done"

    def of(self, *calls: str) -> set[int]:
        """The tasks of these calls."""
        return {self.tasks[call] for call in calls}


def calls(*ids: str, name: str = "work") -> list[Call]:
    return [Call(name, call_id=call_id) for call_id in ids]


def outputs(result: RunResult[Any]) -> dict[str, ToolOutput]:
    return {item.call_id: item for item in result.items if isinstance(item, ToolOutput)}


def statuses(result: RunResult[Any]) -> dict[str, str]:
    return {call_id: output.status for call_id, output in outputs(result).items()}


async def test_the_calls_of_a_later_turn_run_in_the_tasks_of_an_earlier_one() -> None:
    desk = Desk()
    model = ScriptedModel([calls("a", "b", "c"), calls("d", "e"), calls("f", "g", "h", "i"), Say("done")])
    result = await run(Agent("a", tools=[desk.work], model=model), "Go.")
    assert result.status == "completed"
    assert len(desk.of("a", "b", "c")) == 3
    assert desk.of("d", "e") < desk.of("a", "b", "c") < desk.of("f", "g", "h", "i")
    assert len(desk.of("d", "e")) == 2
    assert len(desk.of("f", "g", "h", "i")) == 4


async def test_the_only_call_of_a_turn_runs_in_the_task_of_the_driver() -> None:
    names: list[str | None] = []

    async def work(ctx: RunContext[Any]) -> None:
        names.append(anyio.get_current_task().name)

    model = ScriptedModel([calls("a"), calls("b"), Say("done")])
    result = await run(Agent("a", tools=[work], model=model), "Go.")
    assert names == [f"agentrun {result.run_id}"] * 2


async def test_a_call_that_may_start_further_tasks_has_one_of_its_own() -> None:
    desk = Desk()
    hooked = tool(desk.work, name="hooked", on_cancel=lambda: None)
    mixed = [*calls("own", name="hooked"), *calls("c")]
    model = ScriptedModel([calls("a", "b"), mixed, calls("d", "e"), Say("done")])
    await run(Agent("a", tools=[desk.work, hooked], model=model), "Go.")
    assert desk.of("a", "b") == desk.of("d", "e")
    assert desk.of("c") < desk.of("a", "b")
    assert not desk.of("own") & desk.of("a", "b", "c", "d", "e")


async def test_a_call_does_not_see_the_context_variables_of_the_one_before_it_in_its_task() -> None:
    seen: dict[str, str] = {}
    desk = Desk()

    async def work(ctx: RunContext[Any]) -> str:
        seen[ctx.call_id] = WHOSE.get()
        WHOSE.set(ctx.call_id)
        await desk.work(ctx)
        assert WHOSE.get() == ctx.call_id
        return "done"

    model = ScriptedModel([calls("a", "b"), calls("c", "d"), Say("done")])
    WHOSE.set("the caller's")
    await run(Agent("a", tools=[work], model=model), "Go.")
    assert desk.of("a", "b") == desk.of("c", "d")
    assert set(seen.values()) == {"the caller's"}


@pytest.mark.parametrize("moment", ["before it begins", "at work"])
async def test_the_next_call_in_its_task_knows_nothing_of_a_calls_cancellation(moment: str) -> None:
    desk = Desk()

    async def work(ctx: RunContext[Any]) -> str:
        first = not desk.tasks
        others = {"a", "b", "c"} - {ctx.call_id}
        if first and moment == "before it begins":
            assert all(ctx.run.interrupt_tool(other) for other in others)
        await desk.work(ctx)
        if moment == "at work" and ctx.call_id in "abc":
            if not first:
                await anyio.sleep_forever()
            await checkpoints(10)
            assert all(ctx.run.interrupt_tool(other) for other in others)
        return "done"

    model = ScriptedModel([calls("a", "b", "c"), calls("d", "e", "f"), Say("done")])
    result = await run(Agent("a", tools=[work], model=model), "Go.")
    got = statuses(result)
    assert sorted(got[call] for call in "abc") == ["cancelled", "cancelled", "completed"]
    assert [got[call] for call in "def"] == ["completed"] * 3
    assert len(desk.of("d", "e", "f")) == 3
    if moment == "at work":
        assert desk.of("d", "e", "f") == desk.of("a", "b", "c")


async def test_the_next_call_in_its_task_has_a_time_of_its_own() -> None:
    desk = Desk()

    async def work(ctx: RunContext[Any], seconds: float) -> str:
        await desk.work(ctx)
        await anyio.sleep(seconds)
        return "done"

    def sleeping(**seconds: float) -> list[Call]:
        return [Call("work", {"seconds": value}, call_id=call_id) for call_id, value in seconds.items()]

    model = ScriptedModel([sleeping(a=0.0, b=30.0), sleeping(c=0.0, d=0.0), Wait(0.05), Say("done")])
    agent = Agent("a", tools=[tool(work, timeout=0.02)], model=model)
    result = await run(agent, "Go.")
    assert statuses(result) == {"a": "completed", "b": "timed_out", "c": "completed", "d": "completed"}
    assert desk.of("a", "b") == desk.of("c", "d")
    assert result.status == "completed"


async def test_the_tasks_end_with_the_run() -> None:
    def workers() -> list[str]:
        return [name for info in anyio.get_running_tasks() if "tools" in (name := info.name or "")]

    desk = Desk()
    model = ScriptedModel([calls("a", "b"), Say("done")])
    async with open_run(Agent("a", tools=[desk.work], model=model), "Go.") as live:
        while not desk.tasks:
            await anyio.lowlevel.checkpoint()
        assert sorted(workers()) == [f"agentrun {live.id} tools {n}" for n in (1, 2)]
        await live.wait()
    check_ended(live, model)
    assert workers() == []


# The pool by itself --------------------------------------------------------------------------------------------
# A run closes its pool when all calls have ended, unless it breaks in the middle, as by Ctrl-C: that moment cannot be
# met from outside.


class Breaking:
    """Stands in for a run: it has a task group, and is told what has made it fail."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self.id = "run"
        self.backend = running_backend()
        self.task_group = group
        self.failures: list[BaseException] = []

    def fail(self, error: BaseException) -> None:
        self.failures.append(error)


class Work:
    """Stands in for a call."""

    def __init__(self, execute: Callable[[], Awaitable[object]]) -> None:
        self._execute = execute
        self.lost = 0

    async def execute(self) -> None:
        await self._execute()

    def lose_task(self) -> None:
        self.lost += 1


@asynccontextmanager
async def pool_of_its_own() -> AsyncGenerator[TaskPool]:
    """A pool whose tasks must have ended by the end of the block, or soon after."""
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            stand_in: Any = Breaking(group)
            yield TaskPool(stand_in)


def give(pool: TaskPool, execute: Callable[[], Awaitable[object]]) -> Work:
    work = Work(execute)
    stand_in: Any = work
    pool.take().start(stand_in)
    return work


async def test_a_task_that_is_at_work_when_the_pool_is_closed_finishes_its_call_and_ends() -> None:
    done: list[str] = []

    async def work() -> None:
        begun.set()
        await go_on.wait()
        done.append("call")

    async with pool_of_its_own() as pool:
        begun, go_on = anyio.Event(), anyio.Event()
        give(pool, work)
        await begun.wait()
        pool.close()
        go_on.set()
    assert done == ["call"]
    assert pool.idle == []


async def test_a_task_whose_cell_was_broken_by_its_call_is_not_given_another() -> None:
    async with pool_of_its_own() as pool:
        task = pool.take()
        work: Any = Work(anyio.lowlevel.checkpoint)
        task.start(work)
        task.cell.broken = True
        await checkpoints(5)
        assert pool.idle == []
        give(pool, anyio.lowlevel.checkpoint)
        await checkpoints(5)
        assert len(pool.idle) == 1
        pool.close()


async def test_what_breaks_a_task_makes_the_run_fail() -> None:
    problem = RuntimeError("a bug of the runtime's own")

    async def work() -> None:
        raise problem

    async with pool_of_its_own() as pool:
        call = give(pool, work)
        await checkpoints(5)
        assert pool.idle == []
        assert call.lost == 1
    stand_in: Any = pool.run
    assert stand_in.failures == [problem]


# Native cancellation -------------------------------------------------------------------------------------------


def asyncio_only(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")


async def test_a_task_that_is_cancelled_natively_between_two_calls_is_not_given_another(
    anyio_backend_name: str,
) -> None:
    asyncio_only(anyio_backend_name)
    desk = Desk()
    tasks: dict[str, asyncio.Task[Any]] = {}

    async def work(ctx: RunContext[Any]) -> str:
        task = asyncio.current_task()
        assert task is not None
        tasks[ctx.call_id] = task
        return await desk.work(ctx)

    async def cancel() -> str:
        await checkpoints(5)
        tasks["a"].cancel()
        await checkpoints(5)
        assert tasks["a"].done()
        assert not tasks["b"].done()
        return "done"

    model = ScriptedModel([calls("a", "b"), Call("cancel", call_id="x"), calls("c", "d"), Say("done")])
    result = await run(Agent("a", tools=[work, cancel], model=model), "Go.")
    assert set(statuses(result).values()) == {"completed"}
    assert tasks["a"] not in (tasks["c"], tasks["d"])
    assert tasks["b"] in (tasks["c"], tasks["d"])


async def test_a_task_that_is_cancelled_natively_while_the_pool_is_closed_ends_in_peace(
    anyio_backend_name: str,
) -> None:
    asyncio_only(anyio_backend_name)
    tasks: list[asyncio.Task[Any] | None] = []

    async def work() -> None:
        tasks.append(asyncio.current_task())

    async with pool_of_its_own() as pool:
        give(pool, work)
        await checkpoints(5)
        assert len(pool.idle) == 1
        pool.close()
        [task] = tasks
        assert task is not None
        task.cancel()
    stand_in: Any = pool.run
    assert stand_in.failures == []


async def test_a_call_whose_task_is_cancelled_natively_before_it_begins_is_cancelled(anyio_backend_name: str) -> None:
    asyncio_only(anyio_backend_name)
    tasks: dict[str, asyncio.Task[Any]] = {}

    async def work(ctx: RunContext[Any]) -> str:
        task = asyncio.current_task()
        assert task is not None
        if ctx.call_id == "c":  # the other one has been given its call, and has not gone on yet
            (other,) = {tasks["a"], tasks["b"]} - {task}
            other.cancel()
        tasks[ctx.call_id] = task
        await anyio.lowlevel.checkpoint()
        return "done"

    model = ScriptedModel([calls("a", "b"), calls("c", "d"), calls("e", "f"), Say("done")])
    result = await run(Agent("a", tools=[work], model=model), "Go.")
    got = outputs(result)
    assert result.status == "completed"
    assert [got[call].status for call in "abcdef"] == ["completed"] * 3 + ["cancelled"] + ["completed"] * 2
    assert got["d"].text == "Cancelled before it finished: its task was cancelled."
    assert "d" not in tasks


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # of the task that has not begun
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_every_call_ends_when_all_tasks_are_cancelled_natively_and_some_have_not_begun(
    times: int, anyio_backend_name: str
) -> None:
    """As ``asyncio.run`` does when its main function has returned."""
    asyncio_only(anyio_backend_name)
    begun: list[str] = []
    cleaned: list[str] = []
    handles: list[ActiveRun[Any]] = []

    async def work(ctx: RunContext[Any]) -> str:
        begun.append(ctx.call_id)
        try:
            for task in asyncio.all_tasks() - before:
                for _ in range(times):
                    task.cancel()
            await anyio.sleep_forever()
        finally:
            await checkpoints(3)
            cleaned.append(ctx.call_id)
        return "never"

    async def host() -> None:
        async with open_run(Agent("a", tools=[work], model=model), "Go.", config=RunConfig(cleanup_grace=1.0)) as live:
            handles.append(live)
            await live.wait()

    before = asyncio.all_tasks()
    model = ScriptedModel([calls("a", "b"), Say("never")])
    with anyio.fail_after(10):
        await asyncio.wait([asyncio.create_task(host())])
    assert begun == cleaned == ["a"]
    [live] = handles
    result = check_ended(live, model)
    assert result.status == "cancelled"
    assert statuses(result) == {"a": "cancelled", "b": "cancelled"}
    assert asyncio.all_tasks() == before
    gc.collect()
