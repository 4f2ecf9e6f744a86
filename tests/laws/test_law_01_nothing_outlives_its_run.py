"""Law 1: when the block has been left, nothing of the run is alive; what cannot be stopped is named."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest

from agentrun import (
    Agent,
    RunConfig,
    RunContext,
    RunHooks,
    input_guardrail,
    open_run,
    output_guardrail,
    run,
    tool,
)
from agentrun.errors import CallCancelled, RunEnded
from agentrun.events import TextDelta, ToolEnded, ToolStarted
from agentrun.items import ToolOutput
from agentrun.models import OpenAIChatModel
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Fail, Hang, Say, ScriptedModel

from .functions_for_processes import family
from .scenes import Ledger, Scene, on_asyncio, task_names
from .support import check_ended, checkpoints


class BodyError(Exception):
    """Raised by a test in the block."""


def busy_agent() -> tuple[Agent[Any, str], list[ScriptedModel], Ledger, anyio.Event]:
    """An agent whose tools hang: one plainly, one in its own tasks, one in a nested run."""
    ledger, ready = Ledger(), anyio.Event()
    started: set[str] = set()

    def begun(name: str) -> None:
        started.add(name)
        if len(started) == 3:
            ready.set()

    @tool
    async def plain() -> None:
        async with ledger.cleaning_up("plain"):
            begun("plain")
            await anyio.sleep_forever()

    @tool
    async def grouped() -> None:
        async def child() -> None:
            begun("grouped")
            await anyio.sleep_forever()

        async with ledger.cleaning_up("grouped"), anyio.create_task_group() as tasks:
            tasks.start_soon(child)

    @tool
    async def inner() -> None:
        async with ledger.cleaning_up("inner"):
            begun("inner")
            await anyio.sleep_forever()

    inner_model = ScriptedModel([Call("inner")])
    nested = Agent("nested", tools=[inner], model=inner_model).as_tool()
    model = ScriptedModel([[Say("Well"), Call("plain"), Call("grouped"), Call("nested", {"input": "Go."})]])
    return Agent("busy", tools=[plain, grouped, nested], model=model), [model, inner_model], ledger, ready


def check_nothing_left(models: list[ScriptedModel], ledger: Ledger) -> None:
    """All is closed and cleaned up, and no task is left."""
    assert task_names() == set()
    assert all(model.open_streams == 0 for model in models)
    assert sorted(ledger.done) == ["grouped", "inner", "plain"]
    assert not ledger.cut


async def test_leaving_the_block_while_the_run_is_alive_interrupts_it_and_waits() -> None:
    agent, models, ledger, ready = busy_agent()
    async with open_run(agent, "Go.") as live:
        await ready.wait()
    check_nothing_left(models, ledger)
    result = check_ended(live, models[0])
    assert result.status == "interrupted"
    assert result.interrupt is not None
    assert result.interrupt.reason == "left the run block"


async def test_leaving_the_block_at_once_starts_nothing_that_stays() -> None:
    model = ScriptedModel([Say("Hello.")])
    async with open_run(Agent("a", model=model), "Go.") as live:
        pass
    assert task_names() == set()
    assert check_ended(live, model).status == "interrupted"


async def test_breaking_out_of_the_events_and_the_block_leaves_nothing() -> None:
    agent, models, ledger, ready = busy_agent()
    async with open_run(agent, "Go.") as live:
        started = 0
        async for event in live.events():
            started += isinstance(event, ToolStarted)
            if started == 4:
                break
        await ready.wait()
    check_nothing_left(models, ledger)
    check_ended(live, models[0])


@pytest.mark.parametrize("kind", [BodyError, KeyboardInterrupt, SystemExit])
async def test_a_body_that_raises_raises_just_that_and_leaves_nothing(kind: type[BaseException]) -> None:
    agent, models, ledger, ready = busy_agent()
    error = kind("of the body")
    caught: BaseException | None = None
    try:
        async with open_run(agent, "Go.") as live:
            await ready.wait()
            raise error
    except kind as exc:
        caught = exc
    assert caught is error
    check_nothing_left(models, ledger)
    result = check_ended(live, models[0])
    assert result.status == ("interrupted" if kind is BodyError else "cancelled")
    if result.interrupt is not None:
        assert result.interrupt.reason == "the run block raised BodyError"


async def test_a_cancelled_body_leaves_nothing() -> None:
    agent, models, ledger, ready = busy_agent()
    with anyio.CancelScope() as scope:
        async with open_run(agent, "Go.") as live:
            await ready.wait()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    check_nothing_left(models, ledger)
    assert check_ended(live, models[0]).status == "cancelled"


async def test_a_cancelled_body_leaves_no_guardrail_that_still_cleans_up_after_an_interrupt() -> None:
    """The driver waits for it, and is not to be reached from outside there either."""
    at_work, cleaning, go_on = anyio.Event(), anyio.Event(), anyio.Event()
    cleaned: list[str] = []

    @input_guardrail
    async def slow(items: Any) -> None:
        try:
            at_work.set()
            await anyio.sleep_forever()
        finally:
            cleaning.set()
            await go_on.wait()
            cleaned.append("guardrail")

    model = ScriptedModel([Hang()])
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as outside:
            async with open_run(Agent("a", model=model, input_guardrails=[slow]), "Go.") as live:
                await at_work.wait()
                await anyio.wait_all_tasks_blocked()
                live.interrupt("stop")
                await cleaning.wait()
                await anyio.wait_all_tasks_blocked()

                async def let_it_end() -> None:
                    await checkpoints(20)
                    assert live.result is None
                    go_on.set()

                tasks.start_soon(let_it_end)
                outside.cancel()
                await anyio.sleep_forever()
        assert cleaned == ["guardrail"]
        check_ended(live, model)
        assert live.result is not None
        assert [guard.outcome for guard in live.result.guardrail_results] == ["cancelled"]


async def test_returning_out_of_the_block_leaves_nothing() -> None:
    agent, models, ledger, ready = busy_agent()

    async def function() -> str:
        async with open_run(agent, "Go."):
            await ready.wait()
            return "value"

    assert await function() == "value"
    check_nothing_left(models, ledger)


async def test_a_failure_that_nobody_waited_for_is_raised_by_the_block_as_itself() -> None:
    error = ValueError("the model is out of order")
    model = ScriptedModel([Fail(error)])
    caught: BaseException | None = None
    try:
        async with open_run(Agent("a", model=model), "Go.") as live:
            async for _ in live.events():
                pass
    except BaseException as exc:
        caught = exc
    assert caught is error
    assert check_ended(live, model).error is error


async def test_a_failure_that_was_waited_for_is_not_raised_twice() -> None:
    error = ValueError("the model is out of order")
    model = ScriptedModel([Fail(error)])
    async with open_run(Agent("a", model=model), "Go.") as live:
        with pytest.raises(ValueError, match="out of order"):
            await live.wait()
    check_ended(live, model)


async def test_a_body_that_raises_after_the_run_has_failed_raises_its_own_error_with_a_note() -> None:
    model = ScriptedModel([Fail(ValueError("the model is out of order"))])
    with pytest.raises(BodyError) as caught:
        async with open_run(Agent("a", model=model), "Go.") as live:
            async for _ in live.events():
                pass
            raise BodyError
    assert any("out of order" in note for note in caught.value.__notes__)
    check_ended(live, model)


async def test_several_tasks_that_wait_for_a_failing_run_all_get_the_error() -> None:
    error = ValueError("no")
    model = ScriptedModel([[Say("x"), Fail(error)]])
    caught: list[BaseException] = []

    async def waiting() -> None:
        try:
            await live.wait()
        except ValueError as exc:
            caught.append(exc)

    async with open_run(Agent("a", model=model), "Go.") as live, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(waiting)
    assert caught == [error] * 4
    check_ended(live, model)


# Ctrl-C and exits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_an_exit_out_of_a_tool_goes_on_after_the_teardown(kind: type[BaseException]) -> None:
    ledger = Ledger()

    @tool
    async def exiting() -> None:
        await checkpoints(5)
        raise kind

    @tool
    async def other() -> None:
        async with ledger.cleaning_up("other"):
            await anyio.sleep_forever()

    model = ScriptedModel([[Call("exiting"), Call("other")]])
    caught: BaseException | None = None
    try:
        await run(Agent("a", tools=[exiting, other], model=model), "Go.")
    except kind as exc:
        caught = exc
    assert type(caught) is kind
    assert ledger.done == ["other"]
    assert model.open_streams == 0
    assert task_names() == set()


PLACES = ["tool cleanup", "registered", "stream cleanup", "run start", "run end", "model end", "tool end", "guardrail"]


@pytest.mark.parametrize("place", PLACES)
async def test_a_ctrl_c_in_any_piece_of_user_code_goes_on_though_the_run_is_being_interrupted(place: str) -> None:
    ready = anyio.Event()

    def hit(here: str) -> None:
        if here == place:
            raise KeyboardInterrupt

    class Hooks(RunHooks):
        async def on_run_start(self, ctx: RunContext[Any]) -> None:
            hit("run start")

        async def on_run_end(self, ctx: RunContext[Any], result: Any) -> None:
            hit("run end")

        async def on_model_end(self, ctx: RunContext[Any], status: str) -> None:
            hit("model end")

        async def on_tool_end(self, ctx: RunContext[Any], call: Any, output: Any) -> None:
            hit("tool end")

    class Model(ScriptedModel):
        @asynccontextmanager
        async def stream(self, request: Any) -> AsyncIterator[Any]:
            async with super().stream(request) as parts:
                yield parts
            hit("stream cleanup")

    @tool
    async def hanging(ctx: RunContext[Any]) -> None:
        ctx.on_cleanup(lambda: hit("registered"))
        ready.set()
        try:
            await anyio.sleep_forever()
        finally:
            hit("tool cleanup")

    @input_guardrail
    async def guard(items: Any) -> None:
        hit("guardrail")

    model = Model([Call("hanging")])
    agent = Agent("a", tools=[hanging], model=model, input_guardrails=[guard], hooks=Hooks())
    caught: BaseException | None = None
    try:
        with anyio.fail_after(10):
            async with open_run(agent, "Go.") as live:
                if place in ("tool cleanup", "registered", "tool end", "run end"):
                    await ready.wait()
                    live.interrupt("stop")
                try:
                    await live.wait()
                except Exception:
                    pass
    except KeyboardInterrupt as exc:
        caught = exc
    assert type(caught) is KeyboardInterrupt
    check_ended(live, model)
    assert task_names() == set()


# Threads -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def release() -> Any:
    """An event for threads to wait for; set at the end of the test, whatever happens."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_thread_that_never_looks_is_named_and_left_behind(release: threading.Event) -> None:
    started = threading.Event()
    threads: list[threading.Thread] = []

    @tool
    def deaf() -> None:
        threads.append(threading.current_thread())
        started.set()
        release.wait(30)

    model = ScriptedModel([Call("deaf", call_id="one")])
    config = RunConfig(cleanup_grace=0.1)
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=[deaf], model=model), "Go.", config=config) as live:
            await anyio.to_thread.run_sync(started.wait)
            live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert result.teardown.abandoned_threads == [f"tool deaf (one) in thread {threads[0].name!r}"]
    assert not result.teardown.clean
    assert result.teardown.seconds >= 0.08
    assert task_names() == set()
    assert threads[0].is_alive()
    release.set()


