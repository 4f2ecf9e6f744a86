"""The fixture ``scripted_model``."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable

import pytest

from agentrun.testing.scripted import ScriptedModel, Turn

__all__ = ["ScriptedModels", "scripted_models"]


class _WatchedModel(ScriptedModel):
    """A model whose script can be compared with what was played of it."""

    def __init__(self, turns: Iterable[Turn], *, name: str, all_played: bool) -> None:
        super().__init__(turns, name=name)
        self._all_played = all_played

    def rewound(self, more: Iterable[Turn] = ()) -> ScriptedModel:
        """As of `ScriptedModel`. What plays the script then is the new one, so this one need not."""
        self._all_played = False
        return super().rewound(more)

    def complaints(self) -> list[str]:
        """What is wrong at the end of a test."""
        found: list[str] = []
        if self.open_streams:
            number = "a stream is" if self.open_streams == 1 else f"{self.open_streams} streams are"
            found.append(f"model {self.name!r}: {number} still open at the end of the test")
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

    At the end of the test, after the fixtures that use it, none of its streams may be open, and each of its turns must
    have been played. A test that has failed for another reason is not told that.
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


@contextlib.contextmanager
def scripted_models(request: pytest.FixtureRequest) -> Generator[ScriptedModels]:
    """The fixture's value, from its beginning to its end."""
    session = request.session
    failed = session.testsfailed
    models = ScriptedModels(all_played=not hasattr(request.node, "agentrun_backend"))
    yield models
    complaints = models.complaints()
    if complaints and session.testsfailed == failed:
        pytest.fail("\n".join(complaints), pytrace=False)
