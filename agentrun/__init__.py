"""agentrun: a structured-concurrency runtime for LLM agent runs.

One run is one nursery. `open_run` gives a handle on it: watch its events, inject input, interrupt it; when the block
is left, nothing of the run is alive, and its history is valid.
"""

from __future__ import annotations

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
