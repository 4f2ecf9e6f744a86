"""What tests of agents need: a model that follows a script, and a check of the histories it leads to."""

from __future__ import annotations

from agentrun.testing.scripted import Call, Fail, Hang, Say, ScriptedModel, Wait
from agentrun.testing.validation import assert_valid_history

__all__ = ["Call", "Fail", "Hang", "Say", "ScriptedModel", "Wait", "assert_valid_history"]
