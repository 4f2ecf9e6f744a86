"""From the types of a function to a JSON schema, and back from JSON to the types."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, Optional, TypedDict, TypeVar, Unpack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict as ExtTypedDict

from agentrun.core.errors import ToolArgumentsError, UserError
from agentrun.tools import as_tool, tool

T = TypeVar("T")


class Unit(enum.Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


@dataclass
class Place:
    """A place."""

    city: str
    zip_code: str = ""


class Options(ExtTypedDict, total=False):
    depth: int
    verbose: bool


class Person(BaseModel):
    name: str
    friends: list[Person] = []


class Page(BaseModel, Generic[T]):
    items: list[T]


def schema_of(function: Any, **options: Any) -> dict[str, Any]:
    schema: dict[str, Any] = tool(function, **options).parameters
    validator().check_schema(schema)
    return schema


def validator() -> Any:
    return pytest.importorskip("jsonschema").Draft202012Validator


def fits(values: Any, schema: Any) -> bool:
    return bool(validator()(schema).is_valid(values))


def test_types_become_a_schema_without_noise() -> None:
    def search(
        query: Annotated[str, Field(description="What to look for.", min_length=1)],
        unit: Unit,
        where: Place | None = None,
        mode: Literal["fast", "deep"] = "fast",
        limit: int = 10,
        *,
        tags: list[str] = Field(default_factory=list),  # noqa: B008
    ) -> None: ...

    assert schema_of(search) == {
        "type": "object",
        "additionalProperties": False,
        "required": ["query", "unit"],
        "properties": {
            "query": {"type": "string", "minLength": 1, "description": "What to look for."},
            "unit": {"$ref": "#/$defs/Unit"},
            "where": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}], "default": None},
            "mode": {"type": "string", "enum": ["fast", "deep"], "default": "fast"},
            "limit": {"type": "integer", "default": 10},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "$defs": {
            "Unit": {"type": "string", "enum": ["C", "F"], "title": "Unit"},
            "Place": {
                "type": "object",
                "title": "Place",
                "description": "A place.",
                "additionalProperties": False,
                "required": ["city"],
                "properties": {"city": {"type": "string"}, "zip_code": {"type": "string", "default": ""}},
            },
        },
    }


def test_json_becomes_the_types() -> None:
    def everything(
        place: Place,
        unit: Unit,
        when: datetime.datetime,
        id: uuid.UUID,  # noqa: A002
        price: Decimal,
        tags: set[str],
        pair: tuple[int, str],
        options: Options,
        person: Person,
        page: Page[int],
        by_day: dict[datetime.date, list[Place]],
    ) -> dict[str, Any]:
        return locals()

    made = as_tool(everything)
    arguments = {
        "place": {"city": "Oslo"},
        "unit": "C",
        "when": "2026-01-02T03:04:05Z",
        "id": "12345678-1234-5678-1234-567812345678",
        "price": "1.20",
        "tags": ["a", "a"],
        "pair": [1, "x"],
        "options": {"depth": 2},
        "person": {"name": "Ada", "friends": [{"name": "Bob"}]},
        "page": {"items": [1]},
        "by_day": {"2026-01-02": [{"city": "Bergen"}]},
    }
    assert made.call(None, made.bind(json.dumps(arguments))) == {
        "place": Place("Oslo"),
        "unit": Unit.CELSIUS,
        "when": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        "id": uuid.UUID("12345678-1234-5678-1234-567812345678"),
        "price": Decimal("1.20"),
        "tags": {"a"},
        "pair": (1, "x"),
        "options": {"depth": 2},
        "person": Person(name="Ada", friends=[Person(name="Bob")]),
        "page": Page[int](items=[1]),
        "by_day": {datetime.date(2026, 1, 2): [Place("Bergen")]},
    }


def test_names_that_are_local_to_a_function_are_found() -> None:
    class Local(BaseModel):
        n: int

    captured = Literal["a", "b"]

    @tool
    def outer(x: Local, y: captured, z: list[Local]) -> Any:
        return x

    assert list(outer.parameters["$defs"]) == ["Local"]
    assert outer.call(None, outer.bind('{"x": {"n": 1}, "y": "a", "z": []}')) == Local(n=1)

    class Around:
        Inner = Local

        @tool
        def method(self, x: Inner) -> Any:  # type: ignore[valid-type]
            return x

    assert Around().method.bind('{"x": {"n": 3}}') == {"x": Local(n=3)}


def test_a_parameter_may_have_any_name() -> None:
    def odd(schema: int, model_config: str, _private: int, copy: int = 1, json: Any = None, self_: int = 2) -> None: ...

    assert list(schema_of(odd)["properties"]) == ["schema", "model_config", "_private", "copy", "json", "self_"]


def test_a_parameter_without_annotation_may_be_anything() -> None:
    def loose(x, y=3):  # type: ignore[no-untyped-def]
        return x, y

    assert schema_of(loose)["properties"] == {"x": {}, "y": {"default": 3}}
    made = as_tool(loose)
    assert made.call(None, made.bind('{"x": {"deep": [1]}}')) == ({"deep": [1]}, 3)


def test_none_as_default_makes_a_parameter_optional() -> None:
    def implicit(unit: str = None, other: Optional[int] = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013, UP045

    properties = schema_of(implicit)["properties"]
    assert properties["unit"] == {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    assert properties["other"] == {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}


def test_a_default_that_json_does_not_have_stays_the_functions_secret() -> None:
    marker = object()

    def sentinel(x: Any = marker, y: int | Any = len) -> Any:
        return x, y

    assert "default" not in str(schema_of(sentinel))
    made = as_tool(sentinel)
    assert made.call(None, made.bind("{}")) == (marker, len)


def test_field_defaults_and_aliases_work() -> None:
    def fields(
        a: int = Field(3, ge=1, description="A."),
        b: Annotated[list[int], Field(default_factory=lambda: [1])] = Field(),  # noqa: B008
        c: str = Field(alias="see"),
    ) -> Any:
        return a, b, c

    schema = schema_of(fields)
    assert schema["required"] == ["see"]
    assert schema["properties"]["a"] == {"type": "integer", "minimum": 1, "default": 3, "description": "A."}
    made = as_tool(fields)
    assert made.call(None, made.bind('{"see": "x"}')) == (3, [1], "x")


def test_variable_arguments_are_a_list_and_an_object() -> None:
    def variable(*numbers: int, **options: Unpack[Options]) -> Any:
        return numbers, options

    properties = schema_of(variable)["properties"]
    assert properties["numbers"] == {"type": "array", "items": {"type": "integer"}}
    assert properties["options"] == {"$ref": "#/$defs/Options"}
    made = as_tool(variable)
    assert made.call(None, made.bind('{"numbers": [1], "options": {"depth": 1}}')) == ((1,), {"depth": 1})


def test_strict_closes_every_object_and_requires_everything() -> None:
    def book(place: Place, unit: Unit | None, limit: int = 3, note: str | None = None) -> Any:
        """Book.

        Args:
            limit: At most.
        """
        return place, unit, limit, note

    made = tool(book, strict=True)
    assert made.strict
    assert made.spec.strict
    assert made.parameters == {
        "type": "object",
        "additionalProperties": False,
        "required": ["place", "unit", "limit", "note"],
        "properties": {
            "place": {"$ref": "#/$defs/Place"},
            "unit": {"anyOf": [{"$ref": "#/$defs/Unit"}, {"type": "null"}]},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "At most."},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "$defs": {
            "Unit": {"type": "string", "enum": ["C", "F"]},
            "Place": {
                "type": "object",
                "description": "A place.",
                "required": ["city", "zip_code"],
                "properties": {"city": {"type": "string"}, "zip_code": {"type": "string"}},
                "additionalProperties": False,
            },
        },
    }
    arguments = '{"place": {"city": "Oslo", "zip_code": ""}, "unit": null, "limit": null, "note": null}'
    assert made.call(None, made.bind(arguments)) == (Place("Oslo"), None, 3, None)


def test_null_means_the_default_only_where_it_means_nothing_else() -> None:
    def both(a: int = 1, b: int | None = 2) -> Any:
        return a, b

    made = tool(both, strict=True)
    assert made.call(None, made.bind('{"a": null, "b": null}')) == (1, None)
    with pytest.raises(ToolArgumentsError):
        tool(both).bind('{"a": null}')


class OpenModel(BaseModel):
    model_config = ConfigDict(extra="allow")
    n: int


def test_a_type_that_is_open_cannot_be_strict() -> None:
    def f_dict(x: dict[str, int]) -> None: ...
    def f_any(x: list[Any]) -> None: ...
    def f_tuple(x: tuple[int, str]) -> None: ...
    def f_open(x: OpenModel) -> None: ...
    def f_keywords(**x: int) -> None: ...

    for function, why in (
        (f_dict, "parameter 'x' is a dict whose keys are not known"),
        (f_any, r"parameter 'x\[\]' may be anything"),
        (f_tuple, "parameter 'x' is a tuple with a type for each place"),
        (f_open, "parameter 'OpenModel' is a dict whose keys are not known"),
        (f_keywords, "parameter 'x' is a dict"),
    ):
        with pytest.raises(UserError, match=rf"tool '{function.__name__}': strict=True is not possible: {why}"):
            tool(function, strict=True)
        assert not tool(function, strict=None).strict
    assert tool(lambda: 1, name="none", strict=None).strict


@dataclass
class Cat:
    kind: Literal["cat"]


@dataclass
class Dog:
    kind: Literal["dog"]
    tricks: list[str] = field(default_factory=list)


def test_a_tagged_union_is_strict_as_alternatives() -> None:
    def adopt(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> Any:
        return pet

    schema = schema_of(adopt, strict=True)
    assert schema["properties"]["pet"] == {"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}
    assert tool(adopt).bind('{"pet": {"kind": "dog"}}') == {"pet": Dog("dog")}


class Plain(TypedDict):
    n: int


def test_a_class_that_pydantic_refuses_is_named_among_good_ones() -> None:
    class Engine: ...

    def start(speed: int, engine: Engine, place: Place) -> None: ...

    with pytest.raises(UserError, match="tool 'start', parameter 'engine': Engine has no JSON schema"):
        tool(start)


def basic(
    i: int,
    s: str,
    b: bool,
    f: float,
    items: list[int],
    table: dict[str, bool],
    unit: Unit,
    maybe: int | None,
    choice: int | str | list[bool],
    place: Place,
    low: Annotated[int, Field(ge=0, lt=10)] = 0,
    extra: str = "x",
) -> None: ...


BASIC = as_tool(basic)
text = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers(-(2**70), 2**70)
VALUES = st.fixed_dictionaries(
    {
        "i": integers,
        "s": text,
        "b": st.booleans(),
        "f": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000),
        "items": st.lists(integers),
        "table": st.dictionaries(text, st.booleans()),
        "unit": st.sampled_from(["C", "F"]),
        "maybe": st.none() | integers,
        "choice": integers | text | st.lists(st.booleans()),
        "place": st.fixed_dictionaries({"city": text}, optional={"zip_code": text}),
    },
    optional={"low": st.integers(0, 9), "extra": text},
)
JSON = st.recursive(
    # 1e30 is a whole number to JSON schema, and too big to be taken for one by pydantic; that is as it should be.
    st.none() | st.booleans() | st.integers(-5, 15) | st.floats(-1e9, 1e9) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(VALUES)
def test_what_the_schema_allows_binds_to_the_same_values(values: dict[str, Any]) -> None:
    assert fits(values, BASIC.parameters)
    bound = BASIC.bind(json.dumps(values))
    place = bound.pop("place")
    assert (place.city, place.zip_code) == (values["place"]["city"], values["place"].get("zip_code", ""))
    assert bound.pop("unit") is Unit(values["unit"])
    assert bound == {key: value for key, value in values.items() if key not in ("place", "unit")}


@settings(deadline=None, max_examples=300)
@given(VALUES, st.sampled_from(list(BASIC.parameters["properties"]) + ["unknown"]), st.none() | JSON)
def test_what_the_schema_forbids_is_refused_unless_it_can_be_converted(
    values: dict[str, Any], key: str, replacement: Any
) -> None:
    values = {**values, key: replacement}
    if fits(values, BASIC.parameters):
        BASIC.bind(json.dumps(values))
        return
    try:
        bound = BASIC.bind(json.dumps(values))
    except ToolArgumentsError:
        return
    # Lax mode converts, "3" to 3 say; what comes out is of the type that was asked for.
    types: dict[str, Any] = {"i": int, "b": bool, "f": float, "maybe": (int, type(None)), "low": int}
    types |= {"items": list, "table": dict, "choice": (int, str, list), "place": Place}
    assert isinstance(bound[key], types[key]), (key, bound[key])


def test_tools_of_the_same_parameters_have_schemas_of_their_own_and_1_is_not_true() -> None:
    def number(count: int = 1) -> None: ...

    def truth(count: int = True) -> None: ...

    assert tool(number).parameters["properties"]["count"]["default"] is not True
    assert tool(truth).parameters["properties"]["count"]["default"] is True
    tool(number).parameters["properties"].clear()
    assert tool(number).parameters["properties"]["count"]["type"] == "integer"
