"""From the options to an agent, its deps and the history it starts with, checked before anything runs."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import AsyncContextDecorator, ContextDecorator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from agentrun.cli.arguments import Options
from agentrun.cli.history import HistoryFile
from agentrun.core.config import RunConfig
from agentrun.errors import UserError
from agentrun.items import Item
from agentrun.runtime.agent import Agent
from agentrun.runtime.opening import open_run

__all__ = ["Setup", "agent_maker", "deps_maker", "load_agent", "prepare"]

_INSTRUCTIONS: Final = "You are a helpful assistant. Answer briefly and clearly."
_EXPECTED_DEPS: Final = "expected an object, or a function or class without parameters that makes one"


@dataclass(slots=True)
class Setup:
    """What a command works with.

    Attributes:
        agent: Who is to work.
        config: How its runs are run.
        file: Where the history is kept, if anywhere.
        history: The conversation so far.
        deps: What its tools get as ``ctx.deps``, the same in each of its runs.
    """

    agent: Agent[Any, Any]
    config: RunConfig
    file: HistoryFile | None
    history: list[Item] = field(default_factory=list[Item])
    deps: Any = None


def prepare(options: Options, on_approval: Literal["wait", "end"]) -> Setup:
    """Load the agent and the history, check that a run can be opened, and make the deps. Needs a running event loop.

    Raises:
        UserError: Something that was asked for cannot be had; the message says what.
    """
    if options.agent is not None:
        agent = load_agent(options.agent)
        if agent.model is None:
            agent = agent.clone(model=options.default_model)
    else:
        agent = Agent("assistant", _INSTRUCTIONS, model=options.default_model)
    config = RunConfig(model=options.model, on_approval=on_approval)
    file = HistoryFile(options.history) if options.history is not None else None
    setup = Setup(agent, config, file)
    if file is not None:
        setup.history = file.read()
    # Opening a run checks the models of all agents; nothing starts, since nobody enters it.
    open_run(agent, "checked only", config=config)
    if options.deps is not None:
        setup.deps = deps_maker(options.deps)()  # last: it may open what nobody closes
    return setup


def load_agent(spec: str) -> Agent[Any, Any]:
    """The agent that ``"module:name"`` means; the name may also be that of a function without parameters that makes it.

    Raises:
        UserError: The spec, the module or the object is not what it should be.
    """
    return agent_maker(spec)()


def agent_maker(spec: str) -> Callable[[], Agent[Any, Any]]:
    """What gives the agent that ``"module:name"`` means: afresh each time, if the name is that of a function.

    Raises:
        UserError: The spec or the module is not what it should be; the object may turn out to be wrong later.
    """
    name, found = _find("--agent", spec, "my_agents:support", _agents_in)

    def make() -> Agent[Any, Any]:
        made = found
        if not isinstance(made, Agent) and callable(made):
            made = _call("--agent", spec, name, made)
        if not isinstance(made, Agent):
            raise UserError(f"--agent {spec}: this is not an Agent but {type(made).__name__}")
        return made  # pyright: ignore[reportUnknownVariableType]

    return make


def deps_maker(spec: str) -> Callable[[], Any]:
    """What gives the ``deps`` that ``"module:name"`` means: afresh each time, if the name is that of a function or of a
    class; else the object itself, also one that can be called.

    Raises:
        UserError: The spec or the module is not what it should be, or the name is that of something async. So does what
            is returned, when making the object fails or gives what nobody could use.
    """
    name, found = _find("--deps", spec, "my_agents:make_deps", _similar)
    refusal = _why_no_maker(found)
    if refusal:
        raise UserError(f"--deps {spec}: {name} is {refusal}; {_EXPECTED_DEPS}")

    def make() -> Any:
        called = inspect.isroutine(found) or inspect.isclass(found)
        made = _call("--deps", spec, name, found) if called else found
        refusal = _why_no_deps(made)
        if refusal:
            if inspect.iscoroutine(made):
                made.close()  # else Python warns that nobody has awaited it
            raise UserError(f"--deps {spec}: {name}{'() has given' if called else ' is'} {refusal}; {_EXPECTED_DEPS}")
        return made

    return make


def _why_no_maker(found: Any) -> str:
    """Why calling this would give no ``deps``; empty if it may."""
    if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        return "an async function, which nobody awaits here"
    if inspect.isgeneratorfunction(found):
        return "a generator function, which nobody goes through here"
    # An object with `__aenter__` may well do without, as an HTTP client does, and whoever names a function that returns
    # one must know. A class says no more than that it is to be entered.
    if inspect.isclass(found) and hasattr(found, "__aenter__"):
        return "an async context manager, which nobody enters here"
    return ""


def _why_no_deps(made: Any) -> str:
    """Why no tool could use this; empty if one may."""
    if made is None:
        return "None, which is what an agent has without --deps"
    if inspect.isawaitable(made):
        return f"something to await ({type(made).__name__}), and nobody does so here"
    # What a function decorated with `asynccontextmanager` or `contextmanager` gives is of no use but to be entered.
    if isinstance(made, (AsyncContextDecorator, ContextDecorator)):
        kind = "an async" if isinstance(made, AsyncContextDecorator) else "a"
        return f"{kind} context manager, which nobody enters here"
    if inspect.isasyncgen(made) or inspect.isgenerator(made):
        return f"{'an async' if inspect.isasyncgen(made) else 'a'} generator, which nobody goes through here"
    return ""


def _find(option: str, spec: str, example: str, hint: Callable[[dict[str, object], str], str]) -> tuple[str, Any]:
    """The name in ``"module:name"``, and what it stands for. ``hint`` says what the module has, when it has not this.

    Raises:
        UserError: The spec is none, the module cannot be imported, or it does not have the name.
    """
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name or "/" in spec or module_name.endswith(".py"):
        raise UserError(f"{option} must be MODULE:NAME, such as {example}, not {spec!r}")
    directory = os.getcwd()  # noqa: PTH109 - sys.path has strings
    if directory not in sys.path and "" not in sys.path:
        sys.path.insert(0, directory)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            raise UserError(f"{option} {spec}: there is no module {exc.name!r}, neither here nor installed") from exc
        raise UserError(f"{option} {spec}: importing {module_name} failed: {exc}") from exc
    except (Exception, SystemExit) as exc:
        raise UserError(f"{option} {spec}: importing {module_name} failed: {type(exc).__name__}: {exc}") from exc
    for part in name.split("."):
        if not hasattr(found, part):
            has = hint(cast("dict[str, object]", vars(sys.modules[module_name])), name)
            raise UserError(f"{option} {spec}: {module_name} has no {name!r}{has}")
        found = getattr(found, part)
    return name, found


def _call(option: str, spec: str, name: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as exc:
        raise UserError(f"{option} {spec}: {name}() failed: {type(exc).__name__}: {exc}") from exc


def _agents_in(module: dict[str, object], name: str) -> str:
    agents = ", ".join(key for key, value in module.items() if isinstance(value, Agent))
    return f"; it has these agents: {agents}" if agents else ""


def _similar(module: dict[str, object], name: str) -> str:
    from difflib import get_close_matches

    similar = get_close_matches(name, module, 1)
    return f"; did you mean {similar[0]!r}?" if similar else ""
