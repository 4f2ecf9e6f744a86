"""What is said about a run besides the model's text: tools, approvals, endings, usage, each in a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from agentrun.cli.text import one_line, shorten
from agentrun.core import error_text
from agentrun.core.config import RunConfig
from agentrun.core.results import RunResult, RunState, ScopeState
from agentrun.core.usage import Usage
from agentrun.events import (
    AgentChanged,
    ApprovalRequested,
    Event,
    GuardrailEnded,
    InputDelivered,
    ToolEnded,
    ToolStarted,
)
from agentrun.items import Item, UserMessage
from agentrun.runtime.agent import Agent

__all__ = [
    "Note",
    "Style",
    "describe",
    "describe_call",
    "describe_ending",
    "describe_error",
    "describe_inputs",
    "describe_start",
    "describe_state",
    "describe_usage",
    "paint",
]

Style: TypeAlias = Literal["plain", "user", "note", "tool", "good", "bad", "ask"]

_SGR: Final[dict[Style, str]] = {
    "plain": "",
    "user": "1",
    "note": "2",
    "tool": "36",
    "good": "32",
    "bad": "31",
    "ask": "33;1",
}
_ARGUMENT_WIDTH: Final = 60
_OUTPUT_WIDTH: Final = 100
_MARKS: Final = {"completed": "✓", "failed": "✗", "cancelled": "■", "rejected": "✗", "timed_out": "✗"}


@dataclass(frozen=True, slots=True)
class Note:
    """A line to show, and how."""

    text: str
    style: Style = "note"


def paint(text: str, style: Style, *, colors: bool) -> str:
    """``text`` in the colours of ``style``."""
    code = _SGR[style] if colors else ""
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def describe(event: Event) -> Note | None:
    """The line that tells an event; ``None`` for events that are shown otherwise, or not."""
    indent = "  " * len(event.path)
    match event:
        case ToolStarted(name=name, arguments=arguments):
            return Note(f"{indent}→ {describe_call(name, arguments)}", "tool")
        case ToolEnded(name=name, status=status, output=output):
            said = shorten(_output_text(output), _OUTPUT_WIDTH)
            how = "" if status == "completed" else f" {status.replace('_', ' ')}"
            style: Style = "good" if status == "completed" else "note" if status == "cancelled" else "bad"
            return Note(f"{indent}{_MARKS[status]} {one_line(name)}{how}{': ' + said if said else ''}", style)
        case ApprovalRequested(call_id=call_id, name=name, arguments=arguments):
            # In full: who approves a call must have seen all of it.
            return Note(f"{indent}? {describe_call(name, arguments, None)} needs approval ({one_line(call_id)})", "ask")
        case AgentChanged(previous=previous, agent=agent):
            return Note(f"{indent}⇒ {one_line(previous)} hands over to {one_line(agent)}", "tool")
        case GuardrailEnded(name=name, outcome="tripped" | "failed" as outcome, message=message):
            return Note(f"{indent}✗ guardrail {one_line(name)} {outcome}: {one_line(message or '')}", "bad")
        case InputDelivered(turn=turn):
            return Note(f"{indent}· delivered in turn {turn}")
        case _:
            return None


def describe_call(name: str, arguments: str, width: int | None = _ARGUMENT_WIDTH) -> str:
    """A tool call as one would write it: ``get_weather(city="Oslo")``.

    Args:
        name: Name of the tool.
        arguments: The JSON text.
        width: Most columns that each argument may take; ``None`` for all it needs.
    """
    try:
        values: Any = json.loads(arguments or "{}")
    except ValueError:
        values = None
    if isinstance(values, dict):
        pieces = [
            f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in cast("dict[str, Any]", values).items()
        ]
    else:
        pieces = [arguments]
    shown = [one_line(piece) if width is None else shorten(one_line(piece), width) for piece in pieces]
    return f"{one_line(name)}({', '.join(shown)})"


def describe_ending(result: RunResult[Any]) -> Note | None:
    """How a run ended, and what its teardown had to do; nothing for one that completed."""
    teardown = one_line(str(result.teardown))
    if result.status == "interrupted":
        reason = result.interrupt.reason if result.interrupt is not None else None
        return Note(f"interrupted{f' ({one_line(reason)})' if reason else ''}: {teardown}", "ask")
    if result.status == "failed":
        assert result.error is not None
        return Note(f"failed: {describe_error(result.error)}; {teardown}", "bad")
    if not result.teardown.clean:
        return Note(teardown, "bad")
    return None


def describe_error(error: BaseException) -> str:
    """An error in one line, with all that it says."""
    return one_line(error_text.describe_error(error, whole=True))


def describe_usage(usage: Usage, turns: int) -> str:
    """What was used, in a few words."""
    parts = [_count(turns, "turn")]
    if usage.tool_calls:
        parts.append(_count(usage.tool_calls, "tool call"))
    parts.append(f"{usage.input_tokens} tokens in, {usage.output_tokens} out")
    return ", ".join(parts)


def describe_inputs(items: Iterable[Item]) -> str:
    """What the user said, quoted."""
    texts = [item.text for item in items if isinstance(item, UserMessage)]
    return ", ".join(f'"{shorten(one_line(text), _ARGUMENT_WIDTH)}"' for text in texts)


def describe_start(agent: Agent[Any, Any], config: RunConfig, history: Sequence[Item]) -> str:
    """What a conversation begins with."""
    model = config.model if config.model is not None else agent.model
    name = model if isinstance(model, str) else getattr(model, "name", type(model).__name__)
    items = f", {_count(len(history), 'item')} of history" if history else ""
    return f"{one_line(agent.name)} ({one_line(str(name))}{items}). Ctrl-C interrupts, twice leaves; /help shows more."


def describe_state(state: RunState) -> str:
    """What a run is doing right now, for a line that is always there."""
    parts = ["interrupting" if state.status == "interrupting" else f"turn {max(state.turn, 1)}"]
    tools = [_tool(scope) for scope in state.scope.children if scope.kind == "tool"]
    if tools:
        parts.extend(tools)
    else:
        parts.append({"model": "answering", "starting": "starting"}.get(state.phase, state.phase))
    if state.inbox:
        parts.append(_count(len(state.inbox), "input") + " waiting")
    if state.usage.total_tokens:
        parts.append(f"{state.usage.total_tokens} tokens")
    parts.append(f"{state.scope.seconds:.0f} s")
    return " · ".join(parts)


def _tool(scope: ScopeState) -> str:
    how = "" if scope.status == "running" else f" {scope.status}"
    return f"{one_line(scope.name)}{how} {scope.seconds:.0f} s"


def _output_text(output: Any) -> str:
    if isinstance(output, str):
        return one_line(output)
    if output is None:
        return ""
    return one_line(json.dumps(output, ensure_ascii=False, default=str))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
