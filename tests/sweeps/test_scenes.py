"""Every law at every scheduling point: each scene is interrupted, steered and cancelled everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import scenes
from .kinds import KINDS
from .playing import LIMIT, Playing
from .stage import ALWAYS_CHECKED, SCENES, Scene
from .table import table

LAWS = set(range(1, 14))

assert scenes  # importing it makes them known

ON_BACKENDS: list[Any] = [
    pytest.param(scene, backend, id=f"{scene.subject}-{scene.name}-{backend}")
    for scene in SCENES.values()
    for backend in scene.backends
]


@pytest.mark.parametrize(("scene", "backend"), ON_BACKENDS)
def test_every_law_holds_wherever_the_scene_is_interrupted_steered_or_cancelled(scene: Scene, backend: str) -> None:
    playing = Playing(scene)
    report = playing.sweep([backend])
    print(report)
    report.raise_if_failed()
    assert report.diverged == 0
    assert report.delivered
    if LIMIT is None:
        # The table of what the scenes cover tells the truth.
        assert scene.kinds <= playing.kinds, f"not seen at work: {scene.kinds - playing.kinds}"
        assert scene.laws <= playing.laws | ALWAYS_CHECKED


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scene", [s for s in SCENES.values() if len(s.backends) == 2], ids=lambda s: s.name)
def test_undisturbed_the_scene_is_the_same_on_both_backends_whatever_the_schedule(scene: Scene, seed: int) -> None:
    report = Playing(scene).sweep(["asyncio", "trio"], actions=["interrupt"], limit=1, seed=seed)
    assert [failure for failure in report.failures if failure.mode == "baseline"] == []


def test_there_are_enough_scenes_and_no_law_and_no_kind_of_user_code_is_left_out() -> None:
    assert len(SCENES) >= 45
    assert set().union(*(scene.laws for scene in SCENES.values())) == LAWS
    assert set().union(*(scene.kinds for scene in SCENES.values())) == KINDS


def test_the_page_of_the_scenes_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "scenes.md"
    assert page.read_text() == table(), "python -m tests.sweeps.table > docs/scenes.md"
