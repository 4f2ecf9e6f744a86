"""Streamed text above, a status line and the prompt below: what to write to a terminal for that, without I/O.

The text is written once and then belongs to the terminal, which wraps it, scrolls it and lets it be copied. The two
lines below are erased before more text is written and drawn anew after it. All movements are relative to the end of
the text, so nothing needs to know where on the screen it is. What else was considered: a scroll region (its text does
not reach the scrollback of many terminals) and the alternate screen (it takes the conversation away at the end).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agentrun.cli.rendering import Style, paint
from agentrun.cli.text import cells, char_cells, clean, shorten

__all__ = ["Screen"]

_HIDE: Final = "\x1b[?25l"
_SHOW: Final = "\x1b[?25h"
_ERASE_BELOW: Final = "\x1b[J"
_CLEAR: Final = "\x1b[H\x1b[2J"
_TAB: Final = 8
_LEAST_COLUMNS: Final = 10


class Screen:
    """What is on the screen, and what has still to be written.

    Attributes:
        status: The status line; none when empty.
        line: What is being typed.
        cursor: Where in it the cursor is.
        prompt: What is in front of it.
    """

    def __init__(self, columns: Callable[[], int], *, colors: bool = True) -> None:
        self.status = ""
        self.line = ""
        self.cursor: int = 0
        self.prompt = "> "
        self._columns = columns
        self._colors = colors
        self._pending: list[tuple[str, Style]] = []
        self._clear = False
        self._in_line = False  # the text, with what is pending, does not end with a newline
        self._width: int = columns()
        self._column: int = 0  # where the text ends
        self._line_cells: int = 0  # how much there is in the terminal's last line of text, however it is wrapped
        self._last = ""  # the last character of it, with its accents
        # The live area, as it was drawn last: rows between the text's last row and the cursor's.
        self._drawn: tuple[str, int] | None = None

    def text(self, text: str, style: Style = "plain") -> None:
        """Add text to what streams."""
        text = clean(text)
        if text:
            self._pending.append((text, style))
            self._in_line = not text.endswith("\n")

    def write_line(self, text: str, style: Style = "plain") -> None:
        """Add a line, or lines, of their own."""
        self.begin_line()
        self._pending.append((clean(text) + "\n", style))

    def begin_line(self) -> None:
        """Let what comes next begin on a line of its own."""
        if self._in_line:
            self._pending.append(("\n", "plain"))
            self._in_line = False

    def clear(self) -> None:
        """Begin with an empty screen."""
        self._clear = True

    def lost(self) -> None:
        """Others have written to the terminal; the cursor is at the beginning of a line."""
        self._drawn = None
        self._column = self._line_cells = 0

    def render(self, *, live: bool = True) -> str:
        """What brings the terminal up to date.

        Args:
            live: Draw the status line and the prompt; else leave the terminal to others, at the beginning of a line.
        """
        out = [_HIDE, self._to_end_of_text()]
        pending, self._pending = self._pending, []
        out.extend(paint(self._flow(text), style, colors=self._colors) for text, style in pending)
        if live:
            out.append(self._live_area())
        elif self._column:
            out.append("\r\n")
            self._column = self._line_cells = 0
            self._in_line = False
        out.append(_SHOW)
        return "".join(out)

    def _to_end_of_text(self) -> str:
        """Move to the end of the text, and erase all below."""
        width = max(self._columns(), _LEAST_COLUMNS)
        if self._clear:
            self._clear, self._drawn = False, None
            self._column = self._line_cells = 0
            self._width = width
            return _CLEAR
        if width != self._width:
            # Most terminals wrap anew what was there. What they did can only be guessed.
            self._width = width
            self._column = self._line_cells % width or (width if self._line_cells else 0)
        rows = 0
        if self._drawn is not None:
            status, before_cursor = self._drawn
            rows = before_cursor // width + (1 if self._column else 0)
            if status:
                rows += max((cells(status) - 1) // width, 0) + 1
            self._drawn = None
        out = f"\x1b[{rows}A\r" if rows else "\r"
        # After the last column the cursor hangs there, and the next character wraps. No movement brings that back, but
        # writing the last character again does.
        hangs = self._column >= width
        column = width - cells(self._last) if hangs else self._column
        if column:
            out += f"\x1b[{column}C"
        return out + _ERASE_BELOW + (self._last if hangs else "")

    def _flow(self, text: str) -> str:
        """Follow where the terminal will put ``text``; returns it as it must be written."""
        out: list[str] = []
        width = self._width
        for char in text:
            if char == "\n":
                out.append("\r\n")
                self._column = self._line_cells = 0
                continue
            if char == "\t":
                spaces = _TAB - self._column % _TAB
                out.append(self._flow(" " * spaces))
                continue
            size = char_cells(char)
            if self._column + size > width:
                self._column = 0  # the terminal wraps
            self._column += size
            self._line_cells += size
            self._last = char if size else self._last + char
            out.append(char)
        return "".join(out)

    def _live_area(self) -> str:
        out = ""
        if self._column:
            out += "\r\n"
        status = shorten(self.status, self._width - 1)
        if status:
            out += paint(status, "note", colors=self._colors) + "\r\n"
        shown, before_cursor = self._window()
        out += self.prompt + shown + "\r"
        before_cursor += cells(self.prompt)
        self._drawn = (status, before_cursor)
        return out + f"\x1b[{before_cursor}C"

    def _window(self) -> tuple[str, int]:
        """The part of the line that is shown, and how many columns of it are before the cursor."""
        room = self._width - cells(self.prompt) - 1
        line = self.line.replace("\n", "⏎")
        start, before = self.cursor, 0
        while start and before + char_cells(line[start - 1]) <= room:
            start -= 1
            before += char_cells(line[start])
        end, after = self.cursor, before
        while end < len(line) and after + char_cells(line[end]) <= room:
            after += char_cells(line[end])
            end += 1
        return line[start:end], before
