"""What the tools of a program do: their steps, played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import sniffio

from agentrun.core.errors import CallCancelled, RunEnded, ToolError, UserError
from agentrun.runtime.cancellations import native_cancellations
from agentrun.testing.programs.ledger import Code
from agentrun.testing.programs.plans import ToolPlan
from agentrun.testing.programs.steps import (
    Critical,
    Enter,
    Group,
    Native,
    OnCleanup,
    Progress,
    Raise,
    Request,
    Shielded,
    Sleep,
    Step,
    Swallow,
    Timeout,
    UntilInterrupted,
)
from agentrun.tools.context import RunContext

__all__ = ["play_body", "registered"]

_FOR_EVER: Final = float("inf")


async def play_body(
    plan: ToolPlan, code: Code, ctx: RunContext[Any], attempt: int, act: Callable[[str], object]
) -> str:
    """One attempt of a tool.

    Args:
        plan: The tool.
        code: This call.
        ctx: Its context.
        attempt: From 1.
        act: Does something to the run.
    """
    raised: BaseException | None = None
    with code.piece("body"):
        try:
            for step in plan.body:
                await _PLAYERS[type(step)](step, code, ctx, attempt, act)
        except BaseException as exc:
            raised = exc
            code.note(exc)
            raise
        finally:
            try:
                # What a foreign cancellation has begun is cut by one of the runtime's own, as any ordinary cleanup.
                foreign = any(isinstance(step, Raise) and step.what == "cancellation" for step in plan.body)
                await code.clean_up(plan.cleanup, raised, may_be_cut=foreign)
            finally:
                del raised  # its traceback holds this frame
    return f"{plan.name} is done"


async def _sleep(step: Sleep, code: Code, *_: Any) -> None:
    await code.pause(step.seconds)


async def _shielded(step: Shielded, code: Code, *_: Any) -> None:
    with code.piece("shielded", planned=step.seconds), anyio.CancelScope(shield=True):
        await anyio.sleep(step.seconds / 2)
        await anyio.sleep(step.seconds / 2)


async def _critical(step: Critical, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    async with ctx.critical(step.most):
        with code.piece("critical", planned=min(step.seconds, step.most), may_be_cut=step.seconds >= step.most):
            await anyio.sleep(step.seconds)


async def _swallow(step: Swallow, code: Code, *_: Any) -> None:
    try:
        await code.pause(step.seconds)
    except anyio.get_cancelled_exc_class():
        pass


async def _raise(step: Raise, code: Code, ctx: RunContext[Any], attempt: int, act: Any) -> None:
    if step.times and attempt > step.times:
        return
    if step.what == "fatal":
        error = ToolError(f"fatal error of {code.name} {code.call_id}")
        code.raising(error, "body")
        raise error
    if step.what == "cancellation":
        if sniffio.current_async_library() == "asyncio":
            raise asyncio.CancelledError("a foreign one")
        return
    raise code.broken("body")


async def _group(step: Group, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    async def task(last: bool) -> None:
        raised: BaseException | None = None
        try:
            await code.pause(step.seconds)
            if last and step.fails:
                raise code.broken("task", handled=True)
        except BaseException as exc:
            raised = exc
            raise
        finally:
            try:
                await code.clean_up(step.cleanup, raised, may_be_cut=True)
            finally:
                del raised

    try:
        async with anyio.create_task_group() as group:
            for index in range(step.tasks):
                group.start_soon(task, index == step.tasks - 1)
    except ExceptionGroup:
        if _is_cancelled(ctx):
            code.cut()  # asyncio's group has got the cancellation, and raises its tasks' errors instead
        raise


async def _native(step: Native, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    if sniffio.current_async_library() != "asyncio":
        await code.pause(step.seconds)
        return
    try:
        await _NATIVE[step.how](step.seconds)
    except asyncio.CancelledError:
        code.cut()
        raise
    if step.may_swallow and _is_cancelled(ctx):
        code.cut()  # and goes on: whoever awaits it does not know


def _is_cancelled(ctx: RunContext[Any]) -> bool:
    try:
        ctx.check_cancelled()
    except CallCancelled:
        return True
    return False


async def _gather(seconds: float) -> None:
    await asyncio.gather(asyncio.sleep(seconds), asyncio.sleep(seconds / 2))


async def _wait_for(seconds: float) -> None:
    await asyncio.wait_for(asyncio.sleep(seconds), seconds + 1)


async def _timeout(seconds: float) -> None:
    async with asyncio.timeout(seconds + 1):
        await asyncio.sleep(seconds)


async def _task_group(seconds: float) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(seconds))
        group.create_task(asyncio.sleep(seconds / 2))


async def _shield(seconds: float) -> None:
    inner = asyncio.ensure_future(asyncio.sleep(seconds))
    try:
        await asyncio.shield(inner)
    finally:
        inner.cancel()
        await asyncio.wait([inner])


_NATIVE: Final[dict[str, Callable[[float], Awaitable[None]]]] = {
    "gather": _gather,
    "wait_for": _wait_for,
    "timeout": _timeout,
    "TaskGroup": _task_group,
    "shield": _shield,
}


async def _own_timeout(step: Timeout, code: Code, *_: Any) -> None:
    before = code.cut_at
    with anyio.move_on_after(step.seconds) as scope:
        await code.pause(step.longer)
    if scope.cancelled_caught:
        code.uncut(before)


def registered(step: OnCleanup, code: Code) -> Callable[[], Awaitable[None]]:
    """What a tool gives to ``ctx.on_cleanup``; it runs in the event loop, wherever the tool does."""

    async def callback() -> None:
        with code.piece("registered", planned=step.seconds):
            await anyio.sleep(step.seconds / 2)
            await anyio.sleep(step.seconds / 2)
            if step.raises:
                raise code.broken("registered cleanup")

    return callback


async def _on_cleanup(step: OnCleanup, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    with code.piece("registering"):
        ctx.on_cleanup(registered(step, code))


async def _enter(step: Enter, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    await ctx.enter_async_context(_resource(step, code))


@asynccontextmanager
async def _resource(step: Enter, code: Code) -> AsyncGenerator[None]:
    with code.piece("entering", planned=step.entering):
        await code.pause(step.entering)
    try:
        yield
    finally:
        with code.piece("leaving", planned=step.leaving):
            await anyio.sleep(step.leaving / 2)
            await anyio.sleep(step.leaving / 2)
            if step.raises:
                raise code.broken("leaving")


async def _progress(step: Progress, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    for number in range(step.count):
        ctx.progress(number)


async def _until_interrupted(step: UntilInterrupted, code: Code, ctx: RunContext[Any], *_: Any) -> None:
    before, native_before = code.cut_at, native_cancellations()
    with anyio.move_on_after(step.most) as scope:
        try:
            await ctx.wait_interrupted()
        except anyio.get_cancelled_exc_class():
            code.cut()
            raise
    if scope.cancelled_caught and native_cancellations() == native_before:
        code.uncut(before)


async def _request(step: Request, code: Code, ctx: RunContext[Any], attempt: int, act: Callable[[str], object]) -> None:
    try:
        act(step.action)
    except (RunEnded, UserError):
        pass


_PLAYERS: Final[dict[type[Step], Callable[..., Awaitable[None]]]] = {
    Sleep: _sleep,
    Shielded: _shielded,
    Critical: _critical,
    Swallow: _swallow,
    Raise: _raise,
    Group: _group,
    Native: _native,
    Timeout: _own_timeout,
    OnCleanup: _on_cleanup,
    Enter: _enter,
    Progress: _progress,
    UntilInterrupted: _until_interrupted,
    Request: _request,
}
