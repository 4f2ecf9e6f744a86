"""What is kept of a run besides its ending: the teardown report, and errors that decided nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentrun.core.error_text import describe_error
from agentrun.core.errors import AgentRunError
from agentrun.core.results import TeardownReport
from agentrun.runtime.containment import Outcome

if TYPE_CHECKING:
    from agentrun.runtime.run import Run

__all__ = ["Reports", "foreign_cancellation"]


class Reports:
    """The reports of one run.

    Attributes:
        errors: The other errors in its result.
        exit_request: A Ctrl-C or ``sys.exit()`` that is no failure of the run, and goes on after it.
        left_open: User code has left scopes of its own open, which says this.
    """

    __slots__ = ("_run", "_teardown", "errors", "exit_request", "left_open")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._teardown: TeardownReport | None = None
        self.errors: tuple[BaseException, ...] = ()
        self.exit_request: BaseException | None = None
        self.left_open: AgentRunError | None = None

    @property
    def teardown(self) -> TeardownReport:
        """The report in the result. Made when it is first needed, which for most runs is their end."""
        if self._teardown is None:
            self._teardown = TeardownReport()
        return self._teardown

    def release(self) -> None:
        """The run has ended: let go of it, so that it is freed without the garbage collector."""
        del self._run

    def note(self, outcome: Outcome[Any], what: str) -> None:
        """Keep what the teardown report has to say about a piece of user code."""
        if outcome.left_open:
            self._note_left_open(what)
        if outcome.grace_expired:
            self.teardown.expired_graces.append(what)
        if outcome.swallowed:
            self.teardown.swallowed_cancellations.append(what)
        if outcome.error is not None and outcome.ending != "raised":
            self.cleanup_error(outcome.error, what)

    def note_bounded(self, outcome: Outcome[Any], what: str) -> None:
        """The same for cleanup code that ran under `bounded`."""
        if outcome.left_open:
            self._note_left_open(what)
        if outcome.error is not None:
            self.cleanup_error(outcome.error, what)
        if outcome.ending == "cancelled":
            self.teardown.expired_graces.append(what)
        elif outcome.ending == "foreign_cancellation":
            self.cleanup_error(foreign_cancellation(what), what)

    def note_nested(self, teardown: TeardownReport, where: str) -> None:
        """Keep what was left over of a run that was nested in this one: few look at the results of those."""
        if teardown.clean:
            return
        own = self.teardown
        for into, entries in (
            (own.swallowed_cancellations, teardown.swallowed_cancellations),
            (own.abandoned_threads, teardown.abandoned_threads),
            (own.killed_processes, teardown.killed_processes),
            (own.expired_graces, teardown.expired_graces),
            (own.cleanup_errors, teardown.cleanup_errors),
        ):
            into.extend(f"{entry}, in {where}" for entry in entries)

    def _note_left_open(self, what: str) -> None:
        if self.left_open is None:
            # The task that it ran in cannot leave its own scopes any more, and breaks the run's group at its end.
            self.left_open = AgentRunError(
                f"{what} has entered a cancel scope or a task group (a client may have one inside) and left it open. "
                "Leave it in the same call, or enter it with `await ctx.enter_async_context(...)`; what shall live "
                "longer is opened around the run"
            )
            self._run.fail(self.left_open)

    def cleanup_error(self, error: BaseException, what: str) -> None:
        """Keep an error of a piece of user code that did not decide the ending."""
        self.teardown.cleanup_errors.append(f"{what}: {describe_error(error)}")
        self.error(error)

    def error(self, error: BaseException) -> None:
        """Keep an error that did not decide the ending, and heed it: Ctrl-C and ``sys.exit()`` go on, wherever they
        came up, in somebody's cleanup, too."""
        self.errors += (error,)
        if isinstance(error, (KeyboardInterrupt, SystemExit)) and self.exit_request is None:
            self.exit_request = error
            self._run.cancel()


def foreign_cancellation(what: str) -> AgentRunError:
    """The error for a cancellation that user code let out though nobody asked for one."""
    return AgentRunError(f"{what} let a cancellation out that agentrun did not ask for")
