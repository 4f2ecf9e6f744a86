"""The fixture ``scripted_model``."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Any

import pytest

from agentrun.core.model import ModelRequest
from agentrun.testing.scripted import ScriptedModel, Turn

__all__ = ["ScriptedModels", "scripted_models"]


class _WatchedStream:
    """A stream that knows whether it was closed by whoever opened it.

    The model's `open_streams` does not: when an event loop ends, it closes the generators that were left open in it.
    """

    def __init__(self, stream: AbstractAsyncContextManager[Any]) -> None:
        self._stream = stream
        self.is_open = False

    async def __aenter__(self) -> Any:
        events = await self._stream.__aenter__()
        self.is_open = True
        return events

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self.is_open = False
        return await self._stream.__aexit__(kind, exc, traceback)


class _WatchedModel(ScriptedModel):
    """A model whose script can be compared with what was played of it."""

    def __init__(self, turns: Iterable[Turn], *, name: str, all_played: bool) -> None:
        super().__init__(turns, name=name)
        self._all_played = all_played
        self._streams: list[_WatchedStream] = []

    def stream(self, request: ModelRequest) -> Any:
        """As of `ScriptedModel`."""
        stream = _WatchedStream(super().stream(request))
        self._streams.append(stream)
        return stream

    def rewound(self, more: Iterable[Turn] = ()) -> ScriptedModel:
        """As of `ScriptedModel`. What plays the script then is the new one, so this one need not."""
        self._all_played = False
        return super().rewound(more)

    def add_spare_turns(self, more: Iterable[Turn]) -> None:
        """As of `ScriptedModel`. A sweep stops what plays the script before its end."""
        self._all_played = False
        super().add_spare_turns(more)

    def complaints(self) -> list[str]:
        """What is wrong at the end of a test."""
        found: list[str] = []
        if left := sum(stream.is_open for stream in self._streams):
            streams = "a stream was" if left == 1 else f"{left} streams were"
            found.append(f"model {self.name!r}: {streams} left open by the test")
        played = len(self.requests)
        if self._all_played and played < len(self._turns):
            turns = "".join(f"\n  turn {number}: {self._turns[number - 1]}" for number in range(played + 1, self._end))
            found.append(
                f"model {self.name!r}: {played} of its {len(self._turns)} turns were played; these were not:{turns}\n"
                "scripted_model(..., all_played=False) allows that"
            )
        return found

    @property
    def _end(self) -> int:
        return len(self._turns) + 1


class ScriptedModels:
    """The fixture ``scripted_model``: ``scripted_model(turns)`` makes a `ScriptedModel`, and looks after it.

    At the end of the test, after the fixtures that use it, each of its streams must have been closed by whoever opened
    it, not by the event loop or the garbage collector, and each of its turns must have been played. A test that has
    failed for another reason is not told that.
    """

    def __init__(self, *, all_played: bool = True) -> None:
        self._all_played = all_played
        self._models: list[_WatchedModel] = []

    def __call__(self, turns: Iterable[Turn], *, name: str = "scripted", all_played: bool = True) -> ScriptedModel:
        """A new model.

        Args:
            turns: Its script, as of `ScriptedModel`.
            name: For events and messages.
            all_played: Whether it is an error if turns are left at the end of the test. In a sweep it never is, nor
                for a model whose script a sweep plays again and again.

        Raises:
            UserError: A turn contains something that is no part of a turn.
        """
        model = _WatchedModel(turns, name=name, all_played=all_played and self._all_played)
        self._models.append(model)
        return model

    def complaints(self) -> list[str]:
        """What is wrong at the end of a test, with any of the models."""
        return [text for model in self._models for text in model.complaints()]


@contextmanager
def scripted_models(request: pytest.FixtureRequest) -> Generator[ScriptedModels]:
    """The fixture's value, from its beginning to its end."""
    session = request.session
    failed = session.testsfailed
    models = ScriptedModels(all_played=not hasattr(request.node, "agentrun_backend"))
    yield models
    complaints = models.complaints()
    if complaints and session.testsfailed == failed:
        pytest.fail("\n".join(complaints), pytrace=False)
