"""One tool call: from its arguments to its output, cancelled, timed out, retried or rejected on the way."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import anyio

from agentrun.core.error_text import describe_error
from agentrun.core.errors import CallCancelled, ToolArgumentsError, ToolError
from agentrun.core.items import ToolCall, ToolOutput, ToolStatus
from agentrun.core.results import ScopeState
from agentrun.runtime.cancellations import only_cancellations, split_cancelled
from agentrun.runtime.cell import Cell
from agentrun.runtime.containment import Contained, Outcome, bounded, call
from agentrun.runtime.ctrl_c import uninterruptible
from agentrun.runtime.hooks import RunHooks
from agentrun.runtime.run import Run
from agentrun.runtime.services import ToolCallServices
from agentrun.runtime.steps import start_hook
from agentrun.runtime.threads import ThreadCall
from agentrun.tools.context import RunContext
from agentrun.tools.function import FunctionTool
from agentrun.tools.results import ToolOutputError, to_output

if TYPE_CHECKING:
    from agentrun.runtime.tool_batch import ToolBatch

__all__ = ["ToolRun", "current_tool_run"]

_T = TypeVar("_T")

Phase: TypeAlias = Literal["new", "checking", "waiting for approval", "queued", "running", "ended"]

current_tool_run: ContextVar[ToolRun | None] = ContextVar("agentrun_current_tool_run", default=None)
"""The tool call that the current code is part of: a run opened here is nested in it."""


class ToolRun(ToolCallServices):
    """A tool call on its way. The batch moves it from phase to phase; its task runs only the user's code."""

    __slots__ = (
        "_ctx",
        "_hook_started",
        "_hooks",
        "_tasks",
        "_thread",
        "_watch",
        "arguments",
        "asked",
        "batch",
        "created_at",
        "fatal",
        "nested",
        "output",
        "phase",
        "started",
        "told",
        "tool",
    )

    def __init__(self, run: Run, batch: ToolBatch, call: ToolCall, tool: FunctionTool | None) -> None:
        super().__init__(run, call)
        self.batch: ToolBatch = batch
        self.tool: FunctionTool | None = tool
        self.phase: Phase = "new"
        self.output: ToolOutput | None = None
        self.fatal: BaseException | None = None  # what this call makes the run fail with
        self.started: bool = False
        self.asked: bool = False  # for approval
        self.told: bool = False
        self.created_at: float = run.clock()
        self.arguments: Any = None
        self._ctx: RunContext[Any] | None = None
        self._hook_started = False
        self._tasks = 0  # of this call that are alive: its own and the hook's
        self._thread: ThreadCall[Any] | None = None
        self._watch: anyio.CancelScope | None = None  # of the task that waits for the time to be over
        self._hooks: tuple[RunHooks, ...] = ()  # those that were told of the start
        self.nested: tuple[Run, ...] = ()  # runs that this call has opened and that are alive

    @property
    def _timeout(self) -> float | None:
        tool = self.tool
        return tool.timeout if tool is not None and tool.timeout is not None else self.run.config.tool_timeout

    @property
    def result(self) -> ToolOutput:
        """The output; there is one once the call has ended."""
        assert self.output is not None
        return self.output

    @property
    def ended(self) -> bool:
        """Whether the output is there and all cleanup is done."""
        return self.phase == "ended"

    @property
    def ctx(self) -> RunContext[Any]:
        """The context of this call."""
        if self._ctx is None:
            self._ctx = self.run.context(self, self.call.call_id, self.call.name)
        return self._ctx

    # Phases, moved by the batch --------------------------------------------------------------------------------

    def prepare(self) -> Phase:
        """Check name and arguments, and return the phase that the call is in then. Synchronous."""
        tool = self.tool
        if tool is None:
            names = self.batch.tool_names
            return self.end("failed", f"Error: there is no tool named {self.call.name!r}. Available tools: {names}.")
        try:
            self.arguments = tool.bind(self.call.arguments)
        except ToolArgumentsError as exc:
            return self.end("failed", f"Error: {exc}")
        except BaseException as exc:  # noqa: BLE001 - a validator of the user's has let it out, here in the driver's task
            _, error = split_cancelled(exc, self.run.backend.cancelled)
            if error is not None and not isinstance(error, (Exception, CallCancelled)):
                self.fatal = error  # Ctrl-C and the like
            return self.end("failed", f"Error: the arguments could not be validated: {describe_error(exc)}")
        if tool.needs_approval is False:
            self.phase = "queued"
        elif tool.needs_approval is True:
            self.phase = "waiting for approval"
        else:
            self.phase = "checking"
        return self.phase

    def end(self, status: ToolStatus, output: Any) -> Phase:
        """Settle the call without, or after, running it."""
        if self.output is None:
            self.output = ToolOutput(self.call.call_id, output, status)
        if self._tasks == 0:
            self.phase = "ended"
        return self.phase

    def decide(self, approved: bool, message: str | None) -> bool:
        """Approve or reject. Returns whether the call was waiting for that."""
        if self.phase != "waiting for approval" or not self.asked or self.cancel_reason is not None:
            return False
        if approved:
            self.phase = "queued"
        else:
            self.end("rejected", message or "The call was rejected.")
        return True

    def request_cancel(self, reason: str) -> bool:
        """Cancel the call. Returns whether that was still possible. Synchronous; the first reason wins."""
        if self.phase == "ended" or self.cancel_reason is not None or self.output is not None:
            return False
        self.tell_cancelled(reason)
        if self._contained is not None:
            self._contained.cancel()
            if self.phase == "running":
                self._start_hook()
        return True

    def expire(self) -> None:
        """Let the time of the call be over at once, as its timeout would. Synchronous; nothing if it has none."""
        if self._contained is not None and self._timeout is not None:
            self._contained.cancel()

    def cancel_text(self) -> str:
        """What the model is told about a cancelled call."""
        if self.started:
            return f"Cancelled before it finished: {self.cancel_reason}."
        return f"Cancelled before it started: {self.cancel_reason}."

    # The task of the call --------------------------------------------------------------------------------------

    @uninterruptible
    async def check_approval(self) -> None:
        """Ask the tool whether this call needs approval. A task of the batch."""
        tool = self.tool
        assert tool is not None
        assert callable(tool.needs_approval)
        ask = tool.needs_approval

        contained = self._contained
        assert contained is not None
        outcome = self._noted(await contained.run(call(ask, self.ctx, self.arguments), unwind=self._unwind))
        self._tasks -= 1
        if self.cancel_reason is not None:
            if outcome.ending == "raised" and outcome.error is not None:
                # It broke in the moment of the cancellation: nobody else is told.
                self.run.reports.errors += (outcome.error,)
            self.end("cancelled", self.cancel_text())
        elif outcome.ending == "returned" and not outcome.swallowed:
            self.phase = "waiting for approval" if outcome.value else "queued"
        else:
            # Not knowing is not a permission.
            error = outcome.error or ToolError(f"the approval check of {self.what} did not finish")
            await self._failed(error, raised_by_tool=False)
        if self.output is not None:
            self.phase = "ended"
        self._contained = None
        self.batch.wake()

    @property
    def needs_one_task(self) -> bool:
        """Whether it needs no task besides the one that executes it, if any."""
        tool = self.tool
        return tool is None or (tool.is_async and not callable(tool.needs_approval) and not self._has_cancel_hook)

    @property
    def needs_no_wait(self) -> bool:
        """Whether it needs nothing but one task to execute it, and no answer to wait for."""
        return (self.tool is None or not self.tool.needs_approval) and self.needs_one_task

    def begin_in(self, cell: Cell) -> None:
        """Prepare for being executed by the task that is in ``cell``."""
        self._tasks += 1
        self._contained = Contained(self.run.config.cleanup_grace, cell, self._timeout, self._start_hook)

    def begin(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start ``task`` (`execute` or `check_approval`) as a task of the batch."""
        self._tasks += 1
        self._contained = Contained(
            self.run.config.cleanup_grace,
            timeout=self._timeout,
            shield=True,  # an outside cancellation reaches the call in order, through the driver; never directly
            on_delivered=self._start_hook if self.started else None,
        )
        self.batch.task_group.start_soon(task, name=f"agentrun {self.what}")
        if self.started and self._timeout is not None and self._has_cancel_hook:
            self._watch = anyio.CancelScope()
            watching = functools.partial(self._tell_when_time_is_up, self._contained, self._watch)
            self.batch.task_group.start_soon(watching, name=f"agentrun timeout of {self.what}")

    @property
    def _has_cancel_hook(self) -> bool:
        tool = self.tool
        return tool is not None and (tool.on_cancel is not None or tool.stop_hook is not None)

    @uninterruptible
    async def _tell_when_time_is_up(self, contained: Contained[Any], watch: anyio.CancelScope) -> None:
        """Call the hook then, wherever the tool is: it may be in a shield, and wait there for what the hook does."""
        with watch:
            while not (contained.cancel_called or contained.over):  # noqa: ASYNC110 - each attempt has a time of its own
                await anyio.sleep_until(contained.deadline)
            if not contained.over:
                self._start_hook()

    @uninterruptible
    async def execute(self) -> None:
        """Run the tool. Never raises."""
        token = current_tool_run.set(self)
        try:
            if self.cancel_reason is not None:
                self._cancelled(Outcome("cancelled"))  # cancelled before its first step: none of it has run
                return
            contained = self._contained
            assert contained is not None
            await self._settle(self._noted(await contained.run(self._attempts(), unwind=self._unwind)))
        except BaseException as exc:  # noqa: BLE001 - a native cancellation between two pieces of user code, or our own bug
            if not only_cancellations(exc):
                self.run.fail(exc)
            self.end("cancelled", "Cancelled before it finished: its task was cancelled.")
        finally:
            current_tool_run.reset(token)
            self._task_over()

    def _noted(self, outcome: Outcome[_T]) -> Outcome[_T]:
        """The outcome as it counts for a call, after the report has been told of it."""
        if self._thread is not None:
            outcome.swallowed = False  # a thread that was done before its grace was over has kept to the rules
        if isinstance(outcome.error, CallCancelled):
            outcome.error = None
            asked = self._contained is not None and self._contained.cancel_called
            outcome.ending = "cancelled" if asked else "foreign_cancellation"
        if outcome.notable:
            self.run.reports.note(outcome, self.what)
        return outcome

    async def _attempts(self) -> Any:
        tool, contained = self.tool, self._contained
        assert tool is not None
        assert contained is not None
        for hooks in self.run.hooks:
            self._hooks += (hooks,)
            await start_hook(self.run, contained, f"hook of {self.what}", hooks.on_tool_start, self.ctx, self.call)
            if contained.delivered:
                # The hook has kept it to itself, or its cleanup raised in its place: the tool must not begin.
                raise CallCancelled(self.cancel_reason or "the call timed out")
        attempts = tool.retries + 1
        while True:
            if self._timeout is not None:
                contained.set_deadline(self._timeout)
            attempts -= 1
            try:
                if tool.is_async:
                    return await tool.call(self.ctx if tool.takes_context else None, self.arguments)
                return await self._invoke_sync(tool)
            except ToolError:
                raise  # meant to end the run
            except Exception:
                # What a cancelled attempt raised came from its cleanup: it must not begin anew.
                if not attempts or contained.cancel_called:
                    raise

    async def _invoke_sync(self, tool: FunctionTool) -> Any:
        if tool.isolation == "process":
            return await self._invoke_process(tool)

        def in_thread() -> Any:
            self.check_cancelled()  # it may have been cancelled while the thread was being started
            return tool.call(self.ctx, self.arguments)

        self._thread = ThreadCall(in_thread, self._start_hook)
        try:
            return await self._thread.run(self.batch.task_group)
        finally:
            if self._thread.abandoned:
                left = f"{self.what} in thread {self._thread.thread_name!r}"
                self.run.reports.teardown.abandoned_threads.append(left)

    async def _invoke_process(self, tool: FunctionTool) -> Any:
        from agentrun.tools.processes import KilledGroup, run_in_process  # few tools need it

        def on_killed(report: KilledGroup) -> None:
            self.run.reports.teardown.killed_processes.append(f"{self.what}: {report}")

        args, kwargs = tool.call_arguments(self.arguments)
        # SIGTERM, this long, SIGKILL and reaping together must fit into the grace that the call has.
        grace = 0.8 * self.run.config.cleanup_grace
        return await run_in_process(tool.function, args, kwargs, grace=grace, on_killed=on_killed)

    async def _settle(self, outcome: Outcome[Any]) -> None:
        """Turn the outcome into the output."""
        if outcome.ending == "returned" and not outcome.swallowed:
            try:
                self.output = ToolOutput(self.call.call_id, to_output(outcome.value))
            except Exception as exc:  # noqa: BLE001 - not JSON-able, or a serializer of the user's own broke
                await self._failed(exc, raised_by_tool=False)
        elif outcome.ending in ("cancelled", "returned"):
            self._cancelled(outcome)
        elif outcome.ending == "native_cancellation":
            if self.cancel_reason is None:
                self.tell_cancelled("its task was cancelled")
            self._cancelled(outcome)
        elif outcome.ending == "foreign_cancellation":
            message = f"{self.what} let a cancellation out that agentrun did not ask for"
            error = ToolError(message, tool_name=self.call.name, call_id=self.call.call_id)
            await self._failed(error, raised_by_tool=False)
        else:
            assert outcome.error is not None
            await self._failed(outcome.error, raised_by_tool=True)
        for hooks in self._hooks:
            ended = await bounded(
                functools.partial(hooks.on_tool_end, self.ctx, self.call, self.result), self.run.config.cleanup_grace
            )
            self.run.reports.note_bounded(ended, f"hook of {self.what}")

    def _cancelled(self, outcome: Outcome[Any]) -> None:
        if self.cancel_reason is None:
            self.end("timed_out", f"Error: the tool did not finish within {self._timeout:g} seconds and was stopped.")
            return
        text = self.cancel_text()
        if outcome.swallowed and outcome.value is not None:
            # It went on after its cancellation, so what it did may have had effects: the model must know.
            with contextlib.suppress(Exception):  # not representable: the status says enough
                text += f" It returned nevertheless: {ToolOutput('', to_output(outcome.value)).text}"
        self.end("cancelled", text)

    async def _failed(self, error: BaseException, *, raised_by_tool: bool) -> None:
        """Apply the tool's error policy."""
        tool = self.tool
        assert tool is not None
        text = f"Error: {describe_error(error)}"
        # In a process of its own the tool raises the latter: what it returned did not come as far as here.
        meant = raised_by_tool and isinstance(error, ToolError) and not isinstance(error, ToolOutputError)
        if meant or not isinstance(error, Exception):
            self.fatal = error  # a tool that wants the run to fail, or KeyboardInterrupt and the like
        elif tool.on_error == "raise":
            self.fatal = error
        elif callable(tool.on_error):
            policy = tool.on_error
            # The call's own scope is over: its error handler gets the time that any cleanup gets.
            answered = await bounded(lambda: policy(self.ctx, error), self.run.config.cleanup_grace)
            try:
                if answered.ending != "returned":
                    raise answered.error or error
                self.end("failed", to_output(answered.value))
            except BaseException as exc:  # noqa: BLE001 - a handler that raises wants the run to fail
                self.fatal = exc
        self.end("failed", text)

    def lose_task(self) -> None:
        """The task that was to execute the call was cancelled natively before it could."""
        self.end("cancelled", "Cancelled before it finished: its task was cancelled.")
        self._task_over()

    def _task_over(self) -> None:
        self._tasks -= 1
        if self._watch is not None:
            self._watch.cancel()
        if self._tasks == 0 and self.output is not None:
            self.phase = "ended"
            self._contained = None
            self.batch.wake()

    def release(self) -> None:
        """The call has ended: let go of what refers back to it, so that it is freed without the garbage collector."""
        self._ctx = self._thread = self._watch = None

    # Cancellation hooks ----------------------------------------------------------------------------------------

    def _start_hook(self) -> None:
        """The call is being cancelled (or has timed out): tell the tool in its own way, once."""
        self._stopping = True
        if self._hook_started or not self._has_cancel_hook:
            return
        self._hook_started = True
        self._tasks += 1
        self.batch.task_group.start_soon(self._run_hook, name=f"agentrun hook of {self.what}")

    @uninterruptible
    async def _run_hook(self) -> None:
        tool = self.tool
        assert tool is not None
        try:
            for hook in (tool.stop_hook, _bind_hook(tool.on_cancel, self.ctx)):
                if hook is None:
                    continue
                outcome = await bounded(hook, self.run.config.cleanup_grace)
                self.run.reports.note_bounded(outcome, f"cancel hook of {self.what}")
        finally:
            self._task_over()

    # What it looks like ----------------------------------------------------------------------------------------

    def state(self, now: float) -> ScopeState:
        """For ``ActiveRun.state()``."""
        status: str = self.phase
        if self.cancel_reason is not None:
            status = "cancelling"
        elif status == "waiting for approval" and not self.asked:
            status = "checking"  # it waits from the moment in which watchers are told so
        nested = tuple(child.state().scope for child in self.nested)
        return ScopeState("tool", self.call.name, self.call.call_id, status, now - self.created_at, nested)


def _bind_hook(hook: Callable[..., object] | None, ctx: RunContext[Any]) -> Callable[[], object] | None:
    """The user's ``on_cancel``, called with the context if it takes a parameter."""
    if hook is None:
        return None
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):
        return hook
    takes_one = any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
    return functools.partial(hook, ctx) if takes_one else hook
