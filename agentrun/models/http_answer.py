"""What the two ways to send a request have in common: the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Answer"]


class Answer(Protocol):
    """An answer whose head has come. Close it, whatever became of it."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case names."""
        ...

    @property
    def closed(self) -> bool:
        """Whether there is nothing left to close."""
        ...

    async def read(self) -> bytes:
        """The next bytes of the body; ``b""`` at its end. A checkpoint when none are at hand.

        Raises:
            Exception: The connection broke; see `agentrun.models.http_errors.error_from_exception`.
        """
        ...

    async def close(self) -> None:
        """Have the connection closed, or ready for the next request, whatever is cancelled meanwhile."""
        ...
