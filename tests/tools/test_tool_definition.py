"""What becomes a tool, and what is refused."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, cast

import pytest

from agentrun.core.errors import ToolArgumentsError, UserError
from agentrun.tools import FunctionTool, RunContext, ToolSpec, as_tool, tool
from agentrun.tools.function import check_tool_names

if TYPE_CHECKING:
    from somewhere import Deps  # type: ignore[import-not-found]

CTX = cast("RunContext[Any]", object())


@tool
def module_level(city: str) -> str:
    """Say the city."""
    return city


def call(function: Any, arguments: str = "{}", ctx: Any = CTX) -> Any:
    made = as_tool(function)
    return made.call(ctx, made.bind(arguments))


class Kit:
    """A kit."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    @tool
    def greet(self, name: str) -> str:
        """Greet somebody.

        Args:
            name: Whom.
        """
        return f"{self.greeting} {name}"

    @tool(retries=2)
    async def greet_later(self, ctx: RunContext[Any], name: str) -> str:
        return f"{self.greeting} {name}"

    def plain(self, name: str) -> str:
        return f"{self.greeting}, {name}"

    @staticmethod
    @tool
    def static_outside(n: int) -> int:
        return n

    @tool
    @staticmethod
    def static_inside(n: int) -> int:
        return n

    @classmethod
    @tool
    def class_outside(cls, n: int) -> str:
        return f"{cls.__name__}{n}"

    @tool
    @classmethod
    def class_inside(cls, n: int) -> str:
        return f"{cls.__name__}{n}"


def test_a_decorated_function_is_a_tool_and_still_a_function() -> None:
    assert isinstance(module_level, FunctionTool)
    assert module_level("Oslo") == "Oslo"
    assert module_level.__name__ == "module_level"
    assert module_level.__doc__ == "Say the city."
    assert str(inspect.signature(module_level)) == "(city: 'str') -> 'str'"
    assert as_tool(module_level) is module_level


async def test_an_async_tool_can_be_awaited_directly() -> None:
    @tool(timeout=3)
    async def weather(ctx: RunContext[int], city: str) -> str:
        return f"{city}: sun"

    assert await weather(CTX, "Oslo") == "Oslo: sun"
    assert weather.is_async
    assert weather.takes_context
    assert weather.timeout == 3.0


