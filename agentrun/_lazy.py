"""Public names that are imported when they are first asked for.

``import agentrun`` then costs nothing, and so do ``agentrun.testing`` in each pytest process of an environment and
the command line's ``--help``. What else was considered: importing everything, which is a quarter of a second, and
the ``lazy_loader`` package, which reads a stub file at run time.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(module: str, homes: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and the ``__dir__`` of a module whose names come from elsewhere (PEP 562).

    Args:
        module: Its ``__name__``.
        homes: By module, the names that it has.
    """
    home = {name: where for where, names in homes.items() for name in names}

    def get(name: str) -> Any:
        where = home.get(name)
        if where is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(where), name)
        setattr(sys.modules[module], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[module]), *home})

    return get, names
