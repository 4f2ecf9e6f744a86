"""A coroutine in a context of its own, without a task of its own."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from typing import Any

import anyio.lowlevel
import pytest

from agentrun.runtime.own_context import InContext

WHERE: ContextVar[str] = ContextVar("WHERE", default="outside")


async def test_what_it_sets_stays_inside_and_what_it_returns_comes_out() -> None:
    async def inner() -> str:
        WHERE.set("inside")
        await anyio.lowlevel.checkpoint()
        return WHERE.get()

    context = copy_context()
    assert await InContext(context, inner()) == "inside"
    assert WHERE.get() == "outside"
    assert context[WHERE] == "inside"


class Pause:
    """Hands ``value`` to whoever drives the coroutine."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Any:
        return (yield self.value)


def test_it_is_driven_like_the_coroutine_itself() -> None:
    async def inner() -> list[Any]:
        got = [await Pause(1), await Pause(2)]
        for pause in (3, 4):
            try:
                got.append(await Pause(pause))
            except ValueError as exc:
                got.append((exc, WHERE.get()))
        return got

    context = copy_context()
    context.run(WHERE.set, "inside")
    steps = InContext(context, inner())
    assert iter(steps) is steps
    assert next(steps) == 1
    assert steps.send("a") == 2
    assert steps.send("b") == 3
    first, second = ValueError("alone"), ValueError("with its type")
    assert steps.throw(first) == 4
    with pytest.raises(StopIteration) as done:
        steps.throw(ValueError, second)
    assert done.value.value == ["a", "b", (first, "inside"), (second, "inside")]
