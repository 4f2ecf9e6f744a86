"""Encoding the tools of a request, each once: they are the same in each turn, and their schemas are long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from agentrun.core.model import ToolSpec
from agentrun.models.history import json_bytes

__all__ = ["ToolEncoder"]

_MAX_TOOLS: Final = 1024


class ToolEncoder:
    """Encodes tools as the elements of a JSON array, remembering what it encoded.

    It remembers at most 1024, by identity, which is enough since they never change.

    Args:
        encode: Encodes one tool as a JSON object.
    """

    def __init__(self, encode: Callable[[ToolSpec], dict[str, Any]]) -> None:
        self._encode = encode
        # Keyed by the identity of a tool; the entry holds the tool, so the id cannot be reused.
        self._known: dict[int, tuple[ToolSpec, bytes]] = {}

    def encode(self, tools: Sequence[ToolSpec]) -> bytes:
        """The tools as the inside of a JSON array (without the brackets)."""
        return b",".join(map(self._one, tools))

    def _one(self, tool: ToolSpec) -> bytes:
        known = self._known
        if (entry := known.get(id(tool))) is not None:
            return entry[1]
        encoded = json_bytes(self._encode(tool))
        if len(known) >= _MAX_TOOLS:  # tools that are made anew for each run, most likely
            known.clear()
        known[id(tool)] = tool, encoded
        return encoded
