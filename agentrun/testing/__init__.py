"""What tests of agents need: a model that follows a script, a check of the histories it leads to, and sweeps that
cancel a program at every scheduling point."""

from __future__ import annotations

from agentrun.testing.check_tool import ToolCheckFailed, check_tool
from agentrun.testing.interrupt_sweep import interrupt_everywhere
from agentrun.testing.scripted import Call, Fail, Hang, Say, ScriptedModel, Wait
from agentrun.testing.sweep import Failure, SweepRefused, SweepReport, cancel_everywhere, replay
from agentrun.testing.sweeping.verdicts import BrokenLaw
from agentrun.testing.validation import assert_valid_history

__all__ = [
    "BrokenLaw",
    "Call",
    "Fail",
    "Failure",
    "Hang",
    "Say",
    "ScriptedModel",
    "SweepRefused",
    "SweepReport",
    "ToolCheckFailed",
    "Wait",
    "assert_valid_history",
    "cancel_everywhere",
    "check_tool",
    "interrupt_everywhere",
    "replay",
]
