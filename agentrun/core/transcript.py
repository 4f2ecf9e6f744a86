"""The history of a run, which cannot be brought into an invalid state.

A response of the model and the outputs of the tools it called are committed together, in one synchronous step: there
is no moment at which a call without its output can be read, saved or sent. Appending costs the same however long the
history is, and a view for the next request shares the storage instead of copying it.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast, overload

from agentrun.core.errors import UserError
from agentrun.core.items import (
    AssistantMessage,
    Item,
    Reasoning,
    SystemMessage,
    ToolCall,
    ToolOutput,
    UserMessage,
)

__all__ = ["ItemsView", "Transcript", "check_history"]


class ItemsView(Sequence[Item]):
    """The first items of an append-only list, without a copy. It never changes, though the list grows.

    Attributes:
        kept: What readers of the list keep about it from one view to the next, each under a key of its own. It lives as
            long as the list.
    """

    __slots__ = ("_items", "_length", "kept")

    def __init__(self, items: list[Item], length: int, kept: dict[Any, Any] | None = None) -> None:
        self._items = items
        self._length = length
        self.kept: dict[Any, Any] = {} if kept is None else kept

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self._items[i] for i in range(*index.indices(self._length))]
        if index < 0:
            index += self._length
        if not 0 <= index < self._length:
            raise IndexError("item index out of range")
        return self._items[index]

    def __iter__(self) -> Iterator[Item]:
        return itertools.islice(self._items, self._length)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence) and not isinstance(other, (str, bytes)):
            return list(self) == list(cast("Sequence[object]", other))
        return NotImplemented

    def __repr__(self) -> str:
        return f"ItemsView({list(self)!r})"


def check_history(items: Iterable[Item], *, what: str = "history") -> set[str]:
    """Check that each tool call is answered by exactly one output, before the conversation goes on.

    Returns the ids of the calls.

    These are the providers' rules: outputs follow the response that made the calls, and precede whatever is said next.

    Raises:
        UserError: A call has no output, or two; an output has no call; an id is used twice. The message names the id.
    """
    seen: set[str] = set()
    open_calls: dict[str, int] = {}
    answering = False  # an output of the current response has been seen
    for index, item in enumerate(items):
        if isinstance(item, ToolOutput):
            if item.call_id not in open_calls:
                problem = "a second output for" if item.call_id in seen else "an output without a call:"
                raise UserError(
                    f"{what}[{index}] is {problem} call_id {item.call_id!r}; each tool call needs exactly one"
                )
            del open_calls[item.call_id]
            answering = True
            continue
        if open_calls and (answering or isinstance(item, (UserMessage, SystemMessage))):
            # Two responses in a row may interleave as call, output, call, output: then nothing is open here.
            call_id, position = next(iter(open_calls.items()))
            raise UserError(
                f"{what}[{position}] is a tool call ({call_id!r}) that has no output before {what}[{index}]; "
                "add a ToolOutput for it, or leave the call out"
            )
        answering = False
        if isinstance(item, ToolCall):
            if item.call_id in seen:
                raise UserError(f"{what}[{index}] uses call_id {item.call_id!r} a second time; call ids must be unique")
            seen.add(item.call_id)
            open_calls[item.call_id] = index
    if open_calls:
        call_id, position = next(iter(open_calls.items()))
        raise UserError(
            f"{what}[{position}] is a tool call ({call_id!r}) that has no output; "
            "add a ToolOutput for it, or leave the call out"
        )
    return seen


class Transcript:
    """An append-only history; valid after every method call."""

    __slots__ = ("_call_ids", "_items", "_kept", "_start", "_suffixes")

    def __init__(self, items: Iterable[Item] = (), *, what: str = "input") -> None:
        """Begin with ``items``, which must be a valid history.

        Raises:
            UserError: They are not; see `check_history`. The message names them ``what``.
        """
        self._items: list[Item] = list(items)
        self._call_ids = check_history(self._items, what=what)
        self._start = len(self._items)
        self._kept: dict[Any, Any] = {}
        self._suffixes: dict[str, int] = {}  # the last number tried for a call id that was taken

    def __len__(self) -> int:
        return len(self._items)

    def view(self) -> ItemsView:
        """All items so far, as a sequence that later appends do not change. Costs the same at any length."""
        return ItemsView(self._items, len(self._items), self._kept)

    def since(self, position: int) -> tuple[Item, ...]:
        """A copy of the items from ``position`` on."""
        return tuple(self._items[position:])

    def begin_new_items(self) -> None:
        """Let `new_items` begin here."""
        self._start = len(self._items)

    def new_items(self) -> tuple[Item, ...]:
        """The items added since the transcript was made."""
        return self.since(self._start)

    def append_input(self, items: Iterable[Item]) -> None:
        """Add input: messages, or a whole piece of history with its calls answered.

        Raises:
            UserError: The items contain an unpaired call, or one whose id is taken; nothing is added then.
        """
        new = list(items)
        if any(isinstance(item, (ToolCall, ToolOutput)) for item in new):
            ids = check_history(new, what="input")
            if taken := ids & self._call_ids:
                raise UserError(f"input uses call_id {min(taken)!r}, which the history already has")
            self._call_ids |= ids
        self._items.extend(new)

    def unique_call_id(self, call_id: str, taken: Container[str] = ()) -> str:
        """``call_id``, or a variant of it that neither the history nor ``taken`` has.

        Some servers number their calls anew in each response.
        """
        base = candidate = call_id or "call"
        while candidate in self._call_ids or candidate in taken:
            # Where the last search ended: a server that names all its calls alike costs no more than any other.
            self._suffixes[base] = n = self._suffixes.get(base, 1) + 1
            candidate = f"{base}_{n}"
        return candidate

    def commit_response(
        self, response: Sequence[AssistantMessage | Reasoning | ToolCall], outputs: Mapping[str, ToolOutput]
    ) -> None:
        """Add a response of the model and the outputs of all its calls, in the order of the calls, in one step."""
        answers: dict[str, ToolOutput] = {}
        for item in response:
            if isinstance(item, ToolCall):
                call_id = item.call_id
                if call_id in answers or call_id in self._call_ids or call_id not in outputs:
                    raise AssertionError(f"call {call_id!r} and outputs {sorted(outputs)} do not pair up")
                answers[call_id] = output = outputs[call_id]
                if output.call_id != call_id:
                    raise AssertionError(f"the output for {call_id!r} answers {output.call_id!r}")
        if len(answers) != len(outputs):
            raise AssertionError(f"calls {sorted(answers)} and outputs {sorted(outputs)} do not pair up")
        self._items.extend(response)
        if answers:
            self._call_ids.update(answers)
            self._items.extend(answers.values())
