"""The turn machine: what a run does next. Synchronous, without I/O, and the only place where that is decided.

The driver asks ``next_action`` in a loop, does what it says, and reports what came of it. In between, any task may
interrupt or inject. Each method is one atomic step, so the state is consistent whenever the driver is suspended:

    CallModel  -> begin_model_call, feed..., then one of end_model_call / cut_model_call
    RunTools   -> tool_ended for each call (the last one commits the response with all outputs)
    CheckOutput -> accept_output (or fail)
    Finish     -> finish

A response that calls tools is *open* until all its calls have outputs; it enters the transcript whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from agentrun.core.errors import ModelBehaviorError
from agentrun.core.events import RunStatus
from agentrun.core.inbox import Delivery, Inbox, InboxEntry
from agentrun.core.interrupts import InterruptLatch, InterruptMode
from agentrun.core.items import AssistantMessage, Item, Reasoning, ToolCall, ToolOutput
from agentrun.core.limits import Limits
from agentrun.core.response import ResponseBuilder
from agentrun.core.transcript import Transcript
from agentrun.core.usage import Usage

__all__ = ["Action", "CallModel", "CheckOutput", "Effect", "Finish", "RunTools", "TurnMachine"]


@dataclass(frozen=True, slots=True)
class CallModel:
    """Start a new turn: call the model with the transcript and what the inbox holds."""

    turn: int


@dataclass(frozen=True, slots=True)
class RunTools:
    """Run these calls, and report each one's output."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class CheckOutput:
    """The model's answer is final unless an output guardrail objects."""

    message: AssistantMessage


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over; tear down what is left and report."""

    status: RunStatus


Action: TypeAlias = CallModel | RunTools | CheckOutput | Finish

Effect: TypeAlias = Literal["none", "cut", "stop"]
"""What a request asks of the driver: nothing, to cut what runs and go on, or to cut what runs and end."""


class TurnMachine:
    """The state of a run, and the rules by which it moves.

    Attributes:
        transcript: The history; valid at any time.
        inbox: Injected input that waits.
        interrupts: What was asked for.
        usage: What was used.
        turn: The current turn, from 1; 0 before the first.
        failure: The exception that makes the run fail, once there is one.
        cancelled: Whether a cancellation from outside ends the run.
        status: How the run ended; ``None`` while it lasts.
    """

    def __init__(
        self, transcript: Transcript, *, limits: Limits, inbox: Inbox, usage: Usage | None = None, turn: int = 0
    ) -> None:
        self.transcript = transcript
        self.inbox = inbox
        self.interrupts = InterruptLatch()
        self.limits = limits
        self.usage = usage if usage is not None else Usage()
        self.turn = turn
        self.turns_taken = 0
        self.failure: BaseException | None = None
        self.cancelled = False
        self.status: RunStatus | None = None
        self.final: AssistantMessage | None = None
        self._accepted = False
        self._wants_model = True
        self._response: ResponseBuilder | None = None
        self._open: list[AssistantMessage | Reasoning | ToolCall] = []
        self._calls: tuple[ToolCall, ...] = ()
        self._outputs: dict[str, ToolOutput] = {}

    # What happens next ---------------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        """Whether the run must stop at once: it failed, was cancelled, or was interrupted for good."""
        return self.failure is not None or self.cancelled or self.interrupts.immediate

    @property
    def open_calls(self) -> tuple[ToolCall, ...]:
        """Calls of the open response that have no output yet."""
        return tuple(call for call in self._calls if call.call_id not in self._outputs)

    def next_action(self) -> Action:
        """Decide. Calling it again without reporting anything gives the same answer."""
        if self._response is not None:
            raise AssertionError("a model call is still open: end or cut it first")
        if self._calls:
            return RunTools(self.open_calls)
        if self.failure is not None:
            return Finish("failed")
        if self.cancelled:
            return Finish("cancelled")
        if self._accepted and not self.inbox.ready(finishing=True):
            return Finish("completed")
        if self.interrupts.current is not None:
            return Finish("interrupted")
        if self._wants_model or self.inbox.ready(finishing=True):
            if error := self.limits.before_model_call(self.turns_taken, self.usage):
                self.failure = error
                return Finish("failed")
            return CallModel(self.turn + 1)
        assert self.final is not None
        return CheckOutput(self.final)

    # The model call ------------------------------------------------------------------------------------------

    def due_input(self) -> list[InboxEntry]:
        """The injected inputs that the model call about to begin will take."""
        return self.inbox.ready(finishing=not self._wants_model)

    def begin_model_call(self, entries: Sequence[InboxEntry]) -> ResponseBuilder:
        """Start the turn and move ``entries`` from the inbox to the transcript, in one step.

        The request must be built from the transcript after this, and be sent.
        """
        self.turn += 1
        self.turns_taken += 1
        self.usage.requests += 1
        self.final = None
        self._accepted = False
        self._wants_model = True  # until the call has given an answer
        for entry in entries:
            self.transcript.append_input(entry.items)
        self.inbox.take(list(entries), self.turn)
        self._response = ResponseBuilder()
        return self._response

    def end_model_call(self) -> tuple[ToolCall, ...]:
        """The stream came to its end. Returns the tool calls that were asked for.

        Raises:
            ModelBehaviorError: A tool call cannot be carried out, because the answer stopped at its length limit.
        """
        response, self._response = self._response, None
        assert response is not None
        self._count(response)
        items = response.finished()
        taken: set[str] = set()
        for index, item in enumerate(items):
            if isinstance(item, ToolCall):
                call_id = self.transcript.unique_call_id(item.call_id, taken)
                taken.add(call_id)
                if call_id != item.call_id:
                    items[index] = replace(item, call_id=call_id)
        calls = tuple(item for item in items if isinstance(item, ToolCall))
        if not calls:
            self.transcript.commit_response(items, {})
            messages = [item for item in items if isinstance(item, AssistantMessage)]
            self.final = messages[-1] if messages else AssistantMessage("")
            self._wants_model = False
            return ()
        self.usage.tool_calls += len(calls)
        self._open, self._calls, self._outputs = items, calls, {}
        return calls

    def cut_model_call(self) -> None:
        """The stream was cut, by an interrupt, an injection or an error: keep what was said."""
        response, self._response = self._response, None
        if response is None:
            return
        self._count(response)
        self.transcript.commit_response(response.cut(), {})

    def _count(self, response: ResponseBuilder) -> None:
        if response.usage is not None:
            self.usage.add(replace(response.usage, requests=0, tool_calls=0))

    # The tools -----------------------------------------------------------------------------------------------

    def tool_ended(self, output: ToolOutput) -> None:
        """Report the output of one call. The last one commits the response.

        Raises:
            ModelBehaviorError: No open call has this id.
        """
        if all(call.call_id != output.call_id for call in self.open_calls):
            raise ModelBehaviorError(f"no open tool call has the id {output.call_id!r}")
        self._outputs[output.call_id] = output
        if len(self._outputs) == len(self._calls):
            self.transcript.commit_response(self._open, self._outputs)
            self._open, self._calls, self._outputs = [], (), {}
            self._wants_model = True

    def reopen(
        self, response: Sequence[AssistantMessage | Reasoning | ToolCall], outputs: Sequence[ToolOutput]
    ) -> None:
        """Open a response again of which some calls waited for approval when the snapshot was taken.

        Args:
            response: All its items, in order.
            outputs: Outputs of those calls that had ended.
        """
        self._open = list(response)
        self._calls = tuple(item for item in response if isinstance(item, ToolCall))
        self._outputs = {output.call_id: output for output in outputs}

    # The end -------------------------------------------------------------------------------------------------

    def accept_output(self) -> None:
        """No output guardrail objects to the final answer."""
        self._accepted = True

    def fail(self, error: BaseException) -> bool:
        """Let the run fail. Returns ``False`` if its ending was decided before: the first reason wins.

        An error that comes while an immediate interrupt or a cancellation is torn down does not decide the ending.
        """
        if self.status is not None or self.ending:
            return False
        self.failure = error
        return True

    def cancel(self) -> bool:
        """The run was cancelled from outside. Returns ``False`` if its ending was decided before."""
        if self.status is not None or self.cancelled:
            return False
        self.cancelled = True
        return True

    def finish(self, status: RunStatus) -> None:
        """Settle the ending, once. From here on nothing can change it."""
        if self.status is not None:
            raise AssertionError(f"the run has ended as {self.status} already")
        self.status = status

    # Requests from other tasks -------------------------------------------------------------------------------

    def interrupt(self, reason: str | None, mode: InterruptMode) -> tuple[bool, Effect]:
        """Ask for an interrupt. Returns whether it changed anything and what the driver has to do."""
        if self.status is not None or not self.interrupts.request(reason, mode):
            return False, "none"
        return True, "stop" if self.interrupts.immediate else "none"

    def inject(self, items: tuple[Item, ...], deliver: Delivery) -> tuple[InboxEntry, Effect]:
        """Take input in.

        Raises:
            RunEnded: The run has ended.
            InboxFull: Too much input is waiting.
            UserError: The items are not valid in a history (an unpaired call).
        """
        entry = self.inbox.add(items, deliver)
        stopping = self.ending or self.interrupts.current is not None
        return entry, "cut" if deliver == "now" and not stopping else "none"
