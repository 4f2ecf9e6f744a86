"""The marker ``cancel_everywhere``: an async test that is swept, one item for each backend.

The test is the scenario. It is run hundreds of times, each time with new fixtures of the scope "function", which are
made inside its event loop before it, and torn down there after it, before anything is said to be left behind.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from _pytest._code.code import ReprExceptionInfo, ReprFileLocation, ReprTracebackNative

from agentrun.core.errors import UserError
from agentrun.testing.pytest_plugin.settings import options_for
from agentrun.testing.pytest_plugin.sweeps import SweepFailed, verdict
from agentrun.testing.sweep import SweepRefused, cancel_everywhere
from agentrun.testing.sweeping.judging import ask

__all__ = ["SweptFunction", "parametrize_backends", "swept_items"]

_MARKER = "cancel_everywhere"
_PARAMETER = "_agentrun_backend"
_BACKENDS = ("asyncio", "trio")
# Which backend, and which of the points, is a matter of the items and of the command line.
_OPTIONS = tuple(
    name for name in inspect.signature(cancel_everywhere).parameters if name not in ("scenario", "only", "progress")
)


def swept_items(collector: Any, name: str, function: Callable[..., Any]) -> list[pytest.Item]:
    """The items of a marked test: as pytest would make them, of another class."""
    item_class: Any = SweptFunction
    return [
        item_class.from_parent(
            collector,
            name=item.name,
            callspec=getattr(item, "callspec", None),
            fixtureinfo=item._fixtureinfo,
            keywords={item.callspec.id: True} if hasattr(item, "callspec") else None,
            originalname=item.originalname,
        )
        for item in collector._genfunctions(name, function)
    ]


def parametrize_backends(metafunc: pytest.Metafunc) -> None:
    """An item for each backend that the marker names; by default both, or the one that another marker asks for."""
    find = metafunc.definition.get_closest_marker
    default: Any = next((name for name in _BACKENDS if find(name) is not None), _BACKENDS)
    marker = find(_MARKER)
    backends: Any = marker.kwargs.get("backends", default) if marker is not None else default
    names = (backends,) if isinstance(backends, str) else tuple(backends)
    metafunc.fixturenames.append(_PARAMETER)
    metafunc.parametrize(_PARAMETER, names or _BACKENDS, ids=str, indirect=True)


class SweptFunction(pytest.Function):
    """A test that is run once for each of its scheduling points, on one backend.

    Attributes:
        agentrun_backend: Which.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        function_item: Any = super()
        function_item.__init__(*args, **kwargs)
        self.agentrun_backend: Any = self.callspec.params[_PARAMETER]
        self._made_before = 0  # finalizers that are not of the test's fixtures
        self._stashed: dict[Any, Any] = {}
        self._outcome: BaseException | None = None

    def _getobj(self) -> Any:
        """The test, as a function that is not async: for other plugins it is none of theirs."""
        function = self._test()

        @functools.wraps(function)
        def swept_test(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("a swept test is run by its item")

        return swept_test

    def get_closest_marker(self, name: str, default: Any = None) -> Any:
        """As of any item, but for pytest-trio, which takes its marker for a promise that the function is async."""
        return default if name == "trio" else super().get_closest_marker(name, default)

    def _test(self) -> Any:
        item: Any = super()
        return item._getobj()

    # Fixtures ---------------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Fixtures are made here, too, once, so that those that fail or skip do so as in any test."""
        try:
            self._options = self._checked_options()
        except UserError as exc:
            raise pytest.fail.Exception(str(exc), pytrace=False) from None
        self._made_before = len(self._finalizers)
        super().setup()

    @property
    def _finalizers(self) -> list[Callable[[], object]]:
        session: Any = self.session
        finalizers: list[Callable[[], object]] = session._setupstate.stack[self][0]
        return finalizers

    def _begin_run(self) -> Callable[[], Awaitable[Any]]:
        """Make the instance and the fixtures of the test anew."""
        stash: Any = self.stash
        stash._storage.update(self._stashed)
        self._initrequest()
        item: Any = super()
        self._instance = item._getinstance()
        function = self._test()
        self._request._fillfixtures()
        arguments = {name: self.funcargs[name] for name in self._fixtureinfo.argnames}
        return functools.partial(function, **arguments)

    def _end_run(self) -> None:
        """Tear down the fixtures of the last run, the last one first, all of them, whatever they raise."""
        errors: list[BaseException] = []
        finalizers = self._finalizers
        while len(finalizers) > self._made_before:
            try:
                finalizers.pop()()
            except Exception as exc:  # noqa: BLE001 - raised below
                errors.append(exc)
            except pytest.fail.Exception as exc:  # no `Exception`: it would not be taken for what the oracle found
                errors.append(AssertionError(exc.msg))
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup(f"errors in the fixtures of {self.name}", errors)

    # The sweep --------------------------------------------------------------------------------------------------

    def runtest(self) -> None:
        """Sweep it."""
        # What hooks have left for the fixtures is there for one setup: tmp_path takes its part away when it ends.
        stash: Any = self.stash
        self._stashed = dict(stash._storage)
        user_oracle = self._options.pop("oracle", None)

        async def scenario() -> None:
            with contextlib.suppress(Exception):  # of a run that came to no good end, which is known
                self._end_run()
            try:
                await self._begin_run()()
            except (pytest.skip.Exception, pytest.xfail.Exception) as exc:
                self._outcome = exc
                raise SweepRefused(f"the test has asked to be left out: {exc}") from None

        async def oracle() -> None:
            try:
                if user_oracle is not None:
                    await ask(user_oracle)
            finally:
                self._end_run()

        scenario.__qualname__ = self.name
        scenario.__wrapped__ = self._test()  # type: ignore[attr-defined]
        try:
            report = cancel_everywhere(scenario, backends=(self.agentrun_backend,), oracle=oracle, **self._options)
        except SweepRefused:
            if self._outcome is not None:
                raise self._outcome from None
            raise
        finally:
            with contextlib.suppress(Exception):
                self._end_run()
        verdict(self, report)

    def _checked_options(self) -> dict[str, Any]:
        """The arguments of the marker, and those of the command line.

        Raises:
            UserError: This test cannot be swept, or not so.
        """
        marker = self.get_closest_marker(_MARKER)
        assert marker is not None
        function: Any = self.obj.__wrapped__
        if hasattr(function, "hypothesis"):
            raise UserError(
                f"{self.name} is a Hypothesis test; call cancel_everywhere in it, with the scenario as a function"
            )
        if not inspect.iscoroutinefunction(function):
            raise UserError(
                f"{self.name} is no async function; the marker {_MARKER} is for a test that is the scenario of a sweep"
            )
        if marker.args:
            raise UserError(
                f"the marker {_MARKER} takes options by name only, such as limit=100, not {marker.args[0]!r}"
            )
        for name in marker.kwargs:
            if name not in _OPTIONS:
                raise UserError(f"the marker {_MARKER} has no option {name!r}; it takes {', '.join(_OPTIONS)}")
        if "anyio_backend" in self.fixturenames:
            raise UserError(f"{self.name} uses the fixture anyio_backend; a swept test has an item for each backend")
        if bad := self._async_fixtures(self.fixturenames):
            raise UserError(
                f"{self.name} uses the async fixture {', '.join(bad)}; each run of a swept test has an event loop of "
                "its own, so make what is async in the test itself, with 'async with'"
            )
        options = {name: value for name, value in marker.kwargs.items() if name != "backends"}
        return {**options, **options_for(self.config, options)}

    def _async_fixtures(self, names: Sequence[str]) -> list[str]:
        found: list[str] = []
        for name in names:
            for definition in self._fixtureinfo.name2fixturedefs.get(name, ())[-1:]:
                found += [repr(name)] * _is_async(definition.func)
        return found

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What the sweep says, without the machinery that said it."""
        error = excinfo.value
        if not isinstance(error, (SweepFailed, UserError)):
            return super().repr_failure(excinfo)
        path, line, _ = self.location
        summary = error.summary if isinstance(error, SweepFailed) else str(error)
        crash = ReprFileLocation(path, (line or 0) + 1, summary)
        return ReprExceptionInfo(ReprTracebackNative([f"{error}\n"]), crash)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
