"""The marker ``agentrun_virtual_time`` of the pytest plugin, with anyio's plugin and with pytest-trio."""

from __future__ import annotations

import sys

import pytest

pytest_plugins = ["pytester"]

HEAD = """
    import anyio
    import pytest

    virtual = pytest.mark.agentrun_virtual_time

    async def long_sleep():
        before = anyio.current_time()
        await anyio.sleep(1_000_000)
        return anyio.current_time() - before
"""


def run(pytester: pytest.Pytester, source: str, *args: str, ini: str = "anyio_mode = auto") -> pytest.RunResult:
    """In a process of its own: event loops that a test leaves in a bad state are not ours."""
    pytester.makepyfile(HEAD + source)
    pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}\n")
    plugins = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    return pytester.run(sys.executable, "-P", "-m", "pytest", *plugins, *args, timeout=60)


ANYIO = ("-p", "no:trio", "-p", "no:asyncio")


def test_with_anyio_sleeping_takes_no_time_on_both_backends(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    @virtual
    async def test_it():
        assert await long_sleep() == 1_000_000

    @virtual
    class TestThem:
        @pytest.mark.parametrize("number", [1, 2])
        async def test_method(self, number):
            assert await long_sleep() == 1_000_000
    """,
        "-v",
        *ANYIO,
    )
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines_random(["*::test_it?asyncio? PASSED*", "*::test_it?trio? PASSED*"])


@pytest.mark.parametrize("mark", ["pytestmark = pytest.mark.anyio\n", "@pytest.mark.anyio"])
def test_with_anyio_in_strict_mode_too(pytester: pytest.Pytester, mark: str) -> None:
    source = f"""
    {mark}
    @virtual
    async def test_it():
        assert await long_sleep() == 1_000_000

    @virtual
    async def test_with_the_fixture(anyio_backend):
        assert await long_sleep() == 1_000_000
    """
    run(pytester, source, *ANYIO, ini="").assert_outcomes(passed=4)


def test_the_async_fixtures_of_the_test_are_in_its_event_loop(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    @pytest.fixture
    async def slow(anyio_backend):
        await anyio.sleep(1000)
        yield anyio.current_time()
        await anyio.sleep(1_000_000)

    @pytest.fixture(autouse=True)
    async def slow_for_all():
        await anyio.sleep(0.001)
        yield

    @virtual
    async def test_it(slow):
        assert slow == pytest.approx(1000.001)
        assert anyio.current_time() == slow
    """,
        *ANYIO,
    )
    result.assert_outcomes(passed=2)


def test_the_backend_is_the_one_that_the_suite_has_chosen_and_the_next_test_has_real_time(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        """
    import time

    @pytest.fixture(scope="module")
    def anyio_backend():
        return "asyncio", {"debug": True}

    @virtual
    async def test_virtual(anyio_backend_name):
        assert anyio_backend_name == "asyncio"
        assert anyio.current_time() == 0

    async def test_real(anyio_backend):
        assert anyio_backend == ("asyncio", {"debug": True})
        assert abs(anyio.current_time() - time.monotonic()) < 60

    @virtual
    async def test_virtual_again():
        assert await long_sleep() == 1_000_000
    """,
        *ANYIO,
    )
    result.assert_outcomes(passed=3)


def test_the_order_of_the_tasks_is_the_same_each_time_and_the_seed_chooses_it(pytester: pytest.Pytester) -> None:
    source = """
    from pathlib import Path

    @virtual
    @pytest.mark.parametrize("turn", range(2))
    async def test_it(turn, anyio_backend_name):
        order = []
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(note, order, number)
        with Path(f"order-{anyio_backend_name}").open("a") as file:
            file.write(f"{order}\\n")

    async def note(order, number):
        await anyio.sleep(0)
        order.append(number)
    """
    for seed in ("1", "1", "2"):
        run(pytester, source, *ANYIO, "--agentrun-seed", seed).assert_outcomes(passed=4)
    orders = (pytester.path / "order-trio").read_text().splitlines()
    assert len(orders) == 6
    assert len(set(orders[:4])) == 1
    assert len(set(orders[4:])) == 1
    assert orders[0] != orders[4]


