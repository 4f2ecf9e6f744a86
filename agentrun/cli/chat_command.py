"""``agentrun chat``: the terminal, the signals and the conversation, brought together."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from signal import Signals
from typing import Final

import anyio

from agentrun.cli.arguments import Ending, Options
from agentrun.cli.conversation import Conversation
from agentrun.cli.loading import prepare
from agentrun.cli.rendering import describe_start
from agentrun.cli.signals import ENDING_SIGNALS, Presses, received
from agentrun.cli.terminal import Terminal
from agentrun.cli.views import PlainView, TerminalView

__all__ = ["chat_command"]

# A terminal that does not take the last lines (a connection that hangs) must not keep the program.
_CLOSE_SECONDS: Final = 2.0


async def chat_command(options: Options) -> Ending:
    """Run the command and return how it ended. A checkpoint.

    Raises:
        UserError: Something that was asked for cannot be had.
    """
    setup = prepare(options, on_approval="wait")
    terminal = Terminal() if Terminal.usable() else None
    presses = Presses(before_death=terminal.restore if terminal is not None else _nothing)
    more = (signal.SIGWINCH, signal.SIGTSTP) if terminal is not None else ()
    with ExitStack() as stack:
        # Outermost, so that no signal can find the terminal in our mode and nobody to give it back.
        signals = stack.enter_context(received(presses, *more))
        view: PlainView | TerminalView
        if terminal is not None:
            view = TerminalView(stack.enter_context(terminal))
            stack.enter_context(view.prints.installed())
            view.line(describe_start(setup.agent, setup.config, setup.history))
        else:
            view = PlainView()
        conversation = Conversation(setup, view, presses, verbose=options.verbose)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(_watch_signals, signals, conversation, view)
            task_group.start_soon(view.paint, conversation.output_lost)
            task_group.start_soon(view.read, conversation)
            if isinstance(view, TerminalView):
                task_group.start_soon(view.show_status, conversation)
            await conversation.main()
            task_group.cancel_scope.cancel()
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            await view.close()
    return Ending(conversation.exit_code, conversation.threads_left)


def _nothing() -> None:
    pass


async def _watch_signals(
    signals: AsyncIterator[Signals], conversation: Conversation, view: PlainView | TerminalView
) -> None:
    async for number in signals:
        if number == signal.SIGINT:
            conversation.ctrl_c()
        elif number in ENDING_SIGNALS:
            conversation.terminate(number)
        elif isinstance(view, TerminalView):
            if number == signal.SIGWINCH:
                view.resized()
            else:
                view.suspend()
