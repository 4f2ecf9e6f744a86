"""agentrun: a structured-concurrency runtime for LLM agent runs.

One run is one nursery. `open_run` gives a handle on it: watch its events, inject input, interrupt it; when the block
is left, nothing of the run is alive, and its history is valid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentrun._lazy import lazy_names

if TYPE_CHECKING:
    from agentrun.core.config import RunConfig
    from agentrun.core.errors import (
        AgentRunError,
        InboxFull,
        InputGuardrailTripped,
        LimitExceeded,
        MaxTurnsExceeded,
        ModelBehaviorError,
        ModelError,
        OutputGuardrailTripped,
        RunEnded,
        ToolError,
        UserError,
    )
    from agentrun.core.interrupts import Interrupt
    from agentrun.core.items import AssistantMessage, Reasoning, SystemMessage, ToolCall, ToolOutput, UserMessage
    from agentrun.core.model import ModelSettings
    from agentrun.core.results import RunResult, RunState, TeardownReport
    from agentrun.core.snapshot import RunSnapshot
    from agentrun.core.usage import Usage
    from agentrun.runtime.agent import Agent, Handoff
    from agentrun.runtime.guardrails import InputGuardrail, OutputGuardrail, Trip, input_guardrail, output_guardrail
    from agentrun.runtime.handle import ActiveRun
    from agentrun.runtime.hooks import RunHooks
    from agentrun.runtime.hub import EventStream
    from agentrun.runtime.injection import Injection
    from agentrun.runtime.opening import open_run, run, run_sync
    from agentrun.tools.context import RunContext
    from agentrun.tools.function import FunctionTool, tool
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "agentrun.core.config": ("RunConfig",),
            "agentrun.core.errors": (
                "AgentRunError",
                "InboxFull",
                "InputGuardrailTripped",
                "LimitExceeded",
                "MaxTurnsExceeded",
                "ModelBehaviorError",
                "ModelError",
                "OutputGuardrailTripped",
                "RunEnded",
                "ToolError",
                "UserError",
            ),
            "agentrun.core.interrupts": ("Interrupt",),
            "agentrun.core.items": (
                "AssistantMessage",
                "Reasoning",
                "SystemMessage",
                "ToolCall",
                "ToolOutput",
                "UserMessage",
            ),
            "agentrun.core.model": ("ModelSettings",),
            "agentrun.core.results": (
                "RunResult",
                "RunState",
                "TeardownReport",
            ),
            "agentrun.core.snapshot": ("RunSnapshot",),
            "agentrun.core.usage": ("Usage",),
            "agentrun.runtime.agent": (
                "Agent",
                "Handoff",
            ),
            "agentrun.runtime.guardrails": (
                "InputGuardrail",
                "OutputGuardrail",
                "Trip",
                "input_guardrail",
                "output_guardrail",
            ),
            "agentrun.runtime.handle": ("ActiveRun",),
            "agentrun.runtime.hooks": ("RunHooks",),
            "agentrun.runtime.hub": ("EventStream",),
            "agentrun.runtime.injection": ("Injection",),
            "agentrun.runtime.opening": (
                "open_run",
                "run",
                "run_sync",
            ),
            "agentrun.tools.context": ("RunContext",),
            "agentrun.tools.function": (
                "FunctionTool",
                "tool",
            ),
        },
    )

__all__ = [
    "ActiveRun",
    "Agent",
    "AgentRunError",
    "AssistantMessage",
    "EventStream",
    "FunctionTool",
    "Handoff",
    "InboxFull",
    "Injection",
    "InputGuardrail",
    "InputGuardrailTripped",
    "Interrupt",
    "LimitExceeded",
    "MaxTurnsExceeded",
    "ModelBehaviorError",
    "ModelError",
    "ModelSettings",
    "OutputGuardrail",
    "OutputGuardrailTripped",
    "Reasoning",
    "RunConfig",
    "RunContext",
    "RunEnded",
    "RunHooks",
    "RunResult",
    "RunSnapshot",
    "RunState",
    "SystemMessage",
    "TeardownReport",
    "ToolCall",
    "ToolError",
    "ToolOutput",
    "Trip",
    "Usage",
    "UserError",
    "UserMessage",
    "input_guardrail",
    "open_run",
    "output_guardrail",
    "run",
    "run_sync",
    "tool",
]
