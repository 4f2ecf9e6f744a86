"""Shared fixtures: every async test runs on asyncio and on trio."""

from __future__ import annotations

import os
from typing import Any

import pytest

_BACKENDS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "trio": ("trio", {"restrict_keyboard_interrupt_to_checkpoints": False}),
}
# `AGENTRUN_TEST_BACKEND=trio pytest` runs one backend only; the nox sessions use it to report them apart.
_chosen = os.environ.get("AGENTRUN_TEST_BACKEND")
if _chosen is not None and _chosen not in _BACKENDS:
    raise pytest.UsageError(f"AGENTRUN_TEST_BACKEND must be one of {', '.join(_BACKENDS)}, not {_chosen!r}")


@pytest.fixture(params=[_chosen] if _chosen else list(_BACKENDS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The backend the test runs on."""
    return _BACKENDS[request.param]
