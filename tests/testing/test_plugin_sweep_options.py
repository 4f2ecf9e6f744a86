"""What the sweeps of the pytest plugin are told, by whom, and what they refuse."""

from __future__ import annotations

import sys

import pytest

from .suites import LEAKY, PLUGINS, run

pytest_plugins = ["pytester"]

COUNTED = """
    @swept{options}
    async def test_it():
        for _ in range(9):
            await anyio.sleep(1)
"""


@pytest.mark.parametrize(
    ("options", "ini", "args", "injections"),
    [
        ("", "", (), 9),
        ("(limit=4)", "", (), 4),
        ("", "agentrun_limit = 3", (), 3),
        ("(limit=4)", "agentrun_limit = 3", (), 4),
        ("(limit=4)", "agentrun_limit = 3", ("--agentrun-limit=2",), 2),
        ("(limit=4)", "agentrun_limit = 3", ("--agentrun-limit=all",), 9),
    ],
)
def test_the_command_line_wins_over_the_marker_and_that_over_the_ini_file(
    pytester: pytest.Pytester, options: str, ini: str, args: tuple[str, ...], injections: int
) -> None:
    options = options.replace(")", ", modes=['suspended'])") or "(modes=['suspended'])"
    result = run(pytester, COUNTED.format(options=options), "-v", *args, ini=ini)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"test_it.py::test_it?trio?: 10 points, {injections} injections, 0 failures in *"])


def test_the_seed_is_part_of_the_command_that_replays_a_failure(pytester: pytest.Pytester) -> None:
    result = run(pytester, LEAKY.format(mark="@swept"), "--agentrun-seed", "5")
    result.stdout.fnmatch_lines(["*--agentrun-only trio:suspended:2 --agentrun-seed 5"])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--agentrun-limit", "0"], "*expected a whole number of at least 1, or 'all', not '0'*"),
        (["--agentrun-seed", "x"], "*expected a whole number, not 'x'*"),
        (["--agentrun-only", "17"], "*expected the id of a failure, such as asyncio:suspended:17, not '17'*"),
    ],
)
def test_bad_options_are_refused_at_once(pytester: pytest.Pytester, args: list[str], says: str) -> None:
    result = run(pytester, COUNTED, *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([says])


def test_a_bad_ini_option_is_refused(pytester: pytest.Pytester) -> None:
    result = run(pytester, COUNTED.format(options=""), ini="agentrun_limit = some")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["the ini option agentrun_limit must be *at least 1, or 'all', not 'some'"])


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("@swept\n    def test_it(): pass", "test_it* is no async function*"),
        ("@swept(grce=1)\n    async def test_it(): pass", "*no option 'grce'; it takes backends, modes, *"),
        ("@swept(3)\n    async def test_it(): pass", "*takes options by name*"),
        ("@swept\n    async def test_it(anyio_backend): pass", "*uses the fixture anyio_backend*"),
        ("@swept\n    async def test_it(opened): pass", "*the async fixture 'opened'; each run of *"),
        (
            "import hypothesis as h\n    @swept\n    @h.given(h.strategies.none())\n    async def test_it(n): pass",
            "*is a Hypothesis test*",
        ),
    ],
    ids=["sync", "option", "position", "anyio_backend", "async fixture", "hypothesis"],
)
def test_what_cannot_be_swept_says_why(pytester: pytest.Pytester, test: str, says: str) -> None:
    fixture = "\n    @pytest.fixture\n    async def opened():\n        yield\n\n    "
    result = run(pytester, fixture + test + "\n")
    assert result.parseoutcomes().get("passed") is None
    result.stdout.fnmatch_lines([says])
    result.stdout.no_fnmatch_line("*swept.py*")


def test_skip_xfail_and_failing_fixtures_are_what_they_are_in_any_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    @pytest.fixture
    def skips():
        pytest.skip("no")

    @pytest.fixture
    def fails():
        raise ValueError("no")

    @swept
    async def test_skips(skips): pass

    @swept
    async def test_fails(fails): pass

    @swept
    async def test_skips_inside():
        await anyio.sleep(1)
        pytest.skip("no")

    @swept
    @pytest.mark.xfail(raises=AssertionError, strict=True)
    async def test_xfail():
        await anyio.sleep(1)
        raise ValueError("no")

    @swept(raises=ValueError)
    async def test_raises():
        raise ValueError("yes")
    """,
    )
    result.assert_outcomes(skipped=4, errors=2, xfailed=2, passed=2)


def test_the_summary_is_there_with_v_only_and_also_from_the_workers_of_xdist(pytester: pytest.Pytester) -> None:
    source = COUNTED.format(options="(limit=2)")
    run(pytester, source).stdout.no_fnmatch_line("*sweeps*")
    pytest.importorskip("xdist")
    args = (sys.executable, "-P", "-m", "pytest", *PLUGINS, "-v", "-n1")
    result = pytester.run(*args, timeout=60)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*= sweeps =*", "test_it.py::test_it?asyncio?: 10 points, 10 injections, 0 failures in *"]
    )
