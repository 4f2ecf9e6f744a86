"""Playing a scene: the sweep of one, and what it has seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from agentrun import Agent
from agentrun.testing import SweepReport, interrupt_everywhere
from agentrun.testing.laws import RunRecord

from .stage import Book, Play, Scene

LIMIT = int(limit) if (limit := os.environ.get("AGENTRUN_SWEEP_LIMIT", "")) else None
"""At most so many points for each action, for a quick look."""


class Playing:
    """The plays of a sweep, one after the other.

    Attributes:
        kinds: The kinds of user code that were at work.
        laws: The laws that the scene has looked at itself.
    """

    def __init__(self, scene: Scene) -> None:
        self.kinds: set[str] = set()
        self.laws: set[int] = set()
        self._scene = scene
        self._play: Play
        self._book: Book
        self._first = self._make()

    def sweep(self, backends: Sequence[str], **changes: Any) -> SweepReport:
        """Everything that can be done to the scene, at every point of it."""
        # Whatever a scene does to its run, it does where that makes no difference.
        options: dict[str, Any] = {"limit": LIMIT, "same_on_both": True, **self._scene.options, **changes}
        first = self._first
        return interrupt_everywhere(
            self._agent,
            backends=backends,  # type: ignore[arg-type]
            session=(lambda: self._play.session) if first.session is not None else None,  # type: ignore[return-value, arg-type]
            hooks=(lambda: self._play.hooks) if first.hooks is not None else None,
            program=(lambda opening: self._play.program(opening)) if first.program is not None else None,  # type: ignore[misc]
            on_event=(lambda live, event: self._play.on_event(live, event)) if first.on_event is not None else None,  # type: ignore[misc]
            oracle=self._oracle,
            **options,
        )

    def _make(self) -> Play:
        self._book = Book(self.kinds, self.laws)
        self._play = self._scene.make(self._book)
        return self._play

    def _agent(self) -> Agent[Any, Any]:
        return self._make().agent

    def _oracle(self, record: RunRecord) -> None:
        play, live = self._play, record.live
        self._book.settle()
        if live is None or live.result is None:
            return  # it was cancelled before it was opened
        if play.after is not None:
            play.after(live.result)
        if play.record is not None:
            play.record(record, live.result)
