"""The scenes, by subject. Importing this package makes them known."""

from __future__ import annotations

from . import (
    approvals,
    blocks,
    cleanup,
    containment,
    guardrails,
    hooks,
    injections,
    interrupts,
    limits,
    native_asyncio,
    nesting,
    resuming,
    sessions,
    streams,
    threads,
    tool_options,
    watchers,
)

__all__ = [
    "approvals",
    "blocks",
    "cleanup",
    "containment",
    "guardrails",
    "hooks",
    "injections",
    "interrupts",
    "limits",
    "native_asyncio",
    "nesting",
    "resuming",
    "sessions",
    "streams",
    "threads",
    "tool_options",
    "watchers",
]
