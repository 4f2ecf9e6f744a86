"""Tools that wait for somebody's word."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import ActiveRun, Agent, FunctionTool, RunConfig, RunContext, RunResult, tool
from agentrun.events import ApprovalRequested, Event, ToolStarted
from agentrun.testing import Say
from agentrun.testing.laws import RunRecord

from ..stage import Book, Play, call, outputs, scene, scripted


def dangerous(book: Book, **options: Any) -> FunctionTool[..., Any]:
    """A tool that asks first."""

    async def erase(disk: str) -> str:
        book.say(f"erased {disk}")
        async with book.cleaned("erase"):
            await anyio.sleep(0.3)
        return f"{disk} is gone"

    return tool(erase, description="Erase a disk.", **{"needs_approval": True, **options})


def harmless(book: Book) -> FunctionTool[..., Any]:
    """A tool beside it."""

    async def look() -> str:
        async with book.cleaned("look"):
            await anyio.sleep(0.2)
        return "sun"

    return tool(look, description="Look.")


def asked_first(book: Book, record: RunRecord, result: RunResult[Any]) -> None:
    """Law 13: the tool was started only after it had been asked whether it may, and not if it might not."""
    asked: set[str] = set()
    for event in record.events:
        if isinstance(event, ApprovalRequested):
            asked.add(event.call_id)
        elif isinstance(event, ToolStarted) and event.name == "erase":
            book.expect(13, event.call_id in asked, "it was started before anybody was asked")
    book.expect(13, bool(asked) or not book.said, "it has run, and nobody was asked")
    output = outputs(result).get("erase")
    if output is not None and output.status == "rejected":
        book.expect(13, not book.said, "it was rejected, and has run")


@scene(laws={13}, kinds={"approved call"}, on_approval="approve")
def a_call_that_is_approved(book: Book) -> Play:
    def after(record: RunRecord, result: RunResult[Any]) -> None:
        asked_first(book, record, result)
        if book.said:
            book.seen("approved call")

    model = scripted([call("erase", disk="c"), call("look")], Say("Done."))
    return Play(Agent("a", tools=[dangerous(book), harmless(book)], model=model), record=after)


@scene(laws={13}, kinds={"rejected call"}, on_approval="reject")
def a_call_that_is_rejected(book: Book) -> Play:
    def after(record: RunRecord, result: RunResult[Any]) -> None:
        asked_first(book, record, result)
        if any(output.status == "rejected" for output in outputs(result).values()):
            book.seen("rejected call")

    model = scripted([call("erase", disk="c"), call("look")], Say("Done."))
    return Play(Agent("a", tools=[dangerous(book), harmless(book)], model=model), record=after)


@scene(laws={4, 13}, kinds={"call that nobody decides about"}, config=RunConfig(on_approval="end"))
def a_call_that_nobody_can_approve(book: Book) -> Play:
    def after(result: RunResult[Any]) -> None:
        book.expect(13, not book.said, "nobody approved it, and it has run")
        if result.pending_approvals:
            book.seen("call that nobody decides about")
            book.expect(4, outputs(result)["erase"].status == "cancelled", outputs(result))

    model = scripted([call("erase", disk="c"), call("look")], Say("Done."))
    return Play(Agent("a", tools=[dangerous(book), harmless(book)], model=model), after)


@scene(laws={2, 13}, kinds={"call that nobody decides about", "interrupt from a watcher"}, on_approval="nobody")
def a_call_that_waits_until_the_run_is_interrupted(book: Book) -> Play:
    """The clean run ends with the interrupt: its teardown is swept."""

    def on_event(live: ActiveRun[Any], event: Event) -> None:
        if isinstance(event, ApprovalRequested):
            book.seen("call that nobody decides about")
            if live.interrupt("nobody is here"):
                book.seen("interrupt from a watcher")

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        asked_first(book, record, result)

    model = scripted([call("erase", disk="c"), call("look")], Say("Done."))
    agent = Agent("a", tools=[dangerous(book), harmless(book)], model=model)
    return Play(agent, record=after, on_event=on_event)


@scene(laws={7, 13}, kinds={"approval function"}, on_approval="approve")
def a_function_decides_whether_to_ask(book: Book) -> Play:
    async def not_at_home(ctx: RunContext[Any], arguments: dict[str, Any]) -> bool:
        async with book.cleaned("asking"):
            book.seen("approval function")
            await anyio.sleep(0.2)
        return str(arguments["disk"]) == "c"

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        started = [event.call_id for event in record.events if isinstance(event, ToolStarted)]
        asked = [event.call_id for event in record.events if isinstance(event, ApprovalRequested)]
        book.expect(13, "c" not in started or "c" in asked, "it was started, and nobody was asked")
        book.expect(13, "tmp" not in asked, "somebody was asked for nothing")

    model = scripted([call("erase", "c", disk="c"), call("erase", "tmp", disk="tmp")], Say("Done."))
    return Play(Agent("a", tools=[dangerous(book, needs_approval=not_at_home)], model=model), record=after)


@scene(laws={8, 13}, kinds={"approval function that fails"})
def a_function_that_fails_to_decide_whether_to_ask(book: Book) -> Play:
    async def unsure(ctx: RunContext[Any], arguments: dict[str, Any]) -> bool:
        await anyio.sleep(0.2)
        book.seen("approval function that fails")
        raise LookupError("who knows?")

    def after(result: RunResult[Any]) -> None:
        book.expect(13, not book.said, "not knowing was taken for a permission")
        output = outputs(result).get("erase")
        book.expect(8, output is None or output.status in ("failed", "cancelled"), output)

    model = scripted([call("erase", disk="c"), call("look")], Say("Done."))
    agent = Agent("a", tools=[dangerous(book, needs_approval=unsure), harmless(book)], model=model)
    return Play(agent, after)
