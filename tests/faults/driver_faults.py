"""Faults in what moves a run forward: the driver, the model call, the guardrails."""

from __future__ import annotations

from .catalog import Edit, Fault

__all__ = ["FAULTS"]

CALL = "agentrun.runtime.model_call"
DRIVER = "agentrun.runtime.driver"
GUARDS = "agentrun.runtime.guard_race:GuardRace"

FAULTS = [
    Fault(
        "the driver has no shield",
        (Edit("agentrun.runtime.steps:Steps.__init__", "Cell(True, ", "Cell(False, "),),
        "two tools",
        ("cancel",),
        7,
    ),
    Fault(
        "the ending is told before the hooks are",
        (
            Edit(
                f"{DRIVER}:_wind_up",
                "    if run.started_hooks:\n",
                "    _tell_ending(run)\n    if run.started_hooks:\n",
            ),
        ),
        "hooks",
        ("interrupt",),
        6,
    ),
    Fault(
        "the driver does not wait for the guardrails it has cancelled",
        (
            Edit(
                f"{DRIVER}:_wind_up",
                "        await run.guards.bury()\n        await run.guards.settle()\n",
                "",
            ),
        ),
        "guardrails",
        ("interrupt",),
        1,
    ),
    Fault(
        "timers outlive what they were for",
        (
            Edit(f"{DRIVER}:_wind_up", "        scope.cancel()", "        pass"),
            Edit(f"{DRIVER}:_tell_ending", "        scope.cancel()", "        pass"),
        ),
        "timer",
        ("interrupt",),
        6,
    ),
    Fault(
        "undelivered input is looked for when the inbox is closed",
        (
            Edit(
                f"{DRIVER}:_tell_ending",
                "    result = _result(run)\n    machine.inbox.close()\n",
                "    machine.inbox.close()\n    result = _result(run)\n",
            ),
        ),
        "steered twice",
        ("inject_idle",),
        5,
    ),
    Fault(
        "the session is cut in the middle of storing",
        (Edit(f"{DRIVER}:_save_session", ", finish=True)", ")"),),
        "two tools",
        ("interrupt",),
        4,
    ),
    Fault(
        "tools start before the guardrails have passed",
        (
            Edit(
                f"{DRIVER}:_main",
                "            if run.guards.unsettled:\n                await _wait_for_guardrails(run)\n",
                "",
            ),
        ),
        "guardrails",
        ("interrupt",),
        13,
    ),
    Fault(
        "an answer counts before the input guardrails have passed",
        (
            Edit(
                f"{DRIVER}:_check_output",
                "    if run.guards.unsettled:\n        await _wait_for_guardrails(run)\n"
                "        if machine.ending:\n            return\n",
                "",
            ),
        ),
        "guarded answer",
        ("interrupt",),
        13,
    ),
    Fault(
        "the model's stream is not closed",
        (
            Edit(
                f"{CALL}:_stream",
                "    async with model.stream(request) as events:\n",
                "    events = await model.stream(request).__aenter__()\n    if events is not None:\n",
            ),
        ),
        "two tools",
        ("interrupt",),
        1,
    ),
    Fault(
        "the end of a cut model call is not told",
        (
            Edit(
                f"{CALL}:_end",
                "    run.publish(ModelCallEnded(",
                '    if status != "interrupted":\n        run.publish(ModelCallEnded(',
            ),
        ),
        "two tools",
        ("inject_now",),
        12,
    ),
    Fault(
        "hooks are not told of the end of a cut model call",
        (Edit(f"{CALL}:call_model", "    if run.hooks:\n", "    if run.hooks and not machine.ending:\n"),),
        "hooks",
        ("interrupt",),
        12,
    ),
    Fault(
        "a hook that was cut in its start is not told of the end",
        (
            Edit(f"{CALL}:_stream", "        run.model_hooks += (hooks,)\n", ""),
            Edit(
                f"{CALL}:_stream",
                "hooks.on_model_start, ctx, request)\n",
                "hooks.on_model_start, ctx, request)\n        run.model_hooks += (hooks,)\n",
            ),
        ),
        "hooks",
        ("interrupt",),
        12,
    ),
    Fault(
        "input is taken before the call is ready, and lost when the run is stopped in between",
        (
            Edit(
                f"{CALL}:call_model",
                "    instructions, tools = prepared\n",
                "    instructions, tools = prepared\n    taken = machine.due_input()\n"
                "    machine.inbox.take(taken, machine.turn + 1)\n    await run.hub.wait_for_watchers()\n",
            ),
            Edit(f"{CALL}:call_model", "    due = machine.due_input()\n", "    due = taken\n"),
            Edit(
                f"{CALL}:call_model",
                "machine.begin_model_call(due)\n",
                "machine.begin_model_call(machine.due_input())\n    for entry in due:\n"
                "        machine.transcript.append_input(entry.items)\n",
            ),
        ),
        "steered twice",
        ("inject_next",),
        5,
    ),
    Fault(
        "a trip does not stop the model",
        (Edit(f"{GUARDS}._tell", "self._run.steps.trip()", "pass"),),
        "trip",
        ("interrupt",),
        13,
    ),
    Fault(
        "a trip is raised before the stream has closed",
        (
            Edit(
                f"{GUARDS}._tell",
                "self._run.steps.trip()",
                "from agentrun.runtime.driver import _tell_ending\n            self.collect()\n"
                "            _tell_ending(self._run)",
            ),
        ),
        "trip",
        ("interrupt",),
        13,
    ),
    Fault(
        "a guardrail that breaks lets pass",
        (
            Edit(
                f"{GUARDS}._answer",
                "        else:\n            guard.error = outcome.error or",
                "        elif outcome.error is not None:\n"
                '            guard.result = GuardrailResult(guardrail.name, kind, "passed")\n'
                "        else:\n            guard.error = outcome.error or",
            ),
        ),
        "broken guardrail",
        ("interrupt",),
        13,
    ),
    Fault(
        "the ends of cancelled guardrails are not told",
        (
            Edit(
                f"{GUARDS}._publish",
                "                run.publish(GuardrailEnded(",
                "                if not cancelled:\n                    run.publish(GuardrailEnded(",
            ),
        ),
        "guardrails",
        ("interrupt",),
        12,
    ),
    Fault(
        "guardrails have no shield of their own",
        (Edit(f"{GUARDS}.start", "shield=True", "shield=False"),),
        "guardrails",
        ("cancel",),
        7,
    ),
]
