"""One tool, cancelled, interrupted and timed out at every scheduling point."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MethodType
from typing import Any, Literal, TypeAlias, cast, get_args

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from agentrun.core.config import RunConfig
from agentrun.core.errors import ToolArgumentsError, UserError
from agentrun.runtime.opening import open_run
from agentrun.testing.checked_tool import A_DAY, CheckedTool
from agentrun.testing.interrupt_sweep import action_modes
from agentrun.testing.laws import LAWS_OF_CHECKS
from agentrun.testing.sweep import sweep
from agentrun.testing.sweep_arguments import check_injected, check_modes, check_sizes, choose_checks
from agentrun.testing.sweeping.engine import BackendName, Conditions, check_backends
from agentrun.testing.sweeping.places import first_line
from agentrun.testing.sweeping.points import Point
from agentrun.testing.sweeping.report import SweepReport
from agentrun.testing.sweeping.verdicts import Check, SweepRefused, hidden_in_pytest
from agentrun.testing.tool_findings import describe_failures
from agentrun.tools.callables import is_async_callable
from agentrun.tools.function import FunctionTool, as_tool

__all__ = ["ToolAction", "ToolCheckFailed", "check_tool"]

__tracebackhide__ = hidden_in_pytest

ToolAction: TypeAlias = Literal["interrupt", "interrupt_tool", "time_out", "inject_now", "cancel", "native"]


class ToolCheckFailed(AssertionError):
    """A tool does not cope with being stopped; the message says where, which law it breaks, and what to do about it.

    Attributes:
        report: The whole sweep. Its failures can be run again: ``replay(error.report.failures[0])``.
    """

    def __init__(self, message: str, report: SweepReport) -> None:
        super().__init__(message)
        self.report = report


def check_tool(
    tool: FunctionTool[..., Any] | Callable[..., Any],
    arguments: Mapping[str, Any] | None = None,
    *,
    deps: Callable[[], Any] | None = None,
    config: RunConfig | None = None,
    actions: Iterable[ToolAction] | None = None,
    oracle: Callable[[], Any] | None = None,
    raises: type[BaseException] | tuple[type[BaseException], ...] = (),
    backends: Sequence[BackendName] = ("asyncio", "trio"),
    seed: int = 0,
    grace: float = 60.0,
    ignore: Iterable[Check] = (),
    second: int = 1,
    limit: int | None = None,
    only: str | None = None,
    max_points: int = 20_000,
    progress: bool | None = None,
) -> SweepReport:
    """Stop a tool at every scheduling point, in every way in which a run can, on both backends, and see if it copes.

    A minimal agent calls the tool once. Each point of that run gets a fresh run for each action, and in each of them
    the tool must stop, leave nothing behind (tasks, threads, open streams and files, processes, and what the oracle
    looks for), clean up within its grace, raise nothing in its cleanup, and not return as if it had not been cancelled.
    ``check_tool(query, {"sql": "select 1"}, oracle=pool_is_whole)`` is a whole test.

    Call it from an ordinary function. Use in-memory fakes for what would be sockets or processes; time is virtual. A
    sync tool runs in a worker thread, which the sweep lets run only while the event loop waits for it: it is stopped
    whenever it sleeps or waits for the event loop, and ``time.sleep`` takes no time.

    Args:
        tool: A tool, a function, or a function that can be called without arguments and makes one of these afresh,
            together with what the tool works on; it is called before each run.
        arguments: What the tool is called with, as the model would send it: JSON values that match its schema.
        deps: Makes the run's ``deps`` afresh.
        config: The run's settings, such as its ``cleanup_grace``.
        actions: What to do at the points: ``"interrupt"`` the run, ``"interrupt_tool"``, ``"time_out"`` (as if its
            timeout were over), ``"inject_now"`` (which cuts tools short), ``"cancel"`` (the scope around the run) and
            ``"native"`` (``Task.cancel()`` on the task that holds the run, once to three times; on asyncio only). By
            default all.
        oracle: Called after each run: a function without parameters that raises if what the tool uses is not as it
            should be, such as a lock that is still held. It may be async. It may raise `BrokenLaw` to name a law.
        raises: Exceptions that the tool may raise by itself, with these arguments. A tool that raises others fails.
        backends: Where to run it.
        seed: Chooses the order in which trio runs tasks that are ready together; try several.
        grace: Seconds of virtual time that what is stopped, the tool or the run, may take to end.
        ignore: Checks whose findings do not count; see `cancel_everywhere`.
        second: So many of the points after each injection get a cancellation from outside, in a run of their own: it
            comes in the middle of the teardown.
        limit: At most so many points for each backend and action, evenly spread; ``None`` means all.
        only: The id of a failure: inject only there.
        max_points: A clean run with more points is refused.
        progress: Whether to show a progress line; by default on a terminal, when it takes more than two seconds.

    Returns:
        What was done: points, injections, seconds. There are no failures in it.

    Raises:
        ToolCheckFailed: The tool does not cope; an `AssertionError` that says where it breaks which law, and what to do
            about it.
        SweepRefused: The tool cannot be swept: it is not deterministic, uses sockets or processes, or its thread waits
            for something real.
        UserError: An argument is not valid, or such that nothing would be done to the tool.
    """
    check_sizes(grace=grace, max_points=max_points, second=second, limit=limit)
    make = _maker(tool)
    first = make()
    checked = CheckedTool(
        make,
        _checked_arguments(first, arguments),
        deps=_checked_function("deps", deps, "; for what is the same in each run: deps=lambda: it"),
        config=_checked_config(config),
        oracle=_checked_function("oracle", oracle),
        raises=_checked_raises(raises),
    )
    backends = check_backends(backends)
    known = cast("tuple[str, ...]", get_args(ToolAction))
    modes = action_modes(known if actions is None else actions, known)
    check_modes("actions", modes, backends)
    conditions = Conditions(
        checked.scenario,
        checked.oracle,
        seed,
        grace,
        _checked_raises(raises),
        choose_checks(ignore),
        max_points,
        laws=LAWS_OF_CHECKS,
        begins_at=first_line(open_run),
    )

    def choose(points: Sequence[Point]) -> Sequence[Point]:
        # Stopping a tool that fails by itself would tell little about what it does when it works.
        return () if checked.fails_undisturbed and only is None else checked.points(points)

    report = sweep(
        conditions,
        backends,
        modes,
        second=second if only is None else 0,
        limit=limit,
        only=only,
        progress=progress,
        title=f"check tool {first.name!r}",
        choose=choose,
    )
    if not checked.has_run:
        raise UserError(
            f"tool {first.name!r} was never called: {checked.told or 'the run ended before'} (see its options "
            "is_enabled and needs_approval)"
        )
    if report.failures:
        raise ToolCheckFailed(describe_failures(first.name, report, backends, in_full=only is not None), report)
    check_injected(report, only)
    return report


def _maker(tool: Any) -> Callable[[], FunctionTool[..., Any]]:
    """The function that makes the tool for each run."""
    if _is_async_or_tool(tool) or (callable(tool) and not isinstance(tool, type) and _needs_arguments(tool)):
        found = as_tool(tool)
        _refuse_process(found)
        return lambda: found
    if not callable(tool) or isinstance(tool, type):
        raise UserError(
            f"tool must be a tool, a function, or a function that makes one of these, not {type(tool).__name__}"
        )

    def make() -> FunctionTool[..., Any]:
        made = tool()
        if not callable(made) and not _is_async_or_tool(made):
            raise UserError(
                f"{_name(tool)}() must return a tool or a function, not {type(made).__name__}: a sync function that "
                "can be called without arguments is taken for one that makes the tool; check_tool(agentrun.tool("
                f"{_name(tool)})) checks it as a tool"
            )
        found = as_tool(made)
        _refuse_process(found)
        return found

    return make


def _refuse_process(tool: FunctionTool[..., Any]) -> None:
    if not tool.is_async and tool.isolation == "process":
        raise SweepRefused(
            f"tool {tool.name!r} runs in a process of its own, whose steps the event loop does not see: there are no "
            "scheduling points at which it could be stopped. Check it with isolation='thread', and with in-memory fakes"
        )


def _is_async_or_tool(obj: Any) -> bool:
    of_class = isinstance(obj, MethodType) and isinstance(cast("object", obj.__func__), FunctionTool)
    return of_class or isinstance(obj, FunctionTool) or is_async_callable(obj)


def _needs_arguments(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _checked_arguments(tool: FunctionTool[..., Any], arguments: Any) -> dict[str, Any]:
    if arguments is None:
        arguments = {}
    if not issubclass(type(arguments), Mapping):  # leaves `Any` what it is
        raise UserError(f"arguments must be a mapping of names to values, not {type(arguments).__name__}")
    try:
        plain: Any = to_jsonable_python(dict(arguments), inf_nan_mode="constants")
        tool.bind(to_json(plain).decode())
    except PydanticSerializationError as exc:
        raise UserError(f"arguments must be JSON values, as a model would send them: {exc}") from None
    except ToolArgumentsError as exc:
        raise UserError(f"arguments do not fit. {exc}") from None
    return cast("dict[str, Any]", plain)


def _checked_function(name: str, function: Any, hint: str = "") -> Any:
    if function is not None and not callable(function):
        raise UserError(f"{name} must be a function without parameters, not {type(function).__name__}{hint}")
    return function


def _checked_config(config: Any) -> RunConfig:
    if config is None:
        return RunConfig(tool_timeout=A_DAY)
    if not isinstance(config, RunConfig):
        raise UserError(f"config must be a RunConfig, not {type(config).__name__}")
    if config.model is not None:
        raise UserError("config.model must be None: the tool is called by a scripted model")
    return config if config.tool_timeout is not None else replace(config, tool_timeout=A_DAY)


def _checked_raises(raises: Any) -> tuple[type[BaseException], ...]:
    given: tuple[Any, ...] = tuple(raises) if issubclass(type(raises), tuple) else (raises,)
    for each in given:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise UserError(f"raises must be an exception type, or a tuple of them, not {each!r}")
    return given
