"""What users see: every public name exists and says what it is, and importing costs no more than it must."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import agentrun

PACKAGE = Path(agentrun.__file__).parent
INTERNAL = {"__main__", "core", "runtime"}  # what users need of these is importable from `agentrun`
PUBLIC_MODULES = [
    "agentrun",
    *sorted(f"agentrun.{info.name}" for info in pkgutil.iter_modules(agentrun.__path__) if info.name not in INTERNAL),
]


def _public_names() -> Iterator[tuple[str, str]]:
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        assert hasattr(module, "__all__"), f"{module_name} has no __all__"
        for name in module.__all__:
            yield module_name, name


PUBLIC_NAMES = list(_public_names())

# Changing this list is a decision about the API, to be made on purpose.
GUARD_LIST = """
    ActiveRun Agent AgentRunError AssistantMessage EventStream FunctionTool Handoff InboxFull Injection InputGuardrail
    InputGuardrailTripped Interrupt LimitExceeded MaxTurnsExceeded ModelBehaviorError ModelError ModelSettings
    OutputGuardrail OutputGuardrailTripped Reasoning RunConfig RunContext RunEnded RunHooks RunResult RunSnapshot
    RunState SystemMessage TeardownReport ToolCall ToolError ToolOutput Trip Usage UserError UserMessage
    input_guardrail open_run output_guardrail run run_sync tool
"""

# From the design: these are importable, with these names, from these modules.
PROMISED = {
    "agentrun": "Agent RunContext open_run run run_sync tool ActiveRun RunConfig RunResult Injection",
    "agentrun.errors": """AgentRunError UserError ModelError ModelBehaviorError ToolError InputGuardrailTripped
        OutputGuardrailTripped LimitExceeded MaxTurnsExceeded RunEnded InboxFull""",
    "agentrun.events": """RunStarted RunEnded TurnStarted ModelCallStarted TextDelta ReasoningDelta ToolCallDelta
        ModelCallEnded ToolStarted ToolProgress ToolEnded GuardrailEnded AgentChanged InputInjected InputDelivered
        InterruptRequested ApprovalRequested EventsDropped event_to_dict event_from_dict""",
    "agentrun.items": "UserMessage SystemMessage AssistantMessage Reasoning ToolCall ToolOutput",
    "agentrun.models": "Model ModelRequest ModelSettings",
    "agentrun.testing": "ScriptedModel Say Call Wait Fail Hang",
    "agentrun.sessions": "Session MemorySession",
}


def test_the_public_names_of_agentrun_are_these() -> None:
    assert sorted(agentrun.__all__) == sorted(GUARD_LIST.split())


@pytest.mark.parametrize("module_name", sorted(PROMISED))
def test_what_the_design_promises_is_there(module_name: str) -> None:
    assert set(PROMISED[module_name].split()) <= set(importlib.import_module(module_name).__all__)


@pytest.mark.parametrize("module_name", PUBLIC_MODULES)
def test_a_public_module_says_what_it_is_and_lists_its_names_in_order(module_name: str) -> None:
    module = importlib.import_module(module_name)
    assert module.__doc__
    assert module.__doc__.strip()
    assert len(set(module.__all__)) == len(module.__all__)


def test_there_are_public_names() -> None:
    assert len(PUBLIC_NAMES) > 100


# Docstrings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module_name", "name"), PUBLIC_NAMES, ids=[".".join(names) for names in PUBLIC_NAMES])
def test_every_public_name_exists_and_says_what_it_is(module_name: str, name: str) -> None:
    value = getattr(importlib.import_module(module_name), name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        assert name in _documented_aliases(), f"{module_name}.{name} is an alias without a docstring below it"
        return
    doc = inspect.getdoc(value)
    assert doc, f"{module_name}.{name} has no docstring"
    assert not doc.startswith(f"{name}("), f"{module_name}.{name} has only the docstring that dataclasses make"
    if inspect.isclass(value):
        missing = [member for member, documented in _public_members(value) if not documented]
        assert not missing, f"{module_name}.{name}: no docstring for {', '.join(missing)}"


def _public_members(cls: type[Any]) -> Iterator[tuple[str, bool]]:
    for base in cls.__mro__:
        if not base.__module__.startswith("agentrun"):
            continue
        for member, value in vars(base).items():
            function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            if not member.startswith("_") and (inspect.isfunction(function) or isinstance(value, property)):
                yield f"{base.__name__}.{member}", bool(inspect.getdoc(getattr(cls, member)))


def _documented_aliases() -> set[str]:
    """Names that are assigned at module level and have a string below them."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        body = ast.parse(path.read_text()).body
        for statement, following in zip(body, body[1:], strict=False):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if is_text and isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                found.add(statement.target.id)
    return found


