"""A terminal's screen, as far as the chat uses it: enough to see what a user would see."""

from __future__ import annotations

import codecs
import re

from agentrun.cli.text import char_cells

_SEQUENCE = re.compile(r"\x1b\[([?]?)([0-9;]*)([A-Za-z])")


class Emulator:
    """Rows without end: what scrolls away stays. A character of two columns is followed by an empty cell."""

    def __init__(self, columns: int = 80) -> None:
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.wrapped: set[int] = set()  # rows that go on in the next one
        self.row = self.column = 0
        self.hangs = False  # after the last column: the next character wraps
        self.modes: set[str] = set()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._pending = ""

    def feed(self, data: bytes) -> None:
        text = self._pending + self._decoder.decode(data)
        self._pending = ""
        position = 0
        while position < len(text):
            char = text[position]
            if char == "\x1b":
                match = _SEQUENCE.match(text, position)
                if match is None:
                    self._pending = text[position:]
                    assert len(self._pending) < 20, f"not a sequence: {self._pending!r}"
                    return
                self._sequence(*match.groups())
                position = match.end()
                continue
            self._char(char)
            position += 1

    def _sequence(self, private: str, arguments: str, final: str) -> None:
        if private:
            (self.modes.add if final == "h" else self.modes.discard)(arguments)
            return
        if final == "m":
            return
        number = int(arguments or 1)
        self.hangs = False
        if final == "A":
            self.row -= number
            assert self.row >= 0, "moved above the first row"
        elif final == "C":
            self.column = min(self.column + number, self.columns - 1)
        elif final == "H":
            self.row = len(self.rows)
            self.rows.append([])
            self.column = 0
        elif final == "K":
            del self.rows[self.row][self.column :]
        elif final == "J":
            if arguments != "2":
                del self.rows[self.row + 1 :]
                del self.rows[self.row][self.column :]
                self.wrapped = {row for row in self.wrapped if row < self.row}
        else:
            raise AssertionError(f"unknown sequence {arguments!r} {final!r}")

    def _char(self, char: str) -> None:
        if char == "\r":
            self.column = 0
            self.hangs = False
        elif char == "\n":
            self._next_row()
            self.hangs = False
        else:
            size = char_cells(char)
            if size == 0:
                assert ord(char) >= 0x300, f"control character {char!r}"
                return
            if self.hangs or self.column + size > self.columns:
                self.wrapped.add(self.row)
                self._next_row()
                self.column = 0
                self.hangs = False
            cells = self.rows[self.row]
            cells.extend(" " * (self.column - len(cells)))
            cells[self.column : self.column + size] = [char] + [""] * (size - 1)
            self.column += size
            if self.column == self.columns:
                self.column -= 1
                self.hangs = True

    def _next_row(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])

    @property
    def lines(self) -> list[str]:
        """The rows, those that wrap joined."""
        lines: list[str] = []
        line = ""
        for number, row in enumerate(self.rows):
            line += "".join(row)
            if number not in self.wrapped:
                lines.append(line.rstrip())
                line = ""
        return lines if not line else [*lines, line.rstrip()]

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines)
