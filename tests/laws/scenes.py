"""Runs with much going on in them, and ways to stop them at every point of their schedule."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias

import anyio
import anyio.lowlevel
import sniffio

from agentrun import (
    ActiveRun,
    Agent,
    RunConfig,
    RunContext,
    RunHooks,
    RunResult,
    ToolCall,
    ToolOutput,
    events,
    input_guardrail,
    open_run,
    output_guardrail,
    tool,
)
from agentrun.core.model import ModelRequest
from agentrun.events import Event
from agentrun.items import Item
from agentrun.runtime.cancellations import split_cancelled
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Say, ScriptedModel, assert_valid_history

from .support import check_ended, checkpoints

Stop: TypeAlias = Literal["interrupt", "after_turn", "scope", "native", "move_on_after", "fail_after"]

Timeout: TypeAlias = Literal["move_on_after", "fail_after", "trio", "asyncio"]

GRACE = 2.0


class Ledger:
    """Who has begun, and whose cleanup is done."""

    def __init__(self) -> None:
        self.owed: list[str] = []  # cleanup that must come to its end
        self.done: list[str] = []
        self.cut: list[str] = []  # ordinary cleanup in whose middle a cancellation landed: allowed

    @asynccontextmanager
    async def cleaning_up(self, name: str, *, registered: bool = False) -> AsyncIterator[None]:
        """``try: ... finally: await ...; await ...; await ...``, which is what users write."""
        if registered:
            self.owed.append(name)
        cancelled = False
        try:
            yield
        except BaseException as exc:
            cancelled = split_cancelled(exc, anyio.get_cancelled_exc_class())[0] is not None
            raise
        finally:
            if cancelled and not registered:
                self.owed.append(name)
            try:
                await checkpoints(3)
            except BaseException:
                self.cut.append(name)
                raise
            self.done.append(name)

    def check(self) -> None:
        """Whoever was cancelled in its body has cleaned up, and so has all that was registered."""
        left = list(self.owed)
        for name in self.done:
            if name in left:
                left.remove(name)
        assert not left, f"not cleaned up: {left}; done: {self.done}"


class SlowModel(ScriptedModel):
    """A scripted model whose streams take several awaits to close."""

    def __init__(self, turns: Any, ledger: Ledger) -> None:
        super().__init__(turns)
        self._ledger = ledger

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
        """Play the next turn."""
        async with super().stream(request) as parts, self._ledger.cleaning_up("stream"):
            yield parts


class SlowSession(MemorySession):
    """A session that takes several awaits for everything, and stores a piece whole or not at all."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    async def load(self) -> Any:
        """The history."""
        async with self._ledger.cleaning_up("load"):
            await checkpoints(2)
            return await super().load()

    async def append(self, items: Any) -> None:
        """Store a piece."""
        self._ledger.owed.append("append")  # once begun, it is finished
        await checkpoints(2)
        await super().append(items)
        assert_valid_history(self.items, what="session")
        await checkpoints(2)
        self._ledger.done.append("append")


class SlowHooks(RunHooks):
    """Hooks that take several awaits, and remember their starts and ends."""

    def __init__(self, ledger: Ledger) -> None:
        self.told: list[str] = []
        self._ledger = ledger

    async def _start(self, name: str) -> None:
        self.told.append(f"{name} start")
        async with self._ledger.cleaning_up(f"hook {name}"):
            await checkpoints(2)

    async def _end(self, name: str) -> None:
        self._ledger.owed.append(f"hook end {name}")
        await checkpoints(2)
        self.told.append(f"{name} end")
        self._ledger.done.append(f"hook end {name}")

    async def on_run_start(self, ctx: RunContext[Any]) -> None:
        """The run begins."""
        await self._start("run")

    async def on_run_end(self, ctx: RunContext[Any], result: RunResult[Any]) -> None:
        """The run ends."""
        await self._end("run")

    async def on_model_start(self, ctx: RunContext[Any], request: ModelRequest) -> None:
        """A model call begins."""
        await self._start("model")

    async def on_model_end(self, ctx: RunContext[Any], status: str) -> None:
        """A model call ends."""
        await self._end("model")

    async def on_tool_start(self, ctx: RunContext[Any], call: ToolCall) -> None:
        """A tool begins."""
        await self._start(call.call_id)

    async def on_tool_end(self, ctx: RunContext[Any], call: ToolCall, output: ToolOutput) -> None:
        """A tool ends."""
        await self._end(call.call_id)

    def check(self) -> None:
        """Each start has its end."""
        started = sorted(name.removesuffix(" start") for name in self.told if name.endswith(" start"))
        ended = sorted(name.removesuffix(" end") for name in self.told if name.endswith(" end"))
        assert started == ended, self.told
        if self.told:
            assert self.told[0] == "run start"
            assert self.told[-1] == "run end"