def test_docstrings_name_the_errors_and_attributes_that_exist() -> None:
    """An ``Attributes:`` entry must be an attribute: docstrings are the first thing to rot."""
    for module_name, name in PUBLIC_NAMES:
        value = getattr(importlib.import_module(module_name), name)
        if inspect.isclass(value):
            for attribute in _attributes_in(inspect.getdoc(value) or ""):
                known = {n for base in value.__mro__ for n in (*vars(base), *getattr(base, "__annotations__", ()))}
                source = "".join(inspect.getsource(b) for b in value.__mro__ if b.__module__.startswith("agentrun"))
                assert attribute in known or f"self.{attribute}" in source, f"{module_name}.{name}.{attribute}"


def _attributes_in(doc: str) -> Iterator[str]:
    inside = False
    for line in doc.splitlines():
        if line == "Attributes:":
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        elif inside and line.startswith("    ") and not line.startswith("     ") and ":" in line:
            yield line.split(":", 1)[0].strip()


# Imports -----------------------------------------------------------------------------------------------------------

HEAVY = ["trio", "griffe", "rich", "opentelemetry", "xllamacpp", "httpx", "httpx2", "mcp", "jsonschema", "agentrun.cli"]


@pytest.mark.parametrize("module_name", [m for m in PUBLIC_MODULES if m != "agentrun.cli"])
def test_importing_brings_in_nothing_heavy(module_name: str) -> None:
    code = f"import {module_name}, sys, json; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = set(json.loads(output))
    assert module_name in loaded
    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)


class Import:
    """One import of a module of agentrun's, as it stands in the source."""

    def __init__(self, importer: str, imported: str, *, at_top: bool, for_types: bool) -> None:
        self.importer = importer
        self.imported = imported
        self.at_top = at_top
        self.for_types = for_types  # under TYPE_CHECKING: never at run time


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@functools.cache  # when a test asks, not when each process collects the tests
def all_imports() -> tuple[Import, ...]:
    return tuple(_imports())


def _imports() -> Iterator[Import]:
    for path in PACKAGE.rglob("*.py"):
        tree, importer = ast.parse(path.read_text()), _module_name(path)
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            for statement in node.body
            for inner in ast.walk(statement)
        }
        lazy = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{importer} uses a relative import"
                assert node.module is not None
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [name for name in modules if name.startswith("agentrun.") and _is_module(name)]
                # A package is imported before its modules anyway: from it they may take other modules, but no names.
                names = modules if len(modules) == len(node.names) else [node.module, *modules]
            for name in names:
                yield Import(importer, name, at_top=id(node) not in lazy, for_types=id(node) in for_types)


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_the_core_imports_nothing_but_pydantic_and_the_standard_library() -> None:
    allowed = {"pydantic", "pydantic_core", "typing_extensions", *sys.stdlib_module_names}
    for item in all_imports():
        if item.importer.startswith("agentrun.core"):
            assert item.imported.split(".")[0] in allowed or item.imported.startswith("agentrun.core"), (
                f"{item.importer} imports {item.imported}"
            )


_EVERYTHING_BELOW_TESTING = {"core", "tools", "models", "sessions", "tracing", "runtime", "errors", "events", "items"}
# Which parts of the house a part may know: those below it.
MAY_IMPORT = {
    "core": set[str](),
    "errors": {"core"},
    "events": {"core"},
    "items": {"core"},
    "models": {"core"},
    "tools": {"core"},
    "sessions": {"core"},
    "tracing": {"core", "tools", "runtime"},
    "runtime": {"core", "models", "sessions", "tools"},
    "testing": {*_EVERYTHING_BELOW_TESTING, "_lazy"},
    "cli": {*_EVERYTHING_BELOW_TESTING, "testing"},  # `agentrun fuzz` sweeps, and is imported by nothing but itself
    "__main__": {"cli"},
    "_lazy": set[str](),
}


def test_only_the_fuzz_command_of_the_command_line_knows_the_sweeps() -> None:
    importers = {item.importer for item in all_imports() if item.imported.startswith("agentrun.testing")}
    assert {name for name in importers if name.startswith("agentrun.cli")} == {"agentrun.cli.fuzz_command"}


def test_imports_only_point_down() -> None:
    for item in all_imports():
        if not item.imported.startswith("agentrun") or item.for_types or item.importer == "agentrun":
            continue
        importer = item.importer.split(".")[1]
        imported = item.imported.split(".")[1] if "." in item.imported else "agentrun"
        assert importer in MAY_IMPORT, f"{importer} has no place in the house"
        assert imported == importer or imported in MAY_IMPORT[importer], f"{item.importer} imports {item.imported}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for item in all_imports():
        if item.imported.startswith("agentrun.") and item.at_top and not item.for_types:
            graph.setdefault(item.importer, set()).add(item.imported)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for imported in sorted(graph.get(module, ())):
                visit(imported, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_every_module_can_be_imported_first() -> None:
    """A circle that only some order of imports runs into would break one of these."""
    names = [_module_name(path) for path in PACKAGE.rglob("*.py") if path.parent.name in ("core", "runtime", "tools")]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    for loaded in [m for m in sys.modules if m.startswith('agentrun')]:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert isinstance(agentrun, ModuleType)
