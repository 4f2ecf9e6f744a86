"""One call of the model: what goes before it, the stream, and its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from agentrun.core.errors import ModelError
from agentrun.core.events import (
    InputDelivered,
    ModelCallEnded,
    ModelCallStarted,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    TurnStarted,
)
from agentrun.core.inbox import InboxEntry
from agentrun.core.items import Item
from agentrun.core.model import Model, ModelRequest, ModelSettings, ToolSpec
from agentrun.core.response import ResponseBuilder
from agentrun.core.turns import CallModel
from agentrun.runtime.containment import bounded, call
from agentrun.runtime.reports import foreign_cancellation
from agentrun.runtime.run import Run
from agentrun.runtime.services import NoCallServices
from agentrun.runtime.steps import start_hook

if TYPE_CHECKING:
    from agentrun.runtime.agent import Agent
    from agentrun.runtime.guardrails import InputGuardrail

__all__ = ["call_model"]

# A stream that never waits must not keep the event loop to itself.
_DELTAS_PER_CHECKPOINT = 64
_DELTAS = frozenset((TextDelta, ReasoningDelta, ToolCallDelta))
_NO_SETTINGS = ModelSettings()


async def call_model(run: Run, first_input: tuple[Item, ...]) -> None:
    """Take the turn's model call. ``first_input`` is the run's own input in its first turn, else empty.

    Returns early, with no turn taken, when the run is to stop before the model was called. A checkpoint unless the
    model's stream is none.
    """
    machine, agent = run.machine, run.agent
    waited = False
    seen: Sequence[InboxEntry] | None = None  # by the blocking guardrails
    if agent.input_guardrails and _has_blocking(agent):
        waited = True
        seen = await _pass_blocking_guardrails(run, first_input)
        if seen is None:
            return
    instructions: Any = agent.instructions
    tools: Sequence[ToolSpec]
    if agent.tools_always_enabled and not callable(instructions):
        tools = agent.tool_specs
    else:
        waited = True
        prepared = await _prepare(run, agent)
        if prepared is None:
            return
        instructions, tools = prepared
    if run.hub.pressed and run.hub.lagging:
        waited = True
        await run.steps.take("run", "waiting for watchers", run.hub.wait_for_watchers())
    # From here to the stream there is no await: what is due now is part of this very call.
    if waited and not isinstance(machine.next_action(), CallModel):
        return  # the run was interrupted meanwhile, or the input that asked for this call was withdrawn
    due = machine.due_input()
    if seen is not None and due != seen:
        return  # more came while those before it were looked at; the driver comes back here at once
    builder = machine.begin_model_call(due)
    turn, model = machine.turn, run.models[id(agent)]
    name = model_name(model)
    run.publish(TurnStarted(turn, agent.name))
    for entry in due:
        run.publish(InputDelivered(entry.id, turn))
    run.publish(ModelCallStarted(turn, name))
    if agent.input_guardrails:
        fresh = first_input + tuple(item for entry in due for item in entry.items)
        if fresh:
            racing = [g for g in cast("Sequence[InputGuardrail]", agent.input_guardrails) if not g.blocking]
            run.guards.start(racing, "input", fresh)
    request = ModelRequest(
        instructions,
        machine.transcript.view(),
        tools,
        _settings(run, agent),
        agent.output_schema,
    )
    run.phase = "model"
    outcome = await run.steps.take("model", name, _stream(run, model, request, builder), ignores_cut=False)
    _end(run, turn, builder, outcome.ending, outcome.error, cut=outcome.swallowed)
    if run.hooks:
        await _end_hooks(run, builder)


def _settings(run: Run, agent: Agent[Any, Any]) -> ModelSettings:
    own, wanted = agent.model_settings, run.config.model_settings
    if own is None and wanted is None:
        return _NO_SETTINGS
    settings = (own or _NO_SETTINGS).merged_with(wanted)
    forced = settings.tool_choice not in (None, "auto", "none")
    if forced and agent.reset_tool_choice and run.machine.usage.tool_calls:
        return replace(settings, tool_choice=None)
    return settings


def _end(run: Run, turn: int, builder: ResponseBuilder, ending: str, error: BaseException | None, *, cut: bool) -> None:
    machine = run.machine
    status: Literal["completed", "interrupted", "failed"]
    if ending == "returned" and not cut:
        status = "completed"
        machine.end_model_call()
        if machine.ending:
            run.apply("stop")  # the model asked for more tool calls than it may
    else:
        machine.cut_model_call()
        status = "failed" if ending in ("raised", "foreign_cancellation") else "interrupted"
        if ending == "raised":
            assert error is not None
            run.fail(error)
        elif ending == "foreign_cancellation":
            run.fail(ModelError("the model's stream let a cancellation out that agentrun did not ask for"))
    run.publish(ModelCallEnded(turn, status, builder.usage, builder.finish_reason))
    builder.outcome = status


async def _stream(run: Run, model: Model, request: ModelRequest, builder: ResponseBuilder) -> None:
    """Read the model's stream to its end. Runs contained, and is cancelled there."""
    hub = run.hub
    feed: Callable[[Any], None] = builder.feed
    publish: Callable[[Any], None] = run.publish
    if run.config.input_filter is not None:
        filtered: Any = run.config.input_filter(request)
        request = cast("ModelRequest", await filtered if isinstance(filtered, Awaitable) else filtered)
        if not isinstance(request, ModelRequest):
            raise TypeError(f"RunConfig.input_filter must return a ModelRequest, not {type(request).__name__}")
    all_tools = request.tools is run.agent.tool_specs
    run.offered = None if all_tools else frozenset(spec.name for spec in request.tools)
    for hooks in run.hooks:
        run.model_hooks += (hooks,)
        ctx = run.context(NoCallServices(run))
        await start_hook(run, run.steps.current, "hook on_model_start", hooks.on_model_start, ctx, request)
        if run.steps.current.delivered:
            return  # the hook has kept the cancellation to itself, or its cleanup raised in its place
    count = 0
    async with model.stream(request) as events:
        async for event in events:
            feed(event)
            if type(event) in _DELTAS:
                publish(event)
                count += 1
                if count >= _DELTAS_PER_CHECKPOINT or hub.pressed:
                    count = 0
                    await hub.wait_for_watchers()
    builder.end()


