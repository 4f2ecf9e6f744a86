"""JSON schemas in the subset that providers enforce while the model writes ("strict", "structured outputs").

The subset is OpenAI's (https://platform.openai.com/docs/guides/structured-outputs#supported-schemas): every object
lists all its properties as required and allows no others; alternatives are ``anyOf``; a ``$ref`` stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

__all__ = ["NotStrictError", "strict_schema"]

# Annotations, and checks that only narrow what the validator will check anyway: leaving them out changes what the
# provider enforces, not what is accepted in the end.
_LEFT_OUT: Final = frozenset(("default", "title", "examples", "discriminator", "uniqueItems", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"))  # fmt: skip # noqa: E501
_UNSUPPORTED: Final = {
    "not": "a negated type",
    "if": "a conditional schema",
    "dependentRequired": "keys that depend on each other",
    "dependentSchemas": "keys that depend on each other",
    "prefixItems": "a tuple with a type for each place",
    "patternProperties": "a dict whose keys are not known beforehand",
    "propertyNames": "a dict whose keys are not known beforehand",
    "contains": "a list that has to contain something",
}


class NotStrictError(Exception):
    """The schema cannot be made strict; the message says where and why."""


def strict_schema(schema: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """Make the schema of a tool's arguments strict.

    A parameter with a default becomes required too, as it must; if its type has no ``null`` of its own, ``null`` is
    added to mean "the default". A default further down is dropped: there the model has to choose a value.

    Returns:
        The strict schema, and the top-level properties whose ``null`` means "the default".

    Raises:
        NotStrictError: Some type is open or otherwise outside the subset.
    """
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    optional = set(schema["properties"]) - set(schema.get("required", ()))
    result = cast("dict[str, Any]", _strict(schema, "", definitions))
    null_is_default = {
        name for name in optional if not _allows_null(schema["properties"][name], definitions, frozenset())
    }
    for name in null_is_default:
        inner = result["properties"][name]
        outer: dict[str, Any] = {}
        if "description" in inner:
            outer["description"] = inner.pop("description")
        if "anyOf" in inner:
            outer["anyOf"] = [*inner["anyOf"], {"type": "null"}]
        else:
            outer["anyOf"] = [inner, {"type": "null"}]
        result["properties"][name] = outer
    return result, frozenset(null_is_default)


def _strict(schema: Any, path: str, definitions: Mapping[str, Any]) -> Any:
    where = f"parameter {path!r}" if path else "a parameter"
    if not isinstance(schema, Mapping):
        raise NotStrictError(f"{where} may be anything")
    given = cast("Mapping[str, Any]", schema)
    source = {key: value for key, value in given.items() if key not in _LEFT_OUT}
    for key, what in _UNSUPPORTED.items():
        if key in source:
            raise NotStrictError(f"{where} is {what}")
    if not source.keys() - {"description", "$defs"}:
        raise NotStrictError(f"{where} may be anything (Any, object or no annotation)")
    if "$ref" in source:
        rest = {key: value for key, value in source.items() if key != "$ref"}
        if not rest:
            return {"$ref": source["$ref"]}
        # A reference stands alone in the subset; the description beside it survives in a union of one.
        return {**rest, "anyOf": [{"$ref": source["$ref"]}]}
    if "oneOf" in source:
        source["anyOf"] = source.pop("oneOf")
    if "allOf" in source:
        members = source.pop("allOf")
        if len(members) != 1:
            raise NotStrictError(f"{where} has to match several types at once")
        source = {**members[0], **source}
    result: dict[str, Any] = dict(source)
    if "$defs" in source:
        result["$defs"] = {name: _strict(body, name, definitions) for name, body in source["$defs"].items()}
    if "anyOf" in source:
        result["anyOf"] = [_strict(member, path, definitions) for member in source["anyOf"]]
    if source.get("type") == "array":
        result["items"] = _strict(source.get("items"), f"{path}[]", definitions)
    if source.get("type") == "object":
        if "properties" not in source or source.get("additionalProperties") not in (None, False):
            raise NotStrictError(f"{where} is a dict whose keys are not known beforehand")
        properties: Mapping[str, Any] = source["properties"]
        result["properties"] = {
            name: _strict(value, f"{path}.{name}" if path else name, definitions) for name, value in properties.items()
        }
        result["required"] = list(properties)
        result["additionalProperties"] = False
    return result


def _allows_null(schema: Any, definitions: Mapping[str, Any], seen: frozenset[str]) -> bool:
    if not isinstance(schema, Mapping):
        return True
    given = cast("Mapping[str, Any]", schema)
    if given.get("type") == "null" or None in given.get("enum", ()) or ("const" in given and given["const"] is None):
        return True
    members = (*given.get("anyOf", ()), *given.get("oneOf", ()), *given.get("allOf", ()))
    if any(_allows_null(member, definitions, seen) for member in members):
        return True
    name = str(given.get("$ref", "")).rpartition("/")[2]
    return bool(name) and name not in seen and _allows_null(definitions.get(name), definitions, seen | {name})
