"""What `open_run` was given, made out: the hooks, the models, the agent, and the history to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

from agentrun.core.config import RunConfig
from agentrun.core.errors import UserError
from agentrun.core.items import AssistantMessage, Item, Reasoning, ToolCall, ToolOutput
from agentrun.core.model import Model, is_model
from agentrun.core.snapshot import RunSnapshot
from agentrun.core.transcript import check_history
from agentrun.runtime.agent import Agent
from agentrun.runtime.hooks import RunHooks

__all__ = ["Response", "list_hooks", "reopen", "resolve_models", "resume_agents"]

Response: TypeAlias = "tuple[AssistantMessage | Reasoning | ToolCall, ...]"
"""What the model said in one turn."""


def list_hooks(hooks: RunHooks | Sequence[RunHooks] | None, agent: Agent[Any, Any]) -> list[RunHooks]:
    """The hooks of the run, and then the agent's own."""
    if hooks is not None and not isinstance(cast("object", hooks), (RunHooks, Sequence)):
        raise UserError(f"hooks must be a RunHooks or a list of them, not {type(hooks).__name__}")
    given = [hooks] if isinstance(hooks, RunHooks) else list(hooks or ())
    for hook in given:
        if not isinstance(hook, RunHooks):
            raise UserError(f"hooks must be RunHooks, not {type(hook).__name__}")
    if agent.hooks is not None:
        given.append(agent.hooks)
    return given


def resolve_models(agent: Agent[Any, Any], config: RunConfig) -> dict[int, Model]:
    """The model of each agent that may come to work, by the agent's id. Errors come now, not in mid-run."""
    if not agent.handoff_map:
        return {id(agent): _resolve_model(agent, config)}
    models: dict[int, Model] = {}
    waiting = [agent]
    while waiting:
        current = waiting.pop()
        if id(current) not in models:
            models[id(current)] = _resolve_model(current, config)
            waiting.extend(handoff.agent for handoff in current.handoff_map.values())
    return models


def _resolve_model(agent: Agent[Any, Any], config: RunConfig) -> Model:
    model = config.model if config.model is not None else agent.model
    if model is None:
        raise UserError(
            f"agent {agent.name!r} has no model: pass Agent(model=...) or RunConfig(model=...), such as "
            "'openai:gpt-5.1-mini', 'local', or a model object"
        )
    if isinstance(model, str):
        from agentrun.models.providers import model_from_string

        return model_from_string(model)
    if not is_model(model):
        raise UserError(
            f"agent {agent.name!r}: model must be a string or have a stream() method, not {type(model).__name__}"
        )
    return model


def resume_agents(
    agent: Agent[Any, Any], snapshot: RunSnapshot | None
) -> tuple[Agent[Any, Any], Agent[Any, Any] | None]:
    """The agent that is to go on from the snapshot, ``agent`` itself without one; and who takes over from it once the
    calls that are opened again have ended, if it had handed over in the same response."""
    if snapshot is None:
        return agent, None
    found = agent.find(snapshot.agent)
    if found is None:
        raise UserError(
            f"resume_from was taken when agent {snapshot.agent!r} was at work, which {agent.name!r} cannot reach"
        )
    if snapshot.asked_by is None or not snapshot.pending_approvals:
        return found, None
    asked_by = agent.find(snapshot.asked_by)
    if asked_by is None:
        raise UserError(
            f"resume_from has tool calls of agent {snapshot.asked_by!r} that wait for approval, and {agent.name!r} "
            "cannot reach that agent; pass the agent that the run was started with"
        )
    return asked_by, found


def reopen(
    snapshot: RunSnapshot,
) -> tuple[tuple[Item, ...], tuple[Response, tuple[ToolOutput, ...]] | None]:
    """Split a history before the response whose calls wait for approval."""
    history = tuple(snapshot.history)
    waiting = {call.call_id for call in snapshot.pending_approvals}
    if not waiting:
        return history, None
    check_history(history, what="resume_from.history")
    outputs = [item for item in history if isinstance(item, ToolOutput)]
    start = len(history)
    while start and isinstance(history[start - 1], ToolOutput):
        start -= 1
    while start and isinstance(history[start - 1], (AssistantMessage, Reasoning, ToolCall)):
        start -= 1
    response = history[start:]
    calls = {item.call_id for item in response if isinstance(item, ToolCall)}
    if not waiting <= calls:
        raise UserError("resume_from: the tool calls that wait for approval are not those of the last response")
    settled = tuple(output for output in outputs if output.call_id in calls and output.call_id not in waiting)
    opened = tuple(item for item in response if not isinstance(item, ToolOutput))
    return history[:start], (cast("Response", opened), settled)
