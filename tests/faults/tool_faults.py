"""Faults in the calling of tools: the batch of a turn, and the single call."""

from __future__ import annotations

from .catalog import Edit, Fault

__all__ = ["FAULTS"]

BATCH = "agentrun.runtime.tool_batch:ToolBatch"
CONTAINED = "agentrun.runtime.containment:Contained"
RELAY = "agentrun.runtime.relay:Relay"
TOOL = "agentrun.runtime.tool_run:ToolRun"
SERVICES = "agentrun.runtime.services:ToolCallServices"

FAULTS = [
    Fault(
        "the ends of cancelled tools are told as the scheduler has it",
        (Edit(f"{BATCH}._ends_to_tell", "                    break\n", "                    continue\n"),),
        "two tools",
        ("interrupt",),
        6,
    ),
    Fault(
        "the end of a call that never ran is not told",
        (
            Edit(
                f"{BATCH}._tell_end",
                "        self._run.publish(ToolEnded(",
                "        if tool.started:\n            self._run.publish(ToolEnded(",
            ),
        ),
        "one at a time",
        ("interrupt",),
        12,
    ),
    Fault(
        "the place of a tool that has ended is not given back",
        (
            Edit(
                f"{BATCH}._start_those_that_may",
                "elif tool.started and not tool.told:",
                "elif tool.started:",
            ),
        ),
        "one at a time",
        ("interrupt",),
        2,
    ),
    Fault(
        "one error comes in a group",
        (
            Edit(
                f"{BATCH}._collect_fatal", "if len(fatal) == 1:", "if not fatal:\n            pass\n        elif False:"
            ),
        ),
        "fatal",
        ("interrupt",),
        9,
    ),
    Fault(
        "of two errors one is lost",
        (
            Edit(
                f"{BATCH}._collect_fatal",
                'self._run.fail(BaseExceptionGroup("several tools failed", fatal))',
                "self._run.fail(fatal[0])",
            ),
        ),
        "two fatal",
        ("interrupt",),
        9,
    ),
    Fault(
        "a tool's failure cancels its siblings",
        (
            Edit(
                f"{TOOL}._failed",
                '        self.end("failed", text)\n',
                '        self.end("failed", text)\n        self.batch._cancel_all("another tool failed")\n',
            ),
        ),
        "soft",
        ("interrupt",),
        8,
    ),
    Fault(
        "a tool that needs approval starts without",
        (Edit(f"{TOOL}.prepare", 'self.phase = "waiting for approval"', 'self.phase = "queued"'),),
        "approvals",
        ("interrupt",),
        13,
    ),
    Fault(
        "an approval check that breaks is a permission",
        (
            Edit(
                f"{TOOL}.check_approval",
                "await self._failed(error, raised_by_tool=False)",
                'self.phase = "queued" if error else self.phase',
            ),
        ),
        "unsure",
        ("interrupt",),
        13,
    ),
    Fault(
        "a call can be approved after it was rejected",
        (
            Edit(
                f"{TOOL}.decide",
                '            self.end("rejected", message or "The call was rejected.")\n',
                '            self.output = self.output or ToolOutput(self.call.call_id, message, "rejected")\n',
            ),
        ),
        "not approved",
        ("approve",),
        2,
    ),
    Fault(
        "a tool's end does not wake the driver",
        (
            Edit(
                f"{TOOL}._task_over",
                "            self._contained = None\n            self.batch.wake()\n",
                "            self._contained = None\n",
            ),
        ),
        "two tools",
        ("interrupt_tool",),
        2,
    ),
    Fault(
        "a tool's status is read from cancelled_caught",
        (
            Edit(
                f"{TOOL}._settle",
                'if outcome.ending == "returned" and not outcome.swallowed:',
                "scope = self._contained._scope if self._contained is not None else None\n"
                '        if outcome.ending in ("returned", "cancelled") and not (scope and scope.cancelled_caught):',
            ),
        ),
        "two tools",
        ("interrupt",),
        4,
    ),
    Fault(
        "on_cancel is not called",
        (
            Edit(
                f"{TOOL}._start_hook",
                "        self._hook_started = True\n",
                "        self._hook_started = True\n        return\n",
            ),
        ),
        "careful",
        ("interrupt",),
        7,
    ),
    Fault(
        "on_cancel is called twice",
        (Edit(f"{TOOL}._start_hook", "        self._hook_started = True\n", ""),),
        "careful",
        ("interrupt",),
        7,
    ),
    Fault(
        "cleanups run in the wrong order",
        (Edit(f"{SERVICES}._run_cleanups", "self._cleanups.pop()", "self._cleanups.pop(0)"),),
        "careful",
        ("interrupt_tool",),
        6,
    ),
    Fault(
        "cleanups do not run when the tool is cancelled",
        (
            Edit(
                f"{SERVICES}._unwind",
                "if self._cleanups else None",
                "if self._cleanups and self.cancel_reason is None else None",
            ),
        ),
        "careful",
        ("interrupt_tool",),
        7,
    ),
    Fault(
        "cleanups are not shielded",
        (
            Edit(
                f"{SERVICES}._run_cleanups", "                    contained.protect()\n", "                    pass\n"
            ),
            Edit(f"{CONTAINED}.run", "                self.protect()\n", ""),
            Edit(f"{RELAY}._raise_shield", "        shield.shield = True\n", "        shield.shield = False\n"),
        ),
        "careful",
        ("interrupt",),
        7,
    ),
    Fault(
        "something is acquired before the try",
        (
            Edit(
                f"{SERVICES}.enter_async_context",
                "        value = await cm.__aenter__()\n",
                "        value = await cm.__aenter__()\n        await anyio.sleep(0.1)\n",
            ),
        ),
        "careful",
        ("interrupt",),
        7,
    ),
    Fault(
        "a critical section is not shielded",
        (Edit(f"{SERVICES}.critical", "anyio.CancelScope(shield=True, deadline", "anyio.CancelScope(deadline"),),
        "careful",
        ("interrupt",),
        7,
    ),
    Fault(
        "the hook of a cancelled tool's end is not called",
        (
            Edit(
                f"{TOOL}._settle",
                "        for hooks in self._hooks:\n",
                "        for hooks in self._hooks if self.cancel_reason is None else ():\n",
            ),
        ),
        "hooks",
        ("interrupt",),
        12,
    ),
]
