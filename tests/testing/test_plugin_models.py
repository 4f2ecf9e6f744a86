"""The fixture ``scripted_model`` of the pytest plugin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import agentrun.testing.pytest_plugin  # noqa: F401 - so that the runs inside these tests do not import it anew

pytest_plugins = ["pytester"]

PLUGINS = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:trio", "-p", "no:hypothesispytest")

HEAD = """
    import anyio
    import pytest
    from agentrun import Agent, run_sync
    from agentrun.core.model import ModelRequest
    from agentrun.testing import Call, Say
"""


def run(pytester: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + source)
    return pytester.runpytest_inprocess(*PLUGINS, *args)


def test_it_makes_models_that_follow_a_script(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_it(scripted_model):
        model = scripted_model([Say("one"), [Say("two")]], name="teller")
        assert model.name == "teller"
        agent = Agent("a", model=model)
        assert run_sync(agent, "?").output == "one"
        assert run_sync(agent, "?").output == "two"
    """,
    )
    result.assert_outcomes(passed=1)


def test_turns_that_were_not_played_are_an_error_that_names_them(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_it(scripted_model):
        model = scripted_model([Say("one"), Say("two"), Call("work")], name="teller")
        assert run_sync(Agent("a", model=model), "?").output == "one"
    """,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*model 'teller': 1 of its 3 turns were played; these were not:",
            "*turn 2: *Say(text='two'*",
            "*turn 3: *work*",
        ]
    )
    result.stdout.no_fnmatch_line("*turn 1:*")
    result.stdout.no_fnmatch_line("*models.py*")


def test_turns_may_be_left_if_the_test_says_so(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_it(scripted_model):
        scripted_model([Say("one")], all_played=False)
    """,
    )
    result.assert_outcomes(passed=1)


def test_a_test_that_has_failed_is_not_told_of_turns(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_it(scripted_model):
        scripted_model([Say("one")])
        raise ValueError("for another reason")
    """,
    )
    result.assert_outcomes(failed=1)


def test_a_stream_that_is_left_open_is_an_error(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    keep = []

    @pytest.mark.anyio
    async def test_it(scripted_model):
        stream = scripted_model([Say("one")]).stream(ModelRequest(instructions=None, items=()))
        await stream.__aenter__()
        keep.append(stream)
    """,
    )
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*model 'scripted': a stream was left open by the test*"] * 2)


def test_streams_are_looked_at_after_the_fixtures_that_use_the_model(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    @pytest.fixture
    async def model(anyio_backend, scripted_model):
        model = scripted_model([Say("one")])
        async with model.stream(ModelRequest(instructions=None, items=())):
            yield model

    @pytest.mark.anyio
    async def test_it(model):
        assert model.open_streams == 1
    """,
    )
    result.assert_outcomes(passed=2)


def test_a_model_whose_script_a_sweep_plays_need_not_play_it_itself(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
    def test_it(scripted_model, agentrun_sweep):
        agent = Agent("a", model=scripted_model([Say("one")]))
        agentrun_sweep.interrupt_everywhere(agent, "?", limit=2)
    """,
    )
    result.assert_outcomes(passed=1)


def test_the_test_file_of_the_testing_page_passes(pytester: pytest.Pytester) -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    section = page[page.index("## In pytest") :]
    match = re.search(r"^```python\n(.*?)^```$", section, re.M | re.S)
    assert match is not None
    pytester.makepyfile(match[1])
    pytester.runpytest_inprocess(*PLUGINS).assert_outcomes(passed=5)
