"""The cancel scope in which a task runs user code, one piece after the other."""

from __future__ import annotations

import math
from typing import Any

import anyio

from agentrun.runtime.backend import Backend, running_backend

__all__ = ["Cell", "leave_scope"]


class Cell:
    """The cancel scope in which a task runs one piece of user code, or one after the other.

    A task that calls one piece after the other stays in its cell meanwhile, which saves a scope for each of them.
    Nothing can cancel it in between: `Contained.cancel` and the others do nothing once their code is over.

    Attributes:
        backend: That of the event loop.
        scope: The scope; another one after a piece of code that was cancelled.
        entered: Whether the task is in it.
        task: That task, on asyncio; ``None`` on trio.
        broken: The code has left scopes of its own open, so this one cannot be left any more.
    """

    __slots__ = ("_shield", "backend", "broken", "entered", "scope", "task")

    def __init__(self, *, shield: bool = False, backend: Backend | None = None) -> None:
        """Args:
        shield: Whether cancellations from outside shall not come in.
        backend: That of the event loop, if it is at hand.
        """
        self._shield = shield
        self.backend: Backend = backend if backend is not None else running_backend()
        self.scope: anyio.CancelScope = self.backend.scope(shield=shield)
        self.entered: bool = False
        self.task: Any = None
        self.broken: bool = False

    def enter(self) -> None:
        """Enter the scope in the current task."""
        self.task = self.backend.current_task()
        self.scope.__enter__()
        self.entered = True

    def leave(self) -> None:
        """Leave the scope."""
        self.entered = False
        self.task = None  # it keeps what it awaits, and all that has called it
        self.broken |= not leave_scope(self.scope)

    def renew(self) -> None:
        """Be as new for the next piece of code: a scope that was cancelled stays so, so there is another then."""
        if self.scope.cancel_called:
            self.leave()
            self.scope = self.backend.scope(shield=self._shield)
            self.enter()
        elif self.scope.deadline != math.inf:
            self.scope.deadline = math.inf


def leave_scope(scope: anyio.CancelScope) -> bool:
    """Leave a cancel scope. Returns whether that was possible: not if scopes inside of it were left open."""
    try:
        scope.__exit__(None, None, None)
    except RuntimeError:
        return False
    return True
