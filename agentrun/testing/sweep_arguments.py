"""The arguments that sweeps have in common: what to do at each point, and checks of what a user has passed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from agentrun.core.errors import UserError
from agentrun.testing.sweeping.engine import BackendName
from agentrun.testing.sweeping.report import SweepReport
from agentrun.testing.sweeping.verdicts import CHECKS, hidden_in_pytest

__all__ = [
    "BASELINE",
    "Mode",
    "ModeName",
    "check_injected",
    "check_modes",
    "check_numbers",
    "check_sizes",
    "choose_checks",
    "choose_modes",
]

__tracebackhide__ = hidden_in_pytest

ModeName: TypeAlias = Literal["suspended", "resuming", "native", "native-1", "native-2", "native-3"]


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to inject something at a point; see `Shot`.

    Attributes:
        name: For reports.
        when: Before the task of the point is resumed, or after it has awaited again.
        action: What to do.
        times: How often.
        second: What to do in a second injection, on asyncio and on trio.
        backends: Where it can be done.
    """

    name: str
    when: Literal["before", "after"]
    action: str
    times: int = 1
    second: tuple[str, str] = ("native", "cancel_outer")
    backends: tuple[BackendName, ...] = ("asyncio", "trio")


BASELINE: Final = "baseline"  # the mode of a failure to which nothing was injected

_MODES: Final = (
    Mode("suspended", "after", "cancel"),
    Mode("resuming", "before", "cancel"),
    Mode("native-1", "after", "native", 1, ("cancel", "cancel"), ("asyncio",)),
    Mode("native-2", "after", "native", 2, ("cancel", "cancel"), ("asyncio",)),
    Mode("native-3", "after", "native", 3, ("cancel", "cancel"), ("asyncio",)),
)


def choose_modes(names: Iterable[ModeName] | None) -> list[Mode]:
    """The ways to cancel of these names; all for ``None``.

    Raises:
        UserError: One is unknown.
    """
    if names is None:
        return list(_MODES)
    given: Iterable[str] = (names,) if isinstance(names, str) else names
    wanted: set[str] = set()
    known = {mode.name for mode in _MODES}
    for name in given:
        if name == "native":
            wanted |= {"native-1", "native-2", "native-3"}
        elif name in known:
            wanted.add(name)
        else:
            raise UserError(f"modes contains {name!r}; expected 'suspended', 'resuming' or 'native'")
    return [mode for mode in _MODES if mode.name in wanted]


def check_modes(name: str, modes: Sequence[Mode], backends: Sequence[BackendName]) -> None:
    """Check that something will be done.

    Raises:
        UserError: There are no modes, or none for these backends; ``name`` is the argument that is to blame.
    """
    if not modes:
        raise UserError(f"{name} is empty, so nothing would be done to any run; leave it out to have all")
    if not any(backend in mode.backends for mode in modes for backend in backends):
        names = ", ".join(mode.name for mode in modes)
        raise UserError(
            f"{name} has only what {' and '.join(backends)} cannot do ({names}), so nothing would be done to any run; "
            f"choose another backend, or others of the {name}"
        )


def check_injected(report: SweepReport, only: str | None) -> None:
    """Check that something was done, after a sweep in which nothing was wrong.

    Raises:
        UserError: Nothing was injected.
    """
    if report.injections or report.failures or (only is not None and BASELINE in only.split(":")):
        return
    if only is not None:
        raise UserError(
            f"only={only!r}: there is nothing to inject at that point any more; the clean run has {report.points} "
            "points. The id of a failure is good for the same code, the same arguments and the same seed: sweep again "
            "without it"
        )
    raise UserError(
        f"nothing was injected: none of the {report.points} points of the clean runs is one at which that could be "
        "done; sweep in all modes, or a scenario that awaits something"
    )


def choose_checks(names: Iterable[str]) -> frozenset[str]:
    """The checks whose findings do not count.

    Raises:
        UserError: One is unknown.
    """
    chosen = frozenset((names,) if isinstance(names, str) else names)
    for name in chosen:
        if name not in CHECKS:
            raise UserError(f"ignore contains {name!r}; the checks are {', '.join(CHECKS)}")
    return chosen


def check_sizes(*, grace: Any, max_points: Any, second: Any, limit: Any) -> None:
    """Check the arguments that all sweeps have.

    Raises:
        UserError: One is not what it should be.
    """
    check_numbers(grace=grace, max_points=max_points)
    _check_count("second", second, least=0)
    if limit is not None:
        _check_count("limit", limit, least=1)


def check_numbers(**numbers: Any) -> None:
    """Check that each of them is a number, and more than 0.

    Raises:
        UserError: One is not.
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise UserError(f"{name} must be more than 0, not {value!r}")


def _check_count(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, not {value!r}")
