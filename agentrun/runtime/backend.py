"""The running event loop's own kinds of scope and event, looked up once for each kind of event loop.

``anyio.CancelScope()`` and ``anyio.Event()`` find out each time which event loop is running, and initialise twice what
they make. A run makes some two dozen of them.
"""

from __future__ import annotations

import anyio

__all__ = ["Backend", "running_backend"]


class Backend:
    """What is different on each kind of event loop.

    Attributes:
        cancelled: Its class of cancellations.
        scope: Its `anyio.CancelScope`.
        event: Its `anyio.Event`.
    """

    __slots__ = ("cancelled", "event", "scope")

    def __init__(self, cancelled: type[BaseException]) -> None:
        self.cancelled: type[BaseException] = cancelled
        self.scope: type[anyio.CancelScope] = type(anyio.CancelScope())
        self.event: type[anyio.Event] = type(anyio.Event())


_known: dict[type[BaseException], Backend] = {}


def running_backend() -> Backend:
    """That of the running event loop.

    Raises:
        NoEventLoopError: None is running.
    """
    cancelled = anyio.get_cancelled_exc_class()
    backend = _known.get(cancelled)
    if backend is None:
        backend = _known[cancelled] = Backend(cancelled)
    return backend
