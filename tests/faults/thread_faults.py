"""Faults in how sync code is called in threads."""

from __future__ import annotations

from .catalog import Edit, Fault

__all__ = ["FAULTS"]

GUARD = "agentrun.runtime.guard_race:GuardRace"
THREAD = "agentrun.runtime.threads:ThreadCall"
TOOL = "agentrun.runtime.tool_run:ToolRun"
SERVICES = "agentrun.runtime.services:ToolCallServices"

FAULTS = [
    Fault(
        "a thread is not told that its call was cancelled",
        (Edit(f"{SERVICES}.check_cancelled", "if self._stopping or self.ended:", "if self.ended:"),),
        "thread without end",
        ("interrupt",),
        1,
    ),
    Fault(
        "a thread is not told that its time is up",
        (Edit(f"{TOOL}._start_hook", "        self._stopping = True\n", ""),),
        "thread without end",
        ("interrupt",),
        1,
    ),
    Fault(
        "what a thread has returned in its grace is thrown away",
        (Edit(f"{THREAD}.run", "if not self._finished or isinstance(self._error, CallCancelled):", "if True:"),),
        "threads",
        ("interrupt", "interrupt_tool"),
        4,
    ),
    Fault(
        "a thread that ends in its grace counts as one that swallows its cancellation",
        (Edit(f"{TOOL}._noted", "            outcome.swallowed = False", "            pass"),),
        "threads",
        ("interrupt",),
        8,
    ),
    Fault(
        "a thread has no grace",
        (
            Edit(
                f"{THREAD}.run",
                "this waits for the thread to look.\n                await done.wait()",
                "this waits for the thread to look.\n                raise",
            ),
        ),
        "threads",
        ("interrupt",),
        1,
    ),
    Fault(
        "a thread that was left behind is not reported",
        (Edit(f"{THREAD}.run", "self.abandoned = not self._finished", "self.abandoned = False"),),
        "deaf thread",
        ("interrupt", "cancel"),
        1,
    ),
    Fault(
        "a thread that does not look is waited for",
        (Edit(f"{THREAD}.run", "                scope.cancel()\n", ""),),
        "deaf thread",
        ("interrupt",),
        6,
    ),
    Fault(
        "a thread that a nested run has left behind is in no report",
        (
            Edit(
                "agentrun.runtime.nursery:RunNursery.__aexit__",
                "            parent.run.reports.note_nested(run.reports.teardown, parent.what)\n",
                "",
            ),
        ),
        "deaf nested",
        ("interrupt",),
        1,
    ),
    Fault(
        "what a thread has raised is lost",
        (
            Edit(
                f"{THREAD}.run",
                "        if self._error is not None:\n            raise self._error\n",
                "",
            ),
        ),
        "failing thread",
        ("interrupt",),
        9,
    ),
    Fault(
        "the end of a thread wakes nobody",
        (Edit(f"{THREAD}.run", "                done.set()\n", "                pass\n"),),
        "threads",
        ("interrupt",),
        2,
    ),
    Fault(
        "a guardrail's thread that was left behind is not reported",
        (Edit(f"{GUARD}._call", "            if thread.abandoned:", "            if False:"),),
        "deaf guardrail",
        ("interrupt",),
        1,
    ),
    Fault(
        "a guardrail that answers too late passes",
        (Edit(f"{GUARD}._work", "            outcome.swallowed = late\n", ""),),
        "late guardrail",
        ("interrupt",),
        13,
    ),
]
