"""What a run tells its watchers."""

from __future__ import annotations

from agentrun.core.event_json import event_from_dict, event_to_dict
from agentrun.core.events import (
    AgentChanged,
    ApprovalRequested,
    Event,
    EventsDropped,
    GuardrailEnded,
    InputDelivered,
    InputInjected,
    InterruptRequested,
    ModelCallEnded,
    ModelCallStarted,
    ReasoningDelta,
    RunEnded,
    RunStarted,
    RunStatus,
    TextDelta,
    ToolCallDelta,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    TurnStarted,
    with_path,
)

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
    "event_from_dict",
    "event_to_dict",
    "with_path",
]
