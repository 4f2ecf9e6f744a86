"""What the model is told of a returned value."""

from __future__ import annotations

import array
import datetime
import enum
import json
import math
import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agentrun.core.errors import ToolError
from agentrun.tools.results import to_output


class Colour(enum.Enum):
    RED = "red"


class Mixed(str, enum.Enum):  # noqa: UP042
    A = "a"


class Name(str):
    __slots__ = ()


@dataclass
class Point:
    x: int
    at: datetime.date


class Model(BaseModel):
    id: uuid.UUID
    points: list[Point] = []


DAY = datetime.date(2026, 1, 2)
ID = uuid.UUID(int=5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        ("", ""),
        (None, ""),
        (True, True),
        (3, 3),
        (1.5, 1.5),
        (Name("x"), "x"),
        (Colour.RED, "red"),
        (Decimal("1.20"), "1.20"),
        (DAY, "2026-01-02"),
        (ID, "00000000-0000-0000-0000-000000000005"),
        (Path("/a/b"), "/a/b"),
        ({1}, [1]),
        ((1, None), [1, None]),
        ({1: "a", DAY: 2}, {"1": "a", "2026-01-02": 2}),
        (Point(1, DAY), {"x": 1, "at": "2026-01-02"}),
        (Model(id=ID, points=[Point(1, DAY)]), {"id": str(ID), "points": [{"x": 1, "at": "2026-01-02"}]}),
        ([Colour.RED, Model(id=ID)], ["red", {"id": str(ID), "points": []}]),
        (b"text", "text"),
        (b"\xff\x00", "/wA="),
        (bytearray(b"text"), "text"),
        ({"data": b"text"}, {"data": "text"}),
        ({"data": b"\xff\x00"}, {"data": "_wA="}),
        (math.nan, "NaN"),
        ({"x": [math.inf, -math.inf]}, {"x": ["Infinity", "-Infinity"]}),
        (array.array("i", [1, 2]), [1, 2]),
        ("lone \ud800", "lone ?"),
        ({"x": ["lone \ud800", math.nan]}, {"x": ["lone ?", "NaN"]}),
        (Mixed.A, "a"),
        (ValueError("no such city"), None),
    ],
)
def test_values_become_json(value: Any, expected: Any) -> None:
    if isinstance(value, Exception):
        with pytest.raises(ToolError, match="returned a ValueError, which cannot be turned into JSON"):
            to_output(value)
        return
    output = to_output(value)
    assert output == expected
    assert type(output) in (str, int, float, bool, list, dict)
    json.dumps(output, allow_nan=False).encode()


class Odd:
    pass


def test_what_has_no_json_form_is_an_error_that_names_tool_and_type() -> None:
    with pytest.raises(
        ToolError, match="^tool 'find' returned an Odd, which cannot be turned into JSON: return"
    ) as info:
        to_output(Odd(), tool_name="find")
    assert info.value.tool_name == "find"
    with pytest.raises(ToolError, match=r"the tool returned a dict, which .* \(.*Odd has no JSON form.*\)"):
        to_output({"deep": [Odd()]})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ToolError, match="returned a list, which cannot be turned into JSON.*[Cc]ircular"):
        to_output(loop)


def test_what_is_still_to_be_run_is_an_error_that_says_what_to_do() -> None:
    async def later() -> int:
        return 1

    with pytest.raises(ToolError, match="returned a coroutine: .*declare it with `async def`"):
        to_output(later())
    with pytest.raises(ToolError, match="returned a generator: return a list"):
        to_output(n for n in range(3))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_every_output_can_be_sent(value: Any) -> None:
    json.dumps(to_output(value), allow_nan=False, ensure_ascii=False).encode()
