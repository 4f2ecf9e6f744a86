"""What a fault of the catalog is."""

from __future__ import annotations

from dataclasses import dataclass

from .planting import Edit

__all__ = ["Edit", "Fault"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A small change that a maintainer could make.

    Attributes:
        name: What is wrong, in a few words.
        edits: The change.
        scene: The run in which it shows itself.
        actions: What to do to that run.
        law: The law that it breaks.
        backends: Where it shows itself.
        limit: Points for each action and mode, if fewer than in the scene are enough.
    """

    name: str
    edits: tuple[Edit, ...]
    scene: str
    actions: tuple[str, ...]
    law: int
    backends: tuple[str, ...] = ("asyncio", "trio")
    limit: int | None = None
