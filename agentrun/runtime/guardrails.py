"""Guardrails: functions that look at what goes in or comes out, and pass it or trip.

A guardrail returns ``None`` to pass, or a `Trip` (or a non-empty string, its message) to trip. Anything else is an
error, and so is an exception: a guardrail that breaks, or does not answer in time, never lets anything pass.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, overload

from agentrun.core.errors import InputGuardrailTripped, OutputGuardrailTripped, UserError
from agentrun.core.plain import PlainValue
from agentrun.tools.callables import is_async_callable

__all__ = [
    "Guardrail",
    "InputGuardrail",
    "OutputGuardrail",
    "Trip",
    "as_input_guardrail",
    "as_output_guardrail",
    "input_guardrail",
    "output_guardrail",
    "read_verdict",
]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Trip(PlainValue):
    """What a guardrail returns to refuse.

    Attributes:
        message: Why; it becomes the error's message.
        data: Anything for the caller; it becomes the error's ``data``.
    """

    message: str
    data: Any = None


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class InputGuardrail(PlainValue):
    """A check of user input: the first of a run, and everything that is injected.

    Attributes:
        function: Called with the `RunContext` and the new items (a tuple), or with the items alone if it takes one
            parameter. Async, or sync (then it runs in a thread).
        name: For events, results and errors.
        blocking: Run before the model call instead of racing it: nothing is spent on input that trips.
        timeout: Seconds; ``None`` means ``RunConfig.guardrail_timeout``.
    """

    function: Callable[..., Any]
    name: str
    blocking: bool = False
    timeout: float | None = None

    @property
    def is_async(self) -> bool:
        """Whether the function is awaited; if not, it runs in a thread."""
        return is_async_callable(self.function)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class OutputGuardrail(PlainValue):
    """A check of the final output.

    Attributes:
        function: Called with the `RunContext` and the output (of the agent's ``output_type``), or with the output
            alone if it takes one parameter. Async, or sync (then it runs in a thread).
        name: For events, results and errors.
        timeout: Seconds; ``None`` means ``RunConfig.guardrail_timeout``.
    """

    function: Callable[..., Any]
    name: str
    timeout: float | None = None

    @property
    def is_async(self) -> bool:
        """Whether the function is awaited; if not, it runs in a thread."""
        return is_async_callable(self.function)


Guardrail: TypeAlias = InputGuardrail | OutputGuardrail


@overload
def input_guardrail(function: Callable[..., Any], /) -> InputGuardrail: ...
@overload
def input_guardrail(
    *, name: str | None = None, blocking: bool = False, timeout: float | None = None
) -> Callable[[Callable[..., Any]], InputGuardrail]: ...
def input_guardrail(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    blocking: bool = False,
    timeout: float | None = None,
) -> InputGuardrail | Callable[[Callable[..., Any]], InputGuardrail]:
    """Make a function an input guardrail, with or without options. See `InputGuardrail` for what they mean."""

    def make(function: Callable[..., Any]) -> InputGuardrail:
        return InputGuardrail(function, name or _name_of(function), blocking, _check(function, timeout))

    return make if function is None else make(function)


@overload
def output_guardrail(function: Callable[..., Any], /) -> OutputGuardrail: ...
@overload
def output_guardrail(
    *, name: str | None = None, timeout: float | None = None
) -> Callable[[Callable[..., Any]], OutputGuardrail]: ...
def output_guardrail(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, timeout: float | None = None
) -> OutputGuardrail | Callable[[Callable[..., Any]], OutputGuardrail]:
    """Make a function an output guardrail, with or without options. See `OutputGuardrail` for what they mean."""

    def make(function: Callable[..., Any]) -> OutputGuardrail:
        return OutputGuardrail(function, name or _name_of(function), _check(function, timeout))

    return make if function is None else make(function)


def as_input_guardrail(value: InputGuardrail | Callable[..., Any]) -> InputGuardrail:
    """``value``, or a plain function as an `InputGuardrail`."""
    if isinstance(value, OutputGuardrail):
        raise UserError(f"{value.name!r} is an output guardrail; pass it as output_guardrails")
    return value if isinstance(value, InputGuardrail) else input_guardrail(value)


def as_output_guardrail(value: OutputGuardrail | Callable[..., Any]) -> OutputGuardrail:
    """``value``, or a plain function as an `OutputGuardrail`."""
    if isinstance(value, InputGuardrail):
        raise UserError(f"{value.name!r} is an input guardrail; pass it as input_guardrails")
    return value if isinstance(value, OutputGuardrail) else output_guardrail(value)


def bind_guardrail(guardrail: Guardrail, ctx: Any, subject: Any) -> tuple[Any, ...]:
    """The arguments for the guardrail's function: it may leave out the context."""
    return (ctx, subject) if _positional(guardrail.function) >= 2 else (subject,)


def read_verdict(guardrail: Guardrail, value: Any) -> Trip | None:
    """What the guardrail's answer means.

    Raises:
        UserError: It is neither ``None`` nor a `Trip` nor a message. A ``True`` could mean either.
    """
    if value is None or isinstance(value, Trip):
        return value
    if isinstance(value, str) and value:
        return Trip(value)
    raise UserError(
        f"guardrail {guardrail.name!r} returned {value!r:.80}; return None to pass, or Trip('why') to refuse"
    )


def tripped_error(
    guardrail: Guardrail, kind: Literal["input", "output"], trip: Trip
) -> InputGuardrailTripped | OutputGuardrailTripped:
    """The error that ends the run."""
    cls = InputGuardrailTripped if kind == "input" else OutputGuardrailTripped
    return cls(f"{kind} guardrail {guardrail.name!r} tripped: {trip.message}", guardrail=guardrail.name, data=trip.data)


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", None) or type(function).__name__


def _check(function: Any, timeout: float | None) -> float | None:
    if not callable(function):
        raise UserError(f"a guardrail must be a function, not {type(function).__name__}")
    count = _positional(function)
    if count not in (1, 2):
        raise UserError(
            f"guardrail {_name_of(function)!r} must take (ctx, value) or (value), "
            f"but takes {count} positional parameters"
        )
    if timeout is not None and not (_is_number(timeout) and timeout > 0 and math.isfinite(timeout)):
        raise UserError(f"guardrail {_name_of(function)!r}: timeout must be more than 0 seconds, not {timeout!r}")
    return timeout


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positional(function: Any) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