async def test_a_guardrails_thread_that_never_looks_is_named_too(release: threading.Event) -> None:
    started = threading.Event()

    @input_guardrail
    def deaf(items: Any) -> None:
        started.set()
        release.wait(30)

    model = ScriptedModel([[Say("x"), Hang()]])
    config = RunConfig(cleanup_grace=0.1)
    with anyio.fail_after(10):
        async with open_run(Agent("a", model=model, input_guardrails=[deaf]), "Go.", config=config) as live:
            await anyio.to_thread.run_sync(started.wait)
            live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert len(result.teardown.abandoned_threads) == 1
    assert "input guardrail deaf in thread" in result.teardown.abandoned_threads[0]
    release.set()


async def test_a_thread_that_looks_ends_at_once(release: threading.Event) -> None:
    started = threading.Event()
    ended: list[str] = []

    @tool
    def looking(ctx: RunContext[Any]) -> None:
        started.set()
        try:
            while not release.wait(0.001):
                ctx.check_cancelled()
        except CallCancelled:
            ended.append("told")
            raise
        finally:
            ended.append("cleaned up")

    model = ScriptedModel([Call("looking", call_id="one")])
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=[looking], model=model), "Go.") as live:
            await anyio.to_thread.run_sync(started.wait)
            live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert ended == ["told", "cleaned up"]
    assert result.teardown.clean
    assert result.teardown.cancelled_tools == ["looking (one)"]


