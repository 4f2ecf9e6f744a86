"""What is exchanged while virtual threads are about: what they would wait in, and the clocks that they look at.

All of it does what it always does, except in such a thread. There ``time.sleep`` takes virtual time, the clocks of
`time` show it, and waiting for what the event loop was asked to do lets the loop go on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, Final

from agentrun.testing.sweeping.baton import VirtualThread, current_thread

__all__ = ["exchanged", "set_clock", "wait_until"]

_SLEEP = time.sleep
_CLOCKS: Final[dict[str, float]] = {  # and the parts that their seconds have
    "time": 1,
    "monotonic": 1,
    "perf_counter": 1,
    "time_ns": 10**9,
    "monotonic_ns": 10**9,
    "perf_counter_ns": 10**9,
}
_NOT_SEARCHED: Final = frozenset({"agentrun", "anyio", "trio", "outcome", "sniffio", *sys.stdlib_module_names})

_now: Callable[[], float] = float


def set_clock(now: Callable[[], float]) -> None:
    """From now on the clocks of virtual threads show this virtual time: seconds since the trial began."""
    global _now
    _now = now


@contextlib.contextmanager
def exchanged() -> Generator[None]:
    """Exchange it inside of this block.

    It is not enough to do so when the first thread begins: a task may have handed ``time.sleep`` itself to it.
    """
    new: dict[Any, Any] = dict(_EXCHANGED)
    with contextlib.ExitStack() as stack:
        for original, virtual in new.items():
            _exchange(stack, time, original.__name__, virtual)
        # `from time import sleep` has made a name of its own for it in each module.
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] not in _NOT_SEARCHED:
                _exchange_names(stack, module, new)
        future: Any = concurrent.futures.Future
        for name in ("result", "exception"):
            _exchange(stack, future, name, _waiting(getattr(future, name)))
        yield


def _exchange(stack: contextlib.ExitStack, owner: Any, name: str, new: Any) -> None:
    stack.callback(setattr, owner, name, vars(owner)[name])
    setattr(owner, name, new)


def _exchange_names(stack: contextlib.ExitStack, module: Any, new: dict[Any, Any]) -> None:
    names: Any = getattr(module, "__dict__", {})
    builtin = type(_SLEEP)  # only these are looked up: what else a module has may not be hashable
    for name, value in list(names.items()):
        if type(value) is builtin and value in new:
            _exchange(stack, module, name, new[value])


def sleep(seconds: float, /) -> None:
    """``time.sleep``."""
    thread = current_thread()
    if thread is None:
        _SLEEP(seconds)
        return
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    if not seconds < 1e12:  # some 30,000 years: about where the real one gives up, too
        raise OverflowError("timestamp too large to convert to C PyTime_t")
    thread.pause(seconds)


def _virtual(clock: Callable[[], Any], parts: float) -> Callable[[], Any]:
    begin = clock()  # the same for all trials: what it shows is plausible, and what passes on it is virtual

    def virtual() -> Any:
        if current_thread() is None:
            return clock()
        return begin + type(begin)(_now() * parts)

    virtual.__name__ = clock.__name__
    return virtual


# Made once, because what was imported during a sweep keeps them.
_EXCHANGED: Final = {
    _SLEEP: sleep,
    **{getattr(time, name): _virtual(getattr(time, name), parts) for name, parts in _CLOCKS.items()},
}


def wait_until(
    done: Callable[[], bool], on_done: Callable[[Callable[[], object]], object], seconds: float | None
) -> None:
    """Pause the current virtual thread until something is done, or the time is up.

    Args:
        done: Whether it is.
        on_done: Has a function called when it is.
        seconds: Virtual time; ``None``: for ever.
    """
    thread = current_thread()
    assert thread is not None
    if not done():
        on_done(thread.waker())
        thread.pause(seconds)


def _waiting(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Future.result` and `Future.exception`: waiting for the event loop lets it go on.

    Other futures (of a thread pool of the tool's own) are waited for as ever.
    """

    def wait(self: Any, timeout: float | None = None) -> Any:
        thread = current_thread()
        if thread is not None and _asked(thread):
            wait_until(self.done, lambda wake: self.add_done_callback(_ignoring_future(wake)), timeout)
            timeout = 0 if timeout is not None else None
        return original(self, timeout)

    wait.__name__ = original.__name__
    return wait


def _ignoring_future(wake: Callable[[], object]) -> Callable[[object], object]:
    return lambda _: wake()


def _asked(thread: VirtualThread) -> bool:
    """Whether it has just asked the event loop for something; it may wait for the answer once."""
    asked, thread.sent = thread.sent, False
    return asked
