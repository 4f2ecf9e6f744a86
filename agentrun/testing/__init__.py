"""What tests of agents need: a model that follows a script."""

from __future__ import annotations

from agentrun.testing.scripted import Call, Fail, Hang, Say, ScriptedModel, Wait

__all__ = ["Call", "Fail", "Hang", "Say", "ScriptedModel", "Wait"]