async def test_what_a_thread_returns_within_the_grace_is_kept(release: threading.Event) -> None:
    started = threading.Event()

    @tool
    def slow() -> str:
        started.set()
        release.wait(30)
        return "committed"

    model = ScriptedModel([Call("slow", call_id="one")])
    with anyio.fail_after(10):
        async with open_run(Agent("a", tools=[slow], model=model), "Go.") as live:
            await anyio.to_thread.run_sync(started.wait)
            live.interrupt("stop")
            await checkpoints(5)
            assert live.result is None
            release.set()
            result = await live.wait()
    check_ended(live, model)
    assert result.history[-1] == ToolOutput("one", "committed")
    assert result.status == "interrupted"
    assert result.teardown.clean


async def test_a_thread_whose_call_is_cancelled_before_it_has_begun_never_begins() -> None:
    called: list[str] = []

    class Stopping(RunHooks):
        async def on_tool_start(self, ctx: RunContext[Any], call: Any) -> None:
            ctx.run.interrupt("not this one")

    @tool
    def late() -> None:
        called.append("called")

    model = ScriptedModel([Call("late", call_id="one")])
    async with open_run(Agent("a", tools=[late], model=model, hooks=Stopping()), "Go.") as live:
        result = await live.wait()
    check_ended(live, model)
    output = result.items[-1]
    assert isinstance(output, ToolOutput)
    assert output.status == "cancelled"
    assert called == []
    assert result.teardown.abandoned_threads == []


