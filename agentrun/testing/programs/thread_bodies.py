"""What the sync tools and guardrails of a program do, each in a thread: their steps, played."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import anyio
import anyio.from_thread

from agentrun.core.errors import CallCancelled, RunEnded, ToolError, UserError
from agentrun.testing.programs.bodies import registered
from agentrun.testing.programs.ledger import Code
from agentrun.testing.programs.plans import GuardPlan, ToolPlan
from agentrun.testing.programs.steps import Cleanup, Look, LoopCall, OnCleanup, Progress, Raise, Request, Sleep
from agentrun.tools.context import RunContext

__all__ = ["play_guard_in_thread", "play_in_thread"]


def play_in_thread(plan: ToolPlan, code: Code, ctx: RunContext[Any], attempt: int, act: Callable[[str], object]) -> str:
    """One attempt of a sync tool; see `play_body`."""
    with _cleaning_up(plan.cleanup, code, "body"):
        for step in plan.body:
            _PLAYERS[type(step)](step, code, ctx, attempt, act)
    return f"{plan.name} is done"


def play_guard_in_thread(plan: GuardPlan, code: Code) -> None:
    """What a sync guardrail does before it answers."""
    with _cleaning_up(plan.cleanup, code, "guardrail"):
        time.sleep(plan.seconds)
        if plan.verdict == "raise":
            raise code.broken("guardrail")


@contextmanager
def _cleaning_up(plan: Cleanup | None, code: Code, kind: Any) -> Generator[None]:
    """``try: ... finally: ...``, where nothing can cut the ``finally``."""
    code.thread = threading.current_thread().name
    raised: BaseException | None = None
    with code.piece(kind):
        try:
            yield
        except BaseException as exc:
            raised = exc
            raise
        finally:
            try:
                if plan is not None:
                    code.clean_up_in_thread(plan, raised)
            finally:
                del raised  # its traceback holds this frame


class _Player(Protocol):
    def __call__(
        self, step: Any, code: Code, ctx: RunContext[Any], attempt: int, act: Callable[[str], object], /
    ) -> None: ...


def _sleep(step: Sleep, *_: Any) -> None:
    time.sleep(step.seconds)


def _look(step: Look, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    with code.piece("looking", planned=step.each):
        try:
            for _turn in range(step.times):
                ctx.check_cancelled()
                time.sleep(step.each)
            ctx.check_cancelled()
        except CallCancelled:
            code.cut()
            raise


def _raise(step: Raise, code: Code, ctx: RunContext[Any], attempt: int, act: Any) -> None:
    if step.times and attempt > step.times:
        return
    if step.what == "fatal":
        error = ToolError(f"fatal error of {code.name} {code.call_id}")
        code.raising(error, "body")
        raise error
    raise code.broken("body")


def _on_cleanup(step: OnCleanup, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    callback = registered(step, code.in_loop())
    with code.piece("registering"):
        ctx.on_cleanup(callback)


def _progress(step: Progress, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    for number in range(step.count):
        ctx.progress(number)


def _loop_call(step: LoopCall, *_: Any) -> None:
    anyio.from_thread.run(anyio.sleep, step.seconds)


def _request(step: Request, code: Code, ctx: RunContext[Any], attempt: int, act: Callable[[str], object]) -> None:
    try:
        anyio.from_thread.run_sync(act, step.action)
    except (RunEnded, UserError):
        pass


_PLAYERS: Final[dict[type[Any], _Player]] = {
    Sleep: _sleep,
    Look: _look,
    Raise: _raise,
    OnCleanup: _on_cleanup,
    Progress: _progress,
    LoopCall: _loop_call,
    Request: _request,
}
