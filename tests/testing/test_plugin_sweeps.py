"""The marker ``cancel_everywhere`` and the fixture ``agentrun_sweep`` of the pytest plugin."""

from __future__ import annotations

import re
import sys

import pytest
import trio.testing  # noqa: F401 - so that the runs inside these tests do not import it anew

import agentrun.testing.pytest_plugin.clock
import agentrun.testing.pytest_plugin.swept  # noqa: F401

pytest_plugins = ["pytester"]

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


@pytest.mark.parametrize("ini", ["anyio_mode = auto", "anyio_mode = strict"])
@pytest.mark.parametrize("module_mark", ["", "pytestmark = pytest.mark.anyio"])
def test_a_marked_test_is_one_item_for_each_backend(pytester: pytest.Pytester, ini: str, module_mark: str) -> None:
    result = run(
        pytester,
        f"""
    {module_mark}

    @swept
    async def test_it():
        await anyio.sleep(1)

    @swept(backends=["trio"], limit=2)
    @pytest.mark.parametrize("number", [1, 2])
    async def test_numbers(number):
        await anyio.sleep(number)
    """,
        "-v",
        ini=ini,
    )
    result.assert_outcomes(passed=4)
    names = {line.split()[0] for line in result.outlines if " PASSED" in line}
    assert {re.sub(r".*::|[\[\]]", " ", name).split()[0] for name in names} == {"test_it", "test_numbers"}
    assert {part for name in names for part in name.rstrip("]").partition("[")[2].split("-")} == {
        "asyncio", "trio", "1", "2",
    }  # fmt: skip


def test_the_report_is_shown_with_the_command_that_replays_a_failure(pytester: pytest.Pytester) -> None:
    source = LEAKY.format(mark="@swept")
    result = run(pytester, source)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "* injections at 3 points in *: * went wrong",
            "*asyncio, suspended, at point 2 of 3: *test_it.py:* `await anyio.sleep(1)`*",
            "*left in the box*",
            "*to see it again: pytest 'test_it.py::test_leaky?asyncio?' --agentrun-only asyncio:suspended:2",
            "FAILED test_it.py::test_leaky?asyncio? - the oracle's verdict, in 5 runs",
        ]
    )
    for machinery in ("*pytest_plugin*", "*runtest*", "*Traceback*"):
        result.stdout.no_fnmatch_line(machinery)

    again = pytester.runpytest_inprocess(
        *PLUGINS, "test_it.py::test_leaky[asyncio]", "--agentrun-only", "asyncio:suspended:2"
    )
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["1 injections at 3 points in *: 1 went wrong"])


def test_to_replay_a_failure_leaves_the_other_backend_out(pytester: pytest.Pytester) -> None:
    source = LEAKY.format(mark="@swept")
    result = run(pytester, source, "--agentrun-only", "trio:resuming:3")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["1 injections at *", "*trio, resuming, at point 3 of 3*"])
    run(pytester, source, "--agentrun-only", "trio:suspended:1").assert_outcomes(passed=1, deselected=1)


def test_a_failure_of_the_clean_run_is_replayed_too(pytester: pytest.Pytester) -> None:
    source = """
    @swept
    async def test_it():
        await anyio.sleep(1)
        raise ValueError("always")
    """
    result = run(pytester, source)
    result.stdout.fnmatch_lines(["*ValueError: always*", "*--agentrun-only asyncio:baseline:0"])
    run(pytester, source, "--agentrun-only", "asyncio:baseline:0").assert_outcomes(failed=1, deselected=1)
    mended = source.replace("raise", "# raise")
    run(pytester, mended, "--agentrun-only", "asyncio:baseline:0").assert_outcomes(passed=1, deselected=1)


def test_a_failure_whose_point_is_gone_is_not_taken_for_mended(pytester: pytest.Pytester) -> None:
    result = run(pytester, LEAKY.format(mark="@swept"), "--agentrun-only", "trio:suspended:900")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*nothing to inject at that point any more; the clean run has 3 points*"])


def test_the_fixture_fails_at_the_line_of_the_test(pytester: pytest.Pytester) -> None:
    source = """
    async def scenario():
        with anyio.CancelScope():
            try:
                await anyio.sleep(1)
            except BaseException:
                pass

    def test_it(agentrun_sweep):
        agentrun_sweep.cancel_everywhere(scenario, backends=["asyncio"], modes=["suspended"])
    """
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       agentrun_sweep.cancel_everywhere(*",
            "*a cancellation was swallowed*",
            "*to see it again: pytest test_it.py::test_it --agentrun-only asyncio:suspended:1",
            "test_it.py:*: SweepFailed",
        ]
    )
    result.stdout.no_fnmatch_line("*sweeps.py*")
    run(pytester, source, "--agentrun-only", "asyncio:suspended:1").assert_outcomes(failed=1)


