"""Agents as tools of other agents."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from agentrun.core.config import RunConfig
from agentrun.core.errors import UserError
from agentrun.runtime.agent import Agent
from agentrun.runtime.opening import run
from agentrun.runtime.run import Run
from agentrun.runtime.tool_run import current_tool_run
from agentrun.tools.context import RunContext
from agentrun.tools.function import FunctionTool, tool

__all__ = ["agent_tool"]


_DEFAULTS: Final = RunConfig()


def _config(outer: Run) -> RunConfig:
    """What a nested run takes over from the settings of the run that it is nested in; see `Agent.as_tool`."""
    given, used = outer.config, outer.machine.usage
    settings = given.model_settings
    if settings is not None and settings.tool_choice is not None:
        settings = replace(settings, tool_choice=None)  # the tool is one of the outer agent's
    return replace(
        given,
        model_settings=settings,
        max_turns=_DEFAULTS.max_turns,
        max_tokens=_left(given.max_tokens, used.total_tokens),
        max_tool_calls=_left(given.max_tool_calls, used.tool_calls),
        max_seconds=None,  # those of the outer run are over for this one as well
        on_approval=None,  # nobody holds a handle of the nested run to approve anything with
    )


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(1, limit - used)


def agent_tool(agent: Agent[Any, Any], *, name: str | None, description: str | None, **options: Any) -> FunctionTool:
    """See `Agent.as_tool`."""

    async def ask(ctx: RunContext[Any], input: str) -> Any:
        outer = current_tool_run.get()
        result = await run(agent, input, deps=ctx.deps, config=_config(outer.run) if outer is not None else None)
        if result.status != "completed":
            assert result.interrupt is not None  # the other endings raise
            return f"Stopped before it was done: {result.interrupt.reason}"
        return result.output

    text = description or agent.description or f"Ask {agent.name}."
    slug = name or re.sub(r"\W+", "_", agent.name.strip().lower(), flags=re.ASCII).strip("_")[:64]
    if not slug:
        raise UserError(f"agent {agent.name!r} needs as_tool(name=...): its own name makes no tool name")
    return tool(ask, name=slug, description=text, **options)