def test_the_spec_is_made_once() -> None:
    assert module_level.spec is module_level.spec
    assert module_level.spec == ToolSpec(
        "module_level",
        "Say the city.",
        {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    )


def test_name_and_description_can_be_given() -> None:
    made = tool(lambda city: city, name="say-city", description="Says it.")
    assert (made.name, made.description) == ("say-city", "Says it.")
    assert call(made, '{"city": 3}') == 3


def test_the_tool_of_a_method_is_bound_to_its_object() -> None:
    kit = Kit("Hello")
    assert kit.greet("Ada") == "Hello Ada"
    assert call(kit.greet, '{"name": "Ada"}') == "Hello Ada"
    assert call(kit.plain, '{"name": "Ada"}') == "Hello, Ada"
    assert as_tool(kit.plain).name == "plain"
    assert kit.greet.spec.parameters["properties"] == {"name": {"type": "string", "description": "Whom."}}
    assert kit.greet_later.takes_context
    assert kit.greet_later.retries == 2
    assert Kit("Bye").greet("Bob") == "Bye Bob"


def test_the_tool_of_a_method_without_its_object_is_refused() -> None:
    with pytest.raises(UserError, match=r"tool 'greet' is the method Kit.greet: take it from an instance"):
        as_tool(Kit.greet)


@pytest.mark.parametrize("owner", [Kit, Kit("x")])
def test_static_and_class_methods_work_in_either_order(owner: Any) -> None:
    assert call(owner.static_outside, '{"n": 1}') == 1
    assert call(owner.static_inside, '{"n": 1}') == 1
    assert call(owner.class_outside, '{"n": 1}') == "Kit1"
    assert call(owner.class_inside, '{"n": 1}') == "Kit1"


def test_a_tool_kept_in_a_class_is_not_bound() -> None:
    class Settings:
        default = module_level

    assert Settings().default is module_level


def test_a_wrapper_made_with_wraps_shows_what_it_wraps() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @tool
    @logged
    def double(ctx: RunContext[None], n: int) -> int:
        """Doubles."""
        return 2 * n

    assert (double.name, double.description, double.takes_context) == ("double", "Doubles.", True)
    assert call(double, '{"n": 2}') == 4

    @tool
    @logged
    async def later(n: int) -> int:
        return n

    assert later.is_async
    coroutine = call(later, '{"n": 2}')
    assert inspect.iscoroutine(coroutine)
    coroutine.close()


async def test_a_sync_wrapper_that_runs_an_async_function_itself_still_gives_a_coroutine() -> None:
    async def inner(n: int) -> int:
        return n

    @functools.wraps(inner)
    def runs_it(n: int) -> int:
        return n + 1

    coroutine = call(runs_it, '{"n": 2}')
    assert inspect.iscoroutine(coroutine)
    assert await coroutine == 3


def test_what_a_partial_fixes_is_neither_shown_nor_changed() -> None:
    def fetch(url: str, token: str, limit: int = 3) -> str:
        """Fetch."""
        return f"{url} {token} {limit}"

    made = as_tool(functools.partial(fetch, token="secret"))
    assert (made.name, made.description) == ("fetch", "Fetch.")
    assert "secret" not in str(made.spec)
    assert list(made.parameters["properties"]) == ["url", "limit"]
    assert call(made, '{"url": "u", "limit": 4}') == "u secret 4"
    with pytest.raises(ToolArgumentsError, match="token: not known"):
        made.bind('{"url": "u", "token": "mine"}')
    first = as_tool(functools.partial(fetch, "here"))
    assert call(first, '{"token": "t"}') == "here t 3"


def test_a_partial_of_an_async_function_is_async() -> None:
    async def fetch(url: str, n: int) -> None: ...

    assert as_tool(functools.partial(functools.partial(fetch, "u"), n=1)).is_async


class HTTPFetch:
    """Fetch things."""

    async def __call__(self, ctx: RunContext[Any], url: str) -> str:
        """Fetch one page.

        Args:
            url: Where.
        """
        return url

    def stop(self) -> str:
        return "stop"

    def terminate(self) -> str:
        return "terminate"


def test_a_callable_object_is_named_by_its_class_and_stopped_by_its_method() -> None:
    made = as_tool(HTTPFetch())
    assert made.name == "http_fetch"
    assert made.description == "Fetch one page."
    assert made.is_async
    assert made.takes_context
    assert made.parameters["properties"]["url"]["description"] == "Where."
    assert made.stop_hook is not None
    assert made.stop_hook() == "terminate"
    assert module_level.stop_hook is None
    assert as_tool(Kit("x").plain).stop_hook is None


def test_a_callable_object_may_say_its_name_and_description() -> None:
    @dataclass
    class Search:
        name: str = "web-search"
        description: str = "Search the web."

        def __call__(self, query: str) -> str:
            return query

        def cancel(self) -> None: ...

    made = as_tool(Search())
    assert (made.name, made.description, made.is_async) == ("web-search", "Search the web.", False)
    assert made.stop_hook is not None

    @dataclass
    class Quiet:
        depth: int = 1

        def __call__(self, query: str) -> str:
            return query

    assert as_tool(Quiet()).description == ""


def test_the_context_is_known_by_its_annotation_however_it_is_written() -> None:
    def plain(c: RunContext, n: int) -> int:  # type: ignore[type-arg]
        return n

    def unresolvable(c: RunContext[Deps], n: int) -> int:
        return n

    def optional(c: Optional[RunContext[Deps]], n: int) -> int:  # noqa: UP045
        return n

    def union(c: RunContext[Any] | None, n: int) -> int:
        return n

    def quoted(c: "RunContext[Deps] | None", n: int) -> int:  # noqa: UP037
        return n

    for function in (plain, unresolvable, optional, union, quoted):
        made = as_tool(function)
        assert made.takes_context
        assert list(made.parameters["properties"]) == ["n"]
        assert call(made, '{"n": 3}') == 3


def test_no_context_is_passed_to_a_function_that_takes_none() -> None:
    assert not module_level.takes_context
    assert call(module_level, '{"city": "Oslo"}') == "Oslo"


def a_generator() -> Iterator[int]:
    yield 1


async def an_async_generator() -> AsyncIterator[int]:
    yield 1


def late_context(n: int, ctx: RunContext[Any]) -> None: ...


def keyword_context(*, ctx: RunContext[Any]) -> None: ...


def hidden(*args, **kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN003, ANN201
    pass


def unknown_name(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def plain_class(x: Kit) -> None: ...


def takes_a_function(x: Callable[[], int]) -> None: ...


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (3, "must be a function or another callable, not 3"),
        (Kit, "class Kit cannot be a tool: pass an instance"),
        (lambda x: x, "'<lambda>' cannot be the name of a tool.*name="),
        (a_generator, "a_generator cannot be a tool: it is a generator.*ctx.progress"),
        (an_async_generator, "an_async_generator cannot be a tool: it is a generator"),
        (functools.partial(a_generator), "a_generator cannot be a tool"),
        (late_context, "tool 'late_context', parameter 'ctx': the RunContext must be the first parameter"),
        (keyword_context, "'keyword_context', parameter 'ctx'.*keyword-only"),
        (hidden, r"tool 'hidden', parameter '\*args': a model needs to know.*functools.wraps"),
        (unknown_name, "tool 'unknown_name', parameter 'x': cannot find 'Nowhere'"),
        (plain_class, "tool 'plain_class', parameter 'x': Kit has no JSON schema.*ctx.deps"),
        (takes_a_function, r"parameter 'x': .*Callable\[\[\], int\] has no JSON schema"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_reason(obj: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_tool(obj)


def test_a_tool_is_not_decorated_twice() -> None:
    with pytest.raises(UserError, match="is a tool already"):
        tool(module_level, retries=1)


async def nap() -> None: ...


def with_context(ctx: RunContext[Any]) -> None: ...


def sync() -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (sync, {"timeout": 0}, "tool 'sync': timeout must be a finite number of seconds above 0.*not 0"),
        (sync, {"timeout": math.inf}, "timeout must be a finite"),
        (sync, {"timeout": math.nan}, "timeout must be a finite"),
        (sync, {"timeout": "3"}, "timeout must be a number of seconds or None, not '3'"),
        (sync, {"timeout": True}, "timeout must be a number"),
        (sync, {"retries": -1}, "retries must be a whole number, 0 or more, not -1"),
        (sync, {"retries": 1.5}, "retries must be a whole number"),
        (sync, {"parallel": 1}, "parallel must be True or False"),
        (sync, {"needs_approval": "yes"}, "needs_approval must be True, False or a callable"),
        (sync, {"is_enabled": None}, "is_enabled must be True, False or a callable"),
        (sync, {"on_error": "ignore"}, "on_error must be 'model', 'raise' or a callable, not 'ignore'"),
        (sync, {"on_cancel": 3}, "on_cancel must be a callable or None"),
        (sync, {"on_cancel": lambda a, b: None}, "takes the context or nothing"),
        (sync, {"isolation": "vm"}, "isolation must be 'thread' or 'process'"),
        (sync, {"strict": "yes"}, "strict must be"),
        (sync, {"description": 3}, "description must be text"),
        (sync, {"name": "a b"}, "'a b' cannot be the name of a tool: use 1 to 64"),
        (sync, {"name": ""}, "'' cannot be the name"),
        (sync, {"name": "x" * 65}, "cannot be the name"),
        (sync, {"name": "ok\n"}, "cannot be the name"),
        (nap, {"isolation": "process"}, "isolation='process' is for sync functions"),
        (with_context, {"isolation": "process"}, "cannot pass a RunContext to another process"),
        (functools.partial(sync), {"isolation": "process"}, "needs a function at the top level of a module"),
        (Kit("x").plain, {"isolation": "process"}, "needs a function at the top level of a module"),
    ],
)
def test_options_are_checked_when_the_tool_is_defined(function: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tool(function, **options)


def test_options_arrive() -> None:
    def decide(*_: Any) -> bool:
        return True

    made = tool(
        timeout=1,
        retries=2,
        parallel=False,
        needs_approval=decide,
        on_error="raise",
        on_cancel=sync,
        isolation="process",
        is_enabled=decide,
    )(sync)
    assert (made.timeout, made.retries, made.parallel, made.isolation) == (1.0, 2, False, "process")
    assert (made.needs_approval, made.is_enabled, made.on_error, made.on_cancel) == (decide, decide, "raise", sync)


def test_two_tools_of_one_name_are_refused() -> None:
    check_tool_names([module_level, module_level, Kit("x").greet])
    with pytest.raises(UserError, match=r"two tools are named 'sync' \(.*sync and .*sync\).*name="):
        check_tool_names([as_tool(sync), as_tool(sync)])


def test_copies_of_a_tool_are_the_tool() -> None:
    assert copy.deepcopy(module_level) is module_level
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    assert repr(module_level) == "<FunctionTool 'module_level'>"


def test_arguments_reach_every_kind_of_parameter() -> None:
    def everything(a: int, b: int = 2, /, c: int = 3, *rest: int, d: int = 4, **more: int) -> Any:
        return a, b, c, rest, d, more

    assert call(everything, '{"a": 1}') == (1, 2, 3, (), 4, {})
    assert call(everything, '{"a": 1, "c": 9}') == (1, 2, 9, (), 4, {})
    assert call(everything, '{"a": 1, "rest": [7, 8]}') == (1, 2, 3, (7, 8), 4, {})
    assert call(everything, '{"a": 1, "d": 5, "more": {"x": 1, "a": 2}}') == (1, 2, 3, (), 5, {"x": 1, "a": 2})
    with pytest.raises(ToolArgumentsError, match="more: may not contain d"):
        as_tool(everything).bind('{"a": 1, "more": {"d": 2}}')


def test_positional_parameters_with_a_gap_get_their_defaults() -> None:
    def gap(a: int = 1, b: int = 2, /) -> tuple[int, int]:
        return a, b

    assert call(gap, '{"b": 5}') == (1, 5)
    assert call(gap, '{"a": 5}') == (5, 2)
    assert call(gap) == (1, 2)
