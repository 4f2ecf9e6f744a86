"""How Hypothesis runs here: how long an example takes says nothing on a busy machine."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

settings.register_profile("agentrun", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For mutmut an example that fails is enough, it need not be a small one; and the verdicts are the same each time.
settings.register_profile(
    "mutants",
    parent=settings.get_profile("agentrun"),
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    database=None,
)
settings.load_profile("mutants" if "MUTANT_UNDER_TEST" in os.environ else "agentrun")
