"""Where histories live."""

from __future__ import annotations

from agentrun.sessions.memory import MemorySession
from agentrun.sessions.protocol import Session

__all__ = ["MemorySession", "Session"]
