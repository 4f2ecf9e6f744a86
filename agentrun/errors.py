"""Every error a user of agentrun can meet."""

from __future__ import annotations

from agentrun.core.errors import (
    AgentRunError,
    CallCancelled,
    InboxFull,
    InputGuardrailTripped,
    LimitExceeded,
    MaxTurnsExceeded,
    ModelBehaviorError,
    ModelError,
    OutputGuardrailTripped,
    RunEnded,
    TimeLimitExceeded,
    TokenLimitExceeded,
    ToolArgumentsError,
    ToolCallLimitExceeded,
    ToolError,
    UserError,
)

__all__ = [
    "AgentRunError",
    "CallCancelled",
    "InboxFull",
    "InputGuardrailTripped",
    "LimitExceeded",
    "MaxTurnsExceeded",
    "ModelBehaviorError",
    "ModelError",
    "OutputGuardrailTripped",
    "RunEnded",
    "TimeLimitExceeded",
    "TokenLimitExceeded",
    "ToolArgumentsError",
    "ToolCallLimitExceeded",
    "ToolError",
    "UserError",
]
