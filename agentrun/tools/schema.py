"""The JSON schema of a tool's arguments, and the validator for what the model sends.

The parameters become the keys of a `TypedDict`, not the fields of a model: any parameter name will do, and validation
gives the dict of arguments straight away.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NotRequired, Optional, Union, cast, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaValidator, to_jsonable_python
from typing_extensions import TypedDict

from agentrun.core.errors import UserError
from agentrun.tools.signature import EMPTY, Parameter
from agentrun.tools.strictness import NotStrictError, strict_schema

__all__ = ["ArgumentsSchema", "build_schema"]

# Unknown arguments are errors, so that the model learns of its typing mistakes; NaN and Infinity are not JSON.
_CONFIG: Final = ConfigDict(extra="forbid", allow_inf_nan=False)

# Tools are also made anew for each request, as closures of it, and pydantic takes a millisecond for a schema. Most take
# nothing or a few of these types, which cannot change. Other types could, and would be kept alive for ever.
_SIMPLE: Final = (str, int, float, bool)
_MOST_KNOWN: Final = 256
_known: dict[tuple[Any, ...], ArgumentsSchema] = {}


class _JsonSchema(GenerateJsonSchema):
    # A default that JSON cannot hold is left out of the schema; that is no reason to warn.
    ignored_warning_kinds: set[Any] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def field_title_should_be_set(self, schema: Any) -> bool:
        # "City" for `city` tells a model nothing and costs tokens.
        return False


@dataclass(frozen=True, slots=True)
class ArgumentsSchema:
    """What a tool's arguments have to look like.

    Attributes:
        json_schema: The schema to send to the model, without the descriptions that come from the docstring.
        validator: pydantic's validator; its ``validate_json`` gives a dict from parameter name to value.
        property_names: Parameter name to the name in the schema; they differ when a `Field` has an alias.
        null_is_default: Names in the schema for which ``null`` stands for "the default" (strict schemas only).
        strict: Whether ``json_schema`` is in the subset that providers can enforce.
    """

    json_schema: dict[str, Any]
    validator: SchemaValidator
    property_names: Mapping[str, str]
    null_is_default: frozenset[str]
    strict: bool

    def described(self, descriptions: Mapping[str, str]) -> dict[str, Any]:
        """The schema with ``descriptions`` (by parameter name) where the types do not have their own."""
        result = copy.deepcopy(self.json_schema)
        for name, text in descriptions.items():
            target = result["properties"].get(self.property_names.get(name))
            if target is not None and text and "description" not in target:
                target["description"] = text
        return result


def build_schema(parameters: Iterable[Parameter], *, tool: str, strict: bool | None) -> ArgumentsSchema:
    """Build schema and validator.

    Args:
        parameters: What the model fills in.
        tool: The tool as named in error messages.
        strict: As the option of `tool`: ``None`` is strict if the types allow it.

    Raises:
        UserError: A type has no JSON schema, or ``strict`` is true and a type cannot be strict.
    """
    parameters = tuple(parameters)
    if not all(_is_simple(parameter) for parameter in parameters):
        return _build_schema(parameters, tool, strict)
    key = (strict, *(_shape(parameter) for parameter in parameters))
    schema = _known.get(key)
    if schema is None:
        schema = _build_schema(parameters, tool, strict)
        if len(_known) < _MOST_KNOWN:
            _known[key] = schema
    return schema


def _is_simple(parameter: Parameter) -> bool:
    kind, default = parameter.kind, parameter.default
    if kind is kind.VAR_POSITIONAL or kind is kind.VAR_KEYWORD:
        return False
    # A float may be -0.0, which equals 0.0, or NaN, which does not equal itself.
    return any(parameter.annotation is simple for simple in _SIMPLE) and (
        default is EMPTY or default is None or type(default) in (str, int, bool)
    )


def _shape(parameter: Parameter) -> tuple[Any, ...]:
    default = parameter.default
    # 1 and True are equal: the type of a default is a part of it.
    return parameter.name, parameter.kind, parameter.annotation, default.__class__, default


def _build_schema(parameters: tuple[Parameter, ...], tool: str, strict: bool | None) -> ArgumentsSchema:
    try:
        adapter, json_schema = _build(parameters)
    except Exception as exc:
        for parameter in parameters:
            try:
                _build((parameter,))
            except Exception as cause:
                raise UserError(_unfit(tool, parameter, cause)) from cause
        raise UserError(f"{tool}: cannot make a JSON schema of its parameters: {_first_line(exc)}") from exc
    # pydantic keeps the order of the keys, so the two go together one by one (two parameters could share an alias).
    properties: dict[str, Any] = json_schema["properties"]
    names = (
        dict(zip((p.name for p in parameters), properties, strict=True)) if len(parameters) == len(properties) else {}
    )
    if len(names) != len(parameters):
        raise UserError(f"{tool}: two of its parameters have the same alias; give each its own")
    for parameter in parameters:
        target = properties[names[parameter.name]]
        if "default" not in target and parameter.default is not EMPTY and not isinstance(parameter.default, FieldInfo):
            _note_default(target, parameter.default)
    null_is_default: frozenset[str] = frozenset()
    is_strict = False
    if strict is not False:
        try:
            json_schema, null_is_default = strict_schema(json_schema)
            is_strict = True
        except NotStrictError as exc:
            if strict:
                raise UserError(
                    f"{tool}: strict=True is not possible: {exc}. Give it a closed type (a dataclass, TypedDict or "
                    "pydantic model that forbids extra fields), or leave out strict=True"
                ) from exc
    return ArgumentsSchema(json_schema, cast("SchemaValidator", adapter.validator), names, null_is_default, is_strict)


def _build(parameters: tuple[Parameter, ...]) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    keys = {parameter.name: _key_type(parameter) for parameter in parameters}
    # Built at run time: no type checker can, or has to, know these keys.
    make_typed_dict: Any = TypedDict
    arguments: Any = make_typed_dict("Arguments", keys)
    arguments.__pydantic_config__ = _CONFIG
    adapter: TypeAdapter[Any] = TypeAdapter(arguments)
    json_schema = adapter.json_schema(schema_generator=_JsonSchema)
    json_schema.pop("title", None)
    json_schema.pop("description", None)
    json_schema.setdefault("properties", {})
    return adapter, json_schema


def _key_type(parameter: Parameter) -> Any:
    annotation, default = parameter.annotation, parameter.default
    if parameter.kind is parameter.kind.VAR_POSITIONAL:
        return NotRequired[list[annotation]]  # type: ignore[valid-type,unused-ignore]
    if parameter.kind is parameter.kind.VAR_KEYWORD:
        return NotRequired[_keywords_type(annotation)]
    if isinstance(default, FieldInfo):  # def tool(limit: int = Field(10, ge=1))
        annotation = Annotated[annotation, default]
    elif default is None and not _allows_none(annotation):  # def tool(unit: str = None)
        annotation = Optional[annotation]  # noqa: UP045 - built at run time
    elif default is EMPTY and not _has_field_default(annotation):
        return annotation
    if isinstance(default, FieldInfo) and default.is_required():
        return annotation
    return NotRequired[annotation]


def _keywords_type(annotation: Any) -> Any:
    # **options: Unpack[Options] says what the keys are; **options: int says what the values are.
    if getattr(get_origin(annotation), "__name__", getattr(get_origin(annotation), "_name", "")) == "Unpack":
        return get_args(annotation)[0]
    return dict[str, annotation]  # type: ignore[valid-type,unused-ignore]


def _has_field_default(annotation: Any) -> bool:
    metadata = getattr(annotation, "__metadata__", ())
    return any(isinstance(entry, FieldInfo) and not entry.is_required() for entry in metadata)


def _allows_none(annotation: Any) -> bool:
    if annotation is None or annotation is type(None) or annotation is Any or annotation is object:
        return True
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _allows_none(members[0])
    return origin in (Union, types.UnionType, Literal) and any(_allows_none(member) for member in members)


def _note_default(target: dict[str, Any], default: Any) -> None:
    # The function's own default is what is used; the schema only tells the model of it, if JSON can.
    try:
        target["default"] = to_jsonable_python(default, inf_nan_mode="strings")
    except Exception:  # noqa: BLE001
        target.pop("default", None)


def _unfit(tool: str, parameter: Parameter, cause: Exception) -> str:
    where = f"{tool}, parameter {parameter.name!r}"
    annotation = parameter.annotation
    shown = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    if isinstance(cause, (PydanticUserError, PydanticInvalidForJsonSchema)) or type(cause).__module__ == "pydantic":
        return (
            f"{where}: {shown} has no JSON schema, so no model can send one. Use a plain type, a dataclass, a "
            "TypedDict or a pydantic model, or take the object from `ctx.deps`"
        )
    return f"{where}: cannot make a JSON schema of {shown}: {_first_line(cause)}"


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
