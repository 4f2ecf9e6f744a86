"""Which scene is about which laws, and has which kinds of user code in it: ``python -m tests.sweeps.table``."""

from __future__ import annotations

from itertools import groupby

from . import scenes
from .stage import SCENES, Scene

_HEAD = "# The scenes\n"
_LEDE = "Each is interrupted, steered and cancelled at every one of its scheduling points, by `tests/sweeps/`."


def table() -> str:
    """The page ``docs/scenes.md``."""
    lines = [_HEAD, _LEDE]
    for subject, of_subject in groupby(sorted(SCENES.values(), key=_subject), key=_subject):
        lines += [
            "",
            f"## {subject.replace('_', ' ').capitalize()}",
            "",
            "| scene | laws | user code |",
            "| --- | --- | --- |",
        ]
        for scene in of_subject:
            laws = ", ".join(str(law) for law in sorted(scene.laws))
            only = " (asyncio)" if scene.backends == ("asyncio",) else ""
            lines.append(f"| {scene.name.replace('_', ' ')}{only} | {laws} | {'; '.join(sorted(scene.kinds))} |")
    return "\n".join(lines) + "\n"


def _subject(scene: Scene) -> str:
    return scene.subject


assert scenes  # importing it makes them known

if __name__ == "__main__":
    print(table(), end="")