# anyio does not close the coroutine of a task that was cancelled natively before its first step.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("times", [1, 2])
async def test_a_loop_that_cancels_all_its_tasks_natively_ends_the_run_too(times: int) -> None:
    """What ``asyncio.run`` does when its main function has returned."""
    if not on_asyncio():
        pytest.skip("trio has no native cancellation")
    for steps in range(40):
        scene = Scene(nested=True)

        async def host(scene: Scene = scene) -> None:
            async with scene.open() as live:
                await live.wait()

        others = asyncio.all_tasks()
        task = asyncio.create_task(host())
        await checkpoints(steps)
        for _ in range(times):
            for each in asyncio.all_tasks() - others:
                each.cancel()
            await checkpoints(1)
        with anyio.fail_after(10):
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert task.cancelled()
        if scene.live is not None:
            check_ended(scene.live)
        assert scene.model.open_streams == scene.inner_model.open_streams == 0
        assert task_names() == set()
    gc.collect()


async def test_a_driver_that_is_cancelled_natively_tells_its_tools_and_waits_for_them() -> None:
    if not on_asyncio():
        pytest.skip("trio has no native cancellation")
    cleaned: list[str] = []
    started: list[str] = []

    @tool
    async def work(ctx: RunContext[Any]) -> None:
        started.append(ctx.call_id)
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(3)
            cleaned.append(ctx.call_id)

    model = ScriptedModel([[Call("work", call_id="one"), Call("work", call_id="two")]])
    with anyio.fail_after(10):
        with pytest.raises(RunEnded, match="cancelled from outside"):
            async with open_run(Agent("a", tools=[work], model=model), "Go.") as live:
                stream = live.events()
                while len(started) < 2:
                    await checkpoints(1)
                [driver] = [task for task in asyncio.all_tasks() if task.get_name() == f"agentrun {live.id}"]
                driver.cancel()
                await live.wait()
    result = check_ended(live, model)
    assert result.status == "cancelled"
    assert cleaned == ["one", "two"]
    ends = [(event.call_id, event.status) async for event in stream if isinstance(event, ToolEnded)]
    assert ends == [("one", "cancelled"), ("two", "cancelled")]
    outputs = [item.output for item in result.items if isinstance(item, ToolOutput)]
    assert outputs == ["Cancelled before it finished: the run was cancelled."] * 2
    assert task_names() == set()


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_driver_that_is_cancelled_natively_again_and_again_waits_for_its_tools_all_the_same(times: int) -> None:
    if not on_asyncio():
        pytest.skip("trio has no native cancellation")
    said: list[str] = []

    class AtTheEnd(RunHooks):
        async def on_run_end(self, ctx: RunContext[Any], result: Any) -> None:
            said.append("end")

    @tool
    async def work(ctx: RunContext[Any]) -> None:
        said.append("started")
        try:
            await anyio.sleep_forever()
        finally:
            await checkpoints(40)
            said.append("cleaned")

    model = ScriptedModel([[Call("work", call_id="one"), Call("work", call_id="two")]])
    with anyio.fail_after(10):
        with pytest.raises(RunEnded, match="cancelled from outside"):
            async with open_run(Agent("a", tools=[work], model=model, hooks=AtTheEnd()), "Go.") as live:
                while len(said) < 2:
                    await checkpoints(1)
                [driver] = [task for task in asyncio.all_tasks() if task.get_name() == f"agentrun {live.id}"]
                for _ in range(times):
                    driver.cancel()
                    await checkpoints(8)
                await live.wait()
    assert check_ended(live, model).status == "cancelled"
    assert said == ["started", "started", "cleaned", "cleaned", "end"]


