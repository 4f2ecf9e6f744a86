"""From the model's JSON text to validated arguments, and from what is wrong with it to words the model can act on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from agentrun.core.error_text import words_of
from agentrun.core.errors import ToolArgumentsError
from agentrun.tools.schema import ArgumentsSchema

__all__ = ["validate_arguments"]

_MOST_LINES: Final = 10
_MOST_CHARACTERS: Final = 80  # of a value that is shown back
_MOST_MESSAGE: Final = 300  # of one validator's words


def validate_arguments(arguments: str, schema: ArgumentsSchema, *, tool_name: str) -> dict[str, Any]:
    """Validate ``arguments`` in pydantic's lax JSON mode. Text that is empty or blank counts as ``{}``.

    Returns:
        Parameter name to value. What the model left out is left out here, unless a `Field` has a default for it.

    Raises:
        ToolArgumentsError: The text is not a JSON object or does not match; one line for each problem.
    """
    if not arguments or arguments.isspace():
        arguments = "{}"
    try:
        if schema.null_is_default and "null" in arguments:
            arguments = _without_nulls(arguments, schema.null_is_default)
        validated: dict[str, Any] = schema.validator.validate_json(arguments)
        return validated
    except ValidationError as exc:
        raise ToolArgumentsError(_explain(exc, arguments, schema, tool_name)) from exc
    except Exception as exc:  # a validator of the user's that broke: still something only the model can go around
        what = f"{type(exc).__name__}: {_shorten(words_of(exc), _MOST_MESSAGE)}"
        raise ToolArgumentsError(f"The arguments for {tool_name} could not be validated: {what}") from exc


def _without_nulls(arguments: str, names: frozenset[str]) -> str:
    try:
        given = from_json(arguments)
    except ValueError:
        return arguments  # the validator will say what is wrong with it
    if not _is_object(given):
        return arguments
    return json.dumps({key: value for key, value in given.items() if value is not None or key not in names})


def _explain(exc: ValidationError, arguments: str, schema: ArgumentsSchema, tool_name: str) -> str:
    errors = exc.errors(include_url=False, include_context=False)
    first = errors[0]
    if len(first["loc"]) == 0:
        if first["type"] in ("json_invalid", "string_unicode"):
            what = first["msg"].removeprefix("Invalid JSON: ")
            return f"The arguments for {tool_name} are not valid JSON: {what}. Send one JSON object."
        if first["type"] == "dict_type":
            got = _kind(first["input"])
            return f"The arguments for {tool_name} must be one JSON object such as {_example(schema)}, not {got}."
    given = from_json(arguments)
    problems: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for error in errors:
        path = _path(error["loc"], error["type"] == "missing", given)
        if error["type"] == "extra_forbidden":
            text = _unknown(error["loc"], schema)
        elif error["type"] == "missing":
            text = "missing, but required"
        else:
            text = _shorten(error["msg"][:1].lower() + error["msg"][1:], _MOST_MESSAGE)
            values[path] = error["input"]
        known = problems.setdefault(path, [])
        if text not in known:
            known.append(text)
    lines = [f"The arguments for {tool_name} are not valid:"]
    for path, texts in list(problems.items())[:_MOST_LINES]:
        got = f" (got {_shorten(_dump(values[path]), _MOST_CHARACTERS)})" if path in values else ""
        lines.append(f"- {_shorten(path, _MOST_CHARACTERS)}: {', or '.join(texts[:_MOST_LINES])}{got}")
    if len(problems) > _MOST_LINES:
        lines.append(f"- and {len(problems) - _MOST_LINES} more")
    return "\n".join(lines)


def _path(location: tuple[int | str, ...], missing: bool, given: Any) -> str:
    """Where in the JSON an error is, such as ``items[2].name``.

    pydantic's location also names union members and validators. Walking the input tells them from keys: what is
    neither a key nor an index there is left out.
    """
    result = ""
    for number, part in enumerate(location):
        last = number == len(location) - 1
        if _is_object(given) and (part in given or (missing and last)):
            result += f".{part}" if result else str(part)
            given = given.get(part)
        elif _is_array(given) and isinstance(part, int) and part < len(given):
            result += f"[{part}]"
            given = given[part]
    return result or "(all)"


# Plain bools, not type guards: what comes out of JSON is `Any` and should stay so for the type checkers.
def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_array(value: Any) -> bool:
    return isinstance(value, list)


def _unknown(location: Sequence[int | str], schema: ArgumentsSchema) -> str:
    if len(location) > 1:
        return "not known here; leave it out"
    names = list(schema.json_schema["properties"])
    if not names:
        return "not known; this tool takes no arguments"
    import difflib  # few models guess names

    close = difflib.get_close_matches(str(location[0]), names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"not known{hint}; the arguments are {_shorten(', '.join(names), _MOST_MESSAGE)}"


def _example(schema: ArgumentsSchema) -> str:
    names = list(schema.json_schema["properties"])
    return f'{{"{names[0]}": ...}}' if names else "{}"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {"list": "an array", "str": "a string", "bool": "a boolean", "int": "a number", "float": "a number"}
    name = type(value).__name__
    return names.get(name, name)


def _dump(value: Any) -> str:
    if isinstance(value, str):
        value = value[: 2 * _MOST_CHARACTERS]  # do not dump megabytes only to cut them
    elif _is_array(value):
        return f"an array of {len(value)}"
    elif _is_object(value):
        return "an object"
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return type(value).__name__


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
