"""A line editor without I/O: bytes from a terminal go in, what the user asked for comes out."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentrun.cli.text import char_cells, clean

__all__ = ["EditorEvent", "EndOfInput", "Interrupt", "LineEditor", "Redraw", "Submitted"]


@dataclass(frozen=True, slots=True)
class Submitted:
    """Enter was pressed; this was the line. It has several lines when that is what was pasted."""

    text: str


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """Ctrl-D was pressed on an empty line."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ctrl-C arrived as a character, from a terminal that does not make a signal of it."""


@dataclass(frozen=True, slots=True)
class Redraw:
    """Ctrl-L was pressed."""


EditorEvent: TypeAlias = Submitted | EndOfInput | Interrupt | Redraw

_PASTE_BEGIN: Final = "\x1b[200~"
_PASTE_END: Final = "\x1b[201~"
# CSI (ESC [ parameters final), SS3 (ESC O final) and ESC with any other character, as in Alt-x (ECMA-48, 5.4).
_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[^\[O\x1b])", re.DOTALL)
_INCOMPLETE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")
_WORD: Final = re.compile(r"\S*\s*\Z")
_NEXT_WORD: Final = re.compile(r"\s*\S*")

_KEYS: Final = {
    "\x01": "home",
    "\x02": "left",
    "\x04": "delete or end",
    "\x05": "end",
    "\x06": "right",
    "\x08": "backspace",
    "\x0b": "kill right",
    "\x0c": "redraw",
    "\x0e": "down",
    "\x10": "up",
    "\x15": "kill left",
    "\x17": "kill word",
    "\x7f": "backspace",
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[1~": "home",
    "\x1b[3~": "delete",
    "\x1b[4~": "end",
    "\x1b[7~": "home",
    "\x1b[8~": "end",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\x1bOH": "home",
    "\x1bOF": "end",
    "\x1b[1;5C": "word right",
    "\x1b[1;5D": "word left",
    "\x1bb": "word left",
    "\x1bf": "word right",
    "\x1b\x7f": "kill word",
    "\x1b\r": "newline",
}


class LineEditor:
    """The line that is being typed.

    Attributes:
        text: The line.
        cursor: Position in it.
    """

    def __init__(self) -> None:
        self.text: str = ""
        self.cursor: int = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""  # the beginning of an escape sequence, or what was pasted so far
        self._pasting = False
        self._after_return = False  # a \n right after it belongs to it
        self._lines: list[str] = []  # sent earlier
        self._position = 0  # in them, while going through them
        self._draft = ""

    def clear(self) -> None:
        """Empty the line."""
        self.text, self.cursor = "", 0
        self._position = len(self._lines)

    def feed(self, data: bytes) -> list[EditorEvent]:
        """Take what was typed, cut anywhere, and return what it asks for."""
        return list(self._take(self._decoder.decode(data)))

    def _take(self, text: str) -> Iterator[EditorEvent]:
        if self._pending == "\x1b" and not self._pasting and text and text[0] not in "[O":
            self._pending = ""  # the Escape key by itself, and then something else
        text, self._pending = self._pending + text, ""
        while text:
            if self._pasting:
                pasted, end, text = text.partition(_PASTE_END)
                if not end:
                    self._pending = pasted
                    return
                self._pasting = False
                self._insert(pasted.replace("\r\n", "\n").replace("\r", "\n"))
                continue
            key = text[0]
            if key == "\x1b":
                match = _ESCAPE.match(text)
                if match is None:
                    if _INCOMPLETE.match(text):
                        self._pending = text
                        return
                    text = text[1:]
                    continue
                key = match.group()
            text = text[len(key) :]
            if key == _PASTE_BEGIN:
                self._pasting = True
                continue
            event = self._press(key)
            if event is not None:
                yield event

    def _press(self, key: str) -> EditorEvent | None:
        after_return, self._after_return = self._after_return, key == "\r"
        if key in "\r\n":
            return None if key == "\n" and after_return else self._submit()
        action = _KEYS.get(key)
        if key == "\x03":
            return Interrupt()
        if action == "redraw":
            return Redraw()
        if action == "delete or end":
            if not self.text:
                return EndOfInput()
            action = "delete"
        if action is not None:
            self._edit(action)
        elif len(key) == 1:
            self._insert(key)
        return None

    def _submit(self) -> Submitted:
        text = self.text
        if text.strip() and self._lines[-1:] != [text]:
            self._lines.append(text)
        self.clear()
        return Submitted(text)

    def _insert(self, text: str) -> None:
        text = clean(text.replace("\t", "    "))
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def _edit(self, action: str) -> None:
        text, cursor = self.text, self.cursor
        match action:
            case "left":
                self.cursor = self._before(cursor)
            case "right":
                self.cursor = self._after(cursor)
            case "home":
                self.cursor = 0
            case "end":
                self.cursor = len(text)
            case "word left":
                self.cursor = self._word_start()
            case "word right":
                match_ = _NEXT_WORD.match(text, cursor)
                self.cursor = match_.end() if match_ is not None else cursor
            case "backspace":
                self._cut(self._before(cursor), cursor)
            case "delete":
                self._cut(cursor, self._after(cursor))
            case "kill left":
                self._cut(0, cursor)
            case "kill right":
                self._cut(cursor, len(text))
            case "kill word":
                self._cut(self._word_start(), cursor)
            case "newline":
                self._insert("\n")
            case "up":
                self._recall(self._position - 1)
            case _:
                self._recall(self._position + 1)

    def _cut(self, start: int, end: int) -> None:
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start

    def _before(self, position: int) -> int:
        """Where the character before ``position`` begins, accents that are characters of their own included."""
        position = max(position - 1, 0)
        while position and self.text[position] != "\n" and not char_cells(self.text[position]):
            position -= 1
        return position

    def _after(self, position: int) -> int:
        position = min(position + 1, len(self.text))
        while position < len(self.text) and self.text[position] != "\n" and not char_cells(self.text[position]):
            position += 1
        return position

    def _word_start(self) -> int:
        match = _WORD.search(self.text, 0, self.cursor)
        assert match is not None  # it matches the empty string
        return match.start()

    def _recall(self, position: int) -> None:
        if not 0 <= position <= len(self._lines):
            return
        if self._position == len(self._lines):
            self._draft = self.text
        self._position = position
        self.text = self._lines[position] if position < len(self._lines) else self._draft
        self.cursor = len(self.text)