# Processes ---------------------------------------------------------------------------------------------------------


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("deaf", [False, True], ids=["polite", "deaf"])
async def test_a_tools_process_is_ended_with_its_whole_group(deaf: bool, tmp_path: Path) -> None:
    model = ScriptedModel([Call("family", {"folder": str(tmp_path), "deaf": deaf}, call_id="one")])
    config = RunConfig(cleanup_grace=1.0)
    ids = tmp_path / "ids"
    with anyio.fail_after(30):
        async with open_run(Agent("a", tools=[family], model=model), "Go.", config=config) as live:
            while not ids.exists():
                await anyio.sleep(0.02)
            pids = [int(pid) for pid in ids.read_text().split()]
            assert all(map(_alive, pids))
            live.interrupt("stop")
            result = await live.wait()
    check_ended(live, model)
    assert not any(map(_alive, pids))
    assert (tmp_path / "cleaned up").exists() == (not deaf)
    assert len(result.teardown.killed_processes) == 1
    assert ("SIGKILL" if deaf else "SIGTERM") in result.teardown.killed_processes[0]
    output = result.history[-1]
    assert isinstance(output, ToolOutput)
    assert output.status == "cancelled"


# Many runs ---------------------------------------------------------------------------------------------------------


def _file_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def _interrupted_scene() -> weakref.ref[Any]:
    """One busy run that is interrupted, with a thread, nested runs and all kinds of cleanup."""
    ledger = Ledger()
    started = anyio.Event()
    stop = threading.Event()

    @tool
    def looking(ctx: RunContext[Any]) -> None:
        while not stop.wait(0.0005):
            ctx.check_cancelled()

    @tool
    async def hang(ctx: RunContext[Any]) -> None:
        await ctx.enter_async_context(ledger.cleaning_up("entered", registered=True))
        async with ledger.cleaning_up("hang"):
            started.set()
            await anyio.sleep_forever()

    @output_guardrail
    async def never(output: Any) -> None: ...

    nested = Agent("nested", tools=[hang], model=ScriptedModel([Call("hang")])).as_tool()
    model = ScriptedModel([[Say("Well", chunks=3), Call("looking"), Call("nested", {"input": "Go."}), Call("hang")]])
    agent = Agent("a", tools=[looking, nested, hang], model=model, output_guardrails=[never])
    async with open_run(agent, "Go.", session=MemorySession()) as live:
        stream = live.events()
        await started.wait()
        live.interrupt("stop", mode="after_turn", escalate_after=0.0)
        result = await live.wait()
        async for _ in stream:
            pass
    check_ended(live, model)
    assert result.status == "interrupted"
    ledger.check()
    return weakref.ref(live._run)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
