"""The parameters of a callable, with their annotations resolved."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Union, cast

from agentrun.core.errors import UserError
from agentrun.core.plain import PlainValue
from agentrun.tools.callables import plain_function
from agentrun.tools.context import RunContext

__all__ = ["EMPTY", "Parameter", "Signature", "read_signature"]

EMPTY: Final[Any] = inspect.Parameter.empty

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

# `RunContext`, `agentrun.RunContext[Deps]`, `RunContext | None`, `Optional[RunContext]`, as text: for annotations that
# cannot be evaluated because their names are imported for type checkers only.
_CONTEXT_TEXT: Final = (
    r"(?s)^\s*(?:None\s*\|\s*)?(?:(?:\w+\.)*Optional\s*\[\s*)?(?:\w+\.)*RunContext\b(?:\s*\[.*\])?\s*\]?"
    r"\s*(?:\|\s*None)?\s*$"
)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Parameter(PlainValue):
    """One parameter that the model fills in.

    Attributes:
        name: Its name in the function.
        annotation: Its type, resolved; `typing.Any` when there is none.
        kind: As in `inspect.Parameter.kind`.
        default: Its default, or `EMPTY`.
    """

    name: str
    annotation: Any
    kind: Any
    default: Any


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Signature(PlainValue):
    """What a tool's function takes.

    Attributes:
        parameters: What the model fills in.
        takes_context: Whether a `RunContext` comes before them.
        reserved: Names that may not turn up among ``**kwargs``: they have their own parameter, or are fixed.
        all_keywords: Whether everything can be passed by keyword, as nearly all functions allow.
    """

    parameters: tuple[Parameter, ...]
    takes_context: bool
    reserved: frozenset[str]
    all_keywords: bool

    def arrange(self, bound: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the keyword arguments that ``bound`` (parameter name to value) stands for."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        # A parameter that is passed by position can be left out only if nothing is passed by position after it.
        by_position = [p for p in self.parameters if p.kind is p.kind.POSITIONAL_ONLY and p.name in bound]
        for parameter in self.parameters:
            if parameter.kind is parameter.kind.VAR_POSITIONAL and bound.get(parameter.name):
                by_position = [p for p in self.parameters if p.kind in _POSITIONAL]
        needed = by_position[-1].name if by_position else None
        for parameter in self.parameters:
            name, kind = parameter.name, parameter.kind
            if kind is kind.VAR_POSITIONAL:
                args.extend(bound.get(name, ()))
            elif kind is kind.VAR_KEYWORD:
                kwargs.update(bound.get(name, {}))
            elif needed is not None and kind in _POSITIONAL:
                args.append(bound.get(name, parameter.default))
                needed = None if name == needed else needed
            elif name in bound:
                kwargs[name] = bound[name]
        return tuple(args), kwargs


def read_signature(function: Callable[..., Any], *, tool: str, skip_first: bool = False) -> Signature:
    """Read the parameters of ``function``.

    Args:
        function: Anything callable that has a signature.
        tool: The tool as named in error messages.
        skip_first: Leave out the first parameter (``self`` of a method that is not bound yet).

    Raises:
        UserError: It has no signature, an annotation cannot be resolved, or a context is not where it can be given.
    """
    try:
        raw = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError) as exc:
        raise UserError(
            f"{tool}: cannot read the parameters of {function!r}; wrap it in a Python function with annotations"
        ) from exc
    if skip_first:
        raw = raw[1:]
    # What a partial fixes by keyword is the developer's choice: the model neither sees nor changes it.
    fixed = _fixed_keywords(function)
    scope = _Scope(function)
    parameters: list[Parameter] = []
    takes_context = False
    for index, parameter in enumerate(raw):
        if parameter.name in fixed:
            continue
        annotation = parameter.annotation
        if isinstance(annotation, str) and index == 0 and re.match(_CONTEXT_TEXT, annotation.strip("'\"")):
            resolved: Any = RunContext
        elif annotation is EMPTY:
            resolved = Any
        else:
            resolved = scope.resolve(annotation, where=f"{tool}, parameter {parameter.name!r}")
        if _is_context(resolved):
            if index != 0 or parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                raise UserError(
                    f"{tool}, parameter {parameter.name!r}: the RunContext must be the first parameter, and not "
                    "keyword-only; move it to the front"
                )
            takes_context = True
            continue
        if annotation is EMPTY and parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise UserError(
                f"{tool}, parameter '{stars}{parameter.name}': a model needs to know what to pass here. Annotate it "
                f"(as in `{stars}{parameter.name}: str`) or name the parameters; if a decorator hides them, give its "
                "wrapper functools.wraps"
            )
        parameters.append(Parameter(parameter.name, resolved, parameter.kind, parameter.default))
    return Signature(
        tuple(parameters),
        takes_context,
        fixed.union(p.name for p in raw if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)),
        all(p.kind in (p.kind.POSITIONAL_OR_KEYWORD, p.kind.KEYWORD_ONLY) for p in parameters),
    )


def _fixed_keywords(function: Any) -> frozenset[str]:
    return frozenset(cast("Any", function).keywords) if isinstance(function, functools.partial) else frozenset()


def _is_context(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if annotation is RunContext or origin is RunContext:
        return True
    if origin is Annotated:
        return _is_context(typing.get_args(annotation)[0])
    if origin is Union or origin is types.UnionType:
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return len(members) == 1 and _is_context(members[0])
    return isinstance(annotation, type) and issubclass(annotation, RunContext)


class _Scope:
    """Where the names in a function's annotations are looked up."""

    def __init__(self, function: Any) -> None:
        self._function = plain_function(function)
        self._locals: dict[str, Any] | None = None

    def resolve(self, annotation: Any, *, where: str) -> Any:
        # `get_type_hints` evaluates strings, also nested ones as in list["City"]; one annotation at a time, to be
        # able to say which one is wrong.
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        globals_ = getattr(self._function, "__globals__", {})
        if self._locals is None:
            self._locals = _enclosing_names(self._function)
        try:
            hints: Mapping[str, Any] = typing.get_type_hints(
                cast("Any", holder), globalns=globals_, localns=self._locals, include_extras=True
            )
        except NameError as exc:
            raise UserError(
                f"{where}: cannot find {exc.name!r} in its annotation {annotation!r}. Define it before the tool, at "
                "module level, and import it at run time, not only under TYPE_CHECKING"
            ) from exc
        except Exception as exc:
            raise UserError(f"{where}: cannot understand the annotation {annotation!r}: {exc}") from exc
        return hints["it"]


def _enclosing_names(function: Any) -> dict[str, Any]:
    """Names that the function's annotations can see besides globals: its closure, and the scopes it is defined in.

    The latter matter for ``from __future__ import annotations``, where a name that only an annotation uses is in no
    closure; they can be read while the enclosing function still runs, which it does when it decorates.
    """
    names: dict[str, Any] = {}
    code = getattr(function, "__code__", None)
    if code is None:
        return names
    qualname: str = function.__qualname__
    frames: list[types.FrameType] = []
    frame = sys._getframe(1)
    while frame is not None:
        inside = frame.f_code.co_qualname
        if frame.f_globals is function.__globals__ and (qualname.startswith(f"{inside}.")):
            frames.append(frame)
        frame = cast("Any", frame.f_back)
    for outer in reversed(frames):
        names.update(outer.f_locals)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    return names