async def _end_hooks(run: Run, builder: ResponseBuilder) -> None:
    while run.model_hooks:
        hooks, *later = run.model_hooks
        run.model_hooks = tuple(later)
        ctx = run.context(NoCallServices(run))
        ended = await bounded(partial(hooks.on_model_end, ctx, builder.outcome), run.config.cleanup_grace)
        run.reports.note_bounded(ended, "hook on_model_end")


def model_name(model: Model) -> str:
    """What the model calls itself: its ``name`` or ``model`` attribute, or its class."""
    for attribute in ("name", "model"):
        value = getattr(model, attribute, None)
        if isinstance(value, str) and value:
            return value
    return type(model).__name__


# Before the call ---------------------------------------------------------------------------------------------------


def _has_blocking(agent: Agent[Any, Any]) -> bool:
    return any(g.blocking for g in cast("Sequence[InputGuardrail]", agent.input_guardrails))


async def _pass_blocking_guardrails(run: Run, first_input: tuple[Item, ...]) -> list[InboxEntry] | None:
    """Run the blocking input guardrails on all that the call would take in; ``None`` if the run is to stop."""
    entries = run.machine.due_input()
    run.phase = "guardrails"
    first = () if run.first_input_checked else first_input
    fresh = first + tuple(item for entry in entries if entry.id not in run.checked for item in entry.items)
    if fresh:
        blocking = [g for g in cast("Sequence[InputGuardrail]", run.agent.input_guardrails) if g.blocking]
        run.guards.start(blocking, "input", fresh)
        await run.guards.settle(until_stopped=True)
        if run.machine.ending:
            return None
        run.first_input_checked = True
        run.checked = run.checked.union(entry.id for entry in entries)
    return entries


async def _prepare(run: Run, agent: Agent[Any, Any]) -> tuple[str | None, Sequence[ToolSpec]] | None:
    """Ask the agent's functions for instructions and enabled tools; ``None`` if the run is to stop."""
    run.phase = "starting"
    outcome = await run.steps.take("run", f"preparing {agent.name}", _ask(run, agent))
    if outcome.ending == "raised":
        assert outcome.error is not None
        run.fail(outcome.error)
    elif outcome.ending == "foreign_cancellation":
        run.fail(foreign_cancellation(f"preparing the call of agent {agent.name!r}"))
    return None if run.machine.ending else outcome.value


async def _ask(run: Run, agent: Agent[Any, Any]) -> tuple[str | None, Sequence[ToolSpec]]:
    ctx = run.context(NoCallServices(run))
    instructions: Any = agent.instructions
    if callable(instructions):
        instructions = await call(instructions, ctx)
        if instructions is not None and not isinstance(instructions, str):
            raise TypeError(f"the instructions function of agent {agent.name!r} returned {type(instructions).__name__}")
    tools: list[ToolSpec] = []
    for tool in agent.tool_map.values():
        enabled: Any = tool.is_enabled
        if callable(enabled):
            enabled = await call(enabled, ctx)
        if enabled:
            tools.append(tool.spec)
    return cast("str | None", instructions), (*tools, *agent.handoff_specs)
