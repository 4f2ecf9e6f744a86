"""The pytest plugin: scripted models, virtual time and sweeps in tests. It is there once agentrun is installed.

Fixtures: ``scripted_model`` (a `ScriptedModels`) and ``agentrun_sweep`` (a `Sweeps`). Markers: ``cancel_everywhere``
and ``agentrun_virtual_time``. Options: ``--agentrun-seed``, ``--agentrun-limit`` and ``--agentrun-only``. Import this
for annotations; what pytest loads is `agentrun.testing.pytest_hooks`, which imports this only for tests that use it.
"""

from __future__ import annotations

from agentrun.testing.pytest_plugin.models import ScriptedModels
from agentrun.testing.pytest_plugin.sweeps import SweepFailed, Sweeps

__all__ = ["ScriptedModels", "SweepFailed", "Sweeps"]
