"""Planting a mutant: in this process by exchanging the function's code, and in a tree of its own for others.

Whoever has imported the function by name, or wrapped it, has the mutant, too, since the function is still the same
object. A process that a test starts imports the file; so it finds a copy of the repository in which the file is
mutated, and everything else is a link.
"""

from __future__ import annotations
import __future__

import ast
import functools
import gc
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

from .making import Mutant

__all__ = ["Overlay", "functions_of", "plant"]


def plant(mutant: Mutant) -> None:
    """Exchange the code of the mutant's function in this process, for good.

    Raises:
        LookupError: There is no such function here.
    """
    path = str(Path(mutant.module).resolve())
    tree = ast.parse(mutant.source)
    code = _find_code(compile(tree, path, "exec", __future__.annotations.compiler_flag), mutant)
    targets = functions_of(path).get((mutant.function, mutant.first))
    if not targets:
        raise LookupError(f"{mutant.module} has not made {mutant.function}")
    for function in targets:
        if code.co_freevars != function.__code__.co_freevars:
            # A change may take the only `super()` away; then `__class__` is handed in for nothing.
            assert function.__code__.co_freevars == ("__class__",)
            code = _with_class_cell(tree, path, mutant)
        function.__code__ = code
        _set_defaults(function, tree, mutant)


@functools.cache
def functions_of(path: str) -> dict[tuple[str, int], list[FunctionType]]:
    """The functions that a file has made, wherever decorators have put them, by name and first line.

    To be called before the garbage collector is told to leave alone what there is: it does not show that any more.
    """
    found: defaultdict[tuple[str, int], list[FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename == path:
            found[thing.__code__.co_qualname, thing.__code__.co_firstlineno].append(thing)
    return found


def _find_code(module: CodeType, mutant: Mutant) -> CodeType:
    for code in _codes(module):
        if code.co_qualname == mutant.function and code.co_firstlineno == mutant.first:
            return code
    raise LookupError(mutant.key)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _definition(tree: ast.Module, mutant: Mutant) -> ast.FunctionDef | ast.AsyncFunctionDef:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.decorator_list[0].lineno if node.decorator_list else node.lineno
            if start == mutant.first:
                return node
    raise LookupError(mutant.key)


def _with_class_cell(tree: ast.Module, path: str, mutant: Mutant) -> CodeType:
    _definition(tree, mutant).body.append(ast.parse("__class__").body[0])
    return _find_code(compile(ast.fix_missing_locations(tree), path, "exec"), mutant)


def _set_defaults(function: FunctionType, tree: ast.Module, mutant: Mutant) -> None:
    """Defaults are not in the code; mutmut changes those that are a name or a constant."""
    arguments = _definition(tree, mutant).args
    original = _definition(ast.parse(Path(mutant.module).read_text()), mutant).args
    if ast.dump(arguments) == ast.dump(original):
        return
    values = [eval(ast.unparse(node), function.__globals__) for node in arguments.defaults]  # noqa: S307
    function.__defaults__ = tuple(values) or None
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    named = {a.arg: eval(ast.unparse(node), function.__globals__) for a, node in pairs if node is not None}  # noqa: S307
    function.__kwdefaults__ = named or None


class Overlay:
    """A directory that looks like the repository, except for one file of it."""

    def __init__(self, directory: Path, module: str) -> None:
        """Args:
        directory: An empty directory.
        module: The file that is going to be another, from the top of the repository, which is the current directory.
        """
        self._file = directory / module
        here, there = Path.cwd(), directory
        for part in Path(module).parts:
            for entry in here.iterdir():
                if entry.name not in (part, "__pycache__", ".git"):
                    (there / entry.name).symlink_to(entry)
            # Compiled files of the others are good here, too; without them each process would compile everything.
            if (cache := here / "__pycache__").is_dir() and here != Path.cwd():
                (there / "__pycache__").mkdir()
                for entry in cache.iterdir():
                    if entry.name.partition(".")[0] != Path(module).stem:
                        (there / "__pycache__" / entry.name).symlink_to(entry)
            here, there = here / part, there / part
            if here.is_dir():
                there.mkdir()
        self._file.write_text(Path(module).read_text())

    def write(self, source: str) -> None:
        """Put the mutant there."""
        self._file.write_text(source)

    def enter(self, directory: Path) -> None:
        """Let the processes that this one starts find it."""
        os.chdir(directory)
        os.environ["PYTHONPATH"] = str(directory)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # else one mutant's compiled file may be taken for the next one's
