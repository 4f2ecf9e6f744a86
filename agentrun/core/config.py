"""How a run is to be run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from agentrun.core.errors import UserError
from agentrun.core.limits import Limits
from agentrun.core.model import Model, ModelRequest, ModelSettings, is_model
from agentrun.core.plain import PlainValue

__all__ = ["RunConfig"]

_MAX_TURNS: Final = 10
_GUARDRAIL_TIMEOUT: Final = 30.0
_CLEANUP_GRACE: Final = 5.0
_MAX_PENDING: Final = 1000

_InputFilter: TypeAlias = Callable[[ModelRequest], ModelRequest | Awaitable[ModelRequest]]


@dataclass(frozen=True, init=False, kw_only=True, repr=False, eq=False)
class RunConfig(PlainValue):
    """Settings of one run. Plain data, checked when made; what is left ``None`` comes from the agent or is unbounded.

    A run of an agent that is a tool of another takes over most of those of the outer run (see `Agent.as_tool`).

    Attributes:
        model: Replaces every agent's model: a model object, or a string such as ``"openai:gpt-5.1-mini"``.
        model_settings: Win over the agent's.
        max_turns: Most model calls, or ``None`` for no bound.
        max_tokens: No further model call once so many tokens have been used.
        max_tool_calls: Most tool calls.
        max_seconds: The run fails with `TimeLimitExceeded` after so many seconds; everything is torn down first.
        max_parallel_tools: Most tools at work at once.
        tool_timeout: Seconds for each tool call that has no timeout of its own.
        guardrail_timeout: Seconds for each guardrail that has no timeout of its own; one that takes longer trips.
        cleanup_grace: Seconds that each piece of user code gets to clean up once it is cancelled.
        input_filter: Called with each `ModelRequest` before it is sent; returns the one to send. May be async.
        on_approval: What a tool call that needs approval does to the run: ``"wait"`` for ``approve``/``reject``, or
            ``"end"`` the run as interrupted with ``pending_approvals``, to be resumed from its snapshot. By default
            `open_run` waits, and `run` ends, since nobody holds a handle there.
        max_pending_injections: Most injected inputs that may wait at once.
    """

    model: Model | str | None = None
    model_settings: ModelSettings | None = None
    max_turns: int | None = _MAX_TURNS
    max_tokens: int | None = None
    max_tool_calls: int | None = None
    max_seconds: float | None = None
    max_parallel_tools: int | None = None
    tool_timeout: float | None = None
    guardrail_timeout: float = _GUARDRAIL_TIMEOUT
    cleanup_grace: float = _CLEANUP_GRACE
    input_filter: _InputFilter | None = None
    on_approval: Literal["wait", "end"] | None = None
    max_pending_injections: int = _MAX_PENDING

    def __init__(
        self,
        *,
        model: Model | str | None = None,
        model_settings: ModelSettings | None = None,
        max_turns: int | None = _MAX_TURNS,
        max_tokens: int | None = None,
        max_tool_calls: int | None = None,
        max_seconds: float | None = None,
        max_parallel_tools: int | None = None,
        tool_timeout: float | None = None,
        guardrail_timeout: float = _GUARDRAIL_TIMEOUT,
        cleanup_grace: float = _CLEANUP_GRACE,
        input_filter: _InputFilter | None = None,
        on_approval: Literal["wait", "end"] | None = None,
        max_pending_injections: int = _MAX_PENDING,
    ) -> None:
        # A config is made for each run by those who have a model for each. So only what differs from the defaults,
        # which the class has, is checked and kept; frozen dataclasses set all their fields, in four times the time.
        given = self.__dict__
        if model is not None:
            if not isinstance(model, str) and not is_model(model):
                raise UserError(
                    "RunConfig.model must be a string such as 'openai:gpt-5.1-mini', or a model object (with a "
                    f"stream() method), not {type(model).__name__}"
                )
            given["model"] = model
        if model_settings is not None:
            if not isinstance(cast("object", model_settings), ModelSettings):
                raise UserError(
                    f"RunConfig.model_settings must be a ModelSettings, not {type(model_settings).__name__}"
                )
            given["model_settings"] = model_settings
        if max_turns is not _MAX_TURNS:
            given["max_turns"] = _count_or_none("max_turns", max_turns)
        if max_tokens is not None:
            given["max_tokens"] = _count_or_none("max_tokens", max_tokens)
        if max_tool_calls is not None:
            given["max_tool_calls"] = _count_or_none("max_tool_calls", max_tool_calls)
        if max_seconds is not None:
            given["max_seconds"] = _seconds("max_seconds", max_seconds, least="more than 0")
        if max_parallel_tools is not None:
            given["max_parallel_tools"] = _count_or_none("max_parallel_tools", max_parallel_tools)
        if tool_timeout is not None:
            given["tool_timeout"] = _seconds("tool_timeout", tool_timeout, least="more than 0")
        if guardrail_timeout is not _GUARDRAIL_TIMEOUT:
            given["guardrail_timeout"] = _seconds("guardrail_timeout", guardrail_timeout, least="more than 0")
        if cleanup_grace is not _CLEANUP_GRACE:
            given["cleanup_grace"] = _seconds("cleanup_grace", cleanup_grace, least="0 or more")
        if input_filter is not None:
            if not callable(input_filter):
                raise UserError("RunConfig.input_filter must be a function that takes and returns a ModelRequest")
            given["input_filter"] = input_filter
        if on_approval is not None:
            if on_approval not in ("wait", "end"):
                raise UserError(f"RunConfig.on_approval must be 'wait', 'end' or None, not {on_approval!r}")
            given["on_approval"] = on_approval
        if max_pending_injections is not _MAX_PENDING:
            given["max_pending_injections"] = _count("max_pending_injections", max_pending_injections)

    @property
    def limits(self) -> Limits:
        """The bounds that the turn machine checks."""
        return Limits(self.max_turns, self.max_tokens, self.max_tool_calls)


def _count(name: str, value: Any, or_none: str = "") -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"RunConfig.{name} must be a whole number of at least 1{or_none}; got {value!r}")
    return value


def _count_or_none(name: str, value: Any) -> int | None:
    return None if value is None else _count(name, value, ", or None for no bound")


def _seconds(name: str, value: Any, *, least: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value >= 0 or (value == 0 and least == "more than 0"):
        raise UserError(f"RunConfig.{name} must be {least} (seconds); got {value!r}")
    return cast("float", value)
