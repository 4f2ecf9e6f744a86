"""Sweeps in tests: with the options of the command line, and with reports that say how to replay a failure there."""

from __future__ import annotations

import inspect
import os
import re
import shlex
from collections.abc import Callable
from typing import Final, ParamSpec

import pytest

from agentrun.core.errors import UserError
from agentrun.testing.interrupt_sweep import interrupt_everywhere
from agentrun.testing.pytest_plugin.settings import options_for
from agentrun.testing.sweep import SweepReport, cancel_everywhere
from agentrun.testing.sweeping.verdicts import CHECKS

__all__ = ["SweepFailed", "Sweeps", "verdict"]

P = ParamSpec("P")

_AGAIN: Final = re.compile(r"to see it again: only='([^']+)'(?:, seed=(-?\d+))?")


class SweepFailed(AssertionError):
    """A sweep found something. The message is its report.

    Attributes:
        report: What came of the sweep.
    """

    def __init__(self, message: str, report: SweepReport) -> None:
        super().__init__(message)
        self.report = report

    @property
    def summary(self) -> str:
        """What went wrong, in one line."""
        if not self.report.failures:
            return str(self)
        checks = {violation.check for failure in self.report.failures for violation in failure.violations}
        kinds = ", ".join(text for check, text in CHECKS.items() if check in checks)
        number = len(self.report.failures)
        return f"{kinds}, in {number} run{'s' * (number > 1)}"


class Sweeps:
    """The fixture ``agentrun_sweep``: the sweeps of `agentrun.testing`, as they are called in tests.

    They take the seed, the limit and the failure to replay from the command line (``--agentrun-seed``,
    ``--agentrun-limit``, ``--agentrun-only``), which wins, from their arguments, or from the ini file
    (``agentrun_seed``, ``agentrun_limit``), and they fail the test with a report that says how to replay what it tells.

    Attributes:
        cancel_everywhere: `agentrun.testing.cancel_everywhere`. Raises `SweepFailed` if anything went wrong.
        interrupt_everywhere: `agentrun.testing.interrupt_everywhere`. Raises `SweepFailed` if anything went wrong.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self.cancel_everywhere: Callable[..., SweepReport] = self.swept(cancel_everywhere)
        self.interrupt_everywhere: Callable[..., SweepReport] = self.swept(interrupt_everywhere)

    def swept(self, function: Callable[P, SweepReport]) -> Callable[P, SweepReport]:
        """The same for another function that returns a `SweepReport`.

        Its parameters named ``seed``, ``limit`` and ``only``, if it has them, are given by the command line.
        """
        names = inspect.signature(function).parameters

        def sweep(*args: P.args, **kwargs: P.kwargs) -> SweepReport:
            __tracebackhide__ = True
            options = options_for(self._item.config, kwargs)
            kwargs.update({name: value for name, value in options.items() if name in names})
            try:
                report = function(*args, **kwargs)
            except UserError as exc:
                # The test's own line says more than those of the machinery.
                raise exc.with_traceback(None) from None
            verdict(self._item, report)
            return report

        return sweep


def verdict(item: pytest.Item, report: SweepReport) -> None:
    """Note what a sweep did, for the summary, and fail the test if something was wrong.

    Raises:
        SweepFailed: Something was.
    """
    __tracebackhide__ = True
    text = (
        f"{report.points} points, {report.injections} injections, {len(report.failures)} failures in "
        f"{report.seconds:.2f} s ({report.seconds_per_injection * 1000:.1f} ms each)"
    )
    item.user_properties.append(("agentrun_sweep", text))
    if report.failures:
        raise SweepFailed(_with_command(item, str(report)), report)


def _with_command(item: pytest.Item, text: str) -> str:
    """The report with the command that replays a failure in place of the argument that does."""
    path, separator, rest = item.nodeid.partition("::")
    path = os.path.relpath(item.config.rootpath / path, item.config.invocation_params.dir)
    node = shlex.quote(f"{path}{separator}{rest}")

    def command(match: re.Match[str]) -> str:
        seed = f" --agentrun-seed {match[2]}" if match[2] is not None else ""
        return f"to see it again: pytest {node} --agentrun-only {match[1]}{seed}"

    return _AGAIN.sub(command, text)
