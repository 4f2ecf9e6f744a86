"""How much a run may use, and what to say when it wants more."""

from __future__ import annotations

from dataclasses import dataclass

from agentrun.core.errors import LimitExceeded, MaxTurnsExceeded, TokenLimitExceeded, ToolCallLimitExceeded
from agentrun.core.plain import Plain
from agentrun.core.usage import Usage

__all__ = ["Limits"]


@dataclass(slots=True, repr=False, eq=False)
class Limits(Plain):
    """Bounds that are checked between the steps of a run; ``None`` means no bound.

    Never changed once made; a frozen one takes three times as long to make, and there is one for each run.
    """

    max_turns: int | None = 10
    max_tokens: int | None = None
    max_tool_calls: int | None = None

    def before_model_call(self, turns: int, usage: Usage) -> LimitExceeded | None:
        """The error that forbids another model call after ``turns`` turns, if any."""
        if self.max_turns is not None and turns >= self.max_turns:
            return MaxTurnsExceeded(
                f"the run wanted a turn beyond max_turns={self.max_turns}; "
                "raise RunConfig.max_turns, or go on with a new run from result.history",
                limit=self.max_turns,
                used=turns,
            )
        if self.max_tokens is not None and usage.total_tokens >= self.max_tokens:
            return TokenLimitExceeded(
                f"the run has used {usage.total_tokens} tokens and max_tokens={self.max_tokens}; "
                "raise RunConfig.max_tokens",
                limit=self.max_tokens,
                used=usage.total_tokens,
            )
        return None

    def before_tools(self, new_calls: int, usage: Usage) -> LimitExceeded | None:
        """The error that forbids running ``new_calls`` more tool calls, if any. ``usage`` already counts them."""
        if self.max_tool_calls is not None and usage.tool_calls > self.max_tool_calls:
            return ToolCallLimitExceeded(
                f"the model asked for {new_calls} more tool calls, {usage.tool_calls} in all, and "
                f"max_tool_calls={self.max_tool_calls}; raise RunConfig.max_tool_calls",
                limit=self.max_tool_calls,
                used=usage.tool_calls,
            )
        return None
