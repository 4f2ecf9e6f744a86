"""Plain data behaves as dataclasses do anyway."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, fields, make_dataclass, replace
from typing import Any

import pytest
from hypothesis.vendor.pretty import pretty

from agentrun.core.config import RunConfig
from agentrun.core.events import TextDelta, ToolStarted
from agentrun.core.items import ToolCall, ToolOutput, UserMessage
from agentrun.core.plain import Plain, PlainValue
from agentrun.core.usage import Usage


@dataclass(slots=True)
class _Ordinary:
    a: int
    b: Any = None


@dataclass(slots=True, repr=False, eq=False)
class _Plainly(Plain):
    a: int
    b: Any = None


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _Value(PlainValue):
    a: int
    b: Any = None


@pytest.mark.parametrize("args", [(1,), (1, "x"), (2, [1, None])])
def test_it_is_shown_like_any_dataclass(args: tuple[Any, ...]) -> None:
    assert repr(_Plainly(*args)) == repr(_Ordinary(*args)).replace("_Ordinary", "_Plainly")
    assert repr(_Value(*args)) == repr(_Ordinary(*args)).replace("_Ordinary", "_Value")


def test_hypothesis_shows_only_what_is_not_as_it_is_by_default() -> None:
    assert pretty(RunConfig()) == "RunConfig()"
    assert pretty(RunConfig(max_turns=3)) == "RunConfig(max_turns=3)"
    assert pretty(_Plainly(1)) == "_Plainly(a=1)"
    assert pretty([_Value(1, _Value(2))]) == "[_Value(a=1, b=_Value(a=2))]"
    assert pretty(Usage()) == "Usage()"
    long = RunConfig(model="openai:" + "x" * 60, max_seconds=5, cleanup_grace=7)
    model = f"    model='openai:{'x' * 60}',"
    assert pretty(long).splitlines() == ["RunConfig(", model, "    max_seconds=5,", "    cleanup_grace=7)"]


def test_it_is_compared_by_its_class_and_all_its_fields() -> None:
    assert _Plainly(1, [2]) == _Plainly(1, [2])
    assert _Plainly(1, 2) != _Plainly(1, 3)
    assert _Plainly(1, 2) != _Plainly(2, 2)
    assert _Plainly(1) != _Value(1)
    assert _Plainly(1) != 1
    assert _Plainly(1).__eq__(1) is NotImplemented
    assert TextDelta("a") != TextDelta("a", path=("call_1",))


def test_values_can_be_hashed_and_what_can_change_cannot() -> None:
    assert len({_Value(1, "x"), _Value(1, "x"), _Value(1, "y")}) == 2
    assert len({ToolCall("1", "a", "{}"), ToolCall("1", "a", "{}")}) == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(_Plainly(1))
    with pytest.raises(TypeError, match="unhashable"):
        hash(_Value(1, [2]))


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        UserMessage("Hi").content = "Ho"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        RunConfig().max_turns = 5  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        RunConfig().max_turn = 5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "data",
    [
        TextDelta("a"),
        ToolStarted("1", "a", "{}"),
        ToolOutput("1", "x"),
        UserMessage("Hi"),
        Usage(1, 2),
        RunConfig(),
        RunConfig(model="openai:x", max_turns=None, cleanup_grace=1.0),
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_dataclasses_offer_works_on_it(data: Any) -> None:
    same = replace(data)
    assert same == data
    assert same is not data
    assert pickle.loads(pickle.dumps(data)) == data
    assert not hasattr(data, "__dict__") or type(data) is RunConfig  # which has only what is not as the class has it
    shown = make_dataclass(type(data).__name__, [field.name for field in fields(data)])
    assert repr(data) == repr(shown(*(getattr(data, field.name) for field in fields(data)))).replace("types.", "")
