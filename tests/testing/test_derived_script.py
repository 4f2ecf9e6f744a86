"""Arguments, answers and scripts that are derived from an agent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from agentrun import Agent, UserError, run, tool
from agentrun.core.items import ToolCall, ToolOutput
from agentrun.testing.derived_script import agents_of, derived_turns, paths_to_agents, use_scripts
from agentrun.testing.smallest_values import NoValueError, smallest_value


class Color(Enum):
    RED = "red"


class Point(TypedDict):
    x: int
    y: int


@dataclass
class Line:
    start: Point
    end: Point


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]


FITTING: list[Any] = [
    int, float, bool, str, None, list[int], dict[str, int], date, datetime, time, timedelta, UUID, Decimal, bytes,
    IPv4Address, IPv6Address, Color, Point, Line, Tree, Cat, Any, int | None, str | int,
    Literal["a", "b"], tuple[int, str], set[str],
    Annotated[int, Field(ge=3)], Annotated[int, Field(gt=3, lt=5)], Annotated[int, Field(le=-3)],
    Annotated[int, Field(ge=4, multiple_of=3)], Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=7)],
    Annotated[str, Field(min_length=4)], Annotated[str, Field(max_length=0)],
    Annotated[str, Field(pattern=r"^[A-Z]{2}\d{3,}(-x|-y)?$")], Annotated[str, Field(pattern=r"^[^a]\w+@\S$")],
    Annotated[list[int], Field(min_length=2)], Annotated[set[int], Field(min_length=3)],
    Annotated[set[str], Field(min_length=3)], Annotated[set[Literal["a", "b"]], Field(min_length=2)],
    Annotated[Cat | Dog, Field(discriminator="kind")], Annotated[dict[str, int], Field(min_length=2)],
    Annotated[str, Field(examples=["x"], description="Something.")], list[Cat], Cat | None,
]  # fmt: skip


@pytest.mark.parametrize("annotation", FITTING, ids=str)
def test_the_smallest_value_is_one_that_the_tool_takes(annotation: Any) -> None:
    async def made(value: Any, more: Any = None) -> None: ...

    made.__annotations__.update(value=annotation, more=annotation)
    found = tool(made)
    arguments = smallest_value(found.parameters)
    assert list(arguments) == ["value"]  # only what is required
    found.bind(json.dumps(arguments))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (True, None),
        ({}, None),
        ({"type": ["string", "null"]}, "a"),
        ({"const": 3}, 3),
        ({"enum": ["b", "a"]}, "b"),
        ({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}, {"required": ["b"]}]},
         {"a": 1, "b": None}),
        ({"anyOf": [False, {"type": "integer"}]}, 0),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}}, False),
        ({"properties": {"a": {"type": "null"}}, "required": ["a"]}, {"a": None}),
        ({"items": {"type": "integer"}, "minItems": 1}, [0]),
        ({"prefixItems": [{"const": "x"}], "minItems": 1, "type": "array"}, ["x"]),
        ({"minimum": 5}, 5),
        ({"pattern": "^(?:ab){2}$"}, "abab"),
    ],
)  # fmt: skip
def test_schemas_that_no_python_type_makes_have_values_too(schema: Any, value: Any) -> None:
    assert smallest_value(schema) == value


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (False, "the value: nothing is allowed here"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number fits"),
        ({"type": "string", "pattern": "^(?=b)a$"}, "no text for the pattern"),
        ({"type": "object", "properties": {"a": {"anyOf": []}}, "required": ["a"]}, "a: there is no alternative"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}},
          "required": ["a"]}}}, "refers to itself without an end"),
        ({"type": "array", "uniqueItems": True, "minItems": 3, "items": {"type": "boolean"}}, "no 2 different values"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_met_is_named(schema: Any, told: str) -> None:
    with pytest.raises(NoValueError, match=told):
        smallest_value(schema)


@tool
async def echo(word: Annotated[str, Field(min_length=2)]) -> str:
    """Say it again."""
    return word


@tool
async def nothing() -> str:
    """Do nothing."""
    return ""


@tool
def sync() -> str:
    """Run in a thread."""
    return ""


@tool(isolation="process")
def apart() -> str:
    """Run in a process."""
    return ""


@tool(is_enabled=False)
async def disabled() -> str:
    """Never offered."""
    return ""


def test_each_tool_is_called_alone_and_then_all_together() -> None:
    turns, skipped = derived_turns(Agent("a", tools=[echo, nothing, sync, apart, disabled]))
    calls = [[call.name for call in turn] for turn in turns]
    assert calls == [["echo"], ["nothing"], ["sync"], ["echo", "nothing", "sync"]]
    assert turns[0][0].arguments == {"word": "aa"}
    assert [(each.tool, each.reason.partition(",")[0]) for each in skipped] == [
        ("apart", "it runs in a process"),
        ("disabled", "it is not enabled"),
    ]
    assert len(derived_turns(Agent("a", tools=[echo]), arguments={"echo": {"word": "yes"}})[0]) == 1


def test_arguments_that_cannot_be_derived_or_do_not_fit_are_asked_for() -> None:
    @tool
    async def odd(number: Annotated[int, Field(ge=3, le=2)]) -> int:
        """Take nothing that there is."""
        return number

    with pytest.raises(UserError, match=r"tool 'odd' cannot be derived \(number: no number fits.*--arguments 'odd="):
        derived_turns(Agent("a", tools=[odd]))
    with pytest.raises(UserError, match=r"(?s)--arguments for tool 'echo': .*word: missing"):
        derived_turns(Agent("a", tools=[echo]), arguments={"echo": {}})


async def test_the_script_is_played_to_its_end_through_handoffs_and_nested_runs() -> None:
    inner = Agent("inner", tools=[echo, nothing])
    last = Agent("last", tools=[inner.as_tool(), nothing], output_type=Cat)
    first = Agent("first", tools=[echo], handoffs=[Agent("middle", handoffs=[last]), last])
    assert [agent.name for agent in agents_of(first)] == ["first", "middle", "last", "inner"]
    paths = paths_to_agents(first)
    assert [[agent.name for agent in path] for path in paths] == [
        ["first"], ["first", "middle"], ["first", "last"], ["inner"],
    ]  # fmt: skip
    assert use_scripts(paths[2]) == []
    result = await run(first, "Go")
    assert (result.status, result.agent, result.output) == ("completed", "last", Cat(kind="cat", lives=1))  # type: ignore[comparison-overlap]
    calls = [item.name for item in result.items if isinstance(item, ToolCall)]
    assert calls == ["transfer_to_last", "inner", "nothing", "inner", "nothing"]
    assert {item.status for item in result.items if isinstance(item, ToolOutput)} == {"completed"}
    assert len(inner.model.requests) == 8  # type: ignore[union-attr]
