"""``agentrun run``: one run, its answer on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import redirect_stdout
from signal import SIGINT, SIGPIPE, Signals
from typing import Any

import anyio
import anyio.to_thread

from agentrun.cli.arguments import Ending, Options
from agentrun.cli.complaints import complain
from agentrun.cli.loading import Setup, prepare
from agentrun.cli.rendering import Note, describe, describe_ending, describe_error, describe_usage, paint
from agentrun.cli.signals import Presses, received
from agentrun.cli.streams import Output, read_all
from agentrun.cli.text import clean
from agentrun.core.results import RunResult
from agentrun.errors import UserError
from agentrun.events import Event, ModelCallStarted, TextDelta, event_to_dict
from agentrun.items import UserMessage
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.opening import open_run

__all__ = ["run_command"]


async def run_command(options: Options) -> Ending:
    """Run the command and return how it ended. A checkpoint.

    Raises:
        UserError: Something that was asked for cannot be had.
    """
    # stdout is for the answer, or for JSON: what the agent's module and its tools print must not get in between.
    with redirect_stdout(sys.stderr):
        return await _run(options)


async def _run(options: Options) -> Ending:
    setup = prepare(options, on_approval="end")
    if options.prompt is None and (sys.stdin is None or os.isatty(0)):  # pyright: ignore[reportUnnecessaryComparison]
        raise UserError("there is no prompt: pass it as an argument, or pipe it in")
    command = _Command(options, setup)
    with received(Presses(before_death=lambda: None)) as signals:
        async with anyio.create_task_group() as task_group:
            command.scope = task_group.cancel_scope
            task_group.start_soon(command.watch_signals, signals)
            await command.main()
            task_group.cancel_scope.cancel()
    if command.problem is not None:
        raise command.problem
    return Ending(command.exit_code, command.threads_left)


class _Command:
    def __init__(self, options: Options, setup: Setup) -> None:
        self.scope: anyio.CancelScope
        self.exit_code = 0
        self.threads_left = False
        self.problem: UserError | None = None
        self._options = options
        self._setup = setup
        self._live: ActiveRun[Any] | None = None
        self._printing = anyio.CancelScope()
        self._printer = _JsonPrinter() if options.json else _TextPrinter()

    async def watch_signals(self, signals: AsyncIterator[Signals]) -> None:
        async for number in signals:
            self._received(number)

    def _received(self, number: Signals) -> None:
        first = self.exit_code == 0
        if first:
            self.exit_code = 128 + number
        if self._live is None:
            self.scope.cancel()  # still reading the prompt: nothing has begun that would need a teardown
        elif first:
            self._live.interrupt("Ctrl-C" if number == SIGINT else f"received {number.name}")
        else:
            self._printing.cancel()  # whoever reads our output may have stopped doing so

    async def main(self) -> None:
        prompt = self._options.prompt
        if prompt is None or prompt == "-":
            prompt = await read_all(0)
        if not prompt.strip():
            self.problem = UserError("the prompt is empty")
            return
        result = await self._run(prompt)
        self.threads_left = bool(result.teardown.abandoned_threads)
        await self._tell(result)
        await self._store(result)

    async def _run(self, prompt: str) -> RunResult[Any]:
        setup = self._setup
        items = [*setup.history, UserMessage(prompt)]
        async with open_run(setup.agent, items, deps=setup.deps, config=setup.config) as live:
            self._live = live
            await self._print_events(live)
            try:
                return await live.wait()
            except BaseException as exc:
                if live.result is None or exc is not live.result.error:
                    raise
                return live.result  # told from the result, with the teardown

    async def _print_events(self, live: ActiveRun[Any]) -> None:
        try:
            with self._printing:
                async with live.events() as events:
                    async for event in events:
                        await self._printer.show(event)
                await self._printer.end()
        except BrokenPipeError:
            # As with other programs in a pipe: whoever closed it has seen enough, so there is nothing to say.
            self.exit_code = self.exit_code or 128 + SIGPIPE
            live.interrupt("nobody reads the output any more")
        except OSError as exc:
            self.exit_code = self.exit_code or 1
            complain(f"the output cannot be written: {exc.strerror}")
            live.interrupt("the output cannot be written")

    async def _tell(self, result: RunResult[Any]) -> None:
        if self.exit_code == 128 + SIGPIPE and result.teardown.clean:
            return
        say = self._printer.say
        ending = describe_ending(result)
        if result.status == "failed" and not self.exit_code:
            self.exit_code = 1
            assert result.error is not None
            complain(f"the run failed: {describe_error(result.error)}", result.error if self._options.verbose else None)
            if result.teardown.cancelled_tools or not result.teardown.clean:
                await say(Note(str(result.teardown), "bad"))
        elif ending is not None:
            await say(ending)
        if result.pending_approvals:
            names = ", ".join(call.name for call in result.pending_approvals)
            await say(Note(f"{names} needs approval, which `agentrun chat` can give", "ask"))
        if result.status == "interrupted":
            self.exit_code = self.exit_code or 1
        if self._options.verbose:
            await say(Note(describe_usage(result.usage, result.turns)))

    async def _store(self, result: RunResult[Any]) -> None:
        file = self._setup.file
        if file is None:
            return
        try:
            # Shielded: a signal that comes now must not cost the conversation.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(file.write, result.history)
        except (OSError, ValueError) as exc:
            complain(f"--history {file.name} cannot be written: {exc}")
            self.exit_code = self.exit_code or 1


class _Notes:
    """stderr. Whether anybody reads it does not matter."""

    def __init__(self) -> None:
        self._output: Output | None = Output(2)
        self._colors = self._output.is_terminal and not os.environ.get("NO_COLOR")

    async def write(self, text: str) -> None:
        if self._output is not None:
            try:
                await self._output.write(text)
            except OSError:
                self._output = None

    async def say(self, note: Note, *, before: str = "") -> None:
        await self.write(f"{before}{paint(clean(note.text), note.style, colors=self._colors)}\n")


class _TextPrinter:
    """The model's text on stdout, as it comes; tools and the like on stderr."""

    def __init__(self) -> None:
        self._output = Output(1)
        self._notes = _Notes()
        self._same_screen = self._output.is_terminal and os.isatty(2)
        self._in_line = False  # the text on stdout does not end with a newline
        self._new_answer = False

    async def show(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            if not event.path:
                await self._text(event.text)
            return
        if isinstance(event, ModelCallStarted) and not event.path:
            self._new_answer = True
        note = describe(event)
        if note is not None:
            await self.say(note)

    async def _text(self, text: str) -> None:
        # What a model says between two tool calls is a text of its own, and must not run into the next one.
        before = "\n" if self._new_answer and self._in_line else ""
        self._new_answer = False
        await self._output.write(before + (clean(text) if self._output.is_terminal else text))
        if text:
            self._in_line = not text.endswith("\n")

    async def end(self) -> None:
        if self._in_line:
            await self._output.write("\n")
            self._in_line = False

    async def say(self, note: Note) -> None:
        before = "\n" if self._in_line and self._same_screen else ""
        if before:
            self._in_line = False
        await self._notes.say(note, before=before)


class _JsonPrinter:
    """Every event on stdout, one a line."""

    def __init__(self) -> None:
        self._output = Output(1)
        self._notes = _Notes()

    async def show(self, event: Event) -> None:
        from pydantic_core import to_json

        # What a tool reports as its progress may be anything.
        data = to_json(event_to_dict(event), serialize_unknown=True, bytes_mode="base64", inf_nan_mode="null")
        await self._output.write(data.decode() + "\n")

    async def end(self) -> None:
        pass

    async def say(self, note: Note) -> None:
        await self._notes.say(note)