class Scene:
    """One run with everything in it: session, hooks, guardrails, streams, tools, their cleanups, and a nested run."""

    def __init__(self, *, nested: bool = False) -> None:
        self.ledger = ledger = Ledger()
        self.hooks = SlowHooks(ledger)
        self.session = SlowSession(ledger)
        self.events: list[Event] = []
        self.live: ActiveRun[Any] | None = None
        self.inner_model = SlowModel(
            [[Say("inner", chunks=2), Call("plain", call_id="inner-1")], Say("inner end")], ledger
        )
        first = [
            Say("I will.", chunks=2),
            Call("plain", call_id="one"),
            Call("ask", {"input": "Go."}, call_id="two") if nested else Call("grouped", call_id="two"),
            Call("careful", call_id="three"),
        ]
        self.model = SlowModel([first, Say("Done.", chunks=2)], ledger)
        self.agent = self._agent(nested)

    def _agent(self, nested: bool) -> Agent[Any, str]:
        ledger = self.ledger

        @tool
        async def plain() -> str:
            """Ordinary cleanup."""
            async with ledger.cleaning_up("plain"):
                await checkpoints(2)
                await anyio.sleep(0)
                return "plain"

        @tool
        async def grouped() -> str:
            """Tasks of its own, a timeout of its own."""

            async def child() -> None:
                await checkpoints(3)

            async with ledger.cleaning_up("grouped"):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(child)
                    tasks.start_soon(child)
                with anyio.move_on_after(60):
                    await checkpoints(1)
                return "grouped"

        @tool
        async def careful(ctx: RunContext[Any]) -> str:
            """What must not be left half done is registered, shielded or critical."""

            async def registered() -> None:
                await checkpoints(3)
                ledger.done.append("registered")

            ctx.on_cleanup(registered)
            ledger.owed.append("registered")
            await ctx.enter_async_context(ledger.cleaning_up("entered", registered=True))
            await checkpoints(1)
            async with ctx.critical(60):
                ledger.owed.append("critical")
                await checkpoints(2)
                ledger.done.append("critical")
            with anyio.CancelScope(shield=True):
                ledger.owed.append("shielded")
                await checkpoints(2)
                ledger.done.append("shielded")
            return "careful"

        @input_guardrail
        async def looks_in(items: Any) -> None:
            async with ledger.cleaning_up("input guardrail"):
                await checkpoints(4)

        @output_guardrail
        async def looks_out(output: Any) -> None:
            async with ledger.cleaning_up("output guardrail"):
                await checkpoints(2)

        inner = Agent("inner", tools=[plain], model=self.inner_model, input_guardrails=[looks_in])
        tools = [plain, inner.as_tool(name="ask") if nested else grouped, careful]
        return Agent("outer", tools=tools, model=self.model, input_guardrails=[looks_in], output_guardrails=[looks_out])

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ActiveRun[Any]]:
        """Open the run and watch it."""
        config = RunConfig(cleanup_grace=GRACE)
        async with open_run(self.agent, "Go.", session=self.session, hooks=self.hooks, config=config) as live:
            self.live = live
            self.stream = live.events()  # read at the end: the buffer is large enough for all
            yield live

    async def check(self, stopped: Stop | None) -> RunResult[Any]:
        """The laws, after the run has ended in whatever way."""
        live = self.live
        assert live is not None
        async for event in self.stream:
            self.events.append(event)
        result = check_ended(live, self.model, self.events)
        assert self.inner_model.open_streams == 0
        self.ledger.check()
        self.hooks.check()
        assert_valid_history(self.session.items, what="session")
        assert tuple(self.session.items) == result.history
        assert result.teardown.clean, str(result.teardown)
        _check_nested(self.events)
        guards = [event for event in self.events if isinstance(event, events.GuardrailEnded) and not event.path]
        assert len(guards) == len(result.guardrail_results)
        assert result.status in _STATUSES[stopped]
        if result.status == "completed":
            assert result.output == "Done."
        reason = self.events[-1].reason if isinstance(self.events[-1], events.RunEnded) else None
        if result.status == "interrupted":
            assert result.interrupt is not None
            assert reason == result.interrupt.reason == "stop"
        return result


