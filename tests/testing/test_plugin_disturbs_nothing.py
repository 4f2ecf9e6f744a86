"""pytest loads the plugin in each test process of an environment with agentrun in it; there it must not be noticed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

OF_PYTEST = pytest.mark.oldest_python("it is about pytest, which is the same on each Python")

# A suite that uses nothing of the plugin, and names that come near to it.
SUITE = """
import asyncio
import unittest
import warnings

import anyio
import pytest
from hypothesis import given, settings, strategies as st


@pytest.fixture
def cancel_everywhere():
    return "the fixture of this suite"


@pytest.fixture(params=["a", "b"])
def letter(request):
    yield request.param


@pytest.fixture
async def opened():
    await anyio.sleep(0)
    yield "opened"
    await anyio.sleep(0)


def test_fixtures_are_those_of_the_suite(cancel_everywhere, letter):
    assert cancel_everywhere == "the fixture of this suite"


async def test_async(opened, anyio_backend_name):
    if anyio_backend_name == "asyncio":
        raise AssertionError(type(asyncio.get_running_loop()).__name__)
    import trio
    raise AssertionError(trio.current_time() > 1000)


@pytest.mark.parametrize("number", [2, 1])
async def test_async_parametrized(number, letter):
    assert number == 2


class TestClass:
    async def test_method(self):
        pass

    def test_warns(self):
        warnings.warn("this suite warns", UserWarning)


class TestCase(unittest.IsolatedAsyncioTestCase):
    async def test_case(self):
        pass


@given(st.integers())
@settings(max_examples=3, derandomize=True)
async def test_hypothesis(number):
    assert number == number


@pytest.mark.skip(reason="skipped")
def test_skipped():
    pass


@pytest.mark.xfail
def test_xfail():
    raise ValueError


def test_error(no_such_fixture):
    pass
"""


def run(pytester: pytest.Pytester, *args: str) -> list[str]:
    """The lines that a run prints, without what is different each time, and without lists of plugins and fixtures."""
    result = pytester.run(sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *args)
    lines = [re.sub(r"in \d+\.\d+s", "in 0s", line) for line in result.outlines]
    lists = ("plugins: ", ">       available fixtures: ")
    return [re.sub(r"0x[0-9a-f]+", "0x", line) for line in lines if not line.startswith(lists)]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_suite=SUITE)
    pytester.makeini(
        "[pytest]\nanyio_mode = auto\naddopts = -p no:asyncio -p no:trio --strict-markers --strict-config\n"
    )
    return pytester


@OF_PYTEST
@pytest.mark.parametrize("args", [("-v", "-rA"), ("--collect-only", "-q"), ("-W", "error"), ("--setup-plan",)], ids=str)
def test_a_suite_that_does_not_use_it_prints_the_same_with_and_without_it(
    suite: pytest.Pytester, args: tuple[str, ...]
) -> None:
    without = run(suite, "-p", "no:agentrun", *args)
    assert run(suite, *args) == without
    assert any("test_async_parametrized[asyncio-a-2]" in line or "..." in line or "passed" in line for line in without)


def test_the_suite_that_is_compared_has_every_outcome(suite: pytest.Pytester) -> None:
    summary = run(suite)[-1]
    for outcome in ("failed", "passed", "skipped", "xfailed", "warning", "error"):
        assert outcome in summary


def test_loading_it_imports_itself_and_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_modules="""
        import sys
        from pathlib import Path

        def test_modules():
            Path(f"modules-{'agentrun.testing.pytest_hooks' in sys.modules}").write_text("\\n".join(sys.modules))
        """
    )
    for args in ([], ["-p", "no:agentrun"]):
        run(pytester, "-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:asyncio", "-p", "no:trio", *args)
    with_it, without = (set((pytester.path / f"modules-{it}").read_text().split()) for it in (True, False))
    assert with_it - without == {"agentrun", "agentrun._lazy", "agentrun.testing", "agentrun.testing.pytest_hooks"}
    assert not {"anyio", "asyncio", "trio", "pydantic", "httpx"} & with_it


@OF_PYTEST
def test_its_fixtures_and_markers_are_these(pytester: pytest.Pytester) -> None:
    shown = {args: set(run(pytester, "-q", *args)) - set(run(pytester, "-q", "-p", "no:agentrun", *args)) for args in (
        ("--fixtures",), ("--markers",)
    )}  # fmt: skip
    fixtures = {line.split()[0] for line in shown["--fixtures",] if " -- " in line}
    markers = {match[1] for line in shown["--markers",] if (match := re.match(r"@pytest\.mark\.(\w+)", line))}
    assert fixtures == {"scripted_model", "agentrun_sweep"}
    assert markers == {"cancel_everywhere", "agentrun_virtual_time"}


def test_a_process_without_pytest_does_not_load_it() -> None:
    code = "import agentrun.testing, sys; assert not {'agentrun.testing.pytest_hooks', 'pytest'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_a_function_that_only_looks_like_a_swept_test_is_none(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_suite="""
        import pytest

        class Odd:
            @property
            def pytestmark(self):
                raise ValueError("do not look")

        test_odd = Odd()

        @pytest.mark.cancel_everywhere
        def helper():
            raise AssertionError("no test, by its name")

        def test_plain():
            pass
        """
    )
    assert "1 passed" in run(suite)[-1]
