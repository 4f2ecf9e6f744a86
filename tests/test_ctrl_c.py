"""Ctrl-C on trio, at the lines of agentrun's own code: a signal, handled where it finds the program."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import anyio
import pytest
import trio

import agentrun
from agentrun import ActiveRun, Agent, RunContext, RunHooks, open_run, tool
from agentrun.runtime import ctrl_c
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Say, ScriptedModel, assert_valid_history

_OURS = str(Path(agentrun.__file__).parent)
_STRIDE = 7
"""Of the lines of each function that a run comes to, the first and each so many further ones."""


class Line(NamedTuple):
    """A line of agentrun."""

    path: str
    function: str
    number: int


class _Program:
    """A run with all that takes part in one: tools, guardrails, hooks, a session, a watcher, requests."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.session = MemorySession()
        self.model = ScriptedModel(
            [[Say("hm hm", chunks=2), Call("one"), Call("two")], [Call("one")], Say("so", chunks=2)]
        )
        self.live: ActiveRun[Any] | None = None
        self.hangs = False

    async def main(self, trace: Callable[..., Any]) -> None:
        log = self.log

        class Hooks(RunHooks):
            async def on_run_start(self, ctx: RunContext[Any]) -> None:
                log.append("start")

            async def on_run_end(self, ctx: RunContext[Any], result: Any) -> None:
                log.append("end")

        @tool
        async def one(ctx: RunContext[None]) -> str:
            log.append("one")
            try:
                ctx.progress(1)
                await anyio.sleep(0.001)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0)
                log.append("one is over")
            return "x"

        @tool
        async def two() -> str:
            log.append("two")
            try:
                await anyio.sleep(0.0005)
            finally:
                log.append("two is over")
            return "x"

        async def passes(ctx: RunContext[None], value: object) -> None:
            await anyio.sleep(0)

        agent = Agent("a", tools=[one, two], model=self.model, input_guardrails=[passes], output_guardrails=[passes])
        with anyio.move_on_after(10) as patience:
            async with open_run(agent, "go", session=self.session, hooks=Hooks()) as live:
                self.live = live
                events = live.events()
                sys.settrace(trace)
                live.inject("more")
                live.state()
                async for _ in events:
                    pass
                await live.wait()
        self.hangs = patience.cancelled_caught

    def whats_wrong(self, raised: BaseException | None) -> list[str]:
        """What is wrong after a Ctrl-C."""
        log, wrong = self.log, list[str]()
        if self.hangs:
            wrong.append("it went on")
        if not isinstance(raised, KeyboardInterrupt):
            wrong.append(f"raised {raised!r}")
        if self.live is None or self.live.result is None:
            return [*wrong, "the run has no end"]
        assert_valid_history(self.live.result.history)
        assert_valid_history(self.session.items)
        wrong.extend(
            f"{what} is not over" for what in ("one", "two") if log.count(what) != log.count(f"{what} is over")
        )
        if "start" in log and "end" not in log:
            wrong.append("the hooks were not told of the end")
        if self.model.open_streams:
            wrong.append("a model stream is open")
        return wrong


def _watch(lines: Callable[[Line], None]) -> Callable[..., Any]:
    """A trace function that tells each line of agentrun's that is about to be executed."""

    def in_function(frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            lines(Line(frame.f_code.co_filename, frame.f_code.co_name, frame.f_lineno))
        return in_function

    def trace(frame: FrameType, event: str, _: object) -> Any:
        path = frame.f_code.co_filename
        return in_function if path.startswith(_OURS) and f"{os.sep}testing{os.sep}" not in path else None

    return trace


def _run(lines: Callable[[Line], None]) -> tuple[_Program, BaseException | None]:
    program, before = _Program(), sys.gettrace()
    try:
        trio.run(program.main, _watch(lines))
    except BaseException as exc:  # noqa: BLE001 - it is what is looked at
        return program, exc
    finally:
        sys.settrace(before)
    return program, None


def test_a_ctrl_c_on_trio_ends_the_run_in_order_wherever_it_lands() -> None:
    come_to: dict[tuple[str, str], list[Line]] = {}
    seen: set[Line] = set()

    def note(line: Line) -> None:
        if line not in seen:
            seen.add(line)
            come_to.setdefault((line.path, line.function), []).append(line)

    program, raised = _run(note)
    assert raised is None
    assert program.live is not None
    assert program.live.status == "completed"
    chosen = [line for lines in come_to.values() for line in lines[::_STRIDE]]
    assert len(chosen) > 150
    wrong: dict[Line, list[str]] = {}
    for line in chosen:
        pressed: list[Line] = []

        def press(now: Line, line: Line = line, pressed: list[Line] = pressed) -> None:
            if now == line and not pressed:
                pressed.append(now)
                signal.raise_signal(signal.SIGINT)

        program, raised = _run(press)
        if pressed and (what := program.whats_wrong(raised)):
            wrong[line] = what
    assert wrong == {}


def test_a_tool_that_computes_without_end_can_be_stopped_by_ctrl_c_on_trio() -> None:
    went_on: list[bool] = []

    @tool
    async def endless() -> None:
        signal.raise_signal(signal.SIGINT)
        went_on.append(True)

    async def main() -> None:
        await agentrun.run(Agent("a", tools=[endless], model=ScriptedModel([Call("endless")])), "go")

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert went_on == []


def test_what_is_protected_later_is_protected_on_trio_too() -> None:
    async def look() -> None:
        await agentrun.run(Agent("a", model=ScriptedModel([Say("x")])), "go")  # trio is known from here on

        @ctrl_c.uninterruptible
        def protected() -> bool:
            return trio.lowlevel.currently_ki_protected()

        assert not trio.lowlevel.currently_ki_protected()
        assert protected()

    trio.run(look)


def test_functions_inside_of_functions_are_remembered_once() -> None:
    def make() -> Callable[[], None]:
        @ctrl_c.uninterruptible
        def inner() -> None: ...

        return inner

    make()
    before: set[CodeType] = set(ctrl_c._protected)
    make()
    assert ctrl_c._protected == before
