"""Every error a user of agentrun can meet.

All of them derive from `AgentRunError`, so one ``except`` clause can catch what the library raises, and each
carries the partial result of the run it ended as ``.result``. Errors of user code (a tool with
``on_error="raise"``, a guardrail that breaks) are *not* wrapped: they surface as themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrun.core.results import RunResult

__all__ = [
    "AgentRunError",
    "CallCancelled",
    "InboxFull",
    "InputGuardrailTripped",
    "LimitExceeded",
    "MaxTurnsExceeded",
    "ModelBehaviorError",
    "ModelError",
    "OutputGuardrailTripped",
    "RunEnded",
    "TimeLimitExceeded",
    "TokenLimitExceeded",
    "ToolArgumentsError",
    "ToolCallLimitExceeded",
    "ToolError",
    "UserError",
]


class AgentRunError(Exception):
    """Base of all errors that agentrun raises.

    Attributes:
        result: What the run had achieved when the error ended it (status ``"failed"``), or ``None`` when the
            error was raised outside a run or before the run began.
    """

    result: RunResult[Any] | None = None


class UserError(AgentRunError):
    """agentrun was used in a way that cannot work; the message says what to do instead."""


class ModelError(AgentRunError):
    """The model provider could not be reached, refused the request, or broke off its answer.

    Attributes:
        status: The HTTP status code, or ``None`` when no HTTP answer was received.
        request_id: The provider's id for the request, when it sent one; quote it to the provider's support.
        retryable: Whether the same request may succeed later. agentrun itself retries such errors only while
            nothing of the answer has been handed out.
        retry_after: Seconds the provider asked to wait, when it did.
        code: The provider's own error code or type, when it sent one.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id
        self.retryable = retryable
        self.retry_after = retry_after
        self.code = code


class ModelBehaviorError(AgentRunError):
    """The model answered, but with something a run cannot go on from.

    Examples: output that does not match the agent's ``output_type``, or an object in its stream that is no model event.
    """


class ToolError(AgentRunError):
    """A tool failed in a way that must end the run.

    A tool may raise it itself to fail the run whatever its ``on_error`` policy says.

    Attributes:
        tool_name: Name of the tool, when known.
        call_id: Id of the call, when known.
    """

    def __init__(self, message: str, *, tool_name: str | None = None, call_id: str | None = None) -> None:
        super().__init__(message)
        self.tool_name = tool_name
        self.call_id = call_id


class ToolArgumentsError(AgentRunError):
    """The model's arguments for a tool did not validate. The message is written for the model to act on.

    It never reaches the caller of a run: the runtime turns it into a failed `ToolOutput`.
    """


class _GuardrailTripped(AgentRunError):
    def __init__(self, message: str, *, guardrail: str, data: Any = None) -> None:
        super().__init__(message)
        self.guardrail = guardrail
        self.data = data


class InputGuardrailTripped(_GuardrailTripped):
    """An input guardrail refused the input, or did not answer within its time (guardrails never fail open).

    Attributes:
        guardrail: Name of the guardrail.
        data: What the guardrail attached to its trip, or ``None``.
    """


class OutputGuardrailTripped(_GuardrailTripped):
    """An output guardrail refused the final output, or did not answer within its time.

    Attributes:
        guardrail: Name of the guardrail.
        data: What the guardrail attached to its trip, or ``None``.
    """


class LimitExceeded(AgentRunError):
    """A limit of the run's configuration was reached.

    Attributes:
        limit: The configured value.
        used: How much had been used.
    """

    def __init__(self, message: str, *, limit: float, used: float) -> None:
        super().__init__(message)
        self.limit = limit
        self.used = used


class MaxTurnsExceeded(LimitExceeded):
    """The run wanted one more model call than ``RunConfig.max_turns`` allows."""


class TokenLimitExceeded(LimitExceeded):
    """The run used more tokens than ``RunConfig.max_tokens`` allows."""


class ToolCallLimitExceeded(LimitExceeded):
    """The model asked for more tool calls than ``RunConfig.max_tool_calls`` allows."""


class TimeLimitExceeded(LimitExceeded):
    """The run took longer than ``RunConfig.max_seconds``."""


class RunEnded(AgentRunError):
    """Something was asked of a run that has already ended, such as an injection."""


class InboxFull(AgentRunError):
    """More injected inputs are waiting than ``RunConfig.max_pending_injections`` allows."""


class CallCancelled(BaseException):
    """Raised by ``ctx.check_cancelled()`` inside a tool whose call was cancelled.

    It derives from `BaseException`, as cancellation does everywhere in Python, so that ``except Exception`` in a
    tool does not swallow it.
    """
