"""Faults in what tells the watchers."""

from __future__ import annotations

from .catalog import Edit, Fault

__all__ = ["FAULTS"]

DRIVER = "agentrun.runtime.driver"
HUB = "agentrun.runtime.hub:EventHub"
RUN = "agentrun.runtime.run:Run"

FAULTS = [
    Fault(
        "publishing fails when a buffer is full",
        (
            Edit(
                f"{HUB}.publish",
                "queue = stream._queue\n",
                "queue = stream._queue\n                    if stream.lagging:\n"
                "                        raise anyio.WouldBlock\n",
            ),
        ),
        "slow watcher",
        ("interrupt",),
        2,
    ),
    Fault(
        "the terminal event waits for slow watchers",
        (
            Edit(
                f"{DRIVER}:drive",
                "    run.steps.cell.leave()\n",
                "    await run.hub.wait_for_watchers()\n    run.steps.cell.leave()\n",
            ),
        ),
        "slow watcher",
        ("interrupt",),
        10,
    ),
    Fault(
        "waiting for watchers swallows the cancellation",
        (
            Edit(
                f"{HUB}.wait_for_watchers",
                "await hub._room.wait()",
                "try:\n                        await hub._room.wait()\n"
                "                    except BaseException:\n                        pass",
            ),
        ),
        "slow watcher",
        ("interrupt",),
        10,
    ),
    Fault(
        "waiting for watchers is shielded",
        (
            Edit(
                f"{HUB}.wait_for_watchers",
                "await hub._room.wait()",
                "with anyio.CancelScope(shield=True):\n                        await hub._room.wait()",
            ),
        ),
        "slow watcher",
        ("interrupt",),
        10,
    ),
    Fault(
        "the driver is not woken when a watcher goes away",
        (Edit(f"{HUB}.unsubscribe", "self.room()", "pass"),),
        "watcher leaves",
        ("inject_next",),
        10,
    ),
    Fault(
        "a stream of events is not closed by leaving it",
        (Edit("agentrun.runtime.hub:EventStream.__aexit__", "        self.close()", "        pass"),),
        "watcher leaves",
        ("inject_next",),
        10,
    ),
    Fault(
        "the terminal event is dropped for a full buffer",
        (
            Edit(
                "agentrun.runtime.hub:EventStream._put_with_care",
                '(kind in _DELTAS and self.overflow == "drop")',
                'self.overflow == "drop"',
            ),
        ),
        "slow watcher",
        ("interrupt",),
        2,
    ),
    Fault(
        "the terminal event is told twice",
        (
            Edit(
                f"{DRIVER}:_tell_ending",
                "run.hub.end(RunEnded(result.status, reason))",
                "run.publish(RunEnded(result.status, reason))\n    run.hub.end(RunEnded(result.status, reason))",
            ),
        ),
        "two tools",
        ("interrupt",),
        2,
    ),
    Fault(
        "the terminal event comes before the last tool's",
        (
            Edit(
                f"{RUN}.interrupt",
                "            self.apply(effect)",
                "            self.apply(effect)\n            if effect == 'stop':\n"
                "                from agentrun.core.events import RunEnded\n"
                '                self.publish(RunEnded("interrupted", current.reason))',
            ),
            Edit(
                f"{HUB}.end",
                "self.publish(event)",
                'if event.status != "interrupted":\n            self.publish(event)',
            ),
        ),
        "two tools",
        ("interrupt",),
        2,
    ),
]
