"""The pytest plugin of agentrun, as far as pytest loads it: in each test process of an environment with agentrun in it.

Most of those test something else. So this module imports pytest and nothing that pytest has not imported itself, and
what does the work, `agentrun.testing.pytest_plugin`, is imported by the first test that asks for it.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Generator
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agentrun.testing.pytest_plugin import ScriptedModels, Sweeps

_SWEPT = "cancel_everywhere"
_VIRTUAL = "agentrun_virtual_time"
_CLOCK_FIXTURE = "_agentrun_virtual_time"
_MARKERS = {
    f"{_SWEPT}(**options)": "run the async test once for each of its scheduling points and cancel it there, on asyncio "
    "and on trio; the options are those of agentrun.testing.cancel_everywhere.",
    _VIRTUAL: "run the async test, which anyio's plugin or pytest-trio runs, in virtual time: sleeping takes none.",
}
_ID = re.compile(r"(asyncio|trio):[a-z_0-9-]+:\d+(:\d+)?")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the sweeps; they cannot be in the way of others, by their names."""
    group = parser.getgroup("agentrun", "sweeps (agentrun.testing)")
    group.addoption(
        "--agentrun-seed",
        type=_seed,
        metavar="N",
        help="the seed of trio's schedules in sweeps and in virtual time (default: what the test says, else 0)",
    )
    group.addoption(
        "--agentrun-limit",
        type=_limit,
        metavar="N",
        help="cancel at N points for each backend and mode, evenly spread, or at 'all' (default: what the test says, "
        "else the ini option agentrun_limit, else all)",
    )
    group.addoption(
        "--agentrun-only",
        type=_only,
        metavar="ID",
        help="replay one failure of a sweep: inject only there; ID is what the report says, such as "
        "asyncio:suspended:17",
    )
    parser.addini("agentrun_seed", "as --agentrun-seed, for sweeps that do not say", default=None)
    parser.addini("agentrun_limit", "as --agentrun-limit, for sweeps that do not say", default=None)


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}") from None


def _limit(text: str) -> int | str:
    if text == "all":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, or 'all', not {text!r}")
    return int(text)


def _only(text: str) -> str:
    if not _ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected the id of a failure, such as asyncio:suspended:17, not {text!r}")
    return text


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and what must come before the hooks of other plugins."""
    for marker, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {meaning}")
    # Registered now, it is called before the plugins of installed packages, whose order among each other is no order.
    config.pluginmanager.register(_Items(config), "agentrun-items")


class _Items:
    """Makes the items of marked tests. All others pass it by."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._collecting = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(
        self, collector: pytest.Module | pytest.Class, name: str, obj: object
    ) -> list[pytest.Item] | None:
        """A swept test is no async test for anybody else, so nobody else is asked."""
        if not isinstance(obj, FunctionType) or not _is_swept(collector, obj):
            return None
        if not collector.istestfunction(obj, name):
            return None
        from agentrun.testing.pytest_plugin.swept import swept_items

        self._collecting = True
        try:
            return swept_items(collector, name, obj)
        finally:
            self._collecting = False

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """An item for each backend."""
        if self._collecting:
            from agentrun.testing.pytest_plugin.swept import parametrize_backends

            parametrize_backends(metafunc)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """To replay a failure on one backend, the items of the other are not needed."""
        only: str | None = self._config.getoption("agentrun_only")
        if only is None:
            return
        backend = only.partition(":")[0]
        gone = [item for item in items if getattr(item, "agentrun_backend", backend) != backend]
        if gone:
            self._config.hook.pytest_deselected(items=gone)
            items[:] = [item for item in items if item not in gone]

    @pytest.hookimpl(trylast=True)  # anyio's plugin makes items there, too
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """A test in virtual time has that before anything else can start its event loop."""
        for item in session.items:
            if isinstance(item, pytest.Function) and item.get_closest_marker(_VIRTUAL) is not None:
                names = item.fixturenames  # one list for all items of a parametrized test
                if _CLOCK_FIXTURE not in names:
                    names.insert(0, _CLOCK_FIXTURE)


def _is_swept(collector: pytest.Module | pytest.Class, function: FunctionType) -> bool:
    marks: Any = function.__dict__.get("pytestmark", ())
    if isinstance(marks, pytest.Mark):
        marks = (marks,)
    if any(mark.name == _SWEPT for mark in marks):
        return True  # also if it cannot be swept: the item will say why
    return inspect.iscoroutinefunction(function) and collector.get_closest_marker(_SWEPT) is not None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the sweeps did, with -v."""
    if terminalreporter.verbosity < 1:
        return
    lines = [
        f"{report.nodeid}: {value}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "agentrun_sweep"
    ]
    if lines:
        terminalreporter.section("sweeps")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def scripted_model(request: pytest.FixtureRequest) -> Generator[ScriptedModels]:
    """Makes scripted models: `scripted_model(turns)`. At the end of the test, none of their streams may be open, and
    each turn must have been played (unless `all_played=False`)."""
    from agentrun.testing.pytest_plugin.models import scripted_models

    with scripted_models(request) as factory:
        yield factory


@pytest.fixture
def agentrun_sweep(request: pytest.FixtureRequest) -> Sweeps:
    """The sweeps of agentrun.testing, with the seed and the limits of the command line: `cancel_everywhere(...)`,
    `interrupt_everywhere(...)`. They fail the test if anything went wrong."""
    from agentrun.testing.pytest_plugin.sweeps import Sweeps

    return Sweeps(request.node)


@pytest.fixture(name=_CLOCK_FIXTURE)
def _virtual_time(request: pytest.FixtureRequest) -> Generator[None]:
    """What the marker agentrun_virtual_time means."""
    from agentrun.testing.pytest_plugin.clock import virtual_time

    with virtual_time(request):
        yield
