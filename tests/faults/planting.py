"""Planting a fault: a function is compiled again with a piece of its source exchanged, and put where the good one was.

A fragment that is not there exactly once is an error, so that a fault cannot go stale without being noticed.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import pytest

__all__ = ["Edit", "StaleFault", "plant"]


class StaleFault(Exception):
    """The code that a fault was written for is not there any more: write the fault anew."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One exchange.

    Attributes:
        where: The function, as ``"agentrun.module:function"`` or ``"agentrun.module:Class.method"``.
        old: What is to be exchanged, exactly as in the file, except for the spaces before its first line.
        new: What comes instead.
    """

    where: str
    old: str
    new: str


def plant(monkeypatch: pytest.MonkeyPatch, edits: Iterable[Edit]) -> None:
    """Make the exchanges, until the monkeypatch takes them back.

    Raises:
        StaleFault: One cannot be made.
    """
    by_function: dict[str, list[Edit]] = {}
    for edit in edits:
        by_function.setdefault(edit.where, []).append(edit)
    for where, some in by_function.items():
        _replace(monkeypatch, where, some)


def _replace(monkeypatch: pytest.MonkeyPatch, where: str, edits: list[Edit]) -> None:
    module_name, _, path = where.partition(":")
    module = importlib.import_module(module_name)
    owner_path, _, name = path.rpartition(".")
    owner: Any = module
    try:
        for part in owner_path.split(".") if owner_path else ():
            owner = vars(owner)[part]
        original = vars(owner)[name]
    except KeyError as exc:
        raise StaleFault(f"{where}: there is no {exc.args[0]}") from exc
    planted = _compile(where, original, edits, module)
    if isinstance(owner, ModuleType):
        # Other modules have imported it by name.
        for other in list(sys.modules.values()):
            if getattr(other, "__name__", "").startswith("agentrun") and vars(other).get(name) is original:
                monkeypatch.setattr(other, name, planted)
    else:
        monkeypatch.setattr(owner, name, planted)


def _compile(where: str, original: Any, edits: list[Edit], module: ModuleType) -> Any:
    function = _function(original)
    lines, first = inspect.getsourcelines(function)
    source = "".join(lines)
    for edit in edits:
        # Whole words only: `run.stop()` is not a part of `self.run.stop()`.
        before = r"(?<![\w.])" if re.match(r"\w", edit.old) else ""
        after = r"(?!\w)" if re.search(r"\w\Z", edit.old) else ""
        places = [match.start() for match in re.finditer(before + re.escape(edit.old) + after, source)]
        if len(places) != 1:
            raise StaleFault(f"{where} has this {len(places)} times instead of once; write the fault anew:\n{edit.old}")
        source = source[: places[0]] + edit.new + source[places[0] + len(edit.old) :]
    free = function.__code__.co_freevars
    if free not in ((), ("__class__",)):
        raise StaleFault(f"{where} is a closure over {', '.join(free)}: plant the fault in the function around it")
    # The new code keeps file and line numbers (up to the exchange), so that reports point at the right places.
    tree = ast.parse(textwrap.dedent(source))
    ast.increment_lineno(tree, first - 1)
    made: dict[str, Any] = {}
    if free:
        tree.body = [_with_class_cell(tree.body[0])]
    flags = __future__.annotations.compiler_flag
    exec(compile(tree, function.__code__.co_filename, "exec", flags, dont_inherit=True), vars(module), made)  # noqa: S102
    if free:
        assert function.__closure__ is not None
        return made["_make"](function.__closure__[0].cell_contents)
    planted = made[function.__name__]
    planted_function = _function(planted)
    planted_function.__qualname__ = function.__qualname__
    planted_function.__module__ = function.__module__
    return planted


def _function(thing: Any) -> FunctionType:
    if isinstance(thing, property):
        thing = thing.fget
    found = inspect.unwrap(thing)
    assert isinstance(found, FunctionType), f"{thing!r} is no function"
    return found


def _with_class_cell(definition: ast.stmt) -> ast.stmt:
    assert isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef))
    around = ast.parse("def _make(__class__):\n    pass").body[0]
    assert isinstance(around, ast.FunctionDef)
    around.body = [definition, ast.Return(ast.Name(definition.name, ast.Load()))]
    return ast.fix_missing_locations(around)
