"""What a run leaves to those that come after it, in a lock of the module, say, is blamed on what has left it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from agentrun import Agent
from agentrun.testing import (
    Call,
    Say,
    ScriptedModel,
    ToolCheckFailed,
    cancel_everywhere,
    check_tool,
    interrupt_everywhere,
    replay,
)

from .faulty import line_of

both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Lock:
    """One that belongs to no event loop, as those of a module must."""

    def __init__(self) -> None:
        self.held = False
        self.waiting: list[anyio.Event] = []

    async def acquire(self) -> None:
        await anyio.lowlevel.checkpoint()
        while self.held:
            self.waiting.append(anyio.Event())
            await self.waiting[-1].wait()
        self.held = True

    def release(self) -> None:
        self.held = False
        while self.waiting:
            self.waiting.pop().set()


def tool_that_takes_before_the_try(lock: Lock | anyio.Lock) -> Callable[..., Any]:
    async def store(text: str) -> str:
        await lock.acquire()
        await anyio.sleep(0.1)  # BUG
        try:
            await anyio.sleep(1)
        finally:
            lock.release()
        return text

    return store


def place_of(function: Callable[..., Any], mark: str) -> str:
    return f"test_aftermath.py:{line_of(function, mark)} "


@both
def test_a_lock_of_the_module_that_a_stopped_tool_still_holds_is_told_with_the_line_of_the_stop(backend: Any) -> None:
    store = tool_that_takes_before_the_try(Lock())
    with pytest.raises(ToolCheckFailed) as caught:
        check_tool(store, {"text": "it"}, backends=[backend])
    message = str(caught.value)
    assert "law 1 (nothing outlives its run): a later run is not the same" in message
    assert "with nothing done to it, the tool now waits at" in message
    (cancelled,) = [line for line in message.splitlines() if "the tool was cancelled at" in line]
    assert place_of(store, "# BUG") in cancelled
    assert "try" in message.partition("What to do: ")[2]


@both
def test_nothing_else_is_said_of_the_runs_that_come_after_it(backend: Any) -> None:
    with pytest.raises(ToolCheckFailed) as caught:
        check_tool(tool_that_takes_before_the_try(Lock()), {"text": "it"}, backends=[backend])
    report = caught.value.report
    assert [[violation.check for violation in failure.violations] for failure in report.failures] == [["aftermath"]]
    assert report.diverged == 0
    assert "bug of agentrun's" not in str(caught.value)


@both
def test_a_tool_that_is_made_afresh_has_no_aftermath(backend: Any) -> None:
    report = check_tool(lambda: tool_that_takes_before_the_try(Lock()), {"text": "it"}, backends=[backend])
    assert not report.failures  # nobody else wants the lock, which is another one each time


def program_that_keeps(rooms: int) -> Callable[[], Any]:
    free = [rooms]

    async def program() -> None:
        if not free[0]:
            await anyio.sleep(5)  # FULL
        free[0] -= 1
        await anyio.sleep(1)  # KEPT
        free[0] += 1

    return program


@both
@pytest.mark.parametrize("rooms", [1, 3])
def test_the_stop_after_which_nothing_is_left_is_blamed(backend: Any, rooms: int) -> None:
    program = program_that_keeps(rooms)
    report = cancel_everywhere(program, backends=[backend])
    failure = report.failures[-1]
    assert [violation.check for violation in failure.violations] == ["aftermath"]
    assert place_of(program, "# FULL") in str(failure.violations[0])
    ((_, place),) = failure.cut
    assert place_of(program, "# KEPT") in str(place)
    assert "a later run is not the same, so the sweep ends here" in str(report)


@both
def test_what_the_very_last_run_leaves_is_found_too(backend: Any) -> None:
    program = program_that_keeps(1)
    report = cancel_everywhere(program, backends=[backend], modes=["suspended"], limit=1)
    assert [[violation.check for violation in failure.violations] for failure in report.failures] == [["aftermath"]]


@both
def test_its_id_shows_it_again_where_nothing_has_been_left_yet(backend: Any) -> None:
    (failure,) = cancel_everywhere(program_that_keeps(1), backends=[backend], modes=["suspended"]).failures
    report = cancel_everywhere(program_that_keeps(1), backends=[backend], modes=["suspended"], only=failure.id)
    assert [again.violations for again in report.failures] == [failure.violations]


@both
def test_where_it_has_been_left_already_the_clean_run_is_another_one(backend: Any) -> None:
    (failure,) = cancel_everywhere(program_that_keeps(1), backends=[backend], modes=["suspended"]).failures
    assert replay(failure) is None


@both
def test_an_aftermath_that_is_to_be_ignored_is_not_looked_for(backend: Any) -> None:
    report = cancel_everywhere(program_that_keeps(1), backends=[backend], ignore=["aftermath"])
    assert {violation.check for failure in report.failures for violation in failure.violations} == {"diverged"}


def test_a_tool_that_fails_on_one_backend_alone_is_not_said_to_be_a_bug_of_ours() -> None:
    """A lock that was made before there was an event loop belongs to the first that it is used in."""
    of_the_module = anyio.Lock()

    async def store() -> str:
        async with of_the_module:
            await anyio.sleep(1)
        return "stored"

    with pytest.raises(ToolCheckFailed) as caught:
        check_tool(store)
    assert "the tool raised in the undisturbed run: " in str(caught.value)
    assert "bug of agentrun's" not in str(caught.value)


def test_a_run_that_has_found_it_so_is_not_blamed_for_it() -> None:
    """The lock is taken in a shielded step, so the tool is stopped one line later, with the lock in its hands."""
    store = tool_that_takes_before_the_try(anyio.Lock())
    agent = Agent("a", tools=[store], model=ScriptedModel([Call("store", {"text": "it"}), Say("Done.")]))
    report = interrupt_everywhere(agent, "Go.", backends=["asyncio"], actions=["interrupt"])
    (failure,) = report.failures
    ((_, place),) = failure.cut
    assert place_of(store, "# BUG") in str(place)
