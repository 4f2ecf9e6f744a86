"""Hypothesis strategies for whole programs: what a model says, what tools do, and what is done to the run.

    from hypothesis import given
    from agentrun.testing.laws import broken_laws
    from agentrun.testing.programs import run_program
    from agentrun.testing.strategies import programs

    @given(programs())
    def test_all_laws_hold(program):
        assert not broken_laws(run_program(program, "asyncio"))

All of them shrink towards what does least: a failing program comes down to a few lines, and prints as code.
"""

from __future__ import annotations

import importlib.util

from agentrun.core.errors import UserError

if importlib.util.find_spec("hypothesis") is None:
    raise UserError("agentrun.testing.strategies needs hypothesis: pip install hypothesis")

from agentrun.testing.strategies.agents import agents, guards, programs, turns
from agentrun.testing.strategies.around import configs, hooks, sessions, steers, watchers
from agentrun.testing.strategies.tools import cleanups, seconds, steps, thread_steps, tools

__all__ = [
    "agents",
    "cleanups",
    "configs",
    "guards",
    "hooks",
    "programs",
    "seconds",
    "sessions",
    "steers",
    "steps",
    "thread_steps",
    "tools",
    "turns",
    "watchers",
]
