"""What came of a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentrun.testing.sweeping.places import Place
from agentrun.testing.sweeping.verdicts import CHECKS, Violation, hidden_in_pytest

__all__ = ["Failure", "SweepReport"]

__tracebackhide__ = hidden_in_pytest

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """One run in which something was wrong, and how to get it again: ``replay(failure)``.

    Attributes:
        id: Names the injection, as in ``cancel_everywhere(..., only=failure.id)``: backend, mode and point.
        backend: ``"asyncio"`` or ``"trio"``.
        mode: How the cancellation was injected; ``"baseline"`` if the clean run itself is wrong.
        point: Number of the scheduling point, from 1; 0 in the baseline.
        points: How many points the clean run has.
        second: Point of the second injection, or ``None``.
        task: The task whose point it is.
        place: The line at which that task waited.
        delivered: To whom the cancellation was delivered, and where that task stood: ``"task 2 (job) at x.py:3 ..."``.
        violations: What was wrong.
        seed: The schedule.
        cut: The tasks that were cancelled from the injection on, by whomever, and where each stood then.
    """

    id: str
    backend: str
    mode: str
    point: int
    points: int
    second: int | None
    task: str
    place: Place | None
    delivered: tuple[str, ...]
    violations: tuple[Violation, ...]
    seed: int
    rerun: Any = field(repr=False, compare=False, default=None)
    cut: tuple[tuple[str, Place], ...] = ()

    def __str__(self) -> str:
        if self.mode == "baseline":
            lines = [f"{self.backend}, without any injection:"]
        else:
            second = f" and again at point {self.second}" if self.second is not None else ""
            point = f"at point {self.point} of {self.points}{second}"
            lines = [f"{self.backend}, {self.mode}, {point}: {self.task} was at {self.place}"]
        lines += [f"  {violation}" for violation in self.violations]
        if self.delivered:
            lines += ["  the cancellation was delivered to", *(f"    {where}" for where in self.delivered)]
        elif self.cut:
            lines += ["  then cancelled were", *(f"    {label} at {place}" for label, place in self.cut)]
        elif self.mode != "baseline":
            lines.append("  the cancellation was delivered to nobody")
        lines.append(f"  to see it again: only={self.id!r}" + (f", seed={self.seed}" if self.seed else ""))
        return "\n".join(lines)


@dataclass(slots=True)
class SweepReport:
    """What came of a sweep.

    Attributes:
        points: Scheduling points of the clean runs, of all backends together.
        injections: Runs with an injection.
        failures: The runs in which something was wrong.
        diverged: Runs that were not the same as the clean run up to their injection; each is a failure as well.
        seconds: Real time the sweep took.
        delivered: Injections whose cancellation reached at least one task; the others came when all was over, or
            shielded.
    """

    points: int = 0
    injections: int = 0
    failures: list[Failure] = field(default_factory=list[Failure])
    diverged: int = 0
    seconds: float = 0.0
    delivered: int = 0

    @property
    def seconds_per_injection(self) -> float:
        """What one run cost, on average."""
        return self.seconds / self.injections if self.injections else 0.0

    def raise_if_failed(self) -> None:
        """Nothing, if nothing was wrong.

        Raises:
            AssertionError: Something was; the message groups what was wrong and shows an example of each.
        """
        if self.failures:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        head = (
            f"{self.injections} injections at {self.points} points in {self.seconds:.1f} s "
            f"({self.seconds_per_injection * 1000:.1f} ms each)"
        )
        if not self.failures:
            return f"{head}: nothing was wrong"
        groups: dict[tuple[str, ...], list[Failure]] = {}
        for failure in self.failures:
            groups.setdefault(tuple(sorted({CHECKS[v.check] for v in failure.violations})), []).append(failure)
        lines = [f"{head}: {len(self.failures)} went wrong"]
        for names, failures in sorted(groups.items(), key=lambda group: -len(group[1])):
            lines += ["", f"{len(failures)} x {', '.join(names)}"]
            shown: dict[tuple[str, Place | None], Failure] = {}
            for failure in failures:
                shown.setdefault((failure.mode, failure.place), failure)
            examples = list(shown.values())[:_MOST_SHOWN]
            lines += [f"  {line}" for failure in examples for line in str(failure).splitlines()]
            if len(failures) > len(examples):
                lines.append(f"  ... and {len(failures) - len(examples)} more")
        return "\n".join(lines)
