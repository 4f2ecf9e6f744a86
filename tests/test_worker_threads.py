"""One call in a worker thread: who waits for it, how long, and what is known of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from agentrun import Agent, ToolOutput, run
from agentrun.core.errors import CallCancelled
from agentrun.runtime.event_loop import EventLoop, running_loop
from agentrun.runtime.threads import ThreadCall
from agentrun.testing import Call, Say, ScriptedModel


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """An event for threads to wait for; set at the end of the test, whatever happens."""
    event = threading.Event()
    yield event
    event.set()


def nothing() -> None:
    pass


class Waiting:
    """A function for a thread: it says that it has begun, and waits."""

    def __init__(self, release: threading.Event) -> None:
        self.release = release
        self.begun = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.release.wait(30)
        return threading.current_thread().name

    async def wait_begun(self) -> None:
        with anyio.fail_after(10):
            while not self.begun.is_set():
                await anyio.sleep(0.001)


async def test_a_thread_is_waited_for_although_the_group_that_owns_it_is_cancelled(release: threading.Event) -> None:
    work, got = Waiting(release), list[str]()
    call = ThreadCall(work, nothing)

    async def caller() -> None:
        with anyio.CancelScope(shield=True):
            got.append(await call.run(owners))

    async with anyio.create_task_group() as owners:
        owners.start_soon(caller)
        await work.wait_begun()
        owners.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            for _ in range(10):
                await anyio.sleep(0)
            assert got == []
        release.set()
    assert got == [call.thread_name]
    assert call.abandoned is False


async def test_a_thread_that_is_left_behind_is_known_by_its_name(release: threading.Event) -> None:
    work, told = Waiting(release), list[str]()
    call = ThreadCall(work, lambda: told.append("cancelled"))
    assert call.thread_name == "not started"
    assert call.abandoned is False
    async with anyio.create_task_group() as owners:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(call.run, owners)
                await work.wait_begun()
                assert call.thread_name not in ("not started", threading.current_thread().name)
                assert "agentrun thread" in {task.name for task in anyio.get_running_tasks()}
                scope.cancel()
    assert told == ["cancelled"]
    assert call.abandoned is True


async def test_what_a_thread_raises_is_raised_where_it_is_waited_for() -> None:
    def iterate() -> None:
        raise StopIteration("none left")  # a future could not carry it

    def give_up() -> None:
        raise CallCancelled("why")  # nobody has cancelled the call: an error like any other

    async with anyio.create_task_group() as owners:
        with pytest.raises(RuntimeError) as caught:  # what Python makes of it when it leaves a coroutine
            await ThreadCall(iterate, nothing).run(owners)
        assert isinstance(caught.value.__cause__, StopIteration)
        with pytest.raises(CallCancelled, match="why"):
            await ThreadCall(give_up, nothing).run(owners)


async def test_more_threads_run_at_once_than_the_event_loop_allows_by_default() -> None:
    count = 45  # anyio's default is 40
    together = threading.Barrier(count, timeout=20)

    def meet() -> str:
        together.wait()
        return "met"

    model = ScriptedModel([[Call("meet", call_id=f"c{index}") for index in range(count)], Say("done")])
    result = await run(Agent("a", tools=[meet], model=model), "go")
    assert [item.output for item in result.items if isinstance(item, ToolOutput)] == ["met"] * count


async def test_a_function_whose_call_is_cancelled_while_its_thread_is_being_started_is_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_start, begun, called = anyio.Event(), anyio.Event(), list[str]()

    async def slow_start(function: Callable[[], None], **_: object) -> None:
        begun.set()
        await may_start.wait()
        function()

    def cancelled() -> None:
        scope.shield = True  # as the grace does
        may_start.set()

    monkeypatch.setattr("anyio.to_thread.run_sync", slow_start)
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as outer, anyio.CancelScope() as scope:

            async def stop() -> None:
                await begun.wait()
                outer.cancel()

            group.start_soon(stop)
            await ThreadCall(lambda: called.append("called"), cancelled).run(group)
    assert outer.cancelled_caught
    assert called == []


class _LastCall:
    """A thread that asks an event loop of asyncio for something after its last step, and before it is closed."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.asked = threading.Event()
        self.ended_by: BaseException | None = None
        home = self.loop.run_until_complete(self._home())
        queue = self.loop.call_soon_threadsafe

        def announce(*args: Any, **options: Any) -> Any:
            handle = queue(*args, **options)
            self.asked.set()
            return handle

        self.loop.call_soon_threadsafe = announce  # type: ignore[assignment,method-assign]
        self.thread = threading.Thread(target=self._ask, args=(home,), daemon=True)
        self.thread.start()
        assert self.asked.wait(10)

    @staticmethod
    async def _home() -> EventLoop:
        return running_loop()

    def _ask(self, home: EventLoop) -> None:
        try:
            home.call(lambda: "never called")
        except BaseException as exc:  # noqa: BLE001 - looked at by the test
            self.ended_by = exc


def test_a_thread_that_asks_a_loop_that_takes_no_more_steps_is_told_when_it_is_closed() -> None:
    last = _LastCall()
    last.loop.close()
    last.thread.join(10)
    assert isinstance(last.ended_by, anyio.RunFinishedError)


def test_a_thread_that_asks_a_loop_that_stands_still_is_answered_when_it_goes_on() -> None:
    last = _LastCall()
    last.thread.join(0.3)
    assert last.thread.is_alive()
    last.loop.run_until_complete(asyncio.sleep(0))
    last.thread.join(10)
    last.loop.close()
    assert not last.thread.is_alive()
    assert last.ended_by is None


@pytest.mark.parametrize("error", [TimeoutError("of its own"), KeyError("missing")])
async def test_what_a_thread_asks_the_loop_for_is_returned_or_raised(error: Exception) -> None:
    loop = running_loop()

    def fails() -> None:
        raise error

    assert await anyio.to_thread.run_sync(lambda: loop.call(threading.get_ident)) == threading.get_ident()
    assert await anyio.to_thread.run_sync(lambda: loop.call(lambda: type(anyio.Event()))) is type(anyio.Event())
    with pytest.raises(type(error)) as raised:
        await anyio.to_thread.run_sync(lambda: loop.call(fails))
    assert raised.value is error


async def test_a_loop_is_the_same_as_itself_and_as_no_other() -> None:
    loop = running_loop()
    assert running_loop() is loop  # of the runs in it, each has it
    other = await anyio.to_thread.run_sync(lambda: asyncio.run(_running_loop()))
    assert not other.is_same(loop)
    assert (loop.is_here, other.is_here) == (True, False)
    assert running_loop().is_same(loop)
    assert running_loop().is_here
    assert await anyio.to_thread.run_sync(lambda: loop.call(running_loop)) is running_loop()


async def _running_loop() -> EventLoop:
    return running_loop()


async def test_a_cancellation_of_an_event_loop_that_a_thread_runs_is_the_tools_own_error() -> None:
    def bad() -> None:
        async def main() -> None:
            raise asyncio.CancelledError

        asyncio.run(main())

    result = await run(Agent("a", tools=[bad], model=ScriptedModel([Call("bad", call_id="b"), Say("done")])), "go")
    assert result.output == "done"
    [output] = [item for item in result.items if isinstance(item, ToolOutput)]
    assert output.status == "failed"
    assert "let a cancellation out" in output.text
