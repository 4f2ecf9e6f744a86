"""Events as JSON, so that a run can be watched from another process."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, get_args

from agentrun.core.errors import UserError
from agentrun.core.events import Event
from agentrun.core.item_json import parse_items

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["event_from_dict", "event_to_dict"]

_CLASSES: Final[dict[str, type[Any]]] = {cls.__name__: cls for cls in get_args(Event)}
_PLAIN: Final = frozenset((str, int, bool, type(None)))


def event_to_dict(event: Event) -> dict[str, Any]:
    """The JSON form: the event's fields, and its class name as ``type``. ``path`` is left out when empty.

    What a tool passed to ``progress`` may be anything: where it has no JSON form, its ``repr`` stands for it. Bytes
    become text if they are UTF-8, else those in the value become base64; NaN and infinities become text. Never fails.
    """
    result: dict[str, Any] = {"type": type(event).__name__}
    for f in fields(event):
        value = getattr(event, f.name)
        if value.__class__ in _PLAIN:
            result[f.name] = value
        elif f.name != "path" or value:
            result[f.name] = _jsonable(value)
    return result


def _jsonable(value: Any) -> Any:
    from pydantic_core import from_json, to_json, to_jsonable_python  # where plain data is not enough

    try:
        return from_json(to_json(value, inf_nan_mode="strings", fallback=_shown))
    except Exception:  # noqa: BLE001 - bytes that are not text, or text that cannot be encoded, most likely
        pass
    try:
        return to_jsonable_python(value, bytes_mode="base64", fallback=_shown)
    except Exception:  # noqa: BLE001 - it goes in circles, is nested too deep, or a serializer of the user's own broke
        return _shown(value)


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a ``__repr__`` of the user's own that broke must break nothing else
        return f"<{type(value).__name__}>"


def event_from_dict(data: Mapping[str, Any]) -> Event:
    """Read what `event_to_dict` wrote.

    Raises:
        UserError: The type is unknown, a field is missing or surplus, or a value is not of its field's type.
    """
    from pydantic import ValidationError

    values = dict(data)
    kind = values.pop("type", None)
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise UserError(f"unknown event type {kind!r:.60}; expected one of {', '.join(_CLASSES)}")
    if surplus := values.keys() - {f.name for f in fields(_CLASSES[kind])}:
        raise UserError(f"not a valid {kind} event: it has no field {min(surplus, key=str)!r}")
    if isinstance(values.get("items"), Sequence):
        values["items"] = tuple(parse_items(values["items"]))
    try:
        event: Event = _adapter(kind).validate_python(values)
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise UserError(f"not a valid {kind} event: {problems}") from exc
    return event


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(_CLASSES[kind])  # built on first use, as building costs a millisecond
