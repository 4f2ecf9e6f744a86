"""No test is lost between the sessions that share the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from shares import ALL, BACKENDS, why_left_out

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parent

SUITE = """
    import pytest

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_on(backend):
        pass

    @pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])
    def test_async(anyio_backend):
        pass

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    @pytest.mark.oldest_python("a proof about the tests")
    def test_proof(backend):
        pass

    @pytest.mark.parametrize("other", ["trio"])
    def test_of_no_backend(other):
        pass
"""


def test_each_test_is_in_exactly_one_session_of_the_oldest_python(request: pytest.FixtureRequest) -> None:
    sessions = {
        item.nodeid: [backend for backend in BACKENDS if why_left_out(item, backend, "oldest") is None]
        for item in request.config.stash[ALL]
    }
    assert request.node.nodeid in sessions
    assert {name: of for name, of in sessions.items() if len(of) != 1} == {}


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite that shares its tests as this one does."""
    for name in ("AGENTRUN_TEST_BACKEND", "AGENTRUN_TEST_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    hooks = (TESTS / "conftest.py").read_text().partition("\n\n_OPTIONS")[0].partition("import annotations")[2]
    assert "pytest_sessionfinish" in hooks
    pytester.makeconftest(hooks)
    pytester.makeini(f"[pytest]\nmarkers = oldest_python: why\npythonpath = {TESTS}\n")
    pytester.makepyfile(test_it=SUITE)
    return pytester


def run(suite: pytest.Pytester, *args: str) -> pytest.RunResult:
    without = [f"no:{plugin}" for plugin in ("asyncio", "trio", "hypothesispytest", "cacheprovider")]
    return suite.runpytest_inprocess(*(part for name in without for part in ("-p", name)), "-v", *args)


def ran(suite: pytest.Pytester, *args: str) -> list[str]:
    return [line.split("::")[1].split(" ")[0] for line in run(suite, *args).outlines if line.endswith("%]")]


ASYNCIO = ["test_on[asyncio]", "test_async[asyncio]", "test_of_no_backend[trio]"]
TRIO = ["test_on[trio]", "test_async[trio]"]


def test_without_the_variables_everything_runs(suite: pytest.Pytester) -> None:
    assert sorted(ran(suite)) == sorted([*ASYNCIO, *TRIO, "test_proof[asyncio]", "test_proof[trio]"])


@pytest.mark.parametrize(
    ("backend", "python", "expected"),
    [
        ("asyncio", "oldest", [*ASYNCIO, "test_proof[asyncio]"]),
        ("trio", "oldest", [*TRIO, "test_proof[trio]"]),
        ("asyncio", "newer", ASYNCIO),
        ("trio", "newer", TRIO),
    ],
)
def test_the_variables_choose_a_share(
    backend: str, python: str, expected: list[str], suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTRUN_TEST_BACKEND", backend)
    monkeypatch.setenv("AGENTRUN_TEST_PYTHON", python)
    assert sorted(ran(suite)) == sorted(expected)


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "with xdist"])
def test_what_is_left_out_is_told_with_the_reason(
    workers: tuple[str, ...], suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTRUN_TEST_BACKEND", "trio")
    monkeypatch.setenv("AGENTRUN_TEST_PYTHON", "newer")
    told = [line for line in run(suite, *workers).outlines if line.startswith("LEFT OUT")]
    assert sorted(told) == [
        "LEFT OUT [1] it has no backend: the session of asyncio runs it",
        "LEFT OUT [2] only the oldest Python runs it: a proof about the tests",
        "LEFT OUT [2] the session of asyncio runs it",
    ]


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "with xdist"])
def test_a_session_with_no_share_in_what_was_asked_for_does_not_fail_and_one_that_finds_nothing_does(
    workers: tuple[str, ...], suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTRUN_TEST_BACKEND", "trio")
    assert run(suite, *workers, "-k", "of_no_backend").ret == pytest.ExitCode.OK
    assert run(suite, *workers, "-k", "no_such_test").ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(("name", "value"), [("AGENTRUN_TEST_BACKEND", "curio"), ("AGENTRUN_TEST_PYTHON", "3.12")])
def test_a_variable_with_an_unknown_value_is_an_error(
    name: str, value: str, suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    result = run(suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {name} must be one of *, not '{value}'"])


def test_a_marker_without_a_reason_is_an_error(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_it="import pytest\n\n@pytest.mark.oldest_python\ndef test_it():\n    pass\n")
    assert run(suite).ret == pytest.ExitCode.USAGE_ERROR
