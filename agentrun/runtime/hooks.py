"""Being told what a run does, in code instead of events."""

from __future__ import annotations

from typing import Any

from agentrun.core.items import ToolCall, ToolOutput
from agentrun.core.model import ModelRequest
from agentrun.core.results import RunResult
from agentrun.tools.context import RunContext

__all__ = ["RunHooks"]


class RunHooks:
    """Override what you need. Each ``..._start`` is followed by its ``..._end``, on every path.

    A hook is awaited where it is called, so a slow one slows the run; it is cancelled with the run and gets
    ``cleanup_grace`` to clean up; the ``..._end`` hooks are shielded and get that long as a whole. A hook that raises
    does not touch the run: the error is kept in ``RunResult.errors``.
    """

    async def on_run_start(self, ctx: RunContext[Any]) -> None:
        """The run begins."""

    async def on_run_end(self, ctx: RunContext[Any], result: RunResult[Any]) -> None:
        """The run's ending is decided; everything else of it has been torn down."""

    async def on_model_start(self, ctx: RunContext[Any], request: ModelRequest) -> None:
        """The model is about to be called."""

    async def on_model_end(self, ctx: RunContext[Any], status: str) -> None:
        """The model's stream is closed. ``status`` is ``"completed"``, ``"interrupted"`` or ``"failed"``."""

    async def on_tool_start(self, ctx: RunContext[Any], call: ToolCall) -> None:
        """A tool is about to run."""

    async def on_tool_end(self, ctx: RunContext[Any], call: ToolCall, output: ToolOutput) -> None:
        """A tool that was started has ended and cleaned up."""
