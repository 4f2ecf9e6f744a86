"""What a tool returned, as what the model is told."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, cast

from agentrun.core.error_text import words_of
from agentrun.core.errors import ToolError

__all__ = ["ToolOutputError", "to_output"]

_AS_IS: Final = frozenset((bool, int))


class ToolOutputError(ToolError):
    """What a tool returned has no JSON form. Not meant to end the run, as a `ToolError` that a tool raises is."""


def to_output(value: object, *, tool_name: str | None = None) -> Any:
    """Turn any value a tool returns into something JSON can hold, for ``ToolOutput.output``.

    Text stays text and ``None`` becomes ``""``. Everything else becomes the JSON value that pydantic makes of it:
    models, dataclasses, enums, dates, UUIDs, decimals (as text), sets (as lists), and arrays with a ``tolist()``
    method. Bytes become text if they are valid UTF-8, else base64 (RFC 4648, standard alphabet). Not-a-number and the
    infinities, which JSON does not have, become the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``; lone
    surrogates, which UTF-8 does not have, become ``"?"``.

    Args:
        value: What the tool returned.
        tool_name: Name of the tool, for the error message.

    Raises:
        ToolOutputError: The value has no JSON form; the message names its type.
    """
    if isinstance(value, str):
        return _encodable(value)
    if value is None:
        return ""
    if type(value) in _AS_IS:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _bytes_to_text(bytes(cast("Any", value)))
    who = f"tool {tool_name!r}" if tool_name else "the tool"
    advice = _advice(value)
    if advice is not None:
        raise ToolOutputError(f"{who} returned {_article(type(value).__name__)}: {advice}", tool_name=tool_name)
    from pydantic_core import PydanticSerializationError

    try:
        try:
            return _jsonable(value, "utf8")
        except (PydanticSerializationError, UnicodeDecodeError):
            # Perhaps only because some bytes in it are not text. Whatever else was wrong is still wrong now.
            return _jsonable(value, "base64")
    except Exception as exc:
        inside = "" if _names(exc, type(value)) else f" ({words_of(exc)})"
        raise ToolOutputError(
            f"{who} returned {_article(type(value).__name__)}, which cannot be turned into JSON{inside}: return text, "
            "numbers, lists, dicts, dataclasses or pydantic models",
            tool_name=tool_name,
        ) from exc


def _jsonable(value: object, bytes_mode: Literal["utf8", "base64"]) -> Any:
    from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

    # By way of JSON text, which is fast, and leaves nothing in the result that has no place in JSON.
    try:
        return from_json(to_json(value, bytes_mode=bytes_mode, inf_nan_mode="strings", fallback=_fallback))
    except PydanticSerializationError as exc:
        if "surrogates not allowed" not in words_of(exc):
            raise
    plain = to_jsonable_python(value, bytes_mode=bytes_mode, fallback=_fallback)
    return from_json(to_json(_all_encodable(plain), inf_nan_mode="strings"))


def _fallback(value: Any) -> Any:
    to_list = cast("Callable[[], Any] | None", getattr(value, "tolist", None))
    if callable(to_list):  # numpy's arrays and scalars, the standard library's array, and all that imitate them
        return to_list()
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no JSON form")


def _encodable(text: str) -> str:
    text = str.__str__(text)  # of a subclass, say an enum with text for values, only the text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def _all_encodable(value: Any) -> Any:
    match value:
        case str():
            return _encodable(value)
        case [*elements]:
            return [_all_encodable(each) for each in elements]
        case {**entries}:
            return {_encodable(str(key)): _all_encodable(each) for key, each in entries.items()}
        case _:
            return value


def _bytes_to_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _advice(value: object) -> str | None:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()  # or Python complains that it was never awaited, on top of our error
        return "its function is not async but gave something to await; declare it with `async def`"
    if isinstance(value, Iterator) or inspect.isasyncgen(value):
        return "return a list of the values instead; an iterator may never end"
    return None


def _names(exc: BaseException, cls: type) -> bool:
    return f"{cls.__module__}.{cls.__qualname__} has no JSON form" in words_of(exc)


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
