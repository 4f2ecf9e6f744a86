"""Tools that go wrong, and the tools beside them."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, FunctionTool, RunContext, RunResult, ToolError, tool
from agentrun.events import InputInjected, InterruptRequested
from agentrun.testing import Call, Say
from agentrun.testing.laws import RunRecord

from ..stage import Book, Play, call, has_cancellation, outputs, scene, scripted


def neighbour(book: Book) -> FunctionTool[..., Any]:
    """A tool that does nothing wrong."""

    @tool
    async def beside() -> str:
        """Mind its own business."""
        async with book.cleaned("beside"):
            await anyio.sleep(0.5)
        return "all well"

    return beside


def left_alone(book: Book, record: RunRecord, result: RunResult[Any], *, name: str = "beside") -> None:
    """Law 8: if nobody stopped the run or the tool, the tool beside the broken one has finished."""
    steered = any(
        isinstance(event, InterruptRequested) or (isinstance(event, InputInjected) and event.deliver == "now")
        for event in record.events
    )
    output = outputs(result).get(name)
    if not steered and result.status == "completed" and output is not None:
        book.expect(8, output.status == "completed", f"the tool beside has been taken down: {output}")


@scene(laws={8, 9}, kinds={"tool that raises", "ordinary cleanup"})
def a_tool_that_raises(book: Book) -> Play:
    @tool
    async def fails() -> str:
        """Fail."""
        await anyio.sleep(0.2)
        book.seen("tool that raises")
        raise LookupError("no such city")

    @tool
    async def beside() -> str:
        """Mind its own business."""
        async with book.cleaned("beside", kind="ordinary cleanup"):
            await anyio.sleep(0.5)
        return "all well"

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        left_alone(book, record, result)
        book.expect(9, result.error is None and not result.errors, f"{result.error!r}, {result.errors}")
        output = outputs(result).get("fails")
        if output is not None and output.status == "failed":
            book.expect(9, output.output == "Error: LookupError: no such city", output)

    model = scripted([call("fails"), call("beside")], Say("Sorry."))
    return Play(Agent("a", tools=[fails, beside], model=model), record=after)


@scene(laws={8, 9}, kinds={"tool that fails the run"}, raises=ToolError)
def a_tool_that_fails_the_run(book: Book) -> Play:
    error = ToolError("there is no city at all")

    @tool(on_error="raise")
    async def breaks() -> str:
        """Fail the run."""
        await anyio.sleep(0.2)
        book.seen("tool that fails the run")
        raise error

    def after(result: RunResult[Any]) -> None:
        if result.status == "failed":
            book.expect(9, result.error is error and not result.errors, f"{result.error!r}, {result.errors}")
            output = outputs(result).get("beside")
            book.expect(4, output is None or output.status in ("cancelled", "completed"), output)

    model = scripted([call("breaks"), call("beside")], Say("Never."))
    return Play(Agent("a", tools=[breaks, neighbour(book)], model=model), after)


@scene(laws={9}, kinds={"tools that fail the run together"}, raises=(KeyError, ValueError))
def tools_that_fail_the_run_together(book: Book) -> Play:
    errors: list[Exception] = [KeyError("one"), ValueError("two")]

    def failing(name: str, error: Exception) -> FunctionTool[..., Any]:
        async def fails() -> str:
            await anyio.lowlevel.checkpoint()
            raise error

        return tool(fails, name=name, description="Fail.", on_error="raise")

    def after(result: RunResult[Any]) -> None:
        if result.status == "failed":
            told = result.error
            leaves = list(told.exceptions) if isinstance(told, BaseExceptionGroup) else [told]
            if len(leaves) == 2:
                book.seen("tools that fail the run together")
            book.expect(9, len(leaves) > 1 or not isinstance(told, BaseExceptionGroup), f"a group of one: {told!r}")
            book.expect(9, {*leaves, *result.errors} <= set(errors), f"{told!r}, {result.errors}")
            book.expect(9, len(leaves) + len(result.errors) <= 2, f"told twice: {told!r}, {result.errors}")

    model = scripted([call("one"), call("two")], Say("Never."))
    return Play(Agent("a", tools=[failing("one", errors[0]), failing("two", errors[1])], model=model), after)


@scene(laws={2, 8}, kinds={"tool that swallows its cancellation"}, tidy=False)
def a_tool_that_swallows_its_cancellation(book: Book) -> Play:
    @tool
    async def swallows() -> str:
        """Go on as if nothing had happened."""
        try:
            await anyio.sleep(0.3)
        except BaseException as exc:
            if not has_cancellation(exc):
                raise
            book.seen("tool that swallows its cancellation")
            book.say("swallowed")
        else:
            return "done"
        await anyio.sleep(0.1)
        await anyio.sleep(0.1)
        return "never mind"

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        left_alone(book, record, result)
        told = result.teardown.swallowed_cancellations
        book.expect(8, len(told) == len(book.said), f"{len(book.said)} were swallowed, and the report has {told}")
        if book.said:
            output = outputs(result)["swallows"]
            book.expect(4, output.status == "cancelled" and "never mind" in str(output.output), output)

    model = scripted([call("swallows"), call("beside")], Say("Done."))
    return Play(Agent("a", tools=[swallows, neighbour(book)], model=model), record=after)


@scene(laws={3, 8}, kinds={"tool that lets a foreign cancellation out"})
def a_tool_that_lets_a_foreign_cancellation_out(book: Book) -> Play:
    @tool
    async def foreign() -> str:
        """Raise what only event loops may raise."""
        await anyio.sleep(0.2)
        book.seen("tool that lets a foreign cancellation out")
        cancelled = anyio.get_cancelled_exc_class()
        raise cancelled.__new__(cancelled)

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        left_alone(book, record, result)
        output = outputs(result).get("foreign")
        if output is not None:
            book.expect(8, output.status in ("failed", "cancelled"), output)

    model = scripted([call("foreign"), call("beside")], Say("Done."))
    return Play(Agent("a", tools=[foreign, neighbour(book)], model=model), record=after)


@scene(laws={7, 9}, kinds={"error policy of the user's own", "tool whose output is no JSON"})
def error_policies(book: Book) -> Play:
    async def excuse(ctx: RunContext[Any], error: Exception) -> str:
        async with book.whole("excuse"):
            book.seen("error policy of the user's own")
            await anyio.sleep(0.1)
        return f"sorry: {error}"

    @tool(on_error=excuse)
    async def fails() -> str:
        """Fail."""
        await anyio.sleep(0.1)
        raise LookupError("gone")

    @tool
    async def opaque() -> object:
        """Give what no model can read."""
        await anyio.sleep(0.1)
        book.seen("tool whose output is no JSON")
        return object()

    def after(result: RunResult[Any]) -> None:
        found = outputs(result)
        if found.get("fails") is not None and found["fails"].status == "failed":
            book.expect(9, found["fails"].output == "sorry: gone", found["fails"])
        if found.get("opaque") is not None:
            book.expect(9, found["opaque"].status in ("failed", "cancelled"), found["opaque"])

    model = scripted([call("fails"), call("opaque")], Say("Done."))
    return Play(Agent("a", tools=[fails, opaque], model=model), after)


@scene(laws={4, 12}, kinds={"bad JSON arguments", "unknown tool"})
def calls_that_a_model_must_not_make(book: Book) -> Play:
    @tool
    async def count(number: int) -> int:
        """Count."""
        await anyio.sleep(0.1)
        return number

    def after(result: RunResult[Any]) -> None:
        for name, output in outputs(result).items():
            if name in ("torn", "wrong", "nonsense"):
                book.seen("unknown tool" if name == "nonsense" else "bad JSON arguments")
                book.expect(4, output.status in ("failed", "cancelled"), output)
        book.expect(12, True)

    model = scripted(
        [
            Call("count", '{"number": ', "torn"),
            Call("count", {"number": "many"}, "wrong"),
            Call("nonsense", {}, "nonsense"),
            call("count", number=3),
        ],
        Say("Sorry."),
    )
    return Play(Agent("a", tools=[count], model=model), after)
