"""Events as JSON, so that a run can be watched from another process."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.core.errors import UserError
from agentrun.core.event_json import event_from_dict, event_to_dict
from agentrun.core.events import (
    Event,
    InputInjected,
    ModelCallEnded,
    RunEnded,
    TextDelta,
    ToolEnded,
    ToolProgress,
    TurnStarted,
    with_path,
)
from agentrun.core.items import SystemMessage, UserMessage
from agentrun.core.usage import Usage

from . import strategies as s

EVENT_CLASSES = get_args(Event)
counts = st.integers(0, 10**9)
usages = st.builds(Usage, counts, counts, counts, counts, counts, counts)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "path": st.lists(s.texts, max_size=2).map(tuple),
    "usage": st.none() | usages,
    "items": st.lists(s.user_messages | s.system_messages, max_size=2).map(tuple),
    "data": s.json_values,
    "output": s.json_values,
    "turn": counts,
    "count": counts,
}


def _events_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    given: dict[str, st.SearchStrategy[Any]] = {}
    for name, hint in get_type_hints(cls).items():
        if name in _FIELDS:
            given[name] = _FIELDS[name]
        elif get_origin(hint) is Literal:
            given[name] = st.sampled_from(get_args(hint))
        else:
            assert hint in (str, str | None), f"{cls.__name__}.{name}: {hint}"
            given[name] = s.texts if hint is str else st.none() | s.texts
    return st.builds(cls, **given)


@given(st.one_of(*map(_events_of, EVENT_CLASSES)))
def test_every_event_survives_the_way_through_json(event: Event) -> None:
    data = event_to_dict(event)
    assert event_from_dict(data) == event
    assert event_from_dict(json.loads(json.dumps(data))) == event


@pytest.mark.parametrize("cls", EVENT_CLASSES)
def test_every_event_is_slotted_and_ends_with_its_path(cls: type[Any]) -> None:
    assert "__slots__" in vars(cls)
    assert fields(cls)[-1].name == "path"
    assert fields(cls)[-1].default == ()
    assert cls.__doc__


def test_the_path_is_left_out_when_it_is_empty() -> None:
    assert event_to_dict(TextDelta("x")) == {"type": "TextDelta", "text": "x"}
    assert event_to_dict(TextDelta("x", ("c1",))) == {"type": "TextDelta", "text": "x", "path": ["c1"]}


def test_an_event_of_a_nested_run_is_passed_on_with_a_longer_path() -> None:
    inner = TextDelta("x", ("c2",))
    outer = with_path(inner, ("c0", "c1"))
    assert outer == TextDelta("x", ("c0", "c1", "c2"))
    assert inner == TextDelta("x", ("c2",))


def test_progress_that_has_no_json_form_is_told_by_its_repr() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<odd>"

    data = event_to_dict(ToolProgress("c", "n", {"done": (1, Odd())}))
    assert json.loads(json.dumps(data))["data"] == {"done": [1, "<odd>"]}


class _Mute:
    def __repr__(self) -> str:
        raise ValueError


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"text", "text"),
        (b"\xff", "_w=="),
        ({"a": b"\xff", "b": b"text"}, {"a": "_w==", "b": "dGV4dA=="}),
        (_circle(), "[[...]]"),
        (_Mute(), "<_Mute>"),
        ([_Mute()], ["<_Mute>"]),
        (_deep(), "<list>"),
        ([float("nan"), float("-inf"), 1.5], ["NaN", "-Infinity", 1.5]),
        (["\ud800"], ["\ud800"]),
        ({1: (2,)}, {"1": [2]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_tool_passes_to_progress_has_a_json_form(data: Any, expected: Any) -> None:
    event = event_to_dict(ToolProgress("c", "n", data))
    assert event["data"] == expected
    assert json.loads(json.dumps(event, allow_nan=False)) == event
    assert event_to_dict(event_from_dict(event)) == event


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "unknown event type None; expected one of RunStarted, RunEnded, "),
        ({"type": "Odd"}, "unknown event type 'Odd'; expected one of"),
        ({"type": ["TextDelta"]}, "unknown event type ['TextDelta']; expected one of"),
        ({"type": "TextDelta"}, "not a valid TextDelta event: text: Field required"),
        ({"type": "TextDelta", "text": 5}, "not a valid TextDelta event: text: Input should be a valid string"),
        ({"type": "TextDelta", "text": "x", "txt": "y"}, "not a valid TextDelta event: it has no field 'txt'"),
        ({"type": "TextDelta", "text": "x", "b": 1, 5: 2}, "not a valid TextDelta event: it has no field 5"),
        ({"type": "TextDelta", "text": "x", "path": 5}, "not a valid TextDelta event: path: Input should be"),
        ({"type": "TextDelta", "text": "x", "path": [1]}, "not a valid TextDelta event: path.0: Input should be"),
        ({"type": "TurnStarted"}, "not a valid TurnStarted event: turn: Field required; agent: Field required"),
        ({"type": "TurnStarted", "turn": "one", "agent": "a"}, "not a valid TurnStarted event: turn: Input should be"),
        ({"type": "RunEnded", "status": "odd"}, "not a valid RunEnded event: status: Input should be 'completed'"),
        (
            {"type": "ModelCallEnded", "turn": 1, "status": "completed", "usage": 5},
            "not a valid ModelCallEnded event: usage",
        ),
        (
            {"type": "InputInjected", "injection_id": "i", "deliver": "next", "items": [{"role": "odd"}]},
            "items[0]: unknown role 'odd'",
        ),
        ({"type": "InputInjected", "injection_id": "i", "deliver": "next", "items": 5}, "event: items: Input should"),
    ],
)
def test_what_is_no_event_is_refused_by_name(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        event_from_dict(data)
    assert message in str(caught.value)


@given(
    st.sampled_from([cls.__name__ for cls in EVENT_CLASSES]),
    st.dictionaries(st.sampled_from(sorted({f.name for c in EVENT_CLASSES for f in fields(c)})), s.json_values),
)
def test_reading_any_dict_gives_an_event_or_a_user_error(kind: str, values: dict[str, Any]) -> None:
    try:
        event = event_from_dict({"type": kind, **values})
    except UserError:
        return
    assert event_from_dict(json.loads(json.dumps(event_to_dict(event)))) == event


def test_fields_with_defaults_may_be_left_out() -> None:
    assert event_from_dict({"type": "RunEnded", "status": "completed"}) == RunEnded("completed")
    assert event_from_dict({"type": "TurnStarted", "turn": 1, "agent": "a"}) == TurnStarted(1, "a")
    assert event_from_dict(
        {"type": "ModelCallEnded", "turn": 1, "status": "completed", "usage": {"input_tokens": 3}}
    ) == ModelCallEnded(1, "completed", Usage(input_tokens=3))
    assert event_from_dict(
        {"type": "InputInjected", "injection_id": "i", "deliver": "now", "items": [{"role": "user", "content": "x"}]}
    ) == InputInjected("i", "now", (UserMessage("x"),))
    assert event_from_dict(
        {"type": "InputInjected", "injection_id": "i", "deliver": "now", "items": [{"role": "system", "content": "x"}]}
    ) == InputInjected("i", "now", (SystemMessage("x"),))
    assert event_from_dict(
        {"type": "ToolEnded", "call_id": "c", "name": "n", "status": "failed", "output": [1]}
    ) == ToolEnded("c", "n", "failed", [1])
