"""Which session runs which tests: those of one Python share the tests, and so do the Pythons.

Without the two environment variables, as in plain ``pytest``, everything runs. ``nox -s tests`` sets them:

* ``AGENTRUN_TEST_BACKEND=asyncio`` or ``trio`` takes the tests of that backend. A test is of a backend when it has a
  parameter ``anyio_backend`` or ``backend`` that says so. All others would do the same in both sessions: that of
  asyncio runs them, also those that compare the backends.
* ``AGENTRUN_TEST_PYTHON=newer`` leaves out what is marked ``oldest_python("why")``: what proves nothing about a Python
  that it has not proven about the oldest one.

So each test is in exactly one session of the oldest Python, which `tests/test_shares.py` looks at. What a session
leaves out counts as deselected, and a line for each reason says so at its end.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

BACKENDS = ("asyncio", "trio")
PYTHONS = ("oldest", "newer")
HOME = "asyncio"  # whose session runs what has no backend

ALL = pytest.StashKey[list[pytest.Item]]()
_LEFT_OUT = pytest.StashKey[dict[str, int]]()
_NOTHING_ELSE = pytest.StashKey[bool]()


def backend_of(item: pytest.Item) -> str | None:
    """The backend that a test is of; ``None`` if it has none, or sees to its event loops itself."""
    callspec = getattr(item, "callspec", None)
    for name in ("anyio_backend", "backend"):
        value = callspec.params.get(name) if callspec is not None else None
        value = value[0] if isinstance(value, tuple) and value else value
        if value in BACKENDS:
            return str(value)
    return None


def why_left_out(item: pytest.Item, backend: str | None, python: str) -> str | None:
    """Why a session leaves a test out; ``None`` if it runs it."""
    only_oldest = item.get_closest_marker("oldest_python")
    if only_oldest is not None and python == "newer":
        return f"only the oldest Python runs it: {only_oldest.args[0]}"
    own = backend_of(item)
    if backend is None or backend == (own or HOME):
        return None
    return f"the session of {own} runs it" if own else f"it has no backend: the session of {HOME} runs it"


def _setting(name: str, known: tuple[str, ...], default: str | None) -> str | None:
    value = os.environ.get(name) or default
    if value is not None and value not in known:
        raise pytest.UsageError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    return value


def _check_marker(item: pytest.Item) -> None:
    for mark in item.iter_markers("oldest_python"):
        if len(mark.args) != 1 or not isinstance(mark.args[0], str) or mark.kwargs:
            raise pytest.UsageError(f'{item.nodeid}: the marker is oldest_python("why no other needs it")')


# The hooks, which conftest.py imports ---------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what other sessions run. After ``-k`` and ``-m``: see `pytest_sessionfinish`."""
    backend = _setting("AGENTRUN_TEST_BACKEND", BACKENDS, None)
    python = _setting("AGENTRUN_TEST_PYTHON", PYTHONS, "oldest") or ""
    for item in items:
        _check_marker(item)
    config.stash[ALL] = list(items)
    reasons = [why_left_out(item, backend, python) for item in items]
    left_out = [item for item, reason in zip(items, reasons, strict=True) if reason is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
    counts: dict[str, int] = Counter(reason for reason in reasons if reason is not None)
    config.stash[_LEFT_OUT] = counts
    config.stash[_NOTHING_ELSE] = not items
    output: Any = getattr(config, "workeroutput", None)
    if output is not None:  # a worker of xdist tells the process that prints
        output["left_out"], output["nothing_else"] = dict(counts), not items


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each worker of xdist has collected the same."""
    output: dict[str, Any] = getattr(node, "workeroutput", {})
    if "left_out" in output:
        node.config.stash[_LEFT_OUT] = output["left_out"]
        node.config.stash[_NOTHING_ELSE] = output["nothing_else"]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """``nox -s tests -- tests/core`` finds nothing in the session of trio, and that is no failure of it."""
    stash = session.config.stash
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and stash.get(_LEFT_OUT, None) and stash[_NOTHING_ELSE]:
        session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out, and why."""
    for reason, count in sorted(config.stash.get(_LEFT_OUT, dict[str, int]()).items()):
        terminalreporter.write_line(f"LEFT OUT [{count}] {reason}")
