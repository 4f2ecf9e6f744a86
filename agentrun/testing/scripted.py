"""A model that says what the test wants it to say."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel

from agentrun.core.errors import UserError
from agentrun.core.events import TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, ToolCall
from agentrun.core.model import ModelEvent, ModelRequest, ResponseEnded
from agentrun.core.usage import Usage

__all__ = ["Call", "Fail", "Hang", "Part", "Say", "ScriptedModel", "Turn", "Wait"]


@dataclass(frozen=True, slots=True)
class Say:
    """Stream ``text`` in ``chunks`` pieces, ``delay`` seconds before each."""

    text: str
    chunks: int = 1
    delay: float = 0.0

    def __post_init__(self) -> None:
        if self.chunks < 1:
            raise UserError(f"Say(chunks=...) must be at least 1, not {self.chunks!r}")
        if self.delay < 0:
            raise UserError(f"Say(delay=...) must be 0 or more seconds, not {self.delay!r}")


@dataclass(frozen=True, slots=True)
class Call:
    """Call a tool. ``arguments`` is a mapping, or raw text to try what a model must not write."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict[str, Any])
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Say nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise ``exception`` from the stream."""

    exception: BaseException


@dataclass(frozen=True, slots=True)
class Hang:
    """Say nothing, for ever."""


Part: TypeAlias = Say | Call | Wait | Fail | Hang
Turn: TypeAlias = Part | Sequence[Part]

_PARTS: Final = (Say, Call, Wait, Fail, Hang)


class ScriptedModel:
    """A model that plays one turn of its script at each call, and remembers what it was asked.

    Attributes:
        requests: The requests, in order.
        open_streams: How many streams are open right now.
        name: For events.
    """

    def __init__(self, turns: Iterable[Turn], *, name: str = "scripted") -> None:
        """Args:
        turns: What to do at the first call, the second, ...: a part, or a list of parts. A call beyond the last
            turn raises `UserError`.
        name: For events.
        """
        self.name = name
        self.requests: list[ModelRequest] = []
        self.open_streams: int = 0
        self._turns: list[tuple[Part, ...]] = []
        self._call_numbers = itertools.count(1)
        self._add(turns)

    def _add(self, turns: Iterable[Turn]) -> None:
        for index, turn in enumerate(turns):
            parts = (turn,) if isinstance(turn, _PARTS) else tuple(turn)
            for part in parts:
                if not isinstance(part, _PARTS):
                    raise UserError(f"turns[{index}] contains {part!r}; expected Say, Call, Wait, Fail or Hang")
            self._turns.append(parts)

    def add_spare_turns(self, more: Iterable[Turn]) -> None:
        """Further turns at the end of the script, which need not be played: for what comes up in a sweep."""
        self._add(more)

    def rewound(self, more: Iterable[Turn] = ()) -> ScriptedModel:
        """A new model with the same script, at its beginning, and with further turns at its end."""
        return ScriptedModel([*self._turns, *more], name=self.name)

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncGenerator[ModelEvent]]:
        """Play the next turn. See `agentrun.models.Model`."""
        index = len(self.requests)
        self.requests.append(request)
        if index >= len(self._turns):
            raise UserError(f"ScriptedModel was called {index + 1} times, but its script has {len(self._turns)} turns")
        self.open_streams += 1
        events = self._play(self._turns[index])
        try:
            yield events
        finally:
            self.open_streams -= 1
            # Closing the generator cannot wait: it awaits nothing in a `finally`.
            await events.aclose()

    async def _play(self, parts: Sequence[Part]) -> AsyncGenerator[ModelEvent]:
        output_tokens = 0
        called = False
        for part in parts:
            if isinstance(part, Say):
                for piece in _cut(part.text, part.chunks):
                    await anyio.sleep(part.delay)
                    output_tokens += 1
                    yield TextDelta(piece)
                yield AssistantMessage(part.text)
            elif isinstance(part, Call):
                await anyio.lowlevel.checkpoint()
                call_id = part.call_id if part.call_id is not None else f"call_{next(self._call_numbers)}"
                text = part.arguments if isinstance(part.arguments, str) else json.dumps(dict(part.arguments))
                yield ToolCallDelta(call_id, part.name, text)
                yield ToolCall(call_id, part.name, text)
                called = True
                output_tokens += 1
            elif isinstance(part, Wait):
                await anyio.sleep(part.seconds)
            elif isinstance(part, Fail):
                await anyio.lowlevel.checkpoint()
                raise part.exception
            else:
                await anyio.sleep_forever()
        usage = Usage(input_tokens=0, output_tokens=output_tokens)
        yield ResponseEnded(usage=usage, finish_reason="tool_calls" if called else "stop")


def _cut(text: str, chunks: int) -> list[str]:
    """``text`` in ``chunks`` pieces of about the same length; fewer if it is shorter than that."""
    chunks = max(1, min(chunks, len(text)))
    bounds = [len(text) * i // chunks for i in range(chunks + 1)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]
