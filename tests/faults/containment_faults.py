"""Faults in how user code is called."""

from __future__ import annotations

from .catalog import Edit, Fault

__all__ = ["FAULTS"]

CONTAINED = "agentrun.runtime.containment:Contained"
RELAY = "agentrun.runtime.relay:Relay"
TOOL = "agentrun.runtime.tool_run:ToolRun"

FAULTS = [
    Fault(
        "a call gets the cancellation of the one before it in the same task",
        (Edit("agentrun.runtime.task_pool:PooledTask.work", "                cell.renew()", "                pass"),),
        "one at a time",
        ("interrupt_tool",),
        8,
        ("asyncio",),
    ),
    Fault(
        "there is no shield for the cleanup",
        (Edit(f"{RELAY}._raise_shield", "        shield.shield = True\n", "        shield.shield = False\n"),),
        "two tools",
        ("interrupt",),
        7,
    ),
    Fault(
        "the grace has no end",
        (
            Edit(
                f"{RELAY}._begin_grace",
                "        self._grace_scope.deadline = self.cell.backend.time() + self._grace\n",
                "",
            ),
        ),
        "without end",
        ("interrupt",),
        6,
    ),
    Fault(
        "the shield is raised before the cancellation is delivered",
        (
            Edit(
                f"{CONTAINED}.cancel",
                "            self._scope.cancel()\n",
                "            self.protect()\n            self._scope.cancel()\n",
            ),
        ),
        "two tools",
        ("interrupt",),
        6,
    ),
    Fault(
        "only the cancelled part of a mixed group is looked at",
        (
            Edit(
                "agentrun.runtime.cancellations:split_cancelled",
                "return (None, group) if cancelled is None else (cancelled, other)",
                "return (None, group) if cancelled is None else (cancelled, None)",
            ),
        ),
        "untidy",
        ("interrupt",),
        9,
        ("trio",),
    ),
    Fault(
        "code is called with except Exception",
        (
            Edit(
                f"{CONTAINED}.run",
                "            except BaseException as exc:  # noqa: BLE001 - classified below; nothing is lost\n",
                "            except Exception as exc:\n",
            ),
        ),
        "careful",
        ("interrupt",),
        7,
    ),
    Fault(
        "a foreign cancellation is let out of a tool",
        (
            Edit(
                f"{CONTAINED}._classify",
                "        if native > 0:\n",
                "        if native == 0:\n            raise raised\n        if native > 0:\n",
            ),
            Edit(
                f"{TOOL}.execute",
                'self.end("cancelled", "Cancelled before it finished: its task was cancelled.")',
                'self.end("cancelled", "Cancelled before it finished: its task was cancelled.")\n            raise',
            ),
        ),
        "foreign",
        ("interrupt",),
        8,
        ("asyncio",),
    ),
    Fault(
        "a native cancellation of one tool is left in force",
        (
            Edit(
                f"{CONTAINED}.run",
                "            await absorb_native_cancellations(native_before)",
                "            pass",
            ),
        ),
        "cancels itself",
        ("interrupt",),
        8,
        ("asyncio",),
    ),
    Fault(
        "a swallowed cancellation counts as a success",
        (Edit(f"{CONTAINED}.run", "self._cancel_called and self._delivered", "False"),),
        "swallows",
        ("interrupt",),
        8,
    ),
]
