"""Programs: runs of agents as plain data, and playing them.

A `Program` says what the model, the tools, the guardrails, the hooks, the session and the watchers of a run do, and
what is done to the run at which point. `run_program` plays it in virtual time, and returns a record for
`agentrun.testing.laws.broken_laws`. The ``repr`` of a program is code that can be pasted into a test.

`agentrun.testing.strategies` draws programs with Hypothesis; this package does not need it.
"""

from __future__ import annotations

from agentrun.core.config import RunConfig
from agentrun.testing.programs.plans import (
    ACTIONS,
    Action,
    AgentPlan,
    Garbage,
    GuardPlan,
    HooksPlan,
    ModelFails,
    Program,
    SessionPlan,
    Steer,
    StreamPart,
    ToolPlan,
    WatcherPlan,
)
from agentrun.testing.programs.playing import BlockBroke, Player, run_program
from agentrun.testing.programs.steps import (
    Cleanup,
    Critical,
    Enter,
    Group,
    Look,
    LoopCall,
    Native,
    OnCleanup,
    Progress,
    Raise,
    Request,
    Shielded,
    Sleep,
    Step,
    Swallow,
    ThreadStep,
    Timeout,
    UntilInterrupted,
)
from agentrun.testing.scripted import Call, Hang, Say, Wait

__all__ = [
    "ACTIONS",
    "Action",
    "AgentPlan",
    "BlockBroke",
    "Call",
    "Cleanup",
    "Critical",
    "Enter",
    "Garbage",
    "Group",
    "GuardPlan",
    "Hang",
    "HooksPlan",
    "Look",
    "LoopCall",
    "ModelFails",
    "Native",
    "OnCleanup",
    "Player",
    "Program",
    "Progress",
    "Raise",
    "Request",
    "RunConfig",
    "Say",
    "SessionPlan",
    "Shielded",
    "Sleep",
    "Steer",
    "Step",
    "StreamPart",
    "Swallow",
    "ThreadStep",
    "Timeout",
    "ToolPlan",
    "UntilInterrupted",
    "Wait",
    "WatcherPlan",
    "run_program",
]
