"""Runs that use more than they may, and outputs of other types than text."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, MaxTurnsExceeded, ModelBehaviorError, RunConfig, RunResult, tool
from agentrun.core.errors import TimeLimitExceeded, TokenLimitExceeded, ToolCallLimitExceeded
from agentrun.testing import Say, ScriptedModel

from ..stage import Book, Play, call, outputs, scene, scripted


def working(book: Book, seconds: float = 0.2) -> Any:
    """A tool that takes a moment."""

    async def work() -> str:
        book.say("worked")
        async with book.cleaned("work"):
            await anyio.sleep(seconds)
        return "done"

    return tool(work, description="Work.")


def bounded(book: Book, kind: str, error: type[BaseException], model: Any, *, seconds: float = 0.2) -> Play:
    """A run that fails with this error, unless something else ends it before."""

    def after(result: RunResult[Any]) -> None:
        if result.status == "failed":
            book.seen(kind)
            book.expect(9, isinstance(result.error, error), f"{result.error!r}")
            book.expect(9, not result.errors, result.errors)

    return Play(Agent("a", tools=[working(book, seconds)], model=model), after)


@scene(laws={2, 9}, kinds={"max_turns"}, config=RunConfig(max_turns=2), raises=MaxTurnsExceeded)
def more_turns_than_allowed(book: Book) -> Play:
    model = ScriptedModel([call("work", f"work{n}") for n in range(8)])
    return bounded(book, "max_turns", MaxTurnsExceeded, model)


@scene(laws={2, 9}, kinds={"max_tokens"}, config=RunConfig(max_tokens=3), raises=TokenLimitExceeded)
def more_tokens_than_allowed(book: Book) -> Play:
    model = ScriptedModel([[Say("Well, well.", chunks=4), call("work", f"work{n}")] for n in range(8)])
    return bounded(book, "max_tokens", TokenLimitExceeded, model)


@scene(laws={4, 9, 13}, kinds={"max_tool_calls"}, config=RunConfig(max_tool_calls=2), raises=ToolCallLimitExceeded)
def more_tool_calls_than_allowed(book: Book) -> Play:
    model = ScriptedModel([[call("work", f"work{n}"), call("work", f"too{n}")] for n in range(8)])
    play = bounded(book, "max_tool_calls", ToolCallLimitExceeded, model)
    inner = play.after
    assert inner is not None

    def after(result: RunResult[Any]) -> None:
        inner(result)
        book.expect(13, book.said.count("worked") <= 2, "more calls have run than may")

    play.after = after
    return play


@scene(laws={6, 7, 9}, kinds={"max_seconds"}, config=RunConfig(max_seconds=0.5), raises=TimeLimitExceeded, second=2)
def more_time_than_allowed(book: Book) -> Play:
    """The clean run fails while its tool is at work: its teardown is swept."""
    return bounded(book, "max_seconds", TimeLimitExceeded, scripted(call("work"), Say("Done.")), seconds=5)


@scene(laws={4}, kinds={"output_type"})
def an_output_of_another_type(book: Book) -> Play:
    model = ScriptedModel([call("work"), *[Say('{"rain": 3}', chunks=3)] * 6])

    def after(result: RunResult[Any]) -> None:
        if result.status == "completed":
            book.seen("output_type")
            book.expect(4, result.output == {"rain": 3}, result.output)
        else:
            book.expect(2, result.output is None, result.output)

    agent: Agent[Any, Any] = Agent("a", tools=[working(book)], model=model, output_type=dict[str, int])
    return Play(agent, after)


@scene(laws={4, 9}, kinds={"output that does not match its type"}, raises=ModelBehaviorError)
def an_output_that_does_not_match_its_type(book: Book) -> Play:
    model = ScriptedModel([call("work"), *[Say("It rains.", chunks=2)] * 6])

    def after(result: RunResult[Any]) -> None:
        book.expect(4, result.output is None, result.output)
        if result.status == "failed":
            book.seen("output that does not match its type")
            book.expect(9, isinstance(result.error, ModelBehaviorError), result.error)
            book.expect(4, not book.said or "work" in outputs(result), "what the tools did is not in the history")

    agent: Agent[Any, Any] = Agent("a", tools=[working(book)], model=model, output_type=dict[str, int])
    return Play(agent, after)
