"""Model streams: slow ones, broken ones, and what is around the call of a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, AssistantMessage, ModelError, Reasoning, RunConfig, RunContext, RunResult, ToolCall, tool
from agentrun.core.events import ReasoningDelta, ToolCallDelta
from agentrun.core.model import ModelRequest, ResponseEnded
from agentrun.core.usage import Usage
from agentrun.testing import Call, Fail, Say, ScriptedModel

from ..stage import SPARE, Book, Play, call, has_cancellation, outputs, scene, scripted


@tool
async def look(city: str) -> str:
    """Look out of the window."""
    await anyio.sleep(0.1)
    return f"sun in {city}"


def only_what_was_said(book: Book, result: RunResult[Any], *answers: str) -> None:
    """Law 4: each message is what the model said, whole, or the beginning of it, marked."""
    for item in result.items:
        if isinstance(item, AssistantMessage) and item.text != "Very well.":
            whole = item.text in answers and item.status == "completed"
            part = item.status == "incomplete" and any(answer.startswith(item.text) for answer in answers)
            book.expect(4, whole or part, f"the history has {item}")


@scene(laws={2, 4, 5}, kinds={"slow stream"}, second=2)
def a_streamed_answer(book: Book) -> Play:
    def after(result: RunResult[Any]) -> None:
        only_what_was_said(book, result, "It rains a lot.")
        book.seen("slow stream")

    return Play(Agent("a", model=scripted(Say("It rains a lot.", chunks=4, delay=0.1))), after)


class SlowToClose(ScriptedModel):
    """Streams that take a moment to open and to close."""

    def __init__(self, book: Book, *turns: Any) -> None:
        super().__init__([*turns, *SPARE])
        self._book = book

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
        await anyio.lowlevel.checkpoint()
        kind = "stream with slow cleanup"
        async with super().stream(request) as parts, self._book.cleaned("stream", kind=kind):
            yield parts


@scene(laws={1, 6, 7}, kinds={"stream with slow cleanup"}, second=1)
def a_stream_that_takes_a_moment_to_close(book: Book) -> Play:
    model = SlowToClose(book, [Say("Let me see.", chunks=2), call("look", city="Oslo")], Say("Sun."))
    return Play(Agent("a", tools=[look], model=model))


class FailsToClose(ScriptedModel):
    """Streams whose connection breaks when they are closed early."""

    def __init__(self, book: Book, *turns: Any) -> None:
        super().__init__([*turns, *SPARE])
        self._book = book
        self.broken: list[BaseException] = []

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
        async with super().stream(request) as parts:
            try:
                yield parts
            except BaseException as exc:
                if not has_cancellation(exc):
                    raise
                await anyio.sleep(0.1)
                self._book.seen("stream whose close fails")
                self.broken.append(ConnectionError("the connection broke"))
                raise self.broken[-1] from None


@scene(laws={8, 9}, kinds={"stream whose close fails"}, tidy=False)
def a_stream_whose_close_fails(book: Book) -> Play:
    model = FailsToClose(book, Say("One moment.", chunks=3, delay=0.1), Say("Sun."))

    def after(result: RunResult[Any]) -> None:
        book.expect(8, result.status != "failed", result.error)
        book.expect(9, list(result.errors) == model.broken, f"{result.errors} are not {model.broken}")

    return Play(Agent("a", model=model), after)


class Swallows(ScriptedModel):
    """Streams that end as if nothing had happened when they are cancelled."""

    def __init__(self, book: Book, *turns: Any) -> None:
        super().__init__([*turns, *SPARE])
        self._book = book
        self.swallowed = 0

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
        async with super().stream(request) as parts, aclosing(self._quietly(parts)) as quiet:
            yield quiet

    async def _quietly(self, parts: Any) -> AsyncGenerator[Any]:
        try:
            async for part in parts:
                yield part
        except BaseException as exc:
            if not has_cancellation(exc):
                raise
            self._book.seen("stream that swallows its cancellation")
            self.swallowed += 1


@scene(laws={2, 8}, kinds={"stream that swallows its cancellation"}, tidy=False)
def a_stream_that_swallows_its_cancellation(book: Book) -> Play:
    model = Swallows(book, Say("One moment.", chunks=4), Say("Sun."))

    def after(result: RunResult[Any]) -> None:
        told = result.teardown.swallowed_cancellations
        book.expect(8, len(told) == model.swallowed, f"{model.swallowed} were swallowed, and the report has {told}")

    return Play(Agent("a", model=model), after)


@scene(laws={4, 9}, kinds={"stream that fails in the middle"}, raises=ModelError)
def a_stream_that_fails_in_the_middle(book: Book) -> Play:
    error = ModelError("down")
    model = scripted([Say("Let me see.", chunks=2, delay=0.1), Fail(error)])

    def after(result: RunResult[Any]) -> None:
        only_what_was_said(book, result, "Let me see.")
        if result.status == "failed":
            book.seen("stream that fails in the middle")
            book.expect(9, result.error is error and not result.errors, f"{result.error!r}, {result.errors}")

    return Play(Agent("a", model=model), after)


@scene(laws={4, 9}, kinds={"tool that raises", "stream that fails in the middle"}, raises=ModelError)
def a_model_that_is_down_after_its_tools(book: Book) -> Play:
    @tool
    async def fails() -> str:
        """Fail."""
        await anyio.sleep(0.1)
        book.seen("tool that raises")
        raise LookupError("nothing there")

    def after(result: RunResult[Any]) -> None:
        if result.status == "failed":
            book.seen("stream that fails in the middle")
            book.expect(9, isinstance(result.error, ModelError), result.error)
            output = outputs(result).get("fails")
            book.expect(4, output is None or output.status in ("failed", "cancelled"), output)

    model = ScriptedModel([[Say("Let me"), call("fails")], *[Fail(ModelError("down"))] * 5])
    return Play(Agent("a", tools=[fails], model=model), after)


@scene(laws={3, 8}, kinds={"stream that lets a foreign cancellation out"}, raises=ModelError)
def a_stream_that_lets_a_foreign_cancellation_out(book: Book) -> Play:
    class Foreign(ScriptedModel):
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
            async with super().stream(request) as parts, aclosing(self._broken(parts)) as broken:
                yield broken

        async def _broken(self, parts: Any) -> AsyncGenerator[Any]:
            async for part in parts:
                if isinstance(part, AssistantMessage):
                    book.seen("stream that lets a foreign cancellation out")
                    cancelled = anyio.get_cancelled_exc_class()
                    raise cancelled.__new__(cancelled)
                yield part

    def after(result: RunResult[Any]) -> None:
        book.expect(8, result.status != "completed", "the stream never came to an end")

    model = Foreign([Say("One moment.", chunks=2, delay=0.1)] * 5)
    return Play(Agent("a", model=model), after)


class HalfCalls:
    """A model that thinks, and gives a tool call bit by bit."""

    name = "half calls"

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []
        self.open_streams = 0

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[Any]:
        self.requests.append(request)
        self.open_streams += 1
        try:
            async with aclosing(self._play(len(self.requests))) as parts:
                yield parts
        finally:
            self.open_streams -= 1

    async def _play(self, turn: int) -> AsyncGenerator[Any]:
        await anyio.sleep(0.1)
        if turn == 1:
            yield ReasoningDelta("Where")
            await anyio.sleep(0.1)
            yield Reasoning("Where?")
            for piece in ('{"ci', 'ty": ', '"Oslo"}'):
                yield ToolCallDelta("look", "look", piece)
                await anyio.sleep(0.1)
            yield ToolCall("look", "look", '{"city": "Oslo"}')
        else:
            yield AssistantMessage("Very well.")
        yield ResponseEnded(usage=Usage(output_tokens=1))


@scene(laws={4}, kinds={"half-streamed tool call"})
def a_tool_call_that_comes_bit_by_bit(book: Book) -> Play:
    def after(result: RunResult[Any]) -> None:
        book.seen("half-streamed tool call")
        for item in result.items:
            if isinstance(item, ToolCall):
                book.expect(4, item.arguments == '{"city": "Oslo"}', f"half a call is in the history: {item}")
        if not any(isinstance(item, ToolCall) for item in result.items):
            kept = [item for item in result.items if isinstance(item, Reasoning)]
            book.expect(4, not kept, f"reasoning without what it led to: {kept}")

    return Play(Agent("a", tools=[look], model=HalfCalls()), after)


async def _filter(request: ModelRequest) -> ModelRequest:
    await anyio.sleep(0.1)
    return request


@scene(
    laws={7, 13},
    kinds={"instructions function", "is_enabled function", "input filter"},
    config=RunConfig(input_filter=_filter),
)
def functions_that_prepare_the_call(book: Book) -> Play:
    async def instructions(ctx: RunContext[Any]) -> str:
        async with book.cleaned("instructions"):
            book.seen("instructions function")
            await anyio.sleep(0.1)
        return "Be brief."

    async def never(ctx: RunContext[Any]) -> bool:
        async with book.cleaned("is_enabled"):
            book.seen("is_enabled function")
            await anyio.sleep(0.1)
        return False

    @tool(is_enabled=never)
    async def forbidden() -> str:
        """Not to be called."""
        book.say("forbidden")
        return "done"

    def after(result: RunResult[Any]) -> None:
        book.seen("input filter")
        book.expect(13, "forbidden" not in book.said, "a tool that the model was not offered has run")

    model = scripted(Call("forbidden"), Say("Sorry."))
    return Play(Agent("a", instructions, [forbidden], model), after)