def test_what_waits_for_ever_fails_at_once_on_asyncio(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    @virtual
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_it():
        await anyio.sleep_forever()
    """,
        *ANYIO,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Deadlock: all tasks wait, and nothing is left that could wake one of them*"])


def test_with_hypothesis_each_example_is_in_virtual_time(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nanyio_mode = auto\n")
    pytester.makepyfile(
        HEAD
        + """
    from hypothesis import given, settings, strategies as st

    @virtual
    @given(st.integers())
    @settings(max_examples=5, database=None)
    async def test_it(number):
        assert await long_sleep() == 1_000_000
    """
    )
    result = pytester.run(sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *ANYIO, timeout=60)
    result.assert_outcomes(passed=2)


def test_with_pytest_trio_the_clock_jumps(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_trio", reason="pytest-trio is not installed: its part of the plugin is NOT TESTED")
    source = """
    import time
    import trio

    @pytest.fixture
    async def slow():
        await trio.sleep(1000)
        return trio.current_time()

    {mark}
    @virtual
    async def test_virtual(slow):
        assert slow == 1000
        assert await long_sleep() == 1_000_000

    {mark}
    @virtual
    async def test_with_a_clock_of_its_own(mock_clock):
        assert trio.current_time() == 0
        mock_clock.jump(7)
        assert trio.current_time() == 7

    {mark}
    async def test_real():
        before = trio.current_time(), time.perf_counter()
        await trio.sleep(0.01)
        after = trio.current_time(), time.perf_counter()
        assert abs((after[0] - before[0]) - (after[1] - before[1])) < 60
        assert after[1] - before[1] > 0.005
    """
    mode = "anyio_mode = strict\ntrio_mode = true"
    run(pytester, source.format(mark="@pytest.mark.trio"), "-p", "no:asyncio", ini="").assert_outcomes(passed=3)
    run(pytester, source.format(mark=""), "-p", "no:asyncio", ini=mode).assert_outcomes(passed=3)


def test_with_pytest_asyncio_present_in_strict_mode_anyio_runs_it(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_asyncio", reason="pytest-asyncio is not installed: living with it is NOT TESTED")
    source = """
    import time

    @pytest.mark.anyio
    @virtual
    async def test_virtual():
        assert await long_sleep() == 1_000_000

    @pytest.mark.asyncio
    async def test_of_the_other_plugin():
        assert abs(anyio.current_time() - time.monotonic()) < 60
    """
    ini = "asyncio_default_fixture_loop_scope = function"
    run(pytester, source, ini=ini).assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("test", "args", "why"),
    [
        ("def test_it(): pass", ANYIO, "it is no async function"),
        ("async def test_it(): pass", (*ANYIO, "-p", "no:anyio"), "pytest-trio runs it"),
    ],
    ids=["not async", "nobody runs it"],
)
def test_what_cannot_run_in_virtual_time_says_why(
    pytester: pytest.Pytester, test: str, args: tuple[str, ...], why: str
) -> None:
    result = run(pytester, f"\n    @virtual\n    {test}\n", *args, ini="")
    assert result.ret != 0
    result.stdout.fnmatch_lines([f"agentrun_virtual_time: test_it cannot run in virtual time: *{why}*"])


def test_an_async_fixture_of_a_wider_scope_is_refused(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    @pytest.fixture(scope="module")
    async def shared():
        yield

    @virtual
    async def test_uses_it(shared):
        pass

    async def test_real(shared):
        pass

    @virtual
    async def test_beside_it():
        pass
    """,
        *ANYIO,
    )
    result.assert_outcomes(passed=2, errors=4)
    result.stdout.fnmatch_lines_random(
        [
            "*test_uses_it?asyncio? cannot run in virtual time: its async fixture 'shared' has the scope 'module'*",
            "*test_beside_it?trio? cannot run in virtual time: an async fixture of a wider scope*",
        ]
    )
