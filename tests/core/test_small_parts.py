"""Interrupts, limits, usage and settings: the small parts that the turn machine is made of."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.core.config import RunConfig
from agentrun.core.errors import MaxTurnsExceeded, TokenLimitExceeded, ToolCallLimitExceeded, UserError
from agentrun.core.interrupts import Interrupt, InterruptLatch
from agentrun.core.limits import Limits
from agentrun.core.model import ModelSettings
from agentrun.core.usage import Usage

# Interrupts --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.none() | st.text(max_size=3), st.sampled_from(("immediate", "after_turn")))))
def test_law_2_the_first_reason_wins_and_the_mode_only_escalates(requests: list[tuple[str | None, Any]]) -> None:
    latch = InterruptLatch()
    assert latch.current is None
    changes = [latch.request(reason, mode) for reason, mode in requests]
    if not requests:
        assert latch.current is None
        return
    modes = [mode for _, mode in requests]
    assert latch.current is not None
    assert latch.current.mode == ("immediate" if "immediate" in modes else "after_turn")
    assert latch.immediate == ("immediate" in modes)
    if requests[0][0] is not None:
        assert latch.current.reason == requests[0][0]
    # The first request changes something, and so does the first one that is stronger.
    assert [i for i, changed in enumerate(changes) if changed] == sorted(
        {0, modes.index("immediate")} if "immediate" in modes else {0}
    )


def test_a_reason_that_comes_with_the_escalation_is_better_than_none() -> None:
    latch = InterruptLatch()
    latch.request(None, "after_turn")
    latch.request("too slow", "immediate")
    latch.request("too late", "immediate")
    assert latch.current == Interrupt("too slow", "immediate")


# Limits ------------------------------------------------------------------------------------------------------------


def test_limits_allow_as_much_as_they_say() -> None:
    limits = Limits(max_turns=2, max_tokens=10, max_tool_calls=3)
    assert limits.before_model_call(0, Usage()) is None
    assert limits.before_model_call(1, Usage(input_tokens=5, output_tokens=4)) is None
    assert limits.before_tools(3, Usage(tool_calls=3)) is None


def test_no_limits_allow_everything() -> None:
    limits = Limits(None, None, None)
    assert limits.before_model_call(10**9, Usage(input_tokens=10**12)) is None
    assert limits.before_tools(10**6, Usage(tool_calls=10**9)) is None


def test_a_limit_that_is_reached_says_which_and_what_to_do() -> None:
    limits = Limits(max_turns=2, max_tokens=10, max_tool_calls=3)
    turns = limits.before_model_call(2, Usage())
    assert isinstance(turns, MaxTurnsExceeded)
    assert (turns.limit, turns.used) == (2, 2)
    assert "max_turns=2; raise RunConfig.max_turns, or go on with a new run from result.history" in str(turns)
    tokens = limits.before_model_call(1, Usage(input_tokens=6, output_tokens=4))
    assert isinstance(tokens, TokenLimitExceeded)
    assert (tokens.limit, tokens.used) == (10, 10)
    assert "has used 10 tokens and max_tokens=10; raise RunConfig.max_tokens" in str(tokens)
    calls = limits.before_tools(2, Usage(tool_calls=4))
    assert isinstance(calls, ToolCallLimitExceeded)
    assert (calls.limit, calls.used) == (3, 4)
    assert "2 more tool calls, 4 in all, and max_tool_calls=3; raise RunConfig.max_tool_calls" in str(calls)


# Usage -------------------------------------------------------------------------------------------------------------

_counts = st.integers(0, 10**6)
_usages = st.builds(Usage, *[_counts] * len(fields(Usage)))


@given(_usages, _usages)
def test_usage_adds_up_field_by_field_and_copies_stay_what_they_were(a: Usage, b: Usage) -> None:
    total, before = a.copy(), a.copy()
    total.add(b)
    for field in fields(Usage):
        assert getattr(total, field.name) == getattr(a, field.name) + getattr(b, field.name)
    assert a == before
    assert total.total_tokens == a.total_tokens + b.total_tokens == total.input_tokens + total.output_tokens


# Settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_turns": 0}, "RunConfig.max_turns must be a whole number of at least 1, or None for no bound; got 0"),
        ({"max_tokens": -1}, "RunConfig.max_tokens must be a whole number of at least 1, or None for no bound; got -1"),
        ({"max_tool_calls": True}, "RunConfig.max_tool_calls must be a whole number of at least 1"),
        ({"max_parallel_tools": 1.5}, "RunConfig.max_parallel_tools must be a whole number of at least 1"),
        (
            {"max_pending_injections": None},
            "RunConfig.max_pending_injections must be a whole number of at least 1;",
        ),
        ({"max_seconds": 0}, "RunConfig.max_seconds must be more than 0 (seconds); got 0"),
        ({"tool_timeout": "5"}, "RunConfig.tool_timeout must be more than 0 (seconds); got '5'"),
        ({"guardrail_timeout": None}, "RunConfig.guardrail_timeout must be more than 0 (seconds); got None"),
        ({"guardrail_timeout": math.nan}, "RunConfig.guardrail_timeout must be more than 0 (seconds); got nan"),
        ({"cleanup_grace": -1}, "RunConfig.cleanup_grace must be 0 or more (seconds); got -1"),
        ({"cleanup_grace": None}, "RunConfig.cleanup_grace must be 0 or more (seconds); got None"),
        ({"cleanup_grace": True}, "RunConfig.cleanup_grace must be 0 or more (seconds); got True"),
        ({"on_approval": "ask"}, "RunConfig.on_approval must be 'wait', 'end' or None, not 'ask'"),
        (
            {"model": 5},
            (
                "RunConfig.model must be a string such as 'openai:gpt-5.1-mini', or a model object (with a stream() "
                "method), not int"
            ),
        ),
        ({"model_settings": {}}, "RunConfig.model_settings must be a ModelSettings, not dict"),
        ({"input_filter": 5}, "RunConfig.input_filter must be a function that takes and returns a ModelRequest"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig(**settings)
    assert str(caught.value).startswith(message)


class _Streams:
    """What may be a model."""

    def stream(self, request: Any) -> Any:
        raise NotImplementedError


GIVEN: dict[str, Any] = {
    "model": _Streams(),
    "model_settings": ModelSettings(temperature=1.0),
    "max_turns": 3,
    "max_tokens": 4,
    "max_tool_calls": 5,
    "max_seconds": 6.0,
    "max_parallel_tools": 1,
    "tool_timeout": 8.0,
    "guardrail_timeout": 9.0,
    "cleanup_grace": 10.0,
    "input_filter": lambda request: request,
    "on_approval": "end",
    "max_pending_injections": 11,
}


def test_every_setting_that_is_given_is_kept_and_the_others_are_as_the_class_has_them() -> None:
    assert list(GIVEN) == [field.name for field in fields(RunConfig)]
    defaults = {field.name: field.default for field in fields(RunConfig)}
    for name, value in GIVEN.items():
        config = RunConfig(**{name: value})
        assert {other: getattr(config, other) for other in GIVEN} == {**defaults, name: value}
    assert replace(RunConfig(**GIVEN)) == RunConfig(**GIVEN)


@pytest.mark.parametrize("on_approval", [None, "wait", "end"])
def test_settings_that_can_work_are_taken(on_approval: Any) -> None:
    assert RunConfig(on_approval=on_approval, input_filter=lambda request: request).on_approval == on_approval
    config = RunConfig(max_turns=None, max_tokens=5, max_tool_calls=2, cleanup_grace=0, guardrail_timeout=math.inf)
    assert config.limits == Limits(None, 5, 2)
    assert replace(config, max_turns=3).limits == Limits(3, 5, 2)
    assert RunConfig().limits == Limits(10, None, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "ModelSettings.temperature must be 0 or more, not -0.1"),
        ({"temperature": "hot"}, "ModelSettings.temperature must be 0 or more, not 'hot'"),
        ({"temperature": math.nan}, "ModelSettings.temperature must be 0 or more, not nan"),
        ({"top_p": 1.1}, "ModelSettings.top_p must be between 0 and 1, not 1.1"),
        ({"top_p": "all"}, "ModelSettings.top_p must be between 0 and 1, not 'all'"),
        ({"top_p": -0.1}, "ModelSettings.top_p must be between 0 and 1, not -0.1"),
        ({"top_p": True}, "ModelSettings.top_p must be between 0 and 1, not True"),
        ({"max_tokens": 0}, "ModelSettings.max_tokens must be at least 1, not 0"),
        ({"max_tokens": True}, "ModelSettings.max_tokens must be at least 1, not True"),
        ({"stop": "END"}, "ModelSettings.stop must be a tuple of texts, such as ('END',)"),
    ],
)
def test_a_model_setting_that_cannot_work_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        ModelSettings(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0}, {"temperature": 2.5}, {"top_p": 0}, {"top_p": 1.0}, {"max_tokens": 1}, {"stop": ("END",)}],
)
def test_a_model_setting_at_the_edge_of_what_works_is_taken(settings: dict[str, Any]) -> None:
    taken = ModelSettings(**settings)
    assert {name: getattr(taken, name) for name in settings} == settings


def test_settings_that_are_set_win_over_those_that_are_not() -> None:
    base = ModelSettings(temperature=0.5, seed=1)
    assert base.merged_with(None) is base
    assert base.merged_with(ModelSettings()) is base
    assert base.merged_with(ModelSettings(temperature=0.0, stop=("x",))) == ModelSettings(
        temperature=0.0, seed=1, stop=("x",)
    )
