"""Runs that go on from where another one ended."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, AssistantMessage, RunResult, RunSnapshot, ToolCall, ToolOutput, UserMessage, tool
from agentrun.core.snapshot import UndeliveredInput
from agentrun.events import ToolStarted
from agentrun.testing import Say
from agentrun.testing.laws import RunRecord

from ..stage import Book, Play, call, outputs, scene, scripted

LATE = (UserMessage("This came too late."), UserMessage("This came even later."))

WITH_INPUT = RunSnapshot(
    run_id="run_1",
    status="interrupted",
    agent="a",
    history=(UserMessage("Go."), AssistantMessage("I will", status="incomplete")),
    undelivered=tuple(UndeliveredInput(f"injection-{number}", (item,), "idle") for number, item in enumerate(LATE, 1)),
)

_DONE = ToolCall("done", "erase", '{"disk": "b"}')
_WAITING = ToolCall("waiting", "erase", '{"disk": "c"}')

WITH_APPROVAL = RunSnapshot(
    run_id="run_1",
    status="interrupted",
    agent="a",
    history=(
        UserMessage("Go."),
        _DONE,
        _WAITING,
        ToolOutput("done", "b is gone"),
        ToolOutput("waiting", "Cancelled before it started: approval required.", "cancelled"),
    ),
    pending_approvals=(_WAITING,),
)


@scene(laws={4, 5}, kinds={"resumed with undelivered input"}, input=None, resume_from=WITH_INPUT)
def resumed_with_undelivered_input(book: Book) -> Play:
    @tool
    async def work() -> str:
        """Work."""
        async with book.cleaned("work"):
            await anyio.sleep(0.3)
        return "done"

    def after(result: RunResult[Any]) -> None:
        book.seen("resumed with undelivered input")
        back = [item for entry in result.undelivered for item in entry.items]
        for item in LATE:
            times = result.history.count(item) + back.count(item)
            book.expect(5, times == 1, f"{item} is {times} times in the history and among what is undelivered")
        in_order = [item for item in (*result.history, *back) if item in LATE]
        book.expect(5, in_order == list(LATE), in_order)
        book.expect(4, result.history[:2] == WITH_INPUT.history, "the history that it goes on from was changed")

    return Play(Agent("a", tools=[work], model=scripted(call("work"), Say("Done."))), after)


@scene(
    laws={4, 13},
    kinds={"resumed with a pending approval", "approved call"},
    input=None,
    resume_from=WITH_APPROVAL,
    on_approval="approve",
)
def resumed_with_a_pending_approval(book: Book) -> Play:
    @tool(needs_approval=True)
    async def erase(disk: str) -> str:
        """Erase a disk."""
        book.say(disk)
        book.seen("approved call")
        async with book.cleaned("erase"):
            await anyio.sleep(0.3)
        return f"{disk} is gone"

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        book.seen("resumed with a pending approval")
        book.expect(13, book.said in ([], ["c"]), "a call ran that had run, or one that nobody asked for")
        started = [event.call_id for event in record.events if isinstance(event, ToolStarted)]
        book.expect(13, set(started) <= {"waiting"}, started)
        found = outputs(result, new=False)
        book.expect(4, found["done"].output == "b is gone", found["done"])

    return Play(Agent("a", tools=[erase], model=scripted(Say("All gone."))), record=after)
