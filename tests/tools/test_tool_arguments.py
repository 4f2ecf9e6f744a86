"""What the model is told when its arguments are wrong."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, Field

from agentrun.core.errors import ToolArgumentsError
from agentrun.tools import as_tool, tool


@dataclass
class Line:
    product: str
    amount: int = 1


@tool
def order(
    city: str, lines: list[Line], unit: Literal["C", "F"] = "C", limit: Annotated[int, Field(ge=1)] | str | None = None
) -> None: ...


@tool
def nothing() -> int:
    return 1


@pytest.mark.parametrize("arguments", ["", "  ", "{}", " {} \n"])
def test_no_text_is_no_arguments(arguments: str) -> None:
    assert nothing.bind(arguments) == {}
    assert nothing.call(None, nothing.bind(arguments)) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            '{"city": "Oslo"',
            "The arguments for order are not valid JSON: EOF while parsing an object at line 1 column 15.",
        ),
        ('{"city": NaN1}', "The arguments for order are not valid JSON: "),
        ("[1]", 'The arguments for order must be one JSON object such as {"city": ...}, not an array.'),
        ('"x"', 'The arguments for order must be one JSON object such as {"city": ...}, not a string.'),
        ("null", 'The arguments for order must be one JSON object such as {"city": ...}, not null.'),
        ("3", 'The arguments for order must be one JSON object such as {"city": ...}, not a number.'),
        (
            '{"town": "Oslo", "citi": 3}',
            """\
            The arguments for order are not valid:
            - city: missing, but required
            - lines: missing, but required
            - town: not known; the arguments are city, lines, unit, limit
            - citi: not known (did you mean city?); the arguments are city, lines, unit, limit""",
        ),
        (
            '{"city": ["Oslo"], "lines": [{"product": "a"}, {"amount": "many"}], "unit": "K"}',
            """\
            The arguments for order are not valid:
            - city: input should be a valid string (got an array of 1)
            - lines[1].product: missing, but required
            - lines[1].amount: input should be a valid integer, unable to parse string as an integer (got "many")
            - unit: input should be 'C' or 'F' (got "K")""",
        ),
        (
            '{"city": "Oslo", "lines": {}, "limit": 0.5}',
            """\
            The arguments for order are not valid:
            - lines: input should be a valid array (got an object)
            - limit: input should be a valid integer, got a number with a fractional part, or input should be a valid \
string (got 0.5)""",
        ),
    ],
)
def test_every_problem_gets_one_line_that_says_where_and_what(arguments: str, expected: str) -> None:
    with pytest.raises(ToolArgumentsError) as info:
        order.bind(arguments)
    text = str(info.value)
    assert text.startswith(textwrap.dedent(expected))
    assert "http" not in text


def test_unknown_arguments_of_a_tool_without_any() -> None:
    with pytest.raises(ToolArgumentsError, match="x: not known; this tool takes no arguments"):
        nothing.bind('{"x": 1}')


def test_big_inputs_and_many_problems_are_not_repeated_in_full() -> None:
    arguments = {"city": 1, "lines": [{"product": n, "amount": "x" * 100_000} for n in range(100)], "y" * 10_000: 1}
    with pytest.raises(ToolArgumentsError) as info:
        order.bind(json.dumps(arguments))
    text = str(info.value)
    assert len(text) < 4000
    assert text.splitlines()[-1] == "- and 192 more"


def test_a_validator_of_the_users_speaks_for_itself_even_when_it_breaks() -> None:
    def even(value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value

    def broken(value: int) -> int:
        raise KeyError("oops")

    class Mute(LookupError):
        def __str__(self) -> str:
            raise KeyError("no words")

    def mute(value: int) -> int:
        raise Mute

    def f(
        n: Annotated[int, AfterValidator(even)] = 0,
        m: Annotated[int, AfterValidator(broken)] = 0,
        k: Annotated[int, AfterValidator(mute)] = 0,
    ) -> None: ...

    made = as_tool(f)
    with pytest.raises(ToolArgumentsError, match=r"- n: value error, must be even \(got 3\)"):
        made.bind('{"n": 3}')
    with pytest.raises(ToolArgumentsError, match="could not be validated: KeyError: 'oops'"):
        made.bind('{"m": 3}')
    with pytest.raises(ToolArgumentsError, match=r"could not be validated: Mute: \(it cannot say what is wrong"):
        made.bind('{"k": 3}')


def test_numbers_that_json_does_not_have_are_refused() -> None:
    def f(x: float) -> None: ...

    for text in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(ToolArgumentsError, match="x: input should be a finite number"):
            as_tool(f).bind(f'{{"x": {text}}}')


@settings(deadline=None, max_examples=300)
@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")) | st.text('{}[]":,0123eE.-+ntf\\u', max_size=40))
def test_whatever_the_model_writes_is_either_arguments_or_an_error_for_it(arguments: str) -> None:
    @tool
    def f(x: Any = None, y: int = 0) -> None: ...

    try:
        bound = f.bind(arguments)
    except ToolArgumentsError as exc:
        message = str(exc)
    else:
        message = "The arguments for f are fine"
        assert set(bound) <= {"x", "y"}
    assert message.startswith("The arguments for f ")
