"""Agents for the tests of ``agentrun fuzz``."""

from __future__ import annotations

import time
from typing import Any, Literal

import anyio
from pydantic import BaseModel

from agentrun import Agent, RunContext, run, tool


class Report(BaseModel):
    title: str
    score: float


@tool
async def look_up(words: str, most: int = 3) -> str:
    """Look something up."""
    print("a print that nobody wants to see a thousand times")
    await anyio.sleep(1)
    return words * most


@tool(needs_approval=True)
async def clean(rooms: list[Literal["kitchen", "hall"]]) -> str:
    """Clean up, and cope with being stopped."""
    try:
        await anyio.sleep(1)
    finally:
        await anyio.sleep(0.1)
    return "clean"


@tool
async def stubborn(url: str) -> str:
    """Try again, whatever happens."""
    for _ in range(3):
        try:
            await anyio.sleep(1)  # BUG
            return url
        except BaseException:
            continue
    return "gave up"


@tool
def in_thread(ctx: RunContext[Any]) -> str:
    """Look, and sleep."""
    for _ in range(2):
        ctx.check_cancelled()
        time.sleep(1)
    return "done"


@tool
def deaf() -> str:
    """Sleep, and look at nothing."""
    time.sleep(20)
    return "done"


@tool(isolation="process")
def apart() -> str:
    """Work in a process."""
    return "done"


@tool
async def code(number: int) -> int:
    """A code that no schema tells of."""
    if number != 42:
        raise ValueError("not 42")
    return number


@tool(on_error="raise")
async def code_or_nothing(number: int) -> int:
    """The same, for a run that must not go on without it."""
    if number != 42:
        raise ValueError("not 42")
    return number


good = Agent("good", tools=[look_up, clean, in_thread], output_type=Report)
broken = Agent("broken", tools=[look_up, stubborn, apart])
deafened = Agent("deafened", tools=[deaf, in_thread])
helper = Agent("helper", tools=[stubborn])
billing = Agent("billing", tools=[look_up], handoffs=[Agent("refunds", tools=[stubborn])])
desk = Agent("desk", tools=[look_up], handoffs=[billing])
boss = Agent("boss", tools=[helper.as_tool(name="ask_helper", description="Ask.")])
picky = Agent("picky", tools=[code])
strict = Agent("strict", tools=[code_or_nothing])
not_an_agent = 42


@tool
async def consult(ctx: RunContext[Any], question: str) -> str:
    """Run another agent."""
    return str((await run(helper, question, deps=ctx.deps)).output)


consulting = Agent("consulting", tools=[consult])


class Retries:
    """The deps of `retrying`: how often it may try."""

    def __init__(self) -> None:
        self.left = 3


@tool
async def fetch(ctx: RunContext[Retries], url: str) -> str:
    """Try as often as the deps allow, whatever happens."""
    while ctx.deps.left:
        ctx.deps.left -= 1
        try:
            await anyio.sleep(1)  # FLAW
            return url
        except BaseException:
            continue
    return "gave up"


retrying = Agent("retrying", tools=[fetch])


class Counter:
    """The deps of `counting`."""

    def __init__(self) -> None:
        self.calls = 0

    @classmethod
    def fresh(cls) -> Counter:
        return cls()


@tool
async def count(ctx: RunContext[Counter]) -> int:
    """Take longer each time."""
    ctx.deps.calls += 1
    for _ in range(ctx.deps.calls):
        await anyio.sleep(1)
    return ctx.deps.calls


counting = Agent("counting", tools=[count])
asking = Agent("asking", tools=[counting.as_tool(name="ask_counting", description="Ask.")])
counter = Counter()


def no_counter() -> Counter:
    raise OSError("out of counters")


def made() -> Agent[Any, Any]:
    return Agent("made", tools=[look_up])
