"""Where a conversation is shown: on a terminal with an open prompt, or as plain text."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

import anyio

from agentrun.cli.editor import EditorEvent, EndOfInput, Interrupt, LineEditor, Redraw, Submitted
from agentrun.cli.prints import Prints
from agentrun.cli.rendering import Style, paint
from agentrun.cli.screen import Screen
from agentrun.cli.streams import Output, read_chunk, read_lines
from agentrun.cli.terminal import Terminal
from agentrun.cli.text import clean

__all__ = ["Listener", "PlainView", "TerminalView", "View"]

_TICK_SECONDS: Final = 0.25
_MUCH: Final = 65536  # characters that may wait to be written before the model has to wait


class Listener(Protocol):
    """Who is told what the user does."""

    def line(self, text: str) -> None:
        """A line was sent."""

    def typed(self) -> None:
        """A key was pressed."""

    def ctrl_c(self) -> None:
        """Ctrl-C was pressed, and no signal came of it."""

    def end_of_input(self, *, leave: bool) -> None:
        """There is nothing more to come; ``leave`` if that was the user's way to say good-bye."""

    def status(self) -> str:
        """What the status line shows."""
        ...


class View:
    """What both ways to show a conversation have: text waits here until a task has written it."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._size = 0
        self._dirty = anyio.Event()
        self._done = anyio.Event()
        self._in_haste = False
        self.error: OSError | None = None

    def text(self, text: str) -> None:
        """Show more of what streams."""
        self._add(text, "plain")
        self._changed(len(text))

    def line(self, text: str, style: Style = "note") -> None:
        """Show a line, or several, of their own."""
        self._add_line(text, style)
        self._changed(len(text))

    def begin_line(self) -> None:
        """Let what streams next begin on a line of its own."""
        self._begin_line()

    def _changed(self, size: int = 0) -> None:
        self._size += size
        self._dirty.set()

    async def room(self) -> None:
        """Wait while much has still to be written."""
        while self._size > _MUCH and self.error is None and not self._in_haste:
            self._done = anyio.Event()
            await self._done.wait()

    def hurry(self) -> None:
        """From now on, nobody waits for what is to be written: the output may have stopped taking anything."""
        self._in_haste = True
        self._done.set()

    async def paint(self, on_error: Callable[[], None]) -> None:
        """Write, for ever; calls ``on_error`` when that is no longer possible."""
        try:
            while True:
                await self._dirty.wait()
                self._dirty = anyio.Event()
                self._size = 0
                self._done.set()
                await self._output.write(self._take())
        except OSError as exc:
            self.error = exc
            self._done.set()
            on_error()

    async def close(self) -> None:
        """Write what is left. For after `paint` has been cancelled."""
        if self.error is None:
            try:
                await self._output.write(self._take_last())
            except OSError as exc:
                self.error = exc

    def _add(self, text: str, style: Style) -> None:
        raise NotImplementedError

    def _add_line(self, text: str, style: Style) -> None:
        raise NotImplementedError

    def _begin_line(self) -> None:
        raise NotImplementedError

    def _take(self) -> str:
        raise NotImplementedError

    def _take_last(self) -> str:
        return self._take()


class PlainView(View):
    """Lines from stdin, text to stdout: for pipes, files and terminals that can do no more."""

    def __init__(self) -> None:
        super().__init__(Output(1))
        self._colors = self._output.is_terminal and not os.environ.get("NO_COLOR")
        self._pending: list[str] = []
        self._in_line = False

    async def read(self, listener: Listener) -> None:
        """Read lines until the end of the input."""
        await read_lines(0, listener.line)
        listener.end_of_input(leave=os.isatty(0))

    def _add(self, text: str, style: Style) -> None:
        if text:
            self._pending.append(clean(text) if self._output.is_terminal else text)
            self._in_line = not text.endswith("\n")

    def _add_line(self, text: str, style: Style) -> None:
        if style == "user":
            return  # the terminal has echoed it, or somebody else has written it
        self._begin_line()
        self._pending.append(f"{paint(clean(text), style, colors=self._colors)}\n")

    def _begin_line(self) -> None:
        if self._in_line:
            self._pending.append("\n")
            self._in_line = False

    def _take(self) -> str:
        text = "".join(self._pending)
        self._pending.clear()
        return text

    def _take_last(self) -> str:
        self._begin_line()
        return self._take()


class TerminalView(View):
    """Text that streams above a prompt that is always open."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(Output(1))
        self.terminal = terminal
        self._editor = LineEditor()
        self._screen = Screen(terminal.columns, colors=not os.environ.get("NO_COLOR"))
        self.prints: Prints = Prints(self._changed)
        self._in_print = False  # the last thing shown is the beginning of a line that was printed

    async def read(self, listener: Listener) -> None:
        """Read keys until the terminal goes away."""
        self._changed()
        while data := await read_chunk(0):
            listener.typed()
            for event in self._editor.feed(data):
                self._handle(event, listener)
            self._show_line()
        listener.end_of_input(leave=True)

    def _handle(self, event: EditorEvent, listener: Listener) -> None:
        if isinstance(event, Submitted):
            if event.text.strip():
                self.line(self._screen.prompt + event.text.replace("\n", "\n  "), "user")
                listener.line(event.text)
        elif isinstance(event, EndOfInput):
            listener.end_of_input(leave=True)
        elif isinstance(event, Interrupt):
            listener.ctrl_c()
        else:
            assert isinstance(event, Redraw)
            self._screen.clear()

    def _show_line(self) -> None:
        self._screen.line, self._screen.cursor = self._editor.text, self._editor.cursor
        self._changed()

    def clear_line(self) -> bool:
        """Empty the line that is being typed; returns whether there was something in it."""
        had_text = bool(self._editor.text)
        self._editor.clear()
        self._show_line()
        return had_text

    async def show_status(self, listener: Listener) -> None:
        """Keep the status line up to date, for ever."""
        while True:
            self.set_status(listener.status())
            if self.prints.waiting:
                self._changed()
            await anyio.sleep(_TICK_SECONDS)

    def set_status(self, status: str) -> None:
        """Show another status line."""
        if status != self._screen.status:
            self._screen.status = status
            self._changed()

    def resized(self) -> None:
        """The terminal has another size."""
        self._changed()

    def suspend(self) -> None:
        """Stop as Ctrl-Z does, and come back with the prompt as it was."""
        self.terminal.suspend()
        self._screen.lost()
        self._changed()

    def _add(self, text: str, style: Style) -> None:
        self._add_prints()
        if self._in_print:
            self._in_print = False
            self._screen.begin_line()
        self._screen.text(text, style)

    def _add_line(self, text: str, style: Style) -> None:
        self._add_prints()
        self._in_print = False
        self._screen.write_line(text, style)

    def _begin_line(self) -> None:
        self._add_prints()
        self._in_print = False
        self._screen.begin_line()

    def _add_prints(self) -> None:
        """What was printed comes before what comes now, and never at the end of a line that is not its own."""
        printed = self.prints.take()
        if printed:
            if not self._in_print:
                self._screen.begin_line()
            self._screen.text(printed, "note")
            self._in_print = not printed.endswith("\n")

    def _take(self) -> str:
        self._add_prints()
        return self._screen.render()

    def _take_last(self) -> str:
        self._add_prints()
        return self._screen.render(live=False)
