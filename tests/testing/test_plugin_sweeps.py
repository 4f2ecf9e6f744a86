"""The marker ``cancel_everywhere`` and the fixture ``agentrun_sweep`` of the pytest plugin."""

from __future__ import annotations

import re

import pytest

from .suites import LEAKY, PLUGINS, run

pytest_plugins = ["pytester"]


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
        assert len(made) == 2 * (1 + 2 + 2 + 1) + 1
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
    keeping = """
    keep = []

    @pytest.fixture(scope="module", autouse=True)
    def closes_them_after_all():  # or they would warn in a test that comes later
        yield
        for file in keep:
            file.close()
    """
    result = run(pytester, source.format(close="keep.append(file)") + keeping)
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
        assert len(asked) == 2 + 3 + 1
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


def test_a_marker_of_another_plugin_chooses_the_backend(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_trio", reason="pytest-trio is not installed: its part of the plugin is NOT TESTED")
    plugins = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:hypothesispytest", "-W", "ignore")
    pytester.makeini("[pytest]\nmarkers =\n    asyncio\n")
    pytester.makepyfile(
        test_it="""
    import asyncio
    import anyio
    import pytest
    import trio

    @pytest.mark.trio
    @pytest.mark.cancel_everywhere
    async def test_trio():
        await trio.sleep(1)

    @pytest.mark.asyncio
    @pytest.mark.cancel_everywhere
    async def test_asyncio():
        await asyncio.sleep(1)

    @pytest.mark.trio
    class TestBoth:
        @pytest.mark.cancel_everywhere(backends=["asyncio", "trio"])
        async def test_both(self):
            await anyio.sleep(1)

    @pytest.mark.trio
    async def test_plain():
        await trio.sleep(0)
    """
    )
    result = pytester.runpytest_inprocess(*plugins, "-v")
    result.assert_outcomes(passed=5)
    names = {line.split()[0].rpartition("::")[2] for line in result.outlines if " PASSED" in line}
    assert names == {"test_trio[trio]", "test_asyncio[asyncio]", "test_both[asyncio]", "test_both[trio]", "test_plain"}
    pytester.runpytest_inprocess(*plugins, "-m", "trio").assert_outcomes(passed=4, deselected=1)


def test_pytest_shows_the_line_of_the_test_and_what_the_sweep_says_and_no_more(pytester: pytest.Pytester) -> None:
    source = """
    from agentrun.testing import cancel_everywhere, check_tool, interrupt_everywhere

    async def swallows() -> None:
        try:
            await anyio.sleep(1)
        except BaseException:
            pass

    def test_swept():
        cancel_everywhere(swallows).raise_if_failed()

    def test_checked():
        check_tool(swallows, limit=1)

    def test_refused():
        cancel_everywhere(swallows, modes=[])

    def test_refused_in_a_run():
        cancel_everywhere(lambda: None)

    def test_misfit():
        check_tool(swallows, {"rows": 1})

    def test_what_is_no_verdict_is_shown_in_full():
        cancel_everywhere(swallows, ignore=5)
    """
    result = run(pytester, source, "--color=no")
    result.assert_outcomes(failed=6)
    shown = "\n".join(result.outlines)
    for line in ("cancel_everywhere(swallows).raise_if", "check_tool(swallows, limit", "check_tool(swallows, {"):
        assert f"\n>       {line}" in shown
    frames = [line for line in result.outlines if re.search(r"^\S+\.py:\d+: ", line)]
    places = [re.sub(r".*/|:\d+:.*", "", frame) for frame in frames]
    assert places == ["test_it.py"] * 6 + ["sweep.py", "sweep_arguments.py"], "\n".join(
        frames
    )  # only a bug is shown with all lines
    result.stdout.fnmatch_lines(["*sweep_arguments.py:*: TypeError"])
