"""Suites that use the sweeps of the pytest plugin, and a way to run them."""

from __future__ import annotations

import pytest
import trio.testing  # noqa: F401 - so that the runs inside tests do not import it anew

import agentrun.testing.pytest_plugin.clock
import agentrun.testing.pytest_plugin.swept  # noqa: F401

PLUGINS = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:trio", "-p", "no:hypothesispytest")

HEAD = """
    import anyio
    import pytest

    swept = pytest.mark.cancel_everywhere
"""

# Wrong wherever it is cancelled between the two appends.
LEAKY = """
    @pytest.fixture
    def box():
        things = []
        yield things
        assert not things, "left in the box"

    {mark}
    async def test_leaky(box):
        await anyio.sleep(1)
        box.append("thing")
        await anyio.sleep(1)
        box.clear()
"""


def run(pytester: pytest.Pytester, source: str, *args: str, ini: str = "anyio_mode = auto") -> pytest.RunResult:
    pytester.makepyfile(test_it=HEAD + source)
    pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}\n")
    return pytester.runpytest_inprocess(*PLUGINS, *args)