_STATUSES: dict[Stop | None, tuple[str, ...]] = {
    None: ("completed",),
    "interrupt": ("interrupted", "completed"),
    "after_turn": ("interrupted", "completed"),
    "scope": ("cancelled", "completed"),
    "native": ("cancelled", "completed"),
    "move_on_after": ("cancelled", "completed"),
    "fail_after": ("cancelled", "completed"),
}


def _check_nested(seen: list[Event]) -> None:
    """Runs inside tools have ended, each with one terminal event, before the call that they are part of."""
    ended: set[tuple[str, ...]] = set()
    started: set[tuple[str, ...]] = set()
    for event in seen:
        if event.path:
            assert event.path not in ended, "an event of a nested run after its end"
            if isinstance(event, events.RunStarted):
                started.add(event.path)
            elif isinstance(event, events.RunEnded):
                ended.add(event.path)
        elif isinstance(event, events.ToolEnded):
            assert all(path in ended for path in started if path[0] == event.call_id)
    assert started == ended


def task_names() -> set[str]:
    """The names of the run's tasks that are alive."""
    return {task.name for task in anyio.get_running_tasks() if task.name and task.name.startswith("agentrun")}


async def at_every_point(attempt: Callable[[int], Awaitable[bool]], *, at_most: int = 400) -> int:
    """``attempt(0)``, ``attempt(1)``, ... until one says that the run had ended before that point was reached.

    Returns:
        How many points there were.
    """
    for point in itertools.count():
        with anyio.fail_after(20):
            reached = await attempt(point)
        assert not task_names(), f"tasks left at point {point}: {task_names()}"
        if not reached:
            return point
        assert point < at_most
    raise AssertionError("unreachable")


async def stop_scoped(scene: Scene, point: int, times: int) -> bool:
    """Cancel nested scopes around the run, from the inside out, ``times`` in a row, after ``point`` steps."""
    scopes = [anyio.CancelScope() for _ in range(times)]
    finished = False

    async def cancel() -> None:
        await checkpoints(point)
        for scope in scopes:
            scope.cancel()
            await checkpoints(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        with _all(scopes):
            async with scene.open() as live:
                await live.wait()
            finished = True
        tasks.cancel_scope.cancel()
    return not finished


@contextlib.contextmanager
def _all(scopes: list[anyio.CancelScope]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for scope in reversed(scopes):
            stack.enter_context(scope)
        yield


async def stop_native(scene: Scene, point: int, times: int) -> bool:
    """Call ``Task.cancel()`` on the task that runs the block, ``times`` in a row, after ``point`` steps."""
    finished = False

    async def host() -> None:
        nonlocal finished
        async with scene.open() as live:
            await live.wait()
        finished = True

    task = asyncio.create_task(host())
    await checkpoints(point)
    for _ in range(times):
        task.cancel()
        await checkpoints(1)
    try:
        await task
    except asyncio.CancelledError:
        assert not finished
        assert task.cancelled()
        return True
    assert finished, "a native cancellation was swallowed"
    return False


def on_asyncio() -> bool:
    """Whether this is asyncio."""
    return sniffio.current_async_library() == "asyncio" and "asyncio" in sys.modules


def history_of(scene: Scene) -> tuple[Item, ...]:
    """What the run leaves behind."""
    assert scene.live is not None
    assert scene.live.result is not None
    return scene.live.result.history


async def stop_deadline(scene: Scene, point: int, kind: Timeout) -> bool:
    """Let a timeout around the run, of any make, expire after ``point`` steps. Returns whether the run was stopped."""
    finished = False
    expire: list[Callable[[], None]] = []

    async def clock() -> None:
        await checkpoints(point)
        expire[0]()

    async def body() -> None:
        nonlocal finished
        async with scene.open() as live:
            await live.wait()
        finished = True

    async with anyio.create_task_group() as tasks:
        if kind == "asyncio":
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(60) as native:
                    expire.append(lambda: native.reschedule(loop.time()) if not native.expired() else None)
                    tasks.start_soon(clock)
                    await body()
            except TimeoutError:
                assert not finished
        else:
            expired = _move_on(kind, tasks, clock, expire)
            try:
                with expired:
                    await body()
            except TimeoutError:
                assert not finished
                assert kind == "fail_after"
        tasks.cancel_scope.cancel()
    return not finished


@contextlib.contextmanager
def _move_on(kind: str, tasks: Any, clock: Any, expire: list[Callable[[], None]]) -> Iterator[None]:
    if kind == "trio":
        import trio

        make: Any = trio.move_on_after
    else:
        make = anyio.move_on_after if kind == "move_on_after" else anyio.fail_after
    with make(60) as scope:
        expire.append(lambda: setattr(scope, "deadline", anyio.current_time()))
        tasks.start_soon(clock)
        yield
