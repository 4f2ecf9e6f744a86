"""How a run is to be run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from agentrun.core.errors import UserError
from agentrun.core.limits import Limits
from agentrun.core.model import Model, ModelRequest, ModelSettings, is_model
from agentrun.core.plain import PlainValue

__all__ = ["RunConfig"]

_GUARDRAIL_TIMEOUT: Final = 30.0
_CLEANUP_GRACE: Final = 5.0
_MAX_PENDING: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
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
    max_turns: int | None = 10
    max_tokens: int | None = None
    max_tool_calls: int | None = None
    max_seconds: float | None = None
    max_parallel_tools: int | None = None
    tool_timeout: float | None = None
    guardrail_timeout: float = _GUARDRAIL_TIMEOUT
    cleanup_grace: float = _CLEANUP_GRACE
    input_filter: Callable[[ModelRequest], ModelRequest | Awaitable[ModelRequest]] | None = None
    on_approval: Literal["wait", "end"] | None = None
    max_pending_injections: int = _MAX_PENDING

    def __post_init__(self) -> None:
        # One by one, not in a loop over their names, and what was left as it is needs no check: it is done for each run
        # of those who make a config for each.
        if self.max_turns is not None:
            _check_count("max_turns", self.max_turns, none_ok=True)
        if self.max_tokens is not None:
            _check_count("max_tokens", self.max_tokens, none_ok=True)
        if self.max_tool_calls is not None:
            _check_count("max_tool_calls", self.max_tool_calls, none_ok=True)
        if self.max_parallel_tools is not None:
            _check_count("max_parallel_tools", self.max_parallel_tools, none_ok=True)
        if self.max_pending_injections is not _MAX_PENDING:
            _check_count("max_pending_injections", self.max_pending_injections, none_ok=False)
        if self.max_seconds is not None:
            _check_seconds("max_seconds", self.max_seconds, least="more than 0")
        if self.tool_timeout is not None:
            _check_seconds("tool_timeout", self.tool_timeout, least="more than 0")
        if self.guardrail_timeout is not _GUARDRAIL_TIMEOUT:
            _check_seconds("guardrail_timeout", self.guardrail_timeout, least="more than 0")
        if self.cleanup_grace is not _CLEANUP_GRACE:
            _check_seconds("cleanup_grace", self.cleanup_grace, least="0 or more")
        if self.model is not None and not isinstance(self.model, str) and not is_model(self.model):
            raise UserError(
                "RunConfig.model must be a string such as 'openai:gpt-5.1-mini', or a model object (with a stream() "
                f"method), not {type(self.model).__name__}"
            )
        if self.on_approval not in (None, "wait", "end"):
            raise UserError(f"RunConfig.on_approval must be 'wait', 'end' or None, not {self.on_approval!r}")
        if self.model_settings is not None and not isinstance(cast("object", self.model_settings), ModelSettings):
            raise UserError(
                f"RunConfig.model_settings must be a ModelSettings, not {type(self.model_settings).__name__}"
            )
        if self.input_filter is not None and not callable(self.input_filter):
            raise UserError("RunConfig.input_filter must be a function that takes and returns a ModelRequest")

    @property
    def limits(self) -> Limits:
        """The bounds that the turn machine checks."""
        return Limits(self.max_turns, self.max_tokens, self.max_tool_calls)


def _check_count(name: str, value: Any, *, none_ok: bool) -> None:
    valid = isinstance(value, int) and not isinstance(value, bool)
    if not valid or value < 1:
        or_none = ", or None for no bound" if none_ok else ""
        raise UserError(f"RunConfig.{name} must be a whole number of at least 1{or_none}; got {value!r}")


def _check_seconds(name: str, value: Any, *, least: str) -> None:
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not valid or not value >= 0 or (value == 0 and least == "more than 0"):
        raise UserError(f"RunConfig.{name} must be {least} (seconds); got {value!r}")
