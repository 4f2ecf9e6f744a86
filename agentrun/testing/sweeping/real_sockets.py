"""Sockets that a scenario uses without the event loop, which refuses them itself: they are refused here."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Any, Final

from agentrun.testing.sweeping.points import Trial
from agentrun.testing.sweeping.verdicts import SweepRefused

__all__ = ["no_real_sockets"]

_REFUSED: Final = ("connect", "connect_ex", "listen")  # what leads out of the process; a pair of sockets does not


@contextlib.contextmanager
def no_real_sockets(trial_here: Callable[[], Trial | None]) -> Generator[None]:
    """Refuse, inside this block, that the code of a trial connects a socket, or listens at one.

    Args:
        trial_here: The trial that the current code is part of, if it is.
    """
    sockets: Any = socket.socket  # it has these methods from the class in C that it is derived from

    def refusing(name: str) -> Callable[..., Any]:
        original = getattr(sockets, name)

        def method(self: socket.socket, *args: Any) -> Any:
            trial = trial_here()
            if trial is not None and trial.active:
                what = f"a socket (socket.{name}({', '.join(map(repr, args)):.100}))"
                trial.refuse(what)
                self.close()  # whoever has made it may not do so for an error that is none of sockets
                raise SweepRefused(f"not possible in a sweep: {what}")
            return original(self, *args)

        method.__name__ = name
        return method

    own: dict[str, Any] = {name: vars(sockets)[name] for name in _REFUSED if name in vars(sockets)}
    for name in _REFUSED:
        setattr(sockets, name, refusing(name))
    try:
        yield
    finally:
        for name in _REFUSED:
            if name in own:
                setattr(sockets, name, own[name])
            else:
                delattr(sockets, name)
