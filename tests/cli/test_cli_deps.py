"""What `--deps` names, and what becomes of it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache, partial
from typing import Any, Self
from unittest.mock import MagicMock

import pytest

from agentrun.cli.loading import deps_maker
from agentrun.errors import UserError


class Plain:
    """A class without parameters."""

    def make(self) -> str:
        return "made by a method"

    class Inner:
        """Another one."""


class Callable_:
    """What its objects do when they are called is the tools' affair."""

    def __call__(self) -> str:
        raise AssertionError("the deps were called")


class ToBeEntered:
    """Of no use before `async with`; or perhaps it is."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class ToBeAwaited:
    """As pools are that connect when they are awaited."""

    def __await__(self) -> Iterator[None]:
        yield


plain = Plain()
called = Callable_()
fake = MagicMock()
to_be_entered = ToBeEntered()
bound = partial(Plain)
nothing = None
number = 0


def make() -> Plain:
    return Plain()


@lru_cache
def make_cached() -> Plain:
    return Plain()


def make_to_be_entered() -> ToBeEntered:
    return ToBeEntered()


def make_for(name: str) -> str:
    return name


def make_nothing() -> None:
    return None


async def make_later() -> Plain:
    return Plain()


def make_coroutine() -> Any:
    return make_later()


def make_awaitable() -> ToBeAwaited:
    return ToBeAwaited()


@asynccontextmanager
async def opened() -> AsyncIterator[Plain]:
    yield Plain()


@contextmanager
def opened_sync() -> Iterator[Plain]:
    yield Plain()


async def generated() -> AsyncIterator[Plain]:
    yield Plain()


def generated_sync() -> Iterator[Plain]:
    yield Plain()


def returns_generator() -> Iterator[Plain]:
    return generated_sync()


def returns_async_generator() -> AsyncIterator[Plain]:
    return generated()


def leaves() -> Plain:
    raise LookupError("not today")


@pytest.fixture(autouse=True)
def _path_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


def deps(name: str) -> Callable[[], Any]:
    return deps_maker(f"{__name__}:{name}")


@pytest.mark.parametrize("name", ["make", "Plain"])
def test_functions_and_classes_are_called_each_time(name: str) -> None:
    maker = deps(name)
    first, second = maker(), maker()
    assert isinstance(first, Plain)
    assert isinstance(second, Plain)
    assert first is not second


def test_a_function_may_be_cached_or_a_method_or_inside_of_something() -> None:
    assert deps("make_cached")() is make_cached()
    assert deps("plain.make")() == "made by a method"
    assert isinstance(deps("Plain.Inner")(), Plain.Inner)


@pytest.mark.parametrize("name", ["plain", "called", "fake", "bound", "number", "to_be_entered"])
def test_an_object_is_the_deps_itself_even_when_it_can_be_called(name: str) -> None:
    maker = deps(name)
    assert maker() is globals()[name]
    assert maker() is globals()[name]
    fake.assert_not_called()


def test_who_names_a_function_that_returns_something_to_enter_knows_that_it_works_without() -> None:
    assert isinstance(deps("make_to_be_entered")(), ToBeEntered)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("make_later", "make_later is an async function, which nobody awaits here"),
        ("generated", "generated is an async function, which nobody awaits here"),
        ("generated_sync", "generated_sync is a generator function, which nobody goes through here"),
        ("ToBeEntered", "ToBeEntered is an async context manager, which nobody enters here"),
    ],
)
def test_what_can_only_be_wrong_is_refused_before_it_is_called(name: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        deps(name)
    assert str(caught.value) == (
        f"--deps {__name__}:{name}: {complaint}; expected an object, or a function or class without parameters that "
        "makes one"
    )


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("opened", "opened() has given an async context manager, which nobody enters here; expected an object, or a f"),
        ("opened_sync", "opened_sync() has given a context manager, which nobody enters here; expected an object"),
        ("make_coroutine", "make_coroutine() has given something to await (coroutine), and nobody does so here; exp"),
        ("make_awaitable", "make_awaitable() has given something to await (ToBeAwaited), and nobody does so here"),
        ("returns_generator", "returns_generator() has given a generator, which nobody goes through here"),
        ("returns_async_generator", "returns_async_generator() has given an async generator, which nobody goes thr"),
        ("make_nothing", "make_nothing() has given None, which is what an agent has without --deps; expected an ob"),
        ("nothing", "nothing is None, which is what an agent has without --deps; expected an object, or a function"),
        ("make_for", "make_for() failed: TypeError: make_for() missing 1 required positional argument: 'name'"),
        ("leaves", "leaves() failed: LookupError: not today"),
    ],
)
def test_what_turns_out_to_be_wrong_is_refused_when_it_is_made(name: str, complaint: str) -> None:
    maker = deps(name)
    with pytest.raises(UserError) as caught:
        maker()
    assert str(caught.value).startswith(f"--deps {__name__}:{name}: {complaint}")


def test_a_name_that_is_not_there_is_told_with_the_most_similar_one() -> None:
    with pytest.raises(UserError) as caught:
        deps("make_latter")
    assert str(caught.value).endswith(f": {__name__} has no 'make_latter'; did you mean 'make_later'?")
    with pytest.raises(UserError) as caught:
        deps("zzz")
    assert str(caught.value) == f"--deps {__name__}:zzz: {__name__} has no 'zzz'"
