"""What tests of agents need: a model that follows a script, a check of the histories it leads to, and sweeps that
cancel a program at every scheduling point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentrun._lazy import lazy_names

if TYPE_CHECKING:
    from agentrun.testing.interrupt_sweep import interrupt_everywhere
    from agentrun.testing.scripted import Call, Fail, Hang, Say, ScriptedModel, Wait
    from agentrun.testing.sweep import Failure, SweepRefused, SweepReport, cancel_everywhere, replay
    from agentrun.testing.sweeping.verdicts import BrokenLaw
    from agentrun.testing.tool_check import ToolCheckFailed, check_tool
    from agentrun.testing.validation import assert_valid_history
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "agentrun.testing.tool_check": (
                "ToolCheckFailed",
                "check_tool",
            ),
            "agentrun.testing.interrupt_sweep": ("interrupt_everywhere",),
            "agentrun.testing.scripted": (
                "Call",
                "Fail",
                "Hang",
                "Say",
                "ScriptedModel",
                "Wait",
            ),
            "agentrun.testing.sweep": (
                "Failure",
                "SweepRefused",
                "SweepReport",
                "cancel_everywhere",
                "replay",
            ),
            "agentrun.testing.sweeping.verdicts": ("BrokenLaw",),
            "agentrun.testing.validation": ("assert_valid_history",),
        },
    )

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
