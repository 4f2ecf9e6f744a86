"""Tools made from Python callables."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeAlias, cast, overload

from typing_extensions import ParamSpec, TypeVar

from agentrun.core.errors import ToolArgumentsError, UserError
from agentrun.core.model import ToolSpec
from agentrun.tools.callables import (
    check_callable,
    checked_name,
    is_async_callable,
    read_documentation,
    stop_hook,
    unwrap_descriptor,
)
from agentrun.tools.context import RunContext
from agentrun.tools.docstrings import Documentation
from agentrun.tools.options import check_options
from agentrun.tools.signature import read_signature

__all__ = ["ApprovalPolicy", "Condition", "ErrorPolicy", "FunctionTool", "as_tool", "check_tool_names", "tool"]

P = ParamSpec("P", default=...)
R = TypeVar("R", default=Any)
_P = ParamSpec("_P")
_R = TypeVar("_R")

Condition: TypeAlias = bool | Callable[[RunContext[Any]], bool | Awaitable[bool]]
"""Yes, no, or a function (sync or async) of the context that decides."""

ApprovalPolicy: TypeAlias = bool | Callable[[RunContext[Any], dict[str, Any]], bool | Awaitable[bool]]
"""Yes, no, or a function (sync or async) of the context and the validated arguments that decides."""

ErrorPolicy: TypeAlias = Literal["model", "raise"] | Callable[[RunContext[Any], Exception], Any]
"""What becomes of an exception; a function (sync or async) returns what the model is told."""


class FunctionTool(Generic[P, R]):
    """A tool that calls a Python function. Made by `tool` and `as_tool`, not by hand.

    It can still be called like the function it was made from, which is how to test it: ``await get_weather(ctx,
    "Oslo")``. On a class, a decorated method is bound like any method: pass ``kit.search`` to an agent.

    Attributes:
        name: What the model calls it.
        function: What is called.
        strict: Whether the provider is asked to enforce the schema.
        timeout: Seconds that each attempt may take, or ``None`` for no limit. A call that times out is not retried.
        retries: How many further attempts are made after the function raised.
        parallel: Whether it may run beside other tools; if not, it runs alone.
        needs_approval: Whether a call waits for ``approve(call_id)``, or a callable (sync or async) that decides with
            the context and the validated arguments.
        on_error: ``"model"`` tells the model of an exception, ``"raise"`` fails the run, and a callable (sync or
            async) gets the context and the exception and returns what to tell the model.
        on_cancel: Called when a call is cancelled or its time is up, with the context if it takes a parameter; sync or
            async.
        stop_hook: The tool object's ``cancel``, ``terminate`` or ``stop`` method, whichever it has first.
        isolation: Where a sync function runs: in a worker ``"thread"`` or a ``"process"`` of its own.
        is_enabled: Whether the model is offered the tool, or a callable (sync or async) that decides.
        is_async: Whether the function is awaited (in the event loop) or called in a thread or process.
        takes_context: Whether the function's first parameter is a `RunContext`.
    """

    __name__: str  # the function's, or the tool's if it was made from an object without one

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout: float | None = None,
        retries: int = 0,
        parallel: bool = True,
        needs_approval: ApprovalPolicy = False,
        on_error: ErrorPolicy = "model",
        on_cancel: Callable[..., object] | None = None,
        isolation: Literal["thread", "process"] = "thread",
        is_enabled: Condition = True,
        strict: bool | None = False,
    ) -> None:
        source, self._binds = unwrap_descriptor(function)
        check_callable(source)
        self.name: str = checked_name(name, source)
        label = f"tool {self.name!r}"
        self.function: Callable[P, R] = source
        self._signature = read_signature(source, tool=label, skip_first=self._binds is not None)
        self.takes_context: bool = self._signature.takes_context
        self.is_async: bool = is_async_callable(source)
        options = {
            "description": description,
            "timeout": timeout,
            "retries": retries,
            "parallel": parallel,
            "needs_approval": needs_approval,
            "on_error": on_error,
            "on_cancel": on_cancel,
            "isolation": isolation,
            "is_enabled": is_enabled,
            "strict": strict,
        }
        check_options(label, source, options, is_async=self.is_async, takes_context=self.takes_context)
        self.timeout: float | None = None if timeout is None else float(timeout)
        self.retries: int = retries
        self.parallel: bool = parallel
        self.needs_approval: ApprovalPolicy = needs_approval
        self.on_error: ErrorPolicy = on_error
        self.on_cancel: Callable[..., object] | None = on_cancel
        self.stop_hook: Callable[[], object] | None = stop_hook(source)
        self.isolation: Literal["thread", "process"] = isolation
        self.is_enabled: Condition = is_enabled
        # Both import pydantic, which a program without tools can do without.
        from agentrun.tools.arguments import validate_arguments
        from agentrun.tools.schema import build_schema

        self._validate: Callable[..., dict[str, Any]] = validate_arguments
        self._schema = build_schema(self._signature.parameters, tool=label, strict=strict)
        self.strict: bool = self._schema.strict
        self._keywords_name = next((p.name for p in self._signature.parameters if p.kind is p.kind.VAR_KEYWORD), None)
        self._description = description
        self._documentation: Documentation | None = None
        self._spec: ToolSpec | None = None
        self.__name__ = self.name
        functools.update_wrapper(self, source, updated=())  # name, docstring and signature, for help() and friends

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function directly, as if it were not a tool: nothing is validated, retried or reported."""
        return self.function(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> FunctionTool[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> FunctionTool[..., R]: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> FunctionTool[..., R]:
        """The tool bound to ``instance``, when it was made from a method; otherwise the tool itself."""
        target = owner if self._binds == "class" else instance
        if self._binds is None or target is None:
            return self
        return self._bound_to(target)

    def _bound_to(self, target: object) -> FunctionTool[..., R]:
        bound = cast("FunctionTool[..., R]", object.__new__(type(self)))
        bound.__dict__.update(self.__dict__)
        bound._binds = None
        bound.function = types.MethodType(cast("Callable[..., R]", self.function), target)
        return bound

    def __reduce__(self) -> str:
        # Copies are the tool itself; pickles refer to it by name, as they do for functions.
        return cast("str", getattr(self, "__qualname__", self.name))

    def __repr__(self) -> str:
        return f"<FunctionTool {self.name!r}>"

    @property
    def description(self) -> str:
        """What the tool does, for the model: the option of that name, else the docstring without its sections."""
        return self._description if self._description is not None else self._documented().description

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON schema (an object) of the arguments."""
        return cast("dict[str, Any]", self.spec.parameters)

    @property
    def spec(self) -> ToolSpec:
        """The tool as the model sees it. Made once, when first asked for."""
        if self._spec is None:
            schema = self._schema.described(self._documented().parameters)
            self._spec = ToolSpec(self.name, self.description, schema, self.strict)
        return self._spec

    def bind(self, arguments: str) -> dict[str, Any]:
        """Validate the model's JSON text.

        Returns:
            Parameter name to value, for `call`. ``*args`` and ``**kwargs`` are there as a list and a dict.

        Raises:
            ToolArgumentsError: The arguments are not right; the message tells the model what to change.
        """
        bound = self._validate(arguments, self._schema, tool_name=self.name)
        if self._keywords_name is not None:
            self._check_keywords(bound.get(self._keywords_name, {}), self._keywords_name)
        return bound

    def call(self, ctx: RunContext[Any] | None, bound: Mapping[str, Any]) -> Any:
        """Call the function with what `bind` returned. ``ctx`` is passed on if the function takes it.

        Returns:
            The function's value; for an async function, a coroutine.
        """
        function = cast("Callable[..., Any]", self.function)
        args, kwargs = ((), bound) if self._signature.all_keywords else self._signature.arrange(bound)
        value: Any = function(ctx, *args, **kwargs) if self.takes_context else function(*args, **kwargs)
        return _as_coroutine(value) if self.is_async and not inspect.iscoroutine(value) else value

    def call_arguments(self, bound: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the keyword arguments, without the context, that `call` would pass."""
        return self._signature.arrange(bound)

    def _check_keywords(self, given: Mapping[str, Any], name: str) -> None:
        taken = sorted(self._signature.reserved.intersection(given))
        if taken:
            raise ToolArgumentsError(
                f"The arguments for {self.name} are not valid:\n- {name}: may not contain {', '.join(taken)}"
            )

    def _documented(self) -> Documentation:
        if self._documentation is None:
            self._documentation = read_documentation(self.function)
        return self._documentation


async def _as_coroutine(value: Any) -> Any:
    """``value`` as a coroutine object, which is what the runtime drives. A checkpoint if ``value`` awaits one."""
    return await value if inspect.isawaitable(value) else value


@overload
def tool(
    function: Callable[_P, _R],
    /,
    *,
    name: str | None = ...,
    description: str | None = ...,
    timeout: float | None = ...,
    retries: int = ...,
    parallel: bool = ...,
    needs_approval: ApprovalPolicy = ...,
    on_error: ErrorPolicy = ...,
    on_cancel: Callable[..., object] | None = ...,
    isolation: Literal["thread", "process"] = ...,
    is_enabled: Condition = ...,
    strict: bool | None = ...,
) -> FunctionTool[_P, _R]: ...
@overload
def tool(
    function: None = None,
    /,
    *,
    name: str | None = ...,
    description: str | None = ...,
    timeout: float | None = ...,
    retries: int = ...,
    parallel: bool = ...,
    needs_approval: ApprovalPolicy = ...,
    on_error: ErrorPolicy = ...,
    on_cancel: Callable[..., object] | None = ...,
    isolation: Literal["thread", "process"] = ...,
    is_enabled: Condition = ...,
    strict: bool | None = ...,
) -> Callable[[Callable[_P, _R]], FunctionTool[_P, _R]]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    parallel: bool = True,
    needs_approval: ApprovalPolicy = False,
    on_error: ErrorPolicy = "model",
    on_cancel: Callable[..., object] | None = None,
    isolation: Literal["thread", "process"] = "thread",
    is_enabled: Condition = True,
    strict: bool | None = False,
) -> Any:
    """Make a tool of a function: ``@tool``, ``@tool(...)`` or ``tool(function, ...)``.

    The model sees the function's name, its docstring, and a JSON schema made from the types of its parameters; what
    the docstring says about a parameter (Google, NumPy or Sphinx style) goes into the schema. A first parameter
    annotated as `RunContext` gets the context and is not shown to the model. An async function runs in the event
    loop, a sync one in a thread or process, so that it holds up nothing.

    Args:
        function: The function: any callable but a class or a generator.
        name: What the model calls it, 1 to 64 of ``a-zA-Z0-9_-``; default: the function's name.
        description: What the model is told it does; default: the docstring without its sections.
        timeout: Seconds each attempt may take; ``None`` is no limit. A call that times out is not retried.
        retries: How many further attempts to make after the function raised.
        parallel: ``False`` has it run alone, for tools that must not overlap with others.
        needs_approval: ``True``, or a callable given context and arguments that says so, has each call wait for
            ``approve(call_id)`` before it runs.
        on_error: What becomes of an exception: ``"model"`` tells the model, ``"raise"`` fails the run, a callable
            (sync or async) is given context and exception and returns what to tell the model.
        on_cancel: Called, shielded from cancellation, when a call is cancelled; with the context if it takes a
            parameter. Sync or async.
        isolation: For sync functions: ``"thread"``, which Python cannot stop by force, or ``"process"``, which can be
            killed with all it started. A process needs a module-level function without context.
        is_enabled: ``False``, or a callable given the context that says so, hides the tool from the model.
        strict: ``True`` has the provider enforce the schema, for which every type must be closed; ``None`` does so
            when the types allow it. A strict model always writes every argument, with null for "the default".

    Raises:
        UserError: The function cannot be a tool, a parameter's type has no JSON schema, or an option is not valid.
    """
    options: dict[str, Any] = {
        "name": name,
        "description": description,
        "timeout": timeout,
        "retries": retries,
        "parallel": parallel,
        "needs_approval": needs_approval,
        "on_error": on_error,
        "on_cancel": on_cancel,
        "isolation": isolation,
        "is_enabled": is_enabled,
        "strict": strict,
    }

    def decorate(function: Callable[..., Any]) -> FunctionTool[..., Any]:
        if isinstance(function, FunctionTool):
            raise UserError(f"{function!r} is a tool already; pass the function it was made from, with all options")
        return FunctionTool(function, **options)

    return decorate if function is None else decorate(function)


def as_tool(obj: object) -> FunctionTool[..., Any]:
    """The tool that ``obj`` is or, with default options, can be made into.

    Besides functions these are bound methods, partials and objects with a ``__call__`` method. Such an object's tool
    is named by its ``name`` attribute or else its class, described by its ``description`` attribute or else its
    docstring, and when a call of it is cancelled its ``cancel``, ``terminate`` or ``stop`` method is called.

    Raises:
        UserError: As for `tool`, or ``obj`` is a method that was taken from the class, not from an instance.
    """
    if isinstance(obj, types.MethodType) and isinstance(cast("object", obj.__func__), FunctionTool):
        # What a classmethod makes of a tool since Python 3.13; before, it asked the tool to bind itself.
        obj = cast("FunctionTool[..., Any]", obj.__func__)._bound_to(obj.__self__)
    if isinstance(obj, FunctionTool):
        found = cast("FunctionTool[..., Any]", obj)
        if found._binds is not None:
            where = getattr(found, "__qualname__", found.name)
            raise UserError(f"tool {found.name!r} is the method {where}: take it from an instance, not from the class")
        return found
    return FunctionTool(cast("Callable[..., Any]", obj))


def check_tool_names(tools: Iterable[FunctionTool[..., Any]]) -> None:
    """Make sure that the model can tell ``tools`` apart.

    Raises:
        UserError: Two of them have the same name.
    """
    seen: dict[str, FunctionTool[..., Any]] = {}
    for each in tools:
        other = seen.setdefault(each.name, each)
        if other is not each:
            raise UserError(
                f"two tools are named {each.name!r} ({_origin(other)} and {_origin(each)}); give one another name with "
                "tool(..., name=...)"
            )


def _origin(found: FunctionTool[..., Any]) -> str:
    return f"{getattr(found, '__module__', '?')}.{getattr(found, '__qualname__', type(found.function).__qualname__)}"
