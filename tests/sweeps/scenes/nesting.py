"""Several agents: handoffs, agents as tools, runs inside of tools."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, ModelError, RunContext, RunResult, open_run, run, tool
from agentrun.events import RunEnded, RunStarted, TextDelta, ToolEnded
from agentrun.testing import Fail, Say, ScriptedModel
from agentrun.testing.laws import RunRecord

from ..stage import Book, Play, call, outputs, scene, scripted


def looking(book: Book, kind: str | None = None) -> Any:
    """A tool that takes a moment."""

    async def look() -> str:
        async with book.cleaned("look", kind=kind):
            await anyio.sleep(0.3)
        return "sun"

    return tool(look, description="Look out of the window.")


def inside_out(book: Book, record: RunRecord, *models: ScriptedModel) -> None:
    """Laws 1 and 6: a nested run has ended before the call that it is part of."""
    alive: set[tuple[str, ...]] = set()
    for event in record.events:
        if isinstance(event, RunStarted):
            alive.add(event.path)
        elif isinstance(event, RunEnded):
            book.expect(1, event.path in alive, f"{event.path} has ended twice")
            alive.discard(event.path)
        elif isinstance(event, ToolEnded):
            left = [path for path in alive if path[: len(event.path) + 1] == (*event.path, event.call_id)]
            book.expect(6, not left, f"{event.call_id} has ended before the runs in it: {left}")
    book.expect(1, not alive, f"still alive: {alive}")
    for model in models:
        book.expect(1, not model.open_streams, "a stream of the nested run is still open")


@scene(laws={4, 11}, kinds={"handoff"})
def a_handoff(book: Book) -> Play:
    model = scripted(call("look"), Say("Sun."))
    other = Agent("other", tools=[looking(book)], model=model)
    first = scripted([Say("I hand over.", chunks=2), call("transfer_to_other")])

    def after(result: RunResult[Any]) -> None:
        if result.agent == "other":
            book.seen("handoff")
            book.expect(4, outputs(result)["transfer_to_other"].status == "completed", outputs(result))

    return Play(Agent("one", handoffs=[other], model=first), after)


@scene(laws={4, 8}, kinds={"handoff beside tools"})
def a_handoff_beside_a_tool(book: Book) -> Play:
    """Two handoffs, of which one is carried out, and a tool that must end before."""
    other = Agent("other", model=scripted(Say("Here I am.")))
    third = Agent("third", model=scripted(Say("Not me.")))
    first = scripted([call("look"), call("transfer_to_other"), call("transfer_to_third")])

    def after(result: RunResult[Any]) -> None:
        book.expect(4, result.agent != "third", "the second of two handoffs was carried out")
        if result.agent == "other":
            book.seen("handoff beside tools")
            book.expect(4, outputs(result)["transfer_to_third"].status in ("failed", "cancelled"), outputs(result))

    agent = Agent("one", tools=[looking(book)], handoffs=[other, third], model=first)
    return Play(agent, after)


@scene(laws={1, 6, 7}, kinds={"nested run"}, second=1)
def an_agent_as_a_tool(book: Book) -> Play:
    inner_model = scripted(call("look"), Say("Sun.", chunks=2))
    inner = Agent("inner", tools=[looking(book, "nested run")], model=inner_model)
    model = scripted(call("inner", input="Look!"), Say("Inner says: sun."))

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        inside_out(book, record, inner_model)

    return Play(Agent("outer", tools=[inner.as_tool()], model=model), record=after)


@scene(laws={1, 6, 7}, kinds={"nested run two deep"})
def a_run_in_a_run_in_a_run(book: Book) -> Play:
    deep_model = scripted(call("look"), Say("Sun."))
    deep = Agent("deep", tools=[looking(book, "nested run two deep")], model=deep_model)
    middle_model = scripted(call("deep", input="?"), Say("Sun."))
    middle = Agent("middle", tools=[deep.as_tool()], model=middle_model)
    model = scripted(call("middle", input="?"), Say("Sun."))

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        inside_out(book, record, deep_model, middle_model)

    return Play(Agent("outer", tools=[middle.as_tool()], model=model), record=after)


@scene(laws={1, 8, 11}, kinds={"agents as tools in parallel"})
def agents_as_tools_in_parallel(book: Book) -> Play:
    models = [scripted(Say(f"I am {name}.", chunks=2, delay=0.1)) for name in ("one", "two")]
    agents = [Agent(name, model=model) for name, model in zip(("one", "two"), models, strict=True)]
    model = scripted([call("one", input="?"), call("two", input="?")], Say("Both."))

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        book.seen("agents as tools in parallel")
        inside_out(book, record, *models)
        for name in ("one", "two"):
            output = outputs(result).get(name)
            if output is not None and output.status == "completed":
                book.expect(8, output.output == f"I am {name}.", output)

    return Play(Agent("outer", tools=[agent.as_tool() for agent in agents], model=model), record=after)


@scene(laws={2, 6}, kinds={"nested run that is interrupted by its tool"})
def a_nested_run_that_its_tool_interrupts(book: Book) -> Play:
    inner_model = scripted([Say("So far, so good.", chunks=3, delay=0.1), call("look")])
    inner = Agent("inner", tools=[looking(book)], model=inner_model)

    @tool
    async def ask(ctx: RunContext[Any]) -> str:
        """Ask, until there is something of an answer."""
        async with open_run(inner, "?") as nested:
            async for event in nested.events():
                if isinstance(event, TextDelta) and nested.interrupt("enough of that"):
                    book.seen("nested run that is interrupted by its tool")
            result = await nested.wait()
        return f"{result.status}: {result.text}"

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        inside_out(book, record, inner_model)
        output = outputs(result).get("ask")
        if output is not None and output.status == "completed":
            book.expect(2, str(output.output).startswith("interrupted: So"), output)

    return Play(Agent("outer", tools=[ask], model=scripted(call("ask"), Say("Done."))), record=after)


@scene(laws={8, 9}, kinds={"nested run that fails"}, tidy=False)
def a_nested_run_that_fails(book: Book) -> Play:
    inner_model = ScriptedModel([call("look"), Fail(ModelError("down"))])
    inner = Agent("inner", tools=[looking(book)], model=inner_model)
    raised: list[BaseException] = []

    @tool
    async def ask(ctx: RunContext[Any]) -> str:
        """Ask somebody whose model is down."""
        try:
            return str((await run(inner, "?")).output)
        except ModelError as exc:
            book.seen("nested run that fails")
            raised.append(exc)
            raise

    def after(record: RunRecord, result: RunResult[Any]) -> None:
        inside_out(book, record, inner_model)
        book.expect(8, result.status != "failed", result.error)
        output = outputs(result).get("ask")
        if output is not None and output.status == "failed":
            book.expect(9, "ModelError: down" in str(output.output), output)
        elif raised:  # the call was being cancelled just then
            book.expect(9, list(result.errors) == raised, f"{raised} was raised, and kept was {result.errors}")

    return Play(Agent("outer", tools=[ask], model=scripted(call("ask"), Say("Done."))), record=after)
