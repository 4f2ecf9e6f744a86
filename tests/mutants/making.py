"""The mutants of a module: mutmut makes them, also those of functions with decorators, which it leaves alone itself.

mutmut leaves these alone because its mutants stand beside the function, behind a trampoline. Here the function's code
is exchanged in place, so that a property is as good as any other function. What is in the decorator is left alone.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import libcst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

__all__ = ["Mutant", "make_mutants", "unified_diff"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change to one function.

    Attributes:
        module: The file, from the top of the repository.
        function: The function's qualified name.
        first: The first line of the function, its decorators included.
        last: Its last line.
        line: The first line that is changed.
        statement: The lines of the statement that it is in, or of its head if there are others in it. Those of a
            function if it is the head of one: that is run when the function is called, if it is a default.
        before: The changed lines as they are, without what they have in common in front.
        after: The same lines as they would be.
        source: The whole file as it would be.
        key: Names the mutant as long as its function stays as it is.
    """

    module: str
    function: str
    first: int
    last: int
    line: int
    statement: range
    before: str
    after: str
    source: str
    key: str


class _Visitor(MutationVisitor):
    """mutmut's, without its rule about decorated functions."""

    def _skip_node_and_children(self, node: libcst.CSTNode) -> bool:
        if isinstance(node, libcst.FunctionDef) and node.decorators:
            return any(_is_overload(decorator) for decorator in node.decorators)
        return bool(super()._skip_node_and_children(node))


def _is_overload(decorator: libcst.Decorator) -> bool:
    return isinstance(decorator.decorator, libcst.Name) and decorator.decorator.value == "overload"


def make_mutants(path: str) -> list[Mutant]:
    """All mutants of the functions and methods in a file, in the order of its lines."""
    original = Path(path).read_text()
    wrapper = MetadataWrapper(libcst.parse_module(original))
    visitor = _Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
    module = wrapper.visit(visitor)
    positions = wrapper.resolve(PositionProvider)
    places = {id(function): (name, outer) for name, function, outer in _functions(module)}
    times: dict[str, int] = {}
    made: list[Mutant] = []
    statements = list(_statements(ast.parse(original)))
    for mutation in visitor.mutations:
        function = mutation.contained_by_top_level_function
        if not isinstance(function, libcst.FunctionDef):
            continue  # what is computed when the module is imported has been computed before a mutant is planted
        name, outer = places[id(function)]
        # Replaced in the function, and that in what is around it: to look through the whole file takes seconds in all.
        changed = cast("libcst.FunctionDef", function.deep_replace(mutation.original_node, mutation.mutated_node))
        inside = changed if outer is None else outer.with_changes(body=_with(outer.body, function, changed))
        source = cast("libcst.Module", _with(module, outer or function, inside)).code
        if not _is_python(source):
            continue
        start = function.decorators[0] if function.decorators else function
        first, last = positions[start].start.line, positions[function].end.line
        line, before, after = _changed_lines(original, source)
        text = "\n".join(original.splitlines()[first - 1 : last])
        key = f"{path}:{name}:{hashlib.sha256(f'{text}|{line - first}|{before}|{after}'.encode()).hexdigest()[:16]}"
        times[key] = times.get(key, 0) + 1  # two changes may look alike: `f(a, a)` without the one or the other
        key += f":{times[key]}"
        statement = min((lines for lines in statements if line in lines), key=len, default=range(first, last + 1))
        made.append(Mutant(path, name, first, last, line, statement, before, after, source, key))
    return sorted(made, key=lambda mutant: mutant.line)


def _functions(module: libcst.Module) -> list[tuple[str, libcst.FunctionDef, libcst.ClassDef | None]]:
    found: list[tuple[str, libcst.FunctionDef, libcst.ClassDef | None]] = []
    for statement in module.body:
        if isinstance(statement, libcst.FunctionDef):
            found.append((statement.name.value, statement, None))
        elif isinstance(statement, libcst.ClassDef):
            inside = (child for child in statement.body.body if isinstance(child, libcst.FunctionDef))
            found += [(f"{statement.name.value}.{child.name.value}", child, statement) for child in inside]
    return found


def _with(block: libcst.Module | libcst.BaseSuite, old: libcst.CSTNode, new: libcst.CSTNode) -> libcst.CSTNode:
    return block.with_changes(body=[new if child is old else child for child in block.body])


def _statements(tree: ast.Module) -> Iterator[range]:
    for node in ast.walk(tree):
        inside: list[ast.stmt | ast.match_case] = getattr(node, "body", None) or getattr(node, "cases", [])
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = inside[0] if inside else None
            start = first.pattern.lineno if isinstance(first, ast.match_case) else first.lineno if first else None
            yield range(node.lineno, max(node.lineno + 1, start) if start else (node.end_lineno or node.lineno) + 1)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _is_python(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", ast.PyCF_ONLY_AST)
    except SyntaxError:
        return False
    return True


def _changed_lines(original: str, source: str) -> tuple[int, str, str]:
    """The number of the first line that differs, and all lines that do, in the one and the other."""
    old, new = original.splitlines(), source.splitlines()
    top = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    bottom = 0
    while bottom < min(len(old), len(new)) - top and old[-1 - bottom] == new[-1 - bottom]:
        bottom += 1
    before, after = ("\n".join(line.strip() for line in lines[top : len(lines) - bottom]) for lines in (old, new))
    return top + 1, before, after


def unified_diff(mutant: Mutant) -> str:
    """What the mutant changes, as a diff with the file and the line."""
    original = Path(mutant.module).read_text().splitlines()
    lines = difflib.unified_diff(original, mutant.source.splitlines(), mutant.module, mutant.module, lineterm="", n=2)
    return "\n".join([f"{mutant.module}:{mutant.line}: {mutant.function}", *list(lines)[2:]])
