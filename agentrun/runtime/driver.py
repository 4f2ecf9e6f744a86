"""The driver: the one task that moves a run forward.

It asks the turn machine what comes next, does it, and asks again. It lives in a shielded cell, so whatever ends
the run reaches it in order: the model stream first, then the tools, then sessions and hooks, then the terminal event.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import anyio

from agentrun.core.error_text import describe_error
from agentrun.core.errors import AgentRunError, ModelBehaviorError, TimeLimitExceeded
from agentrun.core.events import AgentChanged, RunEnded
from agentrun.core.item_json import parse_items
from agentrun.core.items import AssistantMessage, Item
from agentrun.core.results import RunResult
from agentrun.core.transcript import Transcript
from agentrun.core.turns import CallModel, CheckOutput, RunTools
from agentrun.runtime.cancellations import only_cancellations
from agentrun.runtime.containment import bounded, call
from agentrun.runtime.ctrl_c import uninterruptible
from agentrun.runtime.guardrails import OutputGuardrail
from agentrun.runtime.model_call import call_model
from agentrun.runtime.reports import foreign_cancellation
from agentrun.runtime.run import Run
from agentrun.runtime.services import NoCallServices
from agentrun.runtime.tool_batch import ToolBatch

__all__ = ["drive", "end_undriven"]


@uninterruptible
async def drive(run: Run, first_input: tuple[Item, ...]) -> None:
    """The task of the driver. Never raises; the ending is in ``run.result`` then."""
    run.driving = True
    run.steps.cell.enter()
    try:
        if run.config.max_seconds is not None:
            run.start_timer(run.config.max_seconds, functools.partial(_time_is_up, run))
        await _main(run, first_input)
    except BaseException as exc:  # noqa: BLE001 - a native cancellation of this very task, Ctrl-C, or our own bug
        if only_cancellations(exc):
            run.cancel()
        else:
            run.fail(exc)
    try:
        if run.reports.left_open is None:
            await _wind_up(run)
        else:  # perhaps in this very task, and what was left open there has been cancelled
            with anyio.CancelScope(shield=True):
                await _wind_up(run)
    except BaseException as exc:  # noqa: BLE001 - as above; the ending is told whatever happens
        if not only_cancellations(exc):
            run.fail(exc)
    # Synchronous from here on, so that nothing can come between the ending and its being told.
    run.steps.cell.leave()
    if run.task_pool is not None:
        run.task_pool.close()
    _tell_ending(run)


@uninterruptible
def end_undriven(run: Run) -> None:
    """End a run whose driver was cancelled natively before its first step, and so will never take one."""
    run.cancel()
    _tell_ending(run)


async def _main(run: Run, first_input: tuple[Item, ...]) -> None:
    machine = run.machine
    if run.hooks:
        await _start_hooks(run)
    if run.session is not None and not machine.ending:
        await _load_session(run)
    while True:
        action = machine.next_action()
        if type(action) is CallModel:
            await call_model(run, first_input)
            if machine.turn:
                first_input = ()
        elif type(action) is RunTools:
            if run.guards.unsettled:
                await _wait_for_guardrails(run)
            run.phase = "tools"
            await ToolBatch(run, action.calls).run()
            if run.next_agent is not None:
                _hand_over(run)
        elif type(action) is CheckOutput:
            await _check_output(run, action.message)
        elif run.session is not None and run.saved < len(machine.transcript) and not run.session_failed:
            await _save_session(run)
            continue  # something may have come in meanwhile, and saving may have failed
        else:
            run.phase = "ending"
            machine.finish()
            return
        if run.session is not None and run.saved < len(machine.transcript) and not run.session_failed:
            await _save_session(run)


def _hand_over(run: Run) -> None:
    """The calls of the turn have ended: let the agent take over that one of them has handed over to."""
    assert run.next_agent is not None
    previous, run.agent, run.next_agent = run.agent, run.next_agent, None
    if run.pending_approvals:
        run.asked_by = previous.name  # whose tools they are; those of the agent that takes over are others
    run.publish(AgentChanged(previous.name, run.agent.name))


async def _wait_for_guardrails(run: Run) -> None:
    run.phase = "guardrails"
    await run.guards.settle(until_stopped=True)


async def _check_output(run: Run, message: AssistantMessage) -> None:
    """Parse the final answer and show it to the output guardrails."""
    machine, agent = run.machine, run.agent
    if run.guards.unsettled:
        await _wait_for_guardrails(run)
        if machine.ending:
            return
    try:
        output = _parse_output(agent, message)
    except BaseException as exc:  # noqa: BLE001 - validators of the user's may raise anything
        run.fail(foreign_cancellation(f"the output_type of agent {agent.name!r}") if only_cancellations(exc) else exc)
        return
    if agent.output_guardrails:
        run.phase = "guardrails"
        run.guards.start(cast("Sequence[OutputGuardrail]", agent.output_guardrails), "output", output)
        await run.guards.settle()
        if machine.ending or machine.inbox.wants_now:
            return  # no longer the last word
    run.output = output
    machine.accept_output()


def _parse_output(agent: Any, message: AssistantMessage) -> Any:
    if agent.output_schema is None:
        return message.text
    if message.refusal is not None:
        raise ModelBehaviorError(f"the model refused to give the output of agent {agent.name!r}: {message.refusal}")
    try:
        return agent.parse_output(message.text)
    except ValueError as exc:
        raise ModelBehaviorError(
            f"the model's answer does not match the output_type of agent {agent.name!r}: {exc}"
        ) from exc


# Sessions and hooks ------------------------------------------------------------------------------------------------


async def _load_session(run: Run) -> None:
    session = run.session
    assert session is not None
    outcome = await run.steps.take("session", "load", call(session.load))
    if outcome.error is not None or outcome.ending == "foreign_cancellation":
        run.session_failed = True
        run.fail(outcome.error or foreign_cancellation("the session"))
        return
    if outcome.value is None:
        return
    machine = run.machine
    try:
        stored_items = parse_items(outcome.value, what="session")  # a store may well keep plain dicts
        earlier = Transcript(stored_items, what="session")
        stored = len(earlier)
        earlier.append_input(machine.transcript.view())
    except Exception as exc:  # noqa: BLE001 - what a session gives is input like any other
        run.session_failed = True
        run.fail(exc)
        return
    run.saved = stored
    earlier.begin_new_items()
    machine.transcript = earlier


async def _save_session(run: Run) -> None:
    session = run.session
    assert session is not None
    transcript = run.machine.transcript
    upto = len(transcript)
    outcome = await run.steps.take("session", "append", call(session.append, transcript.since(run.saved)), finish=True)
    if outcome.ending == "returned":
        run.saved = upto
        return
    run.session_failed = True
    if outcome.ending == "cancelled" and not outcome.grace_expired:
        # It was given the grace to finish in, and cut at its end.
        run.reports.teardown.expired_graces.append("session append")
    if outcome.ending == "foreign_cancellation":
        run.fail(foreign_cancellation("the session"))
    else:
        run.fail(outcome.error or TimeoutError("the session did not store the history within the cleanup grace"))


async def _start_hooks(run: Run) -> None:
    for hooks in run.hooks:
        if run.machine.ending:
            return  # those that are not told of the start are not told of the end
        run.started_hooks += (hooks,)
        started = call(hooks.on_run_start, run.context(NoCallServices(run)))
        outcome = await run.steps.take("hook", "on_run_start", started)
        if outcome.ending == "raised":
            assert outcome.error is not None
            run.reports.cleanup_error(outcome.error, "hook on_run_start")
        elif outcome.ending == "foreign_cancellation":
            run.reports.cleanup_error(foreign_cancellation("hook on_run_start"), "hook on_run_start")


# The end -----------------------------------------------------------------------------------------------------------


def _time_is_up(run: Run) -> None:
    limit = run.config.max_seconds
    assert limit is not None
    used = run.clock() - run.started_at
    run.fail(TimeLimitExceeded(f"the run took longer than max_seconds={limit:g}", limit=limit, used=used))


async def _wind_up(run: Run) -> None:
    """Wait for what is still alive, and tell the hooks."""
    if run.guards.unsettled:
        run.guards.cancel()
        await run.guards.bury()
        await run.guards.settle()
    _break_off(run)
    for scope in run.timers:
        scope.cancel()
    if run.started_hooks:
        result = _result(run)
        for hooks in run.started_hooks:
            ctx = run.context(NoCallServices(run))
            ended = await bounded(functools.partial(hooks.on_run_end, ctx, result), run.config.cleanup_grace)
            run.reports.note_bounded(ended, "hook on_run_end")


def _break_off(run: Run) -> None:
    """If the driver was broken off in the middle, bring the history to a valid end all the same."""
    if run.machine.status is None:
        run.machine.break_off(f"Cancelled before it finished: {run.stop_reason}.")
        if run.next_agent is not None:
            _hand_over(run)  # the history says so


def _result(run: Run) -> RunResult[Any]:
    machine = run.machine
    status = machine.status
    assert status is not None
    return RunResult(
        run.id,
        status,
        run.output if status == "completed" else None,
        machine.transcript.new_items(),
        machine.transcript.since(0),
        run.agent.name,
        machine.usage.copy(),
        machine.turn,
        machine.interrupts.current,
        run.undelivered(),
        run.pending_approvals,
        run.guardrail_results,
        machine.failure,
        run.reports.errors,
        run.reports.teardown,
        run.asked_by,
    )


def _attach(error: BaseException, result: RunResult[Any]) -> None:
    if isinstance(error, AgentRunError):
        error.result = result
    elif isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            _attach(inner, result)


def _tell_ending(run: Run) -> None:
    """Make the result, refuse further input, and tell the ending: one step, and total."""
    machine = run.machine
    _break_off(run)
    for scope in run.timers:
        scope.cancel()
    if run.teardown_started_at is not None:
        run.reports.teardown.seconds = run.clock() - run.teardown_started_at
    result = _result(run)
    machine.inbox.close()
    run.result = result
    failure = machine.failure
    if failure is not None:
        _attach(failure, result)
    reason: str | None = None
    if result.status == "failed" and failure is not None:
        reason = describe_error(failure)
    elif result.status == "interrupted" and result.interrupt is not None:
        reason = result.interrupt.reason
    elif result.status == "cancelled":
        reason = "cancelled from outside"
    run.hub.end(RunEnded(result.status, reason))
    run.tell_done()
