"""A conversation: runs one after the other, and what the user types, put where it belongs."""

from __future__ import annotations

from collections import deque
from signal import SIGINT, SIGPIPE, Signals
from typing import Any

import anyio
import anyio.to_thread

from agentrun.cli.chat_lines import HELP, Command, Say, read_line
from agentrun.cli.loading import Setup
from agentrun.cli.rendering import (
    describe,
    describe_call,
    describe_ending,
    describe_error,
    describe_inputs,
    describe_state,
    describe_usage,
)
from agentrun.cli.signals import Presses
from agentrun.cli.text import one_line
from agentrun.cli.views import PlainView, TerminalView
from agentrun.core.results import RunResult
from agentrun.errors import AgentRunError
from agentrun.events import (
    ApprovalRequested,
    Event,
    InputDelivered,
    InputInjected,
    ModelCallStarted,
    TextDelta,
    ToolEnded,
)
from agentrun.items import Item, UserMessage
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.opening import open_run

__all__ = ["Conversation"]


class Conversation:
    """What the user and the agent say to each other.

    The methods that tell what the user did are synchronous. They may be called at any time, from the event loop.

    Attributes:
        exit_code: Of the program: 0; 1 when the history could not be written; 128 and the number of the signal that
            ended the conversation.
        threads_left: Whether a run had to leave a thread behind.
    """

    def __init__(self, setup: Setup, view: PlainView | TerminalView, presses: Presses, *, verbose: bool) -> None:
        self.exit_code: int = 0
        self.threads_left: bool = False
        self._setup = setup
        self._root = setup.agent
        self._agent = setup.agent
        self._history: list[Item] = list(setup.history)
        self._view = view
        self._presses = presses  # of Ctrl-C, counted here for the two soft ones
        self._ctrl_c = 0
        self._verbose = verbose
        self._live: ActiveRun[Any] | None = None
        self._lines: deque[Say] = deque()  # that no run has
        self._held: list[Item] = []  # injected, but no model call has seen them
        self._approvals: dict[str, ApprovalRequested] = {}
        self._injected: dict[str, tuple[Item, ...]] = {}
        self._leaving = False
        self._input_ended = False
        self._new_answer = False
        self._news = anyio.Event()

    async def main(self) -> None:
        """Hold the conversation, until the user leaves or the input has ended and all is answered."""
        while not self._leaving:
            if self._lines:
                await self._run(self._lines.popleft())
            elif self._input_ended:
                break
            else:
                await self._news.wait()
                self._news = anyio.Event()
        left = [*self._held, *(UserMessage(line.text) for line in self._lines)]
        if left:
            self._view.line(f"not delivered: {describe_inputs(left)}", "bad")

    # What the user does ----------------------------------------------------------------------------------------

    def typed(self) -> None:
        """See `agentrun.cli.views.Listener`."""
        if not self._leaving:
            self._ctrl_c = 0
            self._presses.reset()

    def line(self, text: str) -> None:
        """See `agentrun.cli.views.Listener`."""
        if self._leaving:
            return
        self.typed()
        said = read_line(text)
        if isinstance(said, Say):
            self._say(said)
        elif isinstance(said, Command):
            self._command(said)
        elif said is not None:
            self._view.line(said, "bad")

    def ctrl_c(self) -> None:
        """The first one interrupts, the second one leaves."""
        self._ctrl_c += 1
        if self._ctrl_c > 1:
            self._leave(128 + SIGINT, "Ctrl-C")
        elif self._live is not None:
            self._live.interrupt("Ctrl-C")
        else:
            if isinstance(self._view, TerminalView):
                self._view.clear_line()
            self._view.line("Ctrl-C again leaves, and so do Ctrl-D and /quit")

    def terminate(self, number: Signals) -> None:
        """Leave: a signal asks for it."""
        self._leave(128 + number, f"received {number.name}")

    def end_of_input(self, *, leave: bool) -> None:
        """See `agentrun.cli.views.Listener`."""
        if leave:
            self._leave(0, "the user left")
            return
        self._input_ended = True
        self._news.set()
        self._nobody_approves()

    def output_lost(self) -> None:
        """The output cannot be written any more: nobody is there."""
        code = 128 + SIGPIPE if isinstance(self._view.error, BrokenPipeError) else 1
        self._leave(code, "the output cannot be written")

    def status(self) -> str:
        """See `agentrun.cli.views.Listener`."""
        return describe_state(self._live.state()) if self._live is not None else ""

    def _leave(self, code: int, reason: str) -> None:
        if not self._leaving:
            self._leaving = True
            self._view.hurry()
            self.exit_code = code or self.exit_code
            self._news.set()
        if self._live is not None:
            self._live.interrupt(reason)

    def _say(self, said: Say) -> None:
        live = self._live
        # A run that is being interrupted takes no more: what is said now begins the next one.
        if live is not None and live.status == "running":
            self._inject(live, said)
        else:
            self._lines.append(said)
            self._news.set()

    def _inject(self, live: ActiveRun[Any], said: Say) -> None:
        try:
            live.inject(said.text, deliver=said.deliver)
        except AgentRunError as exc:
            self._view.line(describe_error(exc), "bad")

    def _command(self, command: Command) -> None:
        match command.name:
            case "help":
                self._view.line(HELP)
            case "quit":
                self._leave(0, "the user left")
            case "stop":
                if self._live is None:
                    self._view.line("nothing is running")
                else:
                    self._live.interrupt(command.rest or "/stop")
            case "state":
                self._view.line(self._live.state().tree() if self._live is not None else "nothing is running")
            case "approve":
                self._decide(command.rest, approve=True)
            case _:
                self._decide(command.rest, approve=False)

    def _decide(self, rest: str, *, approve: bool) -> None:
        live = self._live
        if live is None or not self._approvals:
            self._view.line("no tool call waits for approval")
            return
        first, _, more = rest.partition(" ")
        call_ids: list[str]
        if first in self._approvals:
            call_ids, why = [first], more.strip()
        elif first == "all" and not (more and approve):
            call_ids, why = list(self._approvals), more.strip()
        elif approve and rest:
            waiting = ", ".join(map(one_line, self._approvals))
            self._view.line(f"no call {one_line(rest)} waits for approval; these do: {waiting}", "bad")
            return
        else:
            call_ids, why = [next(iter(self._approvals))], rest
        for call_id in call_ids:
            asked = self._approvals.pop(call_id)
            done = live.approve(call_id) if approve else live.reject(call_id, why or None)
            if done:
                word = "approved" if approve else "rejected"
                self._view.line(f"{word}: {describe_call(asked.name, asked.arguments)}")

    def _nobody_approves(self) -> None:
        if self._input_ended and self._approvals and self._live is not None:
            self._live.interrupt("a tool call needs approval, and the input has ended")

    # What the agent does ---------------------------------------------------------------------------------------

    async def _run(self, first: Say) -> None:
        items: list[Item] = [*self._history, *self._held, UserMessage(first.text)]
        self._held.clear()
        async with open_run(self._agent, items, deps=self._setup.deps, config=self._setup.config) as live:
            self._live = live
            while self._lines:
                self._inject(live, self._lines.popleft())
            if self._leaving:
                live.interrupt("the user left")
            async with live.events() as events:
                async for event in events:
                    self._show(event)
                    await self._view.room()
            try:
                await live.wait()
            except BaseException as exc:
                if live.result is None or exc is not live.result.error:
                    raise  # else it is told below, with the teardown
        self._live = None
        result = live.result
        assert result is not None
        self._approvals.clear()
        self._injected.clear()
        self._history = list(result.history)
        self.threads_left = self.threads_left or bool(result.teardown.abandoned_threads)
        self._agent = self._root.find(result.agent) or self._root
        self._tell(result)
        await self._store()

    def _show(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            if not event.path:
                # What the model says in another turn is a text of its own.
                if self._new_answer:
                    self._new_answer = False
                    self._view.begin_line()
                self._view.text(event.text)
            return
        if isinstance(event, ModelCallStarted) and not event.path:
            self._new_answer = True
        elif isinstance(event, ApprovalRequested) and not event.path:
            self._approvals[event.call_id] = event
        elif isinstance(event, ToolEnded):
            self._approvals.pop(event.call_id, None)
        elif isinstance(event, InputInjected):
            self._injected[event.injection_id] = event.items
        elif isinstance(event, InputDelivered):
            said = describe_inputs(self._injected.pop(event.injection_id, ()))
            self._view.line(f"· delivered in turn {event.turn}: {said}")
            return
        note = describe(event)
        if note is not None:
            self._view.line(note.text, note.style)
        if isinstance(event, ApprovalRequested) and not event.path:
            if not self._input_ended:
                self._view.line("  /approve, or /reject and why", "ask")
            self._nobody_approves()

    def _tell(self, result: RunResult[Any]) -> None:
        view = self._view
        view.begin_line()
        ending = describe_ending(result)
        if ending is not None:
            view.line(ending.text, ending.style)
        if self._verbose and result.error is not None:
            import traceback

            view.line("".join(traceback.format_exception(result.error)).rstrip(), "bad")
        view.line(describe_usage(result.usage, result.turns))
        self._held = [item for entry in result.undelivered for item in entry.items]
        if self._held and not self._leaving:
            view.line(f"not delivered, goes with your next message: {describe_inputs(self._held)}", "ask")
        if isinstance(view, TerminalView):
            view.set_status("")

    async def _store(self) -> None:
        file = self._setup.file
        if file is None:
            return
        try:
            await anyio.to_thread.run_sync(file.write, self._history)
        except (OSError, ValueError) as exc:
            self._view.line(f"--history {file.name} cannot be written: {exc}", "bad")
            self.exit_code = self.exit_code or 1
