"""Text on its way to a terminal: made harmless, measured, and cut to fit."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Final

__all__ = ["cells", "char_cells", "clean", "one_line", "shorten"]

# Control characters: what a model or a tool says must not move the cursor, change colours or set the title. The bidi
# overrides and isolates go, too, since they can make one command look like another where somebody is to approve it.
_HARMFUL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SPACE: Final = re.compile(r"\s+")


def clean(text: str) -> str:
    """``text`` without what would do something to a terminal; newlines and tabs stay."""
    return _HARMFUL.sub("", text)


def one_line(text: str) -> str:
    """``text``, cleaned, with each run of white space as one space."""
    return clean(_SPACE.sub(" ", text)).strip()


@functools.lru_cache(maxsize=4096)
def char_cells(char: str) -> int:
    """How many columns of a terminal a character takes: 0, 1 or 2."""
    if " " <= char <= "~":
        return 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cells(text: str) -> int:
    """How many columns ``text``, of one line, takes."""
    return sum(map(char_cells, text))


def shorten(text: str, width: int) -> str:
    """``text``, or as much of its beginning as fits into ``width`` columns with an ellipsis."""
    if cells(text) <= width:
        return text
    taken = 0
    for index, char in enumerate(text):
        taken += char_cells(char)
        if taken > width - 1:
            return text[:index] + "…"
    return text
