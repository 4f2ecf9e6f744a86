"""From the options to an agent and to the history it starts with, checked before anything runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from agentrun.cli.arguments import Options
from agentrun.cli.history import HistoryFile
from agentrun.core.config import RunConfig
from agentrun.errors import UserError
from agentrun.items import Item
from agentrun.runtime.agent import Agent
from agentrun.runtime.opening import open_run

__all__ = ["Setup", "agent_maker", "load_agent", "prepare"]

_INSTRUCTIONS: Final = "You are a helpful assistant. Answer briefly and clearly."


@dataclass(slots=True)
class Setup:
    """What a command works with.

    Attributes:
        agent: Who is to work.
        config: How its runs are run.
        file: Where the history is kept, if anywhere.
        history: The conversation so far.
    """

    agent: Agent[Any, Any]
    config: RunConfig
    file: HistoryFile | None
    history: list[Item] = field(default_factory=list[Item])


def prepare(options: Options, on_approval: Literal["wait", "end"]) -> Setup:
    """Load the agent and the history, and check that a run can be opened. Needs a running event loop.

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
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name or "/" in spec or module_name.endswith(".py"):
        raise UserError(f"--agent must be MODULE:NAME, such as my_agents:support, not {spec!r}")
    directory = os.getcwd()  # noqa: PTH109 - sys.path has strings
    if directory not in sys.path and "" not in sys.path:
        sys.path.insert(0, directory)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            raise UserError(f"--agent {spec}: there is no module {exc.name!r}, neither here nor installed") from exc
        raise UserError(f"--agent {spec}: importing {module_name} failed: {exc}") from exc
    except (Exception, SystemExit) as exc:
        raise UserError(f"--agent {spec}: importing {module_name} failed: {type(exc).__name__}: {exc}") from exc
    for part in name.split("."):
        if not hasattr(found, part):
            module = cast("dict[str, object]", vars(sys.modules[module_name]))
            agents = ", ".join(key for key, value in module.items() if isinstance(value, Agent))
            hint = f"; it has these agents: {agents}" if agents else ""
            raise UserError(f"--agent {spec}: {module_name} has no {name!r}{hint}")
        found = getattr(found, part)

    def make() -> Agent[Any, Any]:
        made = found
        if not isinstance(made, Agent) and callable(made):
            try:
                made = made()
            except Exception as exc:
                raise UserError(f"--agent {spec}: {name}() failed: {type(exc).__name__}: {exc}") from exc
        if not isinstance(made, Agent):
            raise UserError(f"--agent {spec}: this is not an Agent but {type(made).__name__}")
        return made  # pyright: ignore[reportUnknownVariableType]

    return make