async def test_two_hundred_interrupted_runs_leave_nothing_behind() -> None:
    for _ in range(5):  # what is made once is made now: worker threads, caches
        await _interrupted_scene()
    gc.collect()
    tasks = len(anyio.get_running_tasks())
    threads = threading.active_count()
    files = _file_descriptors()
    objects = len(gc.get_objects())
    runs = [await _interrupted_scene() for _ in range(200)]
    await checkpoints(5)
    gc.collect()
    assert [ref for ref in runs if ref() is not None] == []
    assert len(anyio.get_running_tasks()) == tasks
    assert threading.active_count() <= threads + 2  # a pool of workers may grow by a few, not by two hundred
    assert _file_descriptors() <= files + 2
    # Some caches grow a little; anything kept for each run would be thousands.
    assert len(gc.get_objects()) < objects + 2000


@pytest.mark.parametrize("how", ["completed", "interrupted", "failed", "left", "cancelled"])
async def test_an_ended_run_is_freed_without_the_garbage_collector(how: str) -> None:
    async def one() -> weakref.ref[Any]:
        ready = anyio.Event()

        @tool
        async def work() -> str:
            ready.set()
            if how not in ("completed", "failed"):
                await anyio.sleep_forever()
            return "ok"

        model = ScriptedModel([Call("work"), Fail(ValueError("x")) if how == "failed" else Say("Done.")])
        with anyio.CancelScope() as scope:
            async with open_run(Agent("a", tools=[work], model=model), "Go.") as live:
                await ready.wait()
                if how == "interrupted":
                    live.interrupt("stop")
                elif how == "cancelled":
                    scope.cancel()
                if how != "left":
                    try:
                        await live.wait()
                    except ValueError as exc:
                        exc.__traceback__ = None
        return weakref.ref(live._run)

    await one()
    gc.collect()
    gc.disable()
    try:
        refs = [await one() for _ in range(20)]
        await checkpoints(5)
        left = sum(ref() is not None for ref in refs)
    finally:
        gc.enable()
    assert left <= 1, f"{left} of 20 runs wait for the garbage collector"


@asynccontextmanager
async def _streaming_server() -> AsyncIterator[tuple[str, Callable[[], int]]]:
    """A server that says one word to each request and then nothing more; tells how many connections are open."""
    connections = 0
    delta = b'data: {"choices": [{"index": 0, "delta": {"content": "Once"}}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async def handle(stream: anyio.abc.SocketStream) -> None:
        nonlocal connections
        connections += 1
        try:
            async with stream:
                await stream.receive()
                await stream.send(head + f"{len(delta):x}\r\n".encode() + delta + b"\r\n")
                while True:
                    await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        finally:
            connections -= 1

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        yield f"http://127.0.0.1:{port}/v1", lambda: connections
        tasks.cancel_scope.cancel()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
async def test_two_hundred_interrupted_streams_leave_no_connection_open() -> None:
    async with _streaming_server() as (url, connections):
        model = OpenAIChatModel("any", base_url=url, api_key="none")
        agent = Agent("a", model=model)
        before = 0
        for number in range(205):
            if number == 5:
                gc.collect()
                before = _file_descriptors()
            with anyio.fail_after(10):
                async with open_run(agent, "Go.") as live:
                    async for event in live.events():
                        if isinstance(event, TextDelta):
                            break
                    if number % 2:
                        live.interrupt("stop")
                        await live.wait()
                while connections():
                    await anyio.sleep(0.001)
            assert live.result is not None
            assert live.result.text == "Once"
        assert _file_descriptors() <= before + 2
        assert task_names() == set()


async def test_a_stopped_scene_leaves_no_tasks_wherever_it_was_stopped() -> None:
    for point in range(0, 90, 7):
        scene = Scene(nested=True)
        before = len(anyio.get_running_tasks())
        with anyio.CancelScope() as scope:
            async with scene.open() as live:
                await checkpoints(point)
                scope.cancel()
                await live.wait()
        assert len(anyio.get_running_tasks()) == before
        await scene.check("scope")
