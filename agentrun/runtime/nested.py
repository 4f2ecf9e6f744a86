"""Agents as tools of other agents."""

from __future__ import annotations

import re
from typing import Any

from agentrun.core.errors import UserError
from agentrun.runtime.agent import Agent
from agentrun.runtime.opening import run
from agentrun.tools.context import RunContext
from agentrun.tools.function import FunctionTool, tool

__all__ = ["agent_tool"]


def agent_tool(agent: Agent[Any, Any], *, name: str | None, description: str | None, **options: Any) -> FunctionTool:
    """See `Agent.as_tool`."""

    async def ask(ctx: RunContext[Any], input: str) -> Any:
        result = await run(agent, input, deps=ctx.deps)
        if result.status != "completed":
            assert result.interrupt is not None  # the other endings raise
            return f"Stopped before it was done: {result.interrupt.reason}"
        return result.output

    text = description or agent.description or f"Ask {agent.name}."
    slug = name or re.sub(r"\W+", "_", agent.name.strip().lower(), flags=re.ASCII).strip("_")[:64]
    if not slug:
        raise UserError(f"agent {agent.name!r} needs as_tool(name=...): its own name makes no tool name")
    return tool(ask, name=slug, description=text, **options)
