"""What a run has spent, in requests and tokens."""

from __future__ import annotations

from dataclasses import dataclass

from agentrun.core.plain import Plain

__all__ = ["Usage"]


@dataclass(slots=True, repr=False, eq=False)
class Usage(Plain):
    """Tokens and requests used, by one model call or by a whole run.

    Attributes:
        requests: Model calls made.
        input_tokens: Tokens of the prompts, cached ones included.
        cached_input_tokens: The part of ``input_tokens`` that the provider read from its cache.
        output_tokens: Tokens generated, reasoning included.
        reasoning_tokens: The part of ``output_tokens`` spent on reasoning.
        tool_calls: Tool calls the model asked for.
    """

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def add(self, other: Usage) -> None:
        """Add ``other`` to this one, in place."""
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.tool_calls += other.tool_calls

    def add_tokens(self, other: Usage) -> None:
        """Add the tokens of ``other`` alone: what a model says of a response, whose calls are counted by the run."""
        self.input_tokens += other.input_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens

    def copy(self) -> Usage:
        """A snapshot that later additions do not change."""
        return Usage(
            self.requests,
            self.input_tokens,
            self.cached_input_tokens,
            self.output_tokens,
            self.reasoning_tokens,
            self.tool_calls,
        )
