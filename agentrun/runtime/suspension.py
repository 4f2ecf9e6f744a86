"""What suspended code is doing: is it on its way out because of a cancellation, or at a mere checkpoint?

A relay sees a cancellation go in, but not every one of them goes in where it can be seen, and on trio not every await
can take one. So the suspended coroutine itself is asked, which costs microseconds and happens only between the request
to cancel and its delivery.

What else was considered: the event loop's own state (each backend has another, and none is public), and taking every
resumption after a cancellation for the way out (code whose await had just been done would then never hear of it).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Sequence
from itertools import compress, repeat
from operator import attrgetter
from types import (
    AsyncGeneratorType,
    BuiltinMethodType,
    CoroutineType,
    GeneratorType,
    MethodType,
    MethodWrapperType,
)
from typing import Any, Final, cast

from agentrun.runtime.cancellations import holds_cancellation

__all__ = [
    "Suspension",
    "cancellable_trio_wait",
    "coroutines_of_tasks",
    "has_caught",
    "has_errors",
    "is_cancelled",
    "trio_step",
]

_FRAMED: Final = (CoroutineType, GeneratorType, AsyncGeneratorType)
_EXITS: Final = ("__exit__", "__aexit__")
_CHECKPOINTS: Final = ("checkpoint", "cancel_shielded_checkpoint", "checkpoint_if_cancelled")
# By the types' ids: a type of the user's may have an odd `==`.
_AWAITED: Final = {id(CoroutineType): "cr_await", id(AsyncGeneratorType): "ag_await", id(GeneratorType): "gi_yieldfrom"}
_NAME: Final = attrgetter("__name__")
_BOUND: Final = frozenset(map(id, (MethodType, BuiltinMethodType, MethodWrapperType)))
_KEEPS_MANAGERS: Final = sys.version_info >= (3, 14)  # in the frame, beside their method


class Suspension:
    """A look at a suspended coroutine: itself, what it awaits, what that awaits, as far as Python code goes."""

    __slots__ = ("_links",)

    def __init__(self, suspended: Any) -> None:
        links: list[Any] = []
        link: Any = suspended
        while link is not None:
            awaited = _AWAITED.get(id(type(link)))  # pyright: ignore[reportUnknownArgumentType] - of whatever is awaited
            if awaited is not None:
                links.append(link)
                link = getattr(link, awaited)
            else:
                # The step of an asynchronous generator, or a coroutine's `__await__`: an object around one of these.
                inner: list[Any] = [held for held in gc.get_referents(link) if issubclass(type(held), _FRAMED)]
                link = inner[0] if inner else None
        self._links = links

    def cancellations(self, cancelled_class: type[BaseException]) -> list[BaseException]:
        """Those that it holds: it is in a ``finally``, ``except`` or ``__aexit__`` that one has led to, or keeps one in
        a variable.

        There are none where the interpreter does not tell what a coroutine refers to.
        """
        held: list[Any] = gc.get_referents(*self._links)
        # Not `isinstance`, which asks the object for its class; and without a step of Python's for each, as below.
        exceptions: Iterable[BaseException] = compress(held, map(issubclass, map(type, held), repeat(BaseException)))
        return [each for each in exceptions if holds_cancellation(each, cancelled_class)]

    def handles(self, cancelled_class: type[BaseException], *, but: Sequence[BaseException] = ()) -> bool:
        """Whether it holds a cancellation that is none of ``but``."""
        return any(all(held is not known for known in but) for held in self.cancellations(cancelled_class))

    @property
    def entered(self) -> list[Any]:
        """The context managers of the `with` blocks that it is in, or leaves, also those inside of generators."""
        links = self._links
        if _KEEPS_MANAGERS or "__aexit__" in map(_NAME, links):
            return [manager for link in links for manager in _entered(link)]
        return _left_by(gc.get_referents(*links))

    @property
    def asks_for_cancellation(self) -> bool:
        """Whether it is in a ``checkpoint_if_cancelled`` that has seen a cancellation and relies on getting it."""
        return any(_name(link) == "checkpoint_if_cancelled" for link in self._links)

    @property
    def at_checkpoint(self) -> bool:
        """Whether it is at a checkpoint: it goes on at once, and is told there, or behind it, if it is cancelled."""
        return any(_name(link) in _CHECKPOINTS for link in self._links[-4:])

    @property
    def at_nursery_exit(self) -> bool:
        """Whether it waits for the tasks of a nursery of trio's that it is about to leave."""
        return any(_name(link) == "_nested_child_finished" for link in self._links[-4:])

    @property
    def trio_wait_scopes(self) -> tuple[Any, ...]:
        """The cancel scopes that it is in and that are cancelled, if the innermost is one in which trio itself waits.

        A sleep ends by a scope of its own, and a ``checkpoint`` that has seen a cancellation gets it in one. There are
        none if it is in none of these.
        """
        if "trio" not in sys.modules:
            return ()
        names = [_name(link) for link in self._links[-4:]]
        if names[:-2] == ["sleep_until", "sleep_forever"]:
            waiting = self._links[-4]
        elif names[-3:-1] == ["checkpoint", "wait_task_rescheduled"]:
            waiting = self._links[-3]
        else:
            return ()
        scopes = tuple(each for each in self.entered if _attribute(each, "cancel_called") is True)
        return scopes if any(scope is each for each in _entered(waiting) for scope in scopes) else ()

    @property
    def at_trio_checkpoint(self) -> bool:
        """Whether it is in the first half of trio's ``checkpoint``, the one that cannot be cancelled."""
        names = [_name(link) for link in self._links[-3:]]
        return names[:2] == ["checkpoint", "cancel_shielded_checkpoint"] and "trio" in sys.modules


