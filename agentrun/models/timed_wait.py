"""A deadline for one await that costs nothing when there is nothing to wait for.

Of the chunks of an HTTP body most are at hand when they are asked for: one read of the socket brings many. A cancel
scope around each of them would cost more than all the rest of decoding. So the scope is entered only when the
awaitable suspends, just before its wait begins, and left when the wait is over, before the awaitable runs on: whatever
scopes it has entered itself, the nesting is right at any time.

What else was considered: a scope for the whole stream (its cancellation could not be taken back, so the code that
reads the stream could not await anything while handling the error), and the client's own read timeout (it cannot be
changed once the body has begun, and the first event may take longer than those after it).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, Generic, TypeVar

import anyio

__all__ = ["TimedWait"]

_T = TypeVar("_T")

_CLEANUP_SECONDS: Final = 2.0


class TimedWait(Generic[_T]):
    """Await it once: gives what ``awaitable`` gives. When the time is up, a `TimeoutError` is raised in it.

    It may then await its cleanup; after two seconds another `TimeoutError` is raised, and so on.

    Attributes:
        expired: Whether the time was up. The awaitable may have made another exception of it.

    A checkpoint exactly when ``awaitable`` is one.
    """

    __slots__ = ("_awaitable", "_deadline", "expired")

    def __init__(self, awaitable: Awaitable[_T], deadline: Callable[[], float]) -> None:
        """Args:
        awaitable: What to await.
        deadline: Called when it has to wait: until when, on the clock of `anyio.current_time`.
        """
        self._awaitable = awaitable
        self._deadline = deadline
        self.expired: bool = False

    def __await__(self) -> Generator[Any, Any, _T]:
        waiting: Any = self._awaitable.__await__()
        error: BaseException | None = None
        try:
            trap = waiting.send(None)
            deadline = self._deadline()
            while True:
                error = None
                value: Any = None
                scope = anyio.CancelScope(deadline=deadline)
                try:
                    with scope:
                        value = yield trap
                except BaseException as exc:  # noqa: BLE001 - somebody else's cancellation, for the awaitable to see
                    error = exc
                if error is None and scope.cancel_called and (scope.cancelled_caught or _is_cancellation(value)):
                    self.expired = True
                    error = TimeoutError()
                    deadline = anyio.current_time() + _CLEANUP_SECONDS
                trap = waiting.send(value) if error is None else waiting.throw(error)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            error = None  # its traceback holds this frame


def _is_cancellation(value: Any) -> bool:
    """trio hands a cancellation in as a value: an ``outcome.Error``."""
    return isinstance(getattr(value, "error", None), anyio.get_cancelled_exc_class())
