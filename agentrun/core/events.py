"""What a run tells its watchers.

Events are small slotted objects. They are not frozen, because a frozen dataclass costs three times as much to make
and a run makes one for each streamed token; nobody changes one after it was made. Their JSON form is a subject of its
own (`agentrun.core.event_json`).

The deltas are final: there are so many of them that they are told from other objects by their exact class.

``path`` is empty for the run's own events. An event of a nested run carries the ids of the tool calls it is nested
in, outermost first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar, final

from agentrun.core.items import Item, ToolStatus
from agentrun.core.plain import Plain
from agentrun.core.usage import Usage

__all__ = [
    "AgentChanged",
    "ApprovalRequested",
    "Event",
    "EventsDropped",
    "GuardrailEnded",
    "InputDelivered",
    "InputInjected",
    "InterruptRequested",
    "ModelCallEnded",
    "ModelCallStarted",
    "ReasoningDelta",
    "RunEnded",
    "RunStarted",
    "RunStatus",
    "TextDelta",
    "ToolCallDelta",
    "ToolEnded",
    "ToolProgress",
    "ToolStarted",
    "TurnStarted",
    "with_path",
]

RunStatus: TypeAlias = Literal["completed", "interrupted", "failed", "cancelled"]
"""How a run ended."""

Path: TypeAlias = tuple[str, ...]


@dataclass(slots=True, repr=False, eq=False)
class RunStarted(Plain):
    """The first event of a run."""

    run_id: str
    agent: str
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class RunEnded(Plain):
    """The last event of a run; exactly one, never dropped.

    Attributes:
        status: How the run ended.
        reason: Why: the interrupt's reason, the error's message, or ``None`` for a completed run.
    """

    status: RunStatus
    reason: str | None = None
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class TurnStarted(Plain):
    """A turn begins: one model call and the tools it asks for. ``turn`` counts from 1."""

    turn: int
    agent: str
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class ModelCallStarted(Plain):
    """The request goes out."""

    turn: int
    model: str
    path: Path = ()


@final
@dataclass(slots=True, repr=False, eq=False)
class TextDelta(Plain):
    """The next piece of the model's answer."""

    text: str
    path: Path = ()


@final
@dataclass(slots=True, repr=False, eq=False)
class ReasoningDelta(Plain):
    """The next piece of the model's reasoning."""

    text: str
    path: Path = ()


@final
@dataclass(slots=True, repr=False, eq=False)
class ToolCallDelta(Plain):
    """The next piece of a tool call's arguments, as the model writes them.

    Attributes:
        call_id: Id of the call.
        name: Name of the tool.
        arguments: The next piece of the JSON text.
    """

    call_id: str
    name: str
    arguments: str
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class ModelCallEnded(Plain):
    """The model's stream has ended and was closed.

    Attributes:
        status: ``"completed"``; ``"interrupted"`` when it was cut; ``"failed"`` when it broke.
        usage: What the provider says it cost; ``None`` when it said nothing.
        finish_reason: The provider's reason, such as ``"stop"``, ``"tool_calls"`` or ``"length"``.
    """

    turn: int
    status: Literal["completed", "interrupted", "failed"]
    usage: Usage | None = None
    finish_reason: str | None = None
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class ToolStarted(Plain):
    """A tool begins to run."""

    call_id: str
    name: str
    arguments: str
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class ToolProgress(Plain):
    """Whatever a tool passed to ``ctx.progress(...)``."""

    call_id: str
    name: str
    data: Any
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class ToolEnded(Plain):
    """A tool call has ended and its cleanup is done. Each call has exactly one.

    A call that never began to run (rejected, unknown tool, invalid arguments, cancelled before its start) has this
    event without a `ToolStarted`.
    """

    call_id: str
    name: str
    status: ToolStatus
    output: Any
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class GuardrailEnded(Plain):
    """A guardrail has answered, or was cancelled."""

    name: str
    kind: Literal["input", "output"]
    outcome: Literal["passed", "tripped", "failed", "cancelled"]
    message: str | None = None
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class AgentChanged(Plain):
    """One agent handed over to another."""

    previous: str
    agent: str
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class InputInjected(Plain):
    """``inject`` was called."""

    injection_id: str
    deliver: Literal["next", "now", "idle"]
    items: tuple[Item, ...]
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class InputDelivered(Plain):
    """An injected input is part of the model call of this turn."""

    injection_id: str
    turn: int
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class InterruptRequested(Plain):
    """An interrupt was accepted: a first one, or one that escalates.

    Attributes:
        reason: The reason in force (the first one given wins).
        mode: The mode in force.
        call_id: The tool call that is interrupted, or ``None`` when it is the run.
    """

    reason: str | None
    mode: Literal["immediate", "after_turn"]
    call_id: str | None = None
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class ApprovalRequested(Plain):
    """A tool call waits for ``approve(call_id)`` or ``reject(call_id)``."""

    call_id: str
    name: str
    arguments: str
    path: Path = ()


@dataclass(slots=True, repr=False, eq=False)
class EventsDropped(Plain):
    """This subscriber was too slow and asked for ``overflow="drop"``: so many deltas are missing here."""

    count: int
    path: Path = ()


Event: TypeAlias = (
    RunStarted
    | RunEnded
    | TurnStarted
    | ModelCallStarted
    | TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | ModelCallEnded
    | ToolStarted
    | ToolProgress
    | ToolEnded
    | GuardrailEnded
    | AgentChanged
    | InputInjected
    | InputDelivered
    | InterruptRequested
    | ApprovalRequested
    | EventsDropped
)
"""Anything that a run tells its watchers."""

_E = TypeVar("_E")


def with_path(event: _E, prefix: Path) -> _E:
    """A copy of ``event`` whose path begins with ``prefix``: how a parent run passes on a nested run's event."""
    inner: Any = event
    outer: _E = replace(inner, path=prefix + inner.path)
    return outer
