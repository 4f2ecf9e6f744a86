"""Where Ctrl-C may land on trio: in user code, and at checkpoints, but never between two lines of the runtime.

trio raises KeyboardInterrupt in whatever code runs, unless that is protected. In the middle of the runtime's own
steps it would leave a run half moved, and a host that waits for it for ever. Protected code goes on, and trio raises
it in the main task, at its next checkpoint. User code that the runtime calls is as interruptible as any: a tool that
computes without end can be stopped.

asyncio raises none: it cancels the main task, and only a second Ctrl-C is raised where it lands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from types import CodeType, SimpleNamespace
from typing import Any, TypeVar

__all__ = ["activate_on_trio", "interruptible", "uninterruptible"]

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

_protected: set[CodeType] = set()
_protect: Callable[[CodeType], object] | None = None  # tells trio, once a run on trio has been opened


def uninterruptible(function: _F) -> _F:
    """Protect a function, and all that it calls except through `interruptible`, from Ctrl-C on trio.

    Works like ``trio.lowlevel.enable_ki_protection``, but does not need trio to be there.
    """
    code: CodeType = function.__code__
    if code not in _protected:  # functions inside of functions share theirs
        _protected.add(code)
        if _protect is not None:
            _protect(code)
    return function


async def interruptible(coro: Coroutine[Any, Any, _T]) -> _T:
    """Await user code, from protected code: Ctrl-C may be raised inside. A checkpoint exactly when that is one."""
    return await coro


def activate_on_trio() -> None:
    """Tell trio of all that is protected. Does nothing when it has been told."""
    global _protect
    if _protect is None:
        lowlevel: Any = sys.modules["trio"].lowlevel
        lowlevel.disable_ki_protection(interruptible)

        def protect(code: CodeType) -> None:
            lowlevel.enable_ki_protection(SimpleNamespace(__code__=code))

        for code in _protected:
            protect(code)
        _protect = protect
