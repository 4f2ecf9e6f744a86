"""Mutants that cannot change what the program does, recognised by rule. Only what is safe to say without looking."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from .making import Mutant

__all__ = ["equivalent"]

_FALSE_TO_NONE = re.compile(r"(?P<targets>[\w., =:|]*[^=!<>])= False\Z")


def equivalent(mutant: Mutant) -> str | None:
    """Why nothing can notice the mutant, if one of the rules says so."""
    if _is_first_of_cast(mutant):
        return "the first argument of typing.cast"
    if _is_none_for_false(mutant):
        return "None for a False of which only the truth is asked"
    return None


def _is_first_of_cast(mutant: Mutant) -> bool:
    """Whether the two differ in the first argument of calls of ``cast`` only, which returns its second."""

    class Blank(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            if isinstance(node.func, ast.Name) and node.func.id == "cast" and len(node.args) == 2:
                node.args[0] = ast.Constant(None)
            return node

    original = Path(mutant.module).read_text()
    if "cast(" not in mutant.before:
        return False
    one, other = (ast.dump(Blank().visit(ast.parse(source))) for source in (original, mutant.source))
    return one == other


def _is_none_for_false(mutant: Mutant) -> bool:
    before, after = (re.sub(r"\s+#.*\Z", "", text) for text in (mutant.before, mutant.after))
    match = _FALSE_TO_NONE.match(before)
    if match is None or after != before.removesuffix("False") + "None":
        return False
    targets = [re.sub(r":.*", "", target).strip() for target in match["targets"].split("=")]
    return all(_only_its_truth(mutant.module, mutant.function, target) for target in targets)


def _only_its_truth(module: str, function: str, target: str) -> bool:
    """Whether each use of a variable or a private attribute is one that asks for its truth and hands nothing on."""
    owner, _, name = target.rpartition(".")
    if owner == "self" and name.startswith("_"):
        roots: list[ast.AST] = list(_trees())
        uses = (
            use for root in roots for use in _uses(root) if isinstance(use[0], ast.Attribute) and use[0].attr == name
        )
    elif not owner:
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef)
        walked = ast.walk(ast.parse(Path(module).read_text()))
        roots = [node for node in walked if isinstance(node, definitions) and node.name == function.split(".")[-1]]
        if any(isinstance(node, ast.Nonlocal | ast.Global) for root in roots for node in ast.walk(root)):
            return False
        uses = (use for root in roots for use in _uses(root) if isinstance(use[0], ast.Name) and use[0].id == name)
    else:
        return False
    return all(asked for _, asked in uses)


@functools.cache
def _trees() -> tuple[ast.Module, ...]:
    return tuple(ast.parse(path.read_text()) for path in Path("agentrun").rglob("*.py"))


def _uses(root: ast.AST, asked: bool = False) -> Iterator[tuple[ast.expr, bool]]:
    """All names and attributes that are read, and whether only their truth is asked."""
    for field, value in ast.iter_fields(root):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            truth = (
                (field == "test" and isinstance(root, ast.If | ast.While | ast.IfExp | ast.Assert))
                or (isinstance(root, ast.UnaryOp) and isinstance(root.op, ast.Not))
                or (isinstance(root, ast.BoolOp) and asked)
            )
            if isinstance(child, ast.Name | ast.Attribute) and isinstance(child.ctx, ast.Load):
                yield child, truth
            elif isinstance(root, ast.AugAssign) and field == "target" and isinstance(child, ast.Name | ast.Attribute):
                yield child, False
            yield from _uses(child, truth)
