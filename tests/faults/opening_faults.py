"""Faults in opening and leaving a run, in what its parts share, and in runs inside of runs."""

from __future__ import annotations

from .catalog import Edit, Fault

__all__ = ["FAULTS"]

OPENING = "agentrun.runtime.nursery:RunNursery"
RUN = "agentrun.runtime.run:Run"
REPORTS = "agentrun.runtime.reports:Reports"

FAULTS = [
    Fault(
        "a cancellation from outside is turned into a result",
        (
            Edit(
                f"{OPENING}._leave",
                "        if exc is not None:\n",
                '        if exc is not None and result.status == "cancelled":\n            return True\n'
                "        if exc is not None:\n",
            ),
        ),
        "two tools",
        ("cancel",),
        3,
    ),
    Fault(
        "a cancellation from outside is treated as an interrupt",
        (
            Edit(
                f"{OPENING}._tell_why",
                "            run.cancel()",
                '            run.interrupt("cancelled", "immediate", None)',
            ),
        ),
        "two tools",
        ("cancel",),
        3,
    ),
    Fault(
        "a native cancellation is lost while the host waits",
        (
            Edit(
                f"{OPENING}._wait_for_driver",
                "                    if interruption is None or not isinstance(caught, Exception):\n"
                "                        interruption = caught\n",
                "",
            ),
        ),
        "left early",
        ("native",),
        3,
        ("asyncio",),
    ),
    Fault(
        "a cancellation in the last moment is swallowed",
        (
            Edit(
                f"{OPENING}.__aexit__",
                "                interruption = interruption or _alone(caught)\n",
                "                pass\n",
            ),
        ),
        "native",
        ("native",),
        3,
        ("asyncio",),
    ),
    Fault(
        "the host waits without a shield",
        (Edit(f"{OPENING}._wait_for_driver", "with anyio.CancelScope(shield=True):", "with anyio.CancelScope():"),),
        "two tools",
        ("cancel",),
        6,
        limit=4,
    ),
    Fault(
        "an interrupt is raised as an exception",
        (
            Edit(
                "agentrun.runtime.handle:ActiveRun.wait",
                "        return result\n",
                '        if result.status == "interrupted":\n            raise RunEnded("the run was interrupted")\n'
                "        return result\n",
            ),
        ),
        "two tools",
        ("interrupt",),
        3,
    ),
    Fault(
        "a failure is raised in a group of one",
        (
            Edit(
                f"{OPENING}.__aexit__",
                "await self._task_group.__aexit__(None, None, None)",
                "await self._task_group.__aexit__(exc_type, exc, tb)",
            ),
            Edit(
                f"{OPENING}.__aexit__",
                "            if not expected and",
                "            if isinstance(caught, BaseExceptionGroup):\n                raise\n"
                "            if not expected and",
            ),
        ),
        "fatal",
        ("interrupt",),
        9,
    ),
    Fault(
        "a failure is told twice",
        (
            Edit(
                f"{OPENING}._leave",
                'if result.status == "failed" and not self._live._failure_told else None',
                'if result.status == "failed" else None',
            ),
        ),
        "caught",
        ("interrupt",),
        9,
    ),
    Fault(
        "an error that comes after the one that decides is lost",
        (Edit(f"{RUN}.fail", "            self.reports.error(error)\n", "            pass\n"),),
        "fatal and untidy",
        ("interrupt",),
        9,
    ),
    Fault(
        "errors in cleanups are lost",
        (Edit(f"{REPORTS}.cleanup_error", "        self.error(error)\n", ""),),
        "untidy",
        ("interrupt",),
        9,
    ),
    Fault(
        "the report is silent about a cleanup that was cut",
        (
            Edit(
                f"{REPORTS}.note",
                "if outcome.grace_expired:",
                "if outcome.grace_expired and outcome.error is not None:",
            ),
        ),
        "without end",
        ("interrupt",),
        1,
    ),
    Fault(
        "the report is silent about a swallowed cancellation",
        (Edit(f"{REPORTS}.note", "if outcome.swallowed:", "if outcome.swallowed and outcome.value is None:"),),
        "swallows",
        ("interrupt",),
        8,
    ),
    Fault(
        "a nested run is not awaited",
        (
            Edit(
                "agentrun.runtime.nested:agent_tool",
                "        result = await run(agent, input, deps=ctx.deps, "
                "config=_config(outer.run) if outer is not None else None)\n",
                "        import anyio\n        box: list[Any] = []\n\n        async def go() -> None:\n"
                "            box.append(await run(agent, input, deps=ctx.deps))\n\n"
                "        ctx.run._run.task_group.start_soon(go)\n        while not box:\n"
                "            await anyio.sleep(0.05)\n        result = box[0]\n",
            ),
        ),
        "nested",
        ("interrupt",),
        1,
    ),
    Fault(
        "what a nested run has used is lost",
        (Edit(f"{OPENING}.__aexit__", "            parent.run.machine.usage.add(run.machine.usage)\n", ""),),
        "nested",
        ("interrupt",),
        12,
    ),
]
