"""What is around the tools of the scenes: hooks, a session, a model, guardrails."""

from __future__ import annotations

from typing import Any

import anyio

from agentrun import (
    RunContext,
    RunHooks,
    RunResult,
    ToolCall,
    ToolOutput,
    Trip,
    input_guardrail,
    output_guardrail,
)
from agentrun.core.model import ModelRequest
from agentrun.sessions import MemorySession
from agentrun.testing import BrokenLaw, ScriptedModel, assert_valid_history

from .ledger import book

__all__ = ["CheckingSession", "ClosingModel", "Hooks", "breaks", "sober", "strict", "truthful"]


class Hooks(RunHooks):
    """They take a moment each, and remember."""

    async def _start(self, name: str) -> None:
        book.hooks.append(f"{name} start")
        async with book.cleaning_up(f"hook {name}"):
            await anyio.sleep(0.1)

    async def _end(self, ctx: RunContext[Any], name: str) -> None:
        book.owed.append(f"hook {name} end")
        await anyio.sleep(0.1)
        book.hooks.append(f"{name} end")
        book.cleaned.append(f"hook {name} end")
        if ctx.run.result is not None:
            book.broken.append(BrokenLaw(6, f"the end of {name} was told to the hook after the end of the run"))

    async def on_run_start(self, ctx: RunContext[Any]) -> None:
        """The run begins."""
        await self._start("run")

    async def on_run_end(self, ctx: RunContext[Any], result: RunResult[Any]) -> None:
        """The run ends."""
        await self._end(ctx, "run")

    async def on_model_start(self, ctx: RunContext[Any], request: ModelRequest) -> None:
        """A model call begins."""
        await self._start("model")

    async def on_model_end(self, ctx: RunContext[Any], status: str) -> None:
        """A model call ends."""
        await self._end(ctx, "model")

    async def on_tool_start(self, ctx: RunContext[Any], call: ToolCall) -> None:
        """A tool begins."""
        await self._start(call.call_id)

    async def on_tool_end(self, ctx: RunContext[Any], call: ToolCall, output: ToolOutput) -> None:
        """A tool ends."""
        await self._end(ctx, call.call_id)


class CheckingSession(MemorySession):
    """A session that looks whether what it stores is valid at each moment."""

    async def load(self) -> Any:
        """The history."""
        await anyio.sleep(0.1)
        return await super().load()

    async def append(self, items: Any) -> None:
        """Store a piece, whole."""
        await anyio.sleep(0.1)
        await super().append(items)
        try:
            assert_valid_history(self.items, what="session")
        except AssertionError as exc:
            book.broken.append(BrokenLaw(4, f"for a moment at least, {exc}"))
        await anyio.sleep(0.1)


class ClosingModel(ScriptedModel):
    """A model whose streams take a moment to close."""

    def stream(self, request: ModelRequest) -> Any:
        """See `ScriptedModel`."""
        return _closing(super().stream(request))


class _closing:  # noqa: N801 - used as a function
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._cleanup = book.cleaning_up("model stream")

    async def __aenter__(self) -> Any:
        events = await self._stream.__aenter__()
        await self._cleanup.__aenter__()
        return events

    async def __aexit__(self, *exc: Any) -> None:  # noqa: PYI036 - passed on
        try:
            await self._cleanup.__aexit__(*exc)
        finally:
            await self._stream.__aexit__(*exc)


@input_guardrail
async def sober(ctx: RunContext[Any], items: Any) -> None:
    """Pass, after a while."""
    book.notes["guarding"] = True
    try:
        async with book.cleaning_up("sober", ctx, seconds=0.2):
            await anyio.sleep(0.6)
    finally:
        book.notes["guarding"] = False


@output_guardrail
async def truthful(output: Any) -> None:
    """Pass, after a while."""
    async with book.cleaning_up("truthful", seconds=0.2):
        await anyio.sleep(0.3)


@input_guardrail
async def strict(items: Any) -> Trip:
    """Refuse, after a while."""
    async with book.cleaning_up("strict"):
        await anyio.sleep(0.25)
        book.notes["tripped"] = True
    return Trip("no")


@input_guardrail
async def breaks(items: Any) -> None:
    """Break, which is no permission."""
    await anyio.sleep(0.3)
    book.notes["broke"] = True
    raise KeyError("lookup")
