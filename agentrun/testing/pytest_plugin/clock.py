"""The marker ``agentrun_virtual_time``: an async test in virtual time, on the backend that its plugin has chosen."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Generator
from typing import Any

import pytest

from agentrun.core.errors import UserError
from agentrun.testing.pytest_plugin.settings import options_for
from agentrun.testing.sweeping.virtual_time import VirtualTimeLoop, jumping_clock, seeded_trio

__all__ = ["virtual_time"]


@contextlib.contextmanager
def virtual_time(request: pytest.FixtureRequest) -> Generator[None]:
    """Virtual time for the test of the request, and for its async fixtures, in the block."""
    item = request.node
    try:
        seed = options_for(item.config, {}).get("seed", 0)
    except UserError as exc:
        raise pytest.fail.Exception(str(exc), pytrace=False) from None
    plugins = item.config.pluginmanager
    if hasattr(item, "agentrun_backend"):
        yield  # a sweep is in virtual time anyway
    elif not _is_async(item.function):
        _refuse(item, "it is no async function")
    elif plugins.hasplugin("trio") and item.get_closest_marker("trio") is not None:
        # Of the markers named trio, the first that names a runner wins.
        item.add_marker(pytest.mark.trio(run=_virtual_run(_trio_runner(item), seed)), append=False)
        yield
    elif plugins.hasplugin("anyio") and "anyio_backend" in item.fixturenames:
        with _anyio_in_virtual_time(request, item, seed):
            yield
    else:
        _refuse(item, "neither anyio's pytest plugin (a marker 'anyio', or anyio_mode = auto) nor pytest-trio runs it")


def _is_async(function: Any) -> bool:
    test = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    # Once it has run a Hypothesis test on one backend, anyio's plugin leaves a function of its own there.
    return inspect.iscoroutinefunction(getattr(test, "_anyio_original_func", test))


def _refuse(item: pytest.Item, why: str) -> None:
    pytest.fail(f"agentrun_virtual_time: {item.name} cannot run in virtual time: {why}", pytrace=False)


def _trio_runner(item: pytest.Item) -> Callable[..., Any]:
    import trio

    runners = (marker.kwargs.get("run") for marker in item.iter_markers("trio"))
    return next((runner for runner in runners if runner is not None), trio.run)


def _virtual_run(run: Callable[..., Any], seed: int) -> Callable[..., Any]:
    @functools.wraps(run)
    def virtual_run(*args: Any, clock: Any = None, **options: Any) -> Any:
        if clock is None:
            clock = jumping_clock()
        with seeded_trio(seed):
            return run(*args, clock=clock, **options)

    return virtual_run


@contextlib.contextmanager
def _anyio_in_virtual_time(request: pytest.FixtureRequest, item: Any, seed: int) -> Generator[None]:
    """Give anyio's plugin other options of the same backend, for this test only.

    It reads them from the fixture ``anyio_backend``, which may live for a whole module.
    """
    for name in item.fixturenames:
        for definition in item._fixtureinfo.name2fixturedefs.get(name, ())[-1:]:
            function = definition.func
            if definition.scope != "function" and (
                inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
            ):
                _refuse(
                    item,
                    f"its async fixture {name!r} has the scope {definition.scope!r}, so that its event loop serves "
                    "other tests, too; give it the scope 'function'",
                )
    if getattr(sys.modules.get("anyio.pytest_plugin"), "_current_runner", None) is not None:
        _refuse(
            item,
            "an async fixture of a wider scope than 'function' keeps an event loop in real time; move the test to "
            "where that fixture is not used",
        )
    given: Any = request.getfixturevalue("anyio_backend")
    backend: str = given if isinstance(given, str) else given[0]
    options: dict[str, Any] = {} if isinstance(given, str) else given[1]
    chosen: Any = request._get_active_fixturedef("anyio_backend")
    before = chosen.cached_result
    with contextlib.ExitStack() as stack:
        if backend == "asyncio":
            virtual: dict[str, Any] = {**options, "use_uvloop": False, "loop_factory": VirtualTimeLoop}
        else:
            stack.enter_context(seeded_trio(seed))
            virtual = {**options, "clock": jumping_clock()}
        value: Any = (backend, virtual)
        chosen.cached_result = (value, *before[1:])
        stack.callback(setattr, chosen, "cached_result", before)
        item.funcargs["anyio_backend"] = value
        yield
