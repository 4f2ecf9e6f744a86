"""The smallest value that fits a JSON schema: what a model that says as little as it may would send."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping
from typing import Any, Final, cast

__all__ = ["NoValueError", "smallest_value"]

_FORMATS: Final[Mapping[str, str]] = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT0S",
    "email": "a@example.org",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.org/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ipv4network": "192.0.2.0/24",
    "ipv6network": "2001:db8::/32",
    "json-string": "null",
}
_MOST_DEPTH: Final = 40
_SAMPLES: Final = "aA0_ -.@/"  # tried, in this order, where a pattern allows many characters


class NoValueError(ValueError):
    """No value could be made for a schema; the message says for which part of it."""


def smallest_value(schema: Mapping[str, Any] | bool) -> Any:
    """The smallest value that fits: only what is required, the shortest texts and lists, the first of alternatives.

    Raises:
        NoValueError: The schema allows nothing, or asks for more than this can do.
    """
    return _Maker({} if isinstance(schema, bool) else schema).make(schema, "", 0)


class _Maker:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def make(self, schema: Mapping[str, Any] | bool, path: str, depth: int) -> Any:
        if schema is False:
            raise NoValueError(f"{path or 'the value'}: nothing is allowed here")
        if depth > _MOST_DEPTH:
            raise NoValueError(f"{path or 'the value'}: the schema refers to itself without an end")
        if schema is True:
            return None
        schema = self._resolved(schema, path)
        for name in ("const", "enum", "anyOf", "oneOf"):
            if name in schema:
                return self._chosen(name, schema, path, depth)
        kind: Any = schema.get("type")
        if not isinstance(kind, str) and kind:
            kind = kind[0]  # the first of several
        return self._of_type(str(kind if kind is not None else _kind_of(schema)), schema, path, depth)

    def _chosen(self, name: str, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        if name == "const":
            return schema["const"]
        if name == "enum":
            return schema["enum"][0]
        rest = {key: value for key, value in schema.items() if key != name}
        errors: list[str] = []
        for option in schema[name]:
            try:
                if isinstance(option, bool):
                    return self.make(option, path, depth)
                return self.make(_merged(rest, self._resolved(option, path)), path, depth + 1)
            except NoValueError as exc:
                errors.append(str(exc))
        raise NoValueError("; or ".join(errors) or f"{path or 'the value'}: there is no alternative to choose")

    def _of_type(self, kind: str, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        if kind == "object":
            properties: Mapping[str, Any] = schema.get("properties", {})
            made = {
                name: self.make(properties.get(name, True), f"{path}.{name}" if path else name, depth + 1)
                for name in schema.get("required", ())
            }
            more: Any = schema.get("additionalProperties", True)
            for number in range(len(made), schema.get("minProperties", 0)):
                made[f"key{number + 1}"] = self.make(more, f"{path}.*", depth + 1)
            return made
        if kind == "array":
            return self._array(schema, path, depth)
        if kind == "string":
            return _text(schema, path)
        if kind in ("integer", "number"):
            return _number(schema, path, whole=kind == "integer")
        return {"boolean": False, "null": None}.get(kind)

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> list[Any]:
        prefix: list[Any] = schema.get("prefixItems", [])
        least = max(schema.get("minItems", 0), 0)
        items: list[Any] = []
        for number in range(least):
            item: Any = prefix[number] if number < len(prefix) else schema.get("items", True)
            if not schema.get("uniqueItems") or number == 0:
                items.append(self.make(item, f"{path}[{number}]", depth + 1))
            else:
                items.append(self._another(item, items, path, depth))
        return items

    def _another(self, schema: Mapping[str, Any] | bool, others: list[Any], path: str, depth: int) -> Any:
        """A value that is not among the others."""
        resolved: Mapping[str, Any] = {} if isinstance(schema, bool) else self._resolved(schema, path)
        for option in resolved.get("enum", ()):
            if option not in others:
                return option
        kind = resolved.get("type")
        last = others[-1]
        if kind in ("integer", "number"):
            return self.make({**resolved, "minimum": last + resolved.get("multipleOf", 1)}, path, depth + 1)
        if kind == "string" and "pattern" not in resolved:
            return self.make({**resolved, "minLength": len(last) + 1}, path, depth + 1)
        raise NoValueError(f"{path}: no {len(others) + 1} different values")

    def _resolved(self, schema: Any, path: str) -> Mapping[str, Any]:
        """Without ``$ref`` and ``allOf``."""
        for _ in range(_MOST_DEPTH):
            if "$ref" in schema:
                target: Any = self._root
                for part in str(schema["$ref"]).removeprefix("#/").split("/"):
                    target = target[part.replace("~1", "/").replace("~0", "~")]
                schema = _merged({key: value for key, value in schema.items() if key != "$ref"}, target)
            elif "allOf" in schema:
                rest = {key: value for key, value in schema.items() if key != "allOf"}
                for part in schema["allOf"]:
                    rest = _merged(rest, self._resolved(part, path))
                schema = rest
            else:
                return cast("Mapping[str, Any]", schema)
        raise NoValueError(f"{path or 'the value'}: the schema refers to itself without an end")


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both schemas at once, as far as needed: what both have of objects is put together."""
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        merged["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    return merged


def _kind_of(schema: Mapping[str, Any]) -> str:
    """The type of a schema that does not say it."""
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    if "pattern" in schema or "minLength" in schema:
        return "string"
    return "number" if {"minimum", "maximum", "multipleOf"} & schema.keys() else "null"


def _number(schema: Mapping[str, Any], path: str, *, whole: bool) -> int | float:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    step = schema.get("multipleOf", 1 if whole else None)
    least, most = max(low, above), min(high, below)
    if step:
        candidates = [0, *(step * (math.floor(bound / step) + more) for bound in (least, most) if math.isfinite(bound)
                           for more in (-1, 0, 1, 2))]  # fmt: skip
    else:
        middle = (least + most) / 2 if math.isfinite(least) and math.isfinite(most) else 0
        candidates = [0, least, most, middle, least + 1, most - 1]
    fitting = [n for n in candidates if low <= n <= high and above < n < below and math.isfinite(n)]
    if not fitting:
        raise NoValueError(f"{path or 'the value'}: no number fits")
    best = min(fitting, key=abs)
    return int(best) if whole or best == int(best) else best


def _text(schema: Mapping[str, Any], path: str) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    if "pattern" in schema:
        text = _matching(str(schema["pattern"]))
        if text is None or not least <= len(text) <= most:
            raise NoValueError(f"{path or 'the value'}: no text for the pattern {schema['pattern']!r}")
        return text
    made = _FORMATS.get(schema.get("format", ""), "")
    # An empty text is valid and unlike anything that a model sends.
    return made or "a" * int(min(max(least, 1), most))


def _matching(pattern: str) -> str | None:
    """A short text in which the pattern is found, if one can be made."""
    try:
        parser: Any = importlib.import_module("re._parser")
        text = "".join(_pieces(parser.parse(pattern)))
        return text if re.search(pattern, text) else None
    except (re.error, NoValueError, ImportError):
        return None


def _pieces(tokens: Any) -> list[str]:
    pieces: list[str] = []
    for kind, value in tokens:
        name = str(kind)
        if name == "LITERAL":
            pieces.append(chr(value))
        elif name in ("ANY", "NOT_LITERAL", "IN"):
            pieces.append(_character(name, value))
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, _, inner = value
            pieces += _pieces(inner) * least
        elif name == "SUBPATTERN":
            pieces += _pieces(value[3])
        elif name == "BRANCH":
            pieces += _pieces(value[1][0])
        elif name != "AT":
            raise NoValueError(name)
    return pieces


def _character(name: str, value: Any) -> str:
    if name == "ANY":
        return "a"
    if name == "NOT_LITERAL":
        return next(char for char in _SAMPLES if char != chr(value))
    ranges = [_range(kind, item) for kind, item in value if str(kind) != "NEGATE"]
    if str(value[0][0]) == "NEGATE":
        return next(char for char in _SAMPLES if not any(char in chars for chars in ranges))
    return next((char for char in _SAMPLES if any(char in chars for chars in ranges)), next(iter(ranges[0]), ""))


def _range(kind: Any, item: Any) -> str:
    name = str(kind)
    if name == "LITERAL":
        return chr(item)
    if name == "RANGE":
        return "".join(map(chr, range(item[0], min(item[1], item[0] + 300) + 1)))
    characters = {"DIGIT": r"\d", "WORD": r"\w", "SPACE": r"\s"}
    category = str(item).removeprefix("CATEGORY_")
    negated = category.startswith("NOT_")
    wanted = re.compile(characters[category.removeprefix("NOT_")])
    return "".join(char for char in map(chr, range(128)) if bool(wanted.match(char)) != negated)