def test_what_a_sweep_refuses_is_said_without_the_machinery(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    import asyncio, itertools

    count = itertools.count()

    async def never_the_same():
        for _ in range(next(count)):
            await anyio.sleep(1)

    def test_it(agentrun_sweep):
        agentrun_sweep.cancel_everywhere(never_the_same)

    @swept
    async def test_swept():
        await never_the_same()
    """,
    )
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        ["*SweepRefused: the scenario is not deterministic*", "the scenario is not deterministic*"]
    )
    result.stdout.no_fnmatch_line("*engine.py*")


# Each run starts afresh -------------------------------------------------------------------------------------------


def test_fixtures_and_instances_are_made_anew_for_each_run_and_torn_down_after_it(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    made, ended, shared_made = [], [], []

    @pytest.fixture(scope="module")
    def shared():
        shared_made.append(1)
        yield
        ended.append("shared")

    @pytest.fixture(autouse=True)
    def around(shared):
        assert len(made) == len(ended)
        made.append(None)
        yield
        ended.append(None)

    @pytest.fixture
    def things():
        return []

    class TestIt:
        def setup_method(self):
            self.mine = []

        def teardown_method(self):
            assert self.mine == [] or self.mine == [1]

        @swept(modes=["suspended"])
        async def test_swept(self, things, request, tmp_path, monkeypatch):
            assert things == [] and self.mine == [] and not hasattr(self, "other")
            assert not list(tmp_path.iterdir())
            (tmp_path / "file").touch()
            monkeypatch.setattr(self, "other", 1, raising=False)
            assert not hasattr(self, "seen")
            self.seen = True
            things.append(1)
            self.mine.append(1)
            assert request.node.name.startswith("test_swept[")
            await anyio.sleep(1)
            await anyio.sleep(1)

    def test_afterwards():
        # Two backends; for each: once at setup, two clean runs, one run for each of two points; and this test.
        assert len(made) == 2 * (1 + 2 + 2) + 1
        assert len(ended) == len(made) - 1
        assert len(shared_made) == 1
    """,
    )
    result.assert_outcomes(passed=3)


def test_a_file_that_a_fixture_closes_is_not_left_open(pytester: pytest.Pytester) -> None:
    source = """
    @pytest.fixture
    def file(tmp_path):
        file = (tmp_path / "file").open("w")
        yield file
        {close}

    @swept
    async def test_it(file):
        await anyio.sleep(1)
    """
    run(pytester, source.format(close="file.close()")).assert_outcomes(passed=2)
    result = run(pytester, source.format(close="keep.append(file)") + "\n    keep = []\n")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*a file descriptor was left open*"])


def test_all_fixtures_are_torn_down_whatever_one_of_them_raises(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    alive = []

    @pytest.fixture
    def outer():
        alive.append(1)
        yield
        alive.pop()

    @pytest.fixture
    def inner(outer):
        yield
        pytest.fail("the inner one")

    @swept(backends=["asyncio"])
    async def test_it(inner):
        assert len(alive) == 1
        await anyio.sleep(1)

    def test_afterwards():
        assert not alive
    """,
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*asyncio, without any injection:*", "*the inner one*"])


def test_the_oracle_of_the_marker_is_asked_before_the_fixtures_go(pytester: pytest.Pytester) -> None:
    source = """
    alive, asked = [], []

    @pytest.fixture
    def thing():
        alive.append(1)
        yield
        alive.pop()

    {kind} oracle():
        assert len(alive) == 1
        asked.append(1)

    @swept(oracle=oracle, backends=["trio"])
    async def test_it(thing):
        await anyio.sleep(1)

    def test_afterwards():
        assert len(asked) == 2 + 3
    """
    for kind in ("def", "async def"):
        run(pytester, source.format(kind=kind)).assert_outcomes(passed=2)


def test_a_scripted_model_may_be_used_in_a_swept_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    from agentrun import Agent, run
    from agentrun.testing import Say

    @swept(limit=20)
    async def test_it(scripted_model):
        await run(Agent("a", model=scripted_model([Say("one", chunks=2)])), "?")
    """,
    )
    result.assert_outcomes(passed=2)


# Options ----------------------------------------------------------------------------------------------------------

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
