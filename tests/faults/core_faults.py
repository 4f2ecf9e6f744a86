"""Faults in what decides: the inbox, the interrupts, the turn machine, the transcript, the response."""

from __future__ import annotations

from .catalog import Edit, Fault

__all__ = ["FAULTS"]

INBOX = "agentrun.core.inbox:Inbox"
LATCH = "agentrun.core.interrupts:InterruptLatch"
MACHINE = "agentrun.core.turns:TurnMachine"
RESPONSE = "agentrun.core.response:ResponseBuilder"
TRANSCRIPT = "agentrun.core.transcript:Transcript"

FAULTS = [
    Fault(
        "injections are delivered in the opposite order",
        (
            Edit(
                f"{INBOX}.ready",
                'due = [entry for entry in self.pending if entry.deliver != "idle"]',
                'due = [entry for entry in reversed(self.pending) if entry.deliver != "idle"]',
            ),
        ),
        "injections",
        ("interrupt",),
        5,
    ),
    Fault(
        "idle input does not wait until the run would finish",
        (Edit(f"{INBOX}.ready", "if not due and finishing:", "if not due:"),),
        "injections",
        ("inject_idle",),
        5,
    ),
    Fault(
        "what is pending at the end is left pending",
        (Edit(f"{INBOX}.close", 'entry.settle("undelivered")', "pass"),),
        "steered twice",
        ("inject_idle",),
        5,
    ),
    Fault(
        "injections are accepted after the end",
        (Edit(f"{INBOX}.close", "self._closed = True", "pass"),),
        "two tools",
        ("interrupt",),
        5,
    ),
    Fault(
        "a delivered input can be withdrawn",
        (
            Edit(
                f"{INBOX}.withdraw",
                'if entry.status != "pending":\n            return False\n        self.pending = ',
                "if entry in self.pending:\n            self.pending = ",
            ),
        ),
        "two tools",
        ("inject_next",),
        5,
    ),
    Fault(
        "an input is delivered twice",
        (
            Edit(
                f"{INBOX}.take",
                "left = tuple(entry for entry in self.pending if id(entry) not in taken)",
                "left = tuple(entry for entry in self.pending if id(entry) not in taken or entry.status == 'pending')",
            ),
            Edit(f"{INBOX}.take", "if len(left) + len(entries) != len(self.pending):", "if not entries and taken:"),
        ),
        "two tools",
        ("inject_next",),
        5,
    ),
    Fault(
        "an input is taken from the inbox and not put into the history",
        (Edit(f"{MACHINE}.begin_model_call", "self.transcript.append_input(entry.items)", "pass"),),
        "two tools",
        ("inject_now",),
        5,
    ),
    Fault(
        "a second reason wins",
        (
            Edit(
                f"{LATCH}.request",
                'Interrupt(before.reason if before.reason is not None else reason, "immediate")',
                'Interrupt(reason, "immediate")',
            ),
        ),
        "ends itself",
        ("interrupt",),
        2,
    ),
    Fault(
        "a stronger mode does not escalate a weaker one",
        (Edit(f"{LATCH}.request", 'before.mode == "after_turn" and mode == "immediate"', "False"),),
        "ends itself",
        ("interrupt",),
        2,
    ),
    Fault(
        "after_turn acts at once",
        (Edit(f"{MACHINE}.interrupt", '"stop" if self.interrupts.immediate else "none"', '"stop"'),),
        "two tools",
        ("interrupt_after_turn",),
        2,
    ),
    Fault(
        "an interrupt is forgotten when the answer is there",
        (
            Edit(
                f"{MACHINE}.next_action",
                'if self.interrupts.current is not None:\n            return Finish("interrupted")\n'
                "        if self.final is not None and not self.inbox.pending:\n"
                "            return CheckOutput(self.final)\n",
                "if self.final is not None and not self.inbox.pending:\n            return CheckOutput(self.final)\n"
                '        if self.interrupts.current is not None:\n            return Finish("interrupted")\n',
            ),
        ),
        "two tools",
        ("interrupt",),
        2,
    ),
    Fault(
        "an error during the teardown turns an interrupted run into a failed one",
        (Edit(f"{MACHINE}.fail", "if self.status is not None or self.ending:", "if self.status is not None:"),),
        "fatal",
        ("interrupt",),
        2,
    ),
    Fault(
        "half-streamed tool calls are kept",
        (
            Edit(
                f"{RESPONSE}.cut",
                "if text := self.partial_text:",
                "items += [item for item in self._items if isinstance(item, ToolCall)]\n"
                "        if text := self.partial_text:",
            ),
            Edit(
                f"{TRANSCRIPT}.commit_response",
                "if isinstance(item, ToolCall):",
                "if isinstance(item, ToolCall) and outputs:",
            ),
        ),
        "two tools",
        ("interrupt",),
        4,
    ),
    Fault(
        "partial text is dropped",
        (Edit(f"{RESPONSE}.cut", "if text := self.partial_text:", 'if text := "":'),),
        "two tools",
        ("interrupt",),
        4,
    ),
    Fault(
        "partial text is not marked",
        (Edit(f"{RESPONSE}.cut", 'AssistantMessage(text, "incomplete")', "AssistantMessage(text)"),),
        "two tools",
        ("inject_now",),
        4,
    ),
    Fault(
        "cancelled calls have no output",
        (
            Edit(
                f"{TRANSCRIPT}.commit_response",
                "self._items.extend(answers.values())",
                'self._items.extend(answer for answer in answers.values() if answer.status != "cancelled")',
            ),
        ),
        "two tools",
        ("interrupt_tool",),
        4,
    ),
    Fault(
        "calls enter the history before their outputs",
        (
            Edit(
                f"{MACHINE}.end_model_call",
                "self._response, self._calls = items, calls",
                "self.transcript._items.extend(items)\n            self._calls = calls",
            ),
            Edit(
                f"{MACHINE}.tool_ended",
                "self.transcript.commit_response(self._response, self._outputs)",
                "self.transcript._items.extend(self._outputs[call_id] for call_id in self._calls)",
            ),
        ),
        "two tools",
        ("interrupt",),
        4,
    ),
    Fault(
        "outputs are in the order in which the tools have ended",
        (
            Edit(
                f"{TRANSCRIPT}.commit_response",
                "self._items.extend(answers.values())",
                "self._items.extend(outputs.values())",
            ),
        ),
        "two tools",
        ("interrupt",),
        6,
    ),
    Fault(
        "what the model calls have used is lost",
        (Edit(f"{MACHINE}._close_model_call", "if builder.usage is not None:", "if self.failure is not None:"),),
        "two tools",
        ("interrupt",),
        12,
    ),
]
