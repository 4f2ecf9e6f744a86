"""Running single tests in a process in which pytest has collected them all."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

__all__ = ["file_of", "run_test", "set_clock"]

_CLOCK = "_agentrun_virtual_time"  # the fixture behind the marker of that name


class _Failures:
    def __init__(self) -> None:
        self.seen = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seen |= report.failed


def run_test(item: pytest.Item) -> bool:
    """Run one test with all its fixtures. Returns whether it passed (or was skipped)."""
    failures = _Failures()
    item.config.pluginmanager.register(failures)
    try:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    except BaseException:  # a mutant may break pytest's own report of what it has broken
        return False
    finally:
        item.config.pluginmanager.unregister(failures)
    return not failures.seen


def set_clock(item: pytest.Item, *, virtual: bool) -> bool:
    """Choose virtual or real time for a test, unless it says itself. Returns whether virtual time is possible."""
    names: list[str] = getattr(item, "fixturenames", [])
    test: Any = getattr(item, "function", None)
    if "anyio_backend" not in names or item.get_closest_marker("agentrun_virtual_time") is not None:
        return False
    inner = getattr(getattr(test, "hypothesis", None), "inner_test", test)
    if not inspect.iscoroutinefunction(getattr(inner, "_anyio_original_func", inner)):
        return False
    if _CLOCK in names:
        names.remove(_CLOCK)
    if virtual:
        names.insert(0, _CLOCK)
    return True


def file_of(item: pytest.Item) -> str:
    """The file of a test, from the top of the repository."""
    return item.nodeid.partition("::")[0]
