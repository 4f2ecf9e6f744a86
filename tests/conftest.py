"""Shared fixtures: every async test runs on asyncio and on trio. `shares` says in which session."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from shares import (
    BACKENDS,
    pytest_collection_modifyitems,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)

__all__ = [
    "pytest_collection_modifyitems",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
]

_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
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


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The backend the test runs on."""
    return _OPTIONS[request.param]
