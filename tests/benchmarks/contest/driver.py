"""What a contestant has to offer, and the script that its model plays.

Standard library only: it runs in any environment.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

__all__ = ["Call", "Driver", "Handle", "Script", "Seen", "TaskHandle", "Tool"]

Tool: TypeAlias = Callable[[str], Awaitable[str]]

_turn: ContextVar[Iterator[int]] = ContextVar("turn")


@dataclass
class Seen:
    """What a watcher has seen of a run.

    Attributes:
        texts: The deltas.
        outputs: The tools' outputs, in whatever order they came.
    """

    texts: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """A call of the tool with ``{"text": text}``."""

    call_id: str
    tool: str
    text: str

    @property
    def arguments(self) -> str:
        """As JSON."""
        return f'{{"text": "{self.text}"}}'


@dataclass(frozen=True)
class Script:
    """What the model does in a run: ``turns`` turns with ``calls`` tool calls each, then ``deltas`` pieces of text.

    Attributes:
        waits: The source goes through the event loop before each delta, as if each came in a packet of its own.
    """

    turns: int = 0
    calls: int = 1
    deltas: int = 0
    waits: bool = False
    tool: str = "echo"

    def pieces(self) -> list[str]:
        """The deltas; a run with no other text says that it is done."""
        return [f"{number} " for number in range(self.deltas)] or ["done"]

    def expected(self) -> Seen:
        """What there is to see."""
        outputs = [f"{number}.{index}" for number in range(self.turns) for index in range(self.calls)]
        return Seen(self.pieces(), outputs)

    @staticmethod
    def begin() -> None:
        """A run begins in this context: its model calls are counted from here, also in the tasks that it starts."""
        _turn.set(itertools.count())

    async def play(self) -> AsyncGenerator[str | Call, None]:
        """The next model call of the run in whose context this is."""
        number = next(_turn.get())
        if self.turns:
            await asyncio.sleep(0)
        if number < self.turns:
            for index in range(self.calls):
                yield Call(f"call_{number}_{index}", self.tool, f"{number}.{index}")
            return
        for piece in self.pieces():
            if self.waits:
                await asyncio.sleep(0)
            yield piece


class Handle(ABC):
    """A run under way."""

    @abstractmethod
    def stop(self) -> None:
        """Order it to stop, as this framework wants to be told."""

    @abstractmethod
    async def ended(self) -> None:
        """Wait until the framework says that it has stopped."""


class TaskHandle(Handle):
    """A run that is stopped by cancelling the task it runs in."""

    def __init__(self, run: Awaitable[Any]) -> None:
        self._task = asyncio.ensure_future(run)

    def stop(self) -> None:
        self._task.cancel()

    async def ended(self) -> None:
        await asyncio.wait([self._task])


class Driver(ABC):
    """A contestant.

    Attributes:
        name: In the tables.
        requirements: What to install into its environment, pinned; nothing means the environment of the benchmarks.
        package: The distribution whose version is told.
        imports: The statement that a program needs.
        cannot: Rows that it cannot do, and why.
    """

    name: ClassVar[str]
    requirements: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str]
    imports: ClassVar[str]
    cannot: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def agent(self, model: Script | str, tool: Tool) -> Any:
        """An agent with one tool, whose model plays the script, or is behind the address in Responses format."""

    @abstractmethod
    async def run(self, agent: Any) -> Seen:
        """Run it and watch it, event by event."""

    def start(self, agent: Any) -> Handle:
        """Begin a run that will be stopped."""
        return TaskHandle(self.run(agent))
