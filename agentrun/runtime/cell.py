"""The cancel scopes in which a task runs user code, one piece after the other."""

from __future__ import annotations

import math
from typing import Any

import anyio

from agentrun.runtime.backend import Backend, running_backend

__all__ = ["Cell"]


class Cell:
    """The two cancel scopes in which a task runs one piece of user code, or one after the other.

    A task that calls one piece after the other stays in its cell meanwhile, which saves two scopes for each of them.
    Nothing can cancel it in between: `Contained.cancel` and the others do nothing once their code is over.

    A cell in which code was cancelled is left at once, since a scope stays cancelled. Its task enters it again when it
    has more code to call, or has to wait for something: most have not.

    Attributes:
        backend: That of the event loop.
        scope: The outer one, which cancels the code; another one after a piece of code that was cancelled.
        grace: The inner one, which shields its cleanup from ``scope``, and ends it; another one after a piece of code
            that had to clean up.
        entered: Whether the task is in them.
        task: That task, on asyncio; ``None`` on trio.
        broken: The code has left scopes of its own open, so these cannot be left any more.
    """

    __slots__ = ("_holder", "_innermost", "_shield", "backend", "broken", "entered", "grace", "scope", "task")

    def __init__(self, shield: bool = False, backend: Backend | None = None) -> None:
        """Args:
        shield: Whether cancellations from outside shall not come in.
        backend: That of the event loop, if it is at hand.
        """
        self._shield = shield
        self.backend: Backend = backend if backend is not None else running_backend()
        self.scope: anyio.CancelScope = self.backend.scope(shield=shield)
        self.grace: anyio.CancelScope = self.backend.scope()
        self.entered: bool = False
        self.task: Any = None
        self.broken: bool = False
        self._holder: tuple[Any, str]  # of the scope that the task is in
        self._innermost: Any = None  # what it holds if that is `grace`

    def enter(self, *, stay: bool = True) -> None:
        """Enter the scopes in the current task.

        Args:
            stay: For several pieces of code.
        """
        self.task = self.backend.current_task()
        self.scope.__enter__()
        self.grace.__enter__()
        self.entered = True
        if stay:
            self._holder = holder, attribute = self.backend.innermost(self.task)
            self._innermost = getattr(holder, attribute, None)

    def leave(self) -> None:
        """Leave the scopes, if they were not left before."""
        if not self.entered:
            return
        self.entered = False
        self.task = None  # it keeps what it awaits, and all that has called it
        self._leave_grace()
        self.broken |= not _leave_scope(self.scope)

    def _leave_grace(self) -> None:
        if not _leave_scope(self.grace):
            self.broken = True
            self.grace.cancel()  # what runs in those that were left open has nobody else to end it

    @property
    def innermost(self) -> bool:
        """Whether the task is in no scope but these: not if the code has left one open, or if that cannot be known."""
        innermost = self._innermost
        return innermost is not None and getattr(*self._holder) is innermost

    def enter_again(self) -> None:
        """Be in it, with new scopes if it was left."""
        if not self.entered:
            self.scope = self.backend.scope(shield=self._shield)
            self.grace = self.backend.scope()
            self.enter()

    def renew(self) -> None:
        """Be as new for the next piece of code, or be left, if this one was cancelled."""
        if self.scope.cancel_called:
            self.leave()
            return
        if self.scope.deadline != math.inf:
            self.scope.deadline = math.inf
        if self.grace.shield or self.grace.deadline != math.inf or not self.innermost:
            self._leave_grace()
            self.grace = self.backend.scope()
            self.grace.__enter__()
            self._innermost = getattr(*self._holder, None)


def _leave_scope(scope: anyio.CancelScope) -> bool:
    """Leave a cancel scope. Returns whether that was possible: not if scopes inside of it were left open."""
    try:
        scope.__exit__(None, None, None)
    except RuntimeError:
        return False
    return True
