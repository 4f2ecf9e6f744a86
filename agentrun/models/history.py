"""Encoding a history into a request body, each item once.

A history only grows, and every model call sends all of it. So the encoded bytes of the parts that were sent before
are kept and joined with those of the new ones. A part is either one item, or a maximal run of items that the model
made (what it thought, said and called), because how those are sent depends on their neighbours.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from agentrun.core.errors import UserError
from agentrun.core.items import AssistantMessage, Item, Reasoning, ToolCall

__all__ = ["HistoryEncoder", "json_bytes", "object_arguments"]

_FROM_MODEL: Final = (AssistantMessage, Reasoning, ToolCall)
_MAX_HISTORIES: Final = 32
_MAX_BYTES: Final = 16 * 1024 * 1024

_Part = tuple[tuple[Item, ...], bytes]


class HistoryEncoder:
    """Encodes histories as the elements of a JSON array, remembering what it encoded for the next, longer one.

    It remembers the latest histories, at most 32 and at most 16 MB of JSON, whatever their number. Items are compared
    by identity, which is enough since they never change.

    Args:
        encode: Encodes one part as JSON objects, each one element of the array.
    """

    def __init__(self, encode: Callable[[Sequence[Item]], Sequence[dict[str, Any]]]) -> None:
        self._encode = encode
        # Keyed by the identity of a history's first item; the parts hold that item, so the id cannot be reused.
        self._known: OrderedDict[int, tuple[list[_Part], int]] = OrderedDict()

    def encode(self, items: Sequence[Item]) -> bytes:
        """The items as the inside of a JSON array (without the brackets)."""
        if not items:
            return b""
        key = id(items[0])
        old, _ = self._known.get(key, ([], 0))
        parts: list[_Part] = []
        size = 0
        for position, group in enumerate(_groups(items)):
            if position < len(old) and _same(old[position][0], group):
                part = old[position]
            else:
                part = (group, b",".join(json_bytes(element) for element in self._encode(group)))
            parts.append(part)
            size += len(part[1])
        self._remember(key, parts, size)
        return b",".join(part[1] for part in parts if part[1])

    def _remember(self, key: int, parts: list[_Part], size: int) -> None:
        known = self._known
        known.pop(key, None)
        if size > _MAX_BYTES:
            return
        known[key] = (parts, size)
        total = sum(entry[1] for entry in known.values())
        while len(known) > _MAX_HISTORIES or total > _MAX_BYTES:
            _, (_, dropped) = known.popitem(last=False)
            total -= dropped


def _groups(items: Sequence[Item]) -> list[tuple[Item, ...]]:
    groups: list[tuple[Item, ...]] = []
    run: list[Item] = []
    for item in items:
        if isinstance(item, _FROM_MODEL):
            run.append(item)
            continue
        if run:
            groups.append(tuple(run))
            run = []
        groups.append((item,))
    if run:
        groups.append(tuple(run))
    return groups


def _same(left: tuple[Item, ...], right: tuple[Item, ...]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def object_arguments(call: ToolCall) -> str:
    """The call's arguments as JSON text of an object, which providers insist on.

    Models write invalid JSON at times. The call stays in the history with what the model wrote, wrapped, so that the
    model sees its mistake next to the output that explains it.
    """
    text = call.arguments.strip()
    if not text:
        return "{}"
    try:
        value: Any = from_json(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return call.arguments
    return json_bytes({"invalid_json": call.arguments}).decode()


def json_bytes(value: Any) -> bytes:
    """``value`` as compact JSON.

    Raises:
        UserError: Something in it has no JSON form.
    """
    try:
        return to_json(value, fallback=_fallback)
    except PydanticSerializationError:
        pass
    # Half a surrogate pair cannot be encoded as UTF-8. Such text comes from tools that cut strings carelessly; it
    # must not make a whole history unsendable.
    try:
        text = json.dumps(value, ensure_ascii=False, default=_fallback)
    except (TypeError, ValueError) as exc:
        raise UserError(f"the request to the model holds something that has no JSON form: {exc}") from exc
    return text.encode("utf-8", "replace")


def _fallback(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    raise TypeError(f"{type(value).__name__} is not JSON-able")
