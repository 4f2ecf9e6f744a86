"""What an action of a sweep stops, and whether it is there still when its grace is over.

An action that stops nothing has no grace: a run may go on for hours after an injection, as it does without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentrun.runtime.handle import ActiveRun
from agentrun.testing.sweeping.points import Stopping

__all__ = ["all_of", "what_is_cancelled"]


def all_of(live: ActiveRun[Any], leaving: Callable[[], bool]) -> Stopping:
    """The whole run was stopped: it must end, and its block must let those go who are ``leaving`` it.

    Who does not leave it yet may have other things to do there.
    """
    return lambda: live.result is None or leaving()


def what_is_cancelled(live: ActiveRun[Any]) -> Stopping | None:
    """What is being cancelled in the run now: a model stream, tools, guardrails; ``None`` if nothing is."""

    def look() -> set[tuple[int, str, str, str]]:
        state = live.state()
        children = state.scope.children
        return {(state.turn, child.kind, child.name, child.id) for child in children if child.status == "cancelling"}

    now = look()
    return (lambda: not now.isdisjoint(look())) if now else None
