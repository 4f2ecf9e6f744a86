"""Plain data as Python code that makes it again: only what differs from the defaults, on few but readable lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, cast

__all__ = ["Plan", "render"]

_WIDTH: Final = 100


class Plan:
    """Base of the parts of a program: its ``repr`` is code that can be pasted into a test."""

    __slots__ = ()

    def __repr__(self) -> str:
        return render(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For Hypothesis, which shows all fields of a dataclass else, those that nobody has set among them."""
        for number, line in enumerate(render(self).splitlines()):
            if number:
                printer.break_()
            printer.text(line)


def render(value: Any, indent: int = 0) -> str:
    """Code that makes ``value`` again, ``indent`` columns to the right."""
    line = _in_one_line(value)
    if indent + len(line) <= _WIDTH:
        return line
    if isinstance(value, (list, tuple)):
        inner = indent + 4
        rows = "".join(f"{' ' * inner}{render(item, inner)},\n" for item in cast("list[Any]", value))
        return f"[\n{rows}{' ' * indent}]"
    if _is_data(value):
        inner = indent + 4
        rows = "".join(
            f"{' ' * inner}{name}{render(item, inner + len(name))},\n"
            if not isinstance(item, (list, tuple)) or not name
            else f"{' ' * inner}{name}{render(item, inner)},\n"
            for name, item in _arguments(value)
        )
        return f"{type(value).__name__}(\n{rows}{' ' * indent})"
    return line


def _in_one_line(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_in_one_line(item) for item in cast('list[Any]', value))}]"
    if isinstance(value, Mapping):
        mapping: Mapping[Any, Any] = cast("Any", value)
        pairs = (f"{key!r}: {_in_one_line(item)}" for key, item in mapping.items())
        return f"{{{', '.join(pairs)}}}"
    if _is_data(value):
        arguments = ", ".join(f"{name}{_in_one_line(item)}" for name, item in _arguments(value))
        return f"{type(value).__name__}({arguments})"
    return repr(value)


def _is_data(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _arguments(value: Any) -> list[tuple[str, Any]]:
    """What a dataclass must be given: the first two without their names, as long as none before them is left out."""
    found: list[tuple[str, Any]] = []
    for index, field in enumerate(dataclasses.fields(value)):
        item = getattr(value, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING or item != default:
            by_position = index == len(found) and index < 2 and not field.kw_only
            found.append(("" if by_position else f"{field.name}=", item))
    return found
