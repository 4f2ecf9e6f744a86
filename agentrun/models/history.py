"""Encoding a history into a request body, each item once.

A history only grows, and every model call sends all of it. So the encoded bytes of the parts that were sent before
are kept and joined with those of the new ones: with the history itself as long as its run lasts, however many runs
there are, and then for a while, since the next run may go on from it. A part is either one item, or a maximal run of
items that the model made (what it thought, said and called), because how those are sent depends on their neighbours.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, Final, cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from agentrun.core.errors import UserError
from agentrun.core.items import AssistantMessage, Item, Reasoning, ToolCall
from agentrun.core.plain import Plain
from agentrun.core.transcript import ItemsView

__all__ = ["HistoryEncoder", "json_bytes", "object_arguments", "with_array"]

_FROM_MODEL: Final = (AssistantMessage, Reasoning, ToolCall)
_MAX_HISTORIES: Final = 32
_MAX_BYTES: Final = 16 * 1024 * 1024


@dataclass(slots=True, repr=False, eq=False)
class _Known(Plain):
    """A history that was encoded: its items, its parts, and after how many items each of them ends."""

    items: tuple[Item, ...] = ()
    parts: list[bytes] = field(default_factory=list[bytes])
    ends: list[int] = field(default_factory=list[int])
    size: int = 0

    def copy(self) -> _Known:
        return _Known(self.items, self.parts[:], self.ends[:], self.size)


class HistoryEncoder:
    """Encodes histories as the elements of a JSON array, remembering what it encoded for the next, longer one.

    That of a run is remembered with its transcript. Of all that it has encoded, for the runs that go on from it and
    for items that are in no transcript, it remembers the latest, at most 32 and at most 16 MB of JSON. Items are
    compared by identity, which is enough since they never change. What is done again at each call, for the items that
    were there before, is one such comparison.

    Args:
        encode: Encodes one part as JSON objects, each one element of the array.
    """

    def __init__(self, encode: Callable[[Sequence[Item]], Sequence[dict[str, Any]]]) -> None:
        self._encode = encode
        # Keyed by the identity of a history's first item; the entry holds that item, so the id cannot be reused.
        self._latest: OrderedDict[int, _Known] = OrderedDict()
        self._lock = threading.Lock()  # runs of several threads may share a model

    def encode(self, items: Sequence[Item]) -> bytes:
        """The items as the inside of a JSON array (without the brackets)."""
        if not items:
            return b""
        now = tuple(items)
        known = self._known(items, now[0])
        _forget_from(known, _same_items(known.items, now), now)
        known.items = now
        start = known.ends[-1] if known.ends else 0
        for end in _part_ends(now, start):
            part = b",".join(json_bytes(element) for element in self._encode(now[start:end]))
            known.parts.append(part)
            known.ends.append(end)
            known.size += len(part)
            start = end
        self._remember(known)
        return b",".join(filter(None, known.parts))

    def _known(self, items: Sequence[Item], first: Item) -> _Known:
        """What is known of a history so far, to be brought up to date."""
        if isinstance(items, ItemsView) and (kept := items.kept.get(self)) is not None:
            return cast("_Known", kept)
        latest = self._latest.get(id(first))
        # Copies go in and out: several runs may go on from the same history, each in its own way and thread.
        known = _Known() if latest is None else latest.copy()
        if isinstance(items, ItemsView):
            items.kept[self] = known
        return known

    def _remember(self, entry: _Known) -> None:
        latest, key = self._latest, id(entry.items[0])
        with self._lock:
            latest.pop(key, None)
            if entry.size > _MAX_BYTES:
                return
            latest[key] = entry.copy()
            total = sum(other.size for other in latest.values())
            while len(latest) > _MAX_HISTORIES or total > _MAX_BYTES:
                _, dropped = latest.popitem(last=False)
                total -= dropped.size


def _same_items(one: tuple[Item, ...], other: tuple[Item, ...]) -> int:
    """How many items both begin with."""
    shorter = min(len(one), len(other))
    if all(map(is_, one, other)):
        return shorter
    return next(index for index in range(shorter) if one[index] is not other[index])


def _forget_from(known: _Known, position: int, items: tuple[Item, ...]) -> None:
    """Drop the parts that are not wholly before ``position``, or go on there with the new items."""
    count = bisect_right(known.ends, position)
    if count:
        end = known.ends[count - 1]
        # What the model made is one part with what it makes next.
        if end < len(items) and isinstance(items[end - 1], _FROM_MODEL) and isinstance(items[end], _FROM_MODEL):
            count -= 1
    known.size -= sum(map(len, known.parts[count:]))
    del known.parts[count:], known.ends[count:]


def _part_ends(items: tuple[Item, ...], start: int) -> Iterator[int]:
    """Where the parts end into which the items from ``start`` on fall."""
    from_model = False
    for position in range(start, len(items)):
        before, from_model = from_model, isinstance(items[position], _FROM_MODEL)
        if position > start and not (before and from_model):
            yield position
    if start < len(items):
        yield len(items)


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


def with_array(body: bytes, name: str, inside: bytes) -> bytes:
    """``body``, the JSON of an object that has a field, with one more: an array with what was encoded before inside."""
    return b'%b,"%b":[%b]}' % (body[:-1], name.encode(), inside)


def _fallback(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    raise TypeError(f"{type(value).__name__} is not JSON-able")
