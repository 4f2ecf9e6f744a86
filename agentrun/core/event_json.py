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

    What a tool passed to ``progress`` may be anything: where it has no JSON form, its ``repr`` stands for it.
    """
    result: dict[str, Any] = {"type": type(event).__name__}
    for f in fields(event):
        value = getattr(event, f.name)
        if value.__class__ in _PLAIN:
            result[f.name] = value
        elif f.name != "path" or value:
            from pydantic_core import to_jsonable_python  # where plain data is not enough

            result[f.name] = to_jsonable_python(value, fallback=repr)
    return result


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
