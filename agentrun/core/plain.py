"""Plain data: shown and compared by its fields.

The standard library's dataclasses write such methods for each class anew when it is made, which is half of what making
one costs, and there are some forty of them in a program that runs an agent. Classes here have them from a base:
``@dataclass(slots=True, repr=False, eq=False) class RunStarted(Plain)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

__all__ = ["Plain", "PlainValue"]


class Plain:
    """Base of dataclasses whose ``repr`` and ``==`` are like those that dataclasses have anyway."""

    __slots__ = ()
    if TYPE_CHECKING:  # else it would be among the fields' types
        __dataclass_fields__: ClassVar[dict[str, Any]]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
        return f"{type(self).__qualname__}({shown})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For Hypothesis and IPython: only what differs from the defaults. Settings have many that nobody has set."""
        with printer.group(4, f"{type(self).__qualname__}(", ")"):
            separator = ""
            for name, field in self.__dataclass_fields__.items():
                value = getattr(self, name)
                if value != (field.default_factory() if callable(field.default_factory) else field.default):
                    printer.text(separator)
                    printer.breakable("" if not separator else " ")
                    printer.text(f"{name}=")
                    printer.pretty(value)
                    separator = ","

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__dataclass_fields__)


class PlainValue(Plain):
    """The same for frozen dataclasses, which can be hashed."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))
