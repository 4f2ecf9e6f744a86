"""Shared fixtures: every async test runs on asyncio and on trio."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

_BACKENDS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "trio": ("trio", {"restrict_keyboard_interrupt_to_checkpoints": False}),
}
# Started in the background of a script or by nohup, this process ignores these signals, and so would the programs that
# it starts to see what they do on Ctrl-C. Signals that are handled here have their defaults there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _signal in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, signal.SIG_DFL)

# `AGENTRUN_TEST_BACKEND=trio pytest` runs one backend only; the nox sessions use it to report them apart.
_chosen = os.environ.get("AGENTRUN_TEST_BACKEND")
if _chosen is not None and _chosen not in _BACKENDS:
    raise pytest.UsageError(f"AGENTRUN_TEST_BACKEND must be one of {', '.join(_BACKENDS)}, not {_chosen!r}")


@pytest.fixture(params=[_chosen] if _chosen else list(_BACKENDS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The backend the test runs on."""
    return _BACKENDS[request.param]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With one backend chosen, tests that start event loops of their own leave the other one out, too."""
    if _chosen is None:
        return
    others = set(_BACKENDS) - {_chosen}
    left_out = [item for item in items if isinstance(item, pytest.Function) and _backend_parameter(item) in others]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def _backend_parameter(item: pytest.Function) -> object:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("backend") if callspec is not None else None
