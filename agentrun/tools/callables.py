"""Which callables can be tools, and what they tell about themselves."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final, Literal, cast

from agentrun.core.errors import UserError
from agentrun.tools.docstrings import Documentation, parse_docstring

__all__ = [
    "check_callable",
    "checked_name",
    "is_async_callable",
    "plain_function",
    "read_documentation",
    "stop_hook",
    "unwrap_descriptor",
]

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_STOP_METHODS: Final = ("cancel", "terminate", "stop")


def unwrap_descriptor(function: Any) -> tuple[Any, Literal["instance", "class"] | None]:
    """The function itself, and to what its first parameter will be bound when it is a method in a class body."""
    if isinstance(function, staticmethod):
        return cast("Any", function).__func__, None
    if isinstance(function, classmethod):
        return cast("Any", function).__func__, "class"
    if isinstance(function, FunctionType):
        # Python itself cannot tell a method from a function in a class body; its name and first parameter can.
        around, _, _ = function.__qualname__.rpartition(".")
        if around and not around.endswith("<locals>") and function.__code__.co_argcount:
            first = function.__code__.co_varnames[0]
            if first in ("self", "cls") and first not in function.__annotations__:
                return function, "instance"
    return function, None


def check_callable(function: Any) -> None:
    """Refuse what can never be a tool.

    Raises:
        UserError: It is not callable, or is a class or a generator function.
    """
    if isinstance(function, type):
        name = function.__name__
        raise UserError(f"class {name} cannot be a tool: pass an instance with a `__call__` method, or a function")
    if not callable(function):
        hint = "; pass what its as_tool() method returns" if hasattr(function, "as_tool") else ""
        raise UserError(f"a tool must be a function or another callable, not {function!r:.100}{hint}")
    bottom = plain_function(function)
    if inspect.isgeneratorfunction(bottom) or inspect.isasyncgenfunction(bottom):
        name = getattr(bottom, "__qualname__", repr(bottom))
        raise UserError(
            f"{name} cannot be a tool: it is a generator. Return the whole result (a list, say); to tell of progress "
            "meanwhile, call ctx.progress(...)"
        )


def checked_name(name: object, function: Any) -> str:
    """The tool's name: ``name`` if given, else the function's, or its ``name`` attribute, or its class in snake_case.

    Raises:
        UserError: Providers would not take it.
    """
    given = name is not None
    if not given:
        name = _own_name(function)
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise UserError(
        f"{name!r} cannot be the name of a tool: use 1 to 64 letters a-z or A-Z, digits, '_' or '-'"
        + ("" if given else "; pass one with tool(..., name=...)")
    )


def _own_name(function: Any) -> Any:
    while _is_partial(function) and not isinstance(getattr(function, "name", None), str):
        function = function.func
    own = getattr(function, "__name__", None)
    if isinstance(own, str):
        return own
    own = getattr(function, "name", None)
    if isinstance(own, str):
        return own
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(function).__name__).lower()


def stop_hook(function: Any) -> Callable[[], object] | None:
    """The ``cancel``, ``terminate`` or ``stop`` method of a tool object, whichever it has first; none for functions."""
    if not _is_tool_object(function):
        return None
    for name in _STOP_METHODS:
        method = getattr(function, name, None)
        if callable(method):
            return cast("Callable[[], object]", method)
    return None


def read_documentation(function: Any) -> Documentation:
    """What the function's docstring says; for a tool object, its ``description`` attribute, ``__call__`` and class."""
    while _is_partial(function):  # its own docstring is that of functools.partial
        function = function.func
    if not _is_tool_object(function):
        return parse_docstring(inspect.getdoc(function))
    cls = cast("Any", type(function))
    of_class = Documentation()
    # A dataclass without a docstring gets its signature for one.
    if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("):
        of_class = parse_docstring(cls.__doc__)
    of_call = parse_docstring(getattr(cls.__call__, "__doc__", None))
    own = getattr(function, "description", None)
    description = own if isinstance(own, str) else of_call.description or of_class.description
    return Documentation(description, {**of_class.parameters, **of_call.parameters})


def _is_tool_object(function: Any) -> bool:
    return not isinstance(
        function,
        (FunctionType, types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType, functools.partial),
    ) and not hasattr(function, "__wrapped__")


def _is_partial(function: Any) -> bool:
    return isinstance(function, functools.partial)  # a plain bool: `Any` should stay `Any` for the type checkers


def plain_function(function: Any) -> Any:
    """The function at the bottom of partials, bound methods, wrappers and callable objects, for its scope and doc."""
    while (inner := _one_layer_down(function)) is not None:
        function = inner
    return function


def is_async_callable(function: Any) -> bool:
    """Whether calling ``function`` gives something to await.

    A wrapper made with `functools.wraps` counts as async when what it wraps is: nearly all of them pass the awaitable
    on, and a coroutine that ends up in a worker thread helps nobody.
    """
    while function is not None:
        if inspect.iscoroutinefunction(function):
            return True
        function = _one_layer_down(function)
    return False


def _one_layer_down(function: Any) -> Any:
    if _is_partial(function):
        return function.func
    if isinstance(function, (types.MethodType, staticmethod, classmethod)):
        return cast("Any", function).__func__
    if hasattr(function, "__wrapped__"):
        return function.__wrapped__
    if not isinstance(function, (FunctionType, type)):
        cls = cast("Any", type(function))
        call = getattr(cls, "__call__", None)  # noqa: B004 - the function itself is wanted
        if hasattr(call, "__code__") or hasattr(call, "__wrapped__"):
            return call
    return None