def _entered(link: Any) -> list[Any]:
    """The context managers of the `with` blocks that a suspended frame is in."""
    held_by_it: list[object] = gc.get_referents(link)
    if not _KEEPS_MANAGERS and link.__name__ != "__aexit__":  # that method's frame holds its own, without a block
        return _left_by(held_by_it)
    managers: list[Any] = []
    for held in held_by_it:
        kind: type[object] = type(held)
        if _kind(held) in _BOUND:
            managers += _left_by([held])
        elif hasattr(kind, "__exit__") or hasattr(kind, "__aexit__"):
            managers += _with_those_inside(held)
    return managers


def _left_by(held: list[Any]) -> list[Any]:
    """The context managers among whose methods for the end of a `with` block these are that frames hold."""
    # A frame holds some twenty objects, few of which matter: the others are passed over without a step of Python's.
    methods = compress(held, map(_BOUND.__contains__, map(id, map(type, held))))
    managers: list[Any] = []
    for method in methods:
        if method.__name__ in _EXITS:
            managers += _with_those_inside(method.__self__)
    return managers


def _with_those_inside(manager: Any) -> list[Any]:
    """A context manager, and if a generator makes it, those that the generator is in."""
    if issubclass(type(generator := _attribute(manager, "gen")), (GeneratorType, AsyncGeneratorType)):
        return [manager, *_entered(generator)]
    return [manager]


def _kind(held: object) -> int:
    return id(type(held))


def _attribute(held: Any, name: str) -> Any:
    """An attribute of an object of the user's, which may do anything when it is asked for one."""
    try:
        return getattr(held, name, None)
    except Exception:  # noqa: BLE001 - a proxy of nothing, perhaps
        return None


def is_cancelled(manager: Any) -> bool:
    """Whether a context manager is a cancel scope that is cancelled, or a task group whose scope is."""
    return _any_scope_is("cancel_called", manager)


def has_caught(manager: Any) -> bool:
    """Whether a context manager is a cancel scope that has taken a cancellation, or a task group whose scope has."""
    return _any_scope_is("cancelled_caught", manager)


def coroutines_of_tasks(manager: Any) -> list[Any]:
    """Those of the tasks in a context manager, if it is a task group of anyio's or a nursery of trio's."""
    if (nursery := _attribute(manager, "_nursery")) is not None:
        tasks = _attribute(nursery, "child_tasks")
    else:
        tasks = _attribute(manager, "_tasks") if _attribute(manager, "cancel_scope") is not None else None
    if not issubclass(type(tasks), (set, frozenset)):
        return []
    found: list[Any] = [_attribute(task, "coro") or _attribute(task, "get_coro") for task in cast("set[Any]", tasks)]
    return [coro() if _kind(coro) in _BOUND else coro for coro in found if coro is not None]


def has_errors(manager: Any) -> bool:
    """Whether a context manager is a task group of anyio's or asyncio's on asyncio some of whose tasks have failed."""
    errors = _attribute(manager, "_exceptions") or _attribute(manager, "_errors")
    return issubclass(type(errors), list) and bool(errors)


def _any_scope_is(what: str, manager: Any) -> bool:
    return any(
        _attribute(each, what) is True
        for each in (manager, _attribute(manager, "cancel_scope"), _attribute(manager, "_scope"))
    )


def cancellable_trio_wait() -> Any:
    """What a task yields to trio in order to wait until it is cancelled."""
    lowlevel: Any = sys.modules["trio"].lowlevel

    def abort(_: object) -> Any:
        return lowlevel.Abort.SUCCEEDED

    return _request_of(lowlevel.wait_task_rescheduled(abort))


def trio_step() -> Any:
    """What a task yields to trio in order to go on in the next step, whether it is cancelled or not."""
    return _request_of(sys.modules["trio"].lowlevel.cancel_shielded_checkpoint())


def _request_of(waiting: Any) -> Any:
    """What a coroutine that waits for trio yields to it first."""
    request = waiting.send(None)
    waiting.close()
    return request


def _name(link: Any) -> str:
    return str(link.__name__)
