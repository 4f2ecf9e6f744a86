"""What a sweep has found out about a tool, in the words of somebody who writes tools."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentrun.core.results import TeardownReport
from agentrun.testing.laws import LAWS, BrokenLaw
from agentrun.testing.sweeping.places import Place
from agentrun.testing.sweeping.report import Failure, SweepReport
from agentrun.testing.sweeping.verdicts import CHECKS, Violation

__all__ = ["UNDISTURBED", "describe_failures", "describe_groups", "in_user_code", "teardown_findings"]

_OWN_CODE: Final = str(Path(__file__).parents[1])
_MOST_SHOWN: Final = 5

UNDISTURBED: Final = "in the undisturbed run"
"""When a tool failed to which nothing was done: that is no matter of laws."""

_ABANDONED: Final = "did not end within its grace when it was cancelled: its thread was left behind, and goes on"

_LAW_OF_ORACLE: Final = 1  # what the tool has taken is still taken when the run is over

_OPEN: Final = (
    "Open it with `async with` (or `with`), or close it in a `finally` whose `try` begins right after it is opened."
)

_ADVICE: Final[dict[str, str]] = {
    "oracle": (
        "Begin the `try` (or `async with`) with the very next statement after what takes something, with no await "
        "between them; give it back without awaiting, if that can be done. Or register what gives it back: "
        "`ctx.on_cleanup(release)` and `await ctx.enter_async_context(cm)` finish wherever the cancellation lands."
    ),
    "oracle in a task": (
        "A task in a task group of the tool's own is cancelled again at every await, also in its `finally`. Shield "
        "what must be awaited there, with a bound: `with anyio.move_on_after(seconds, shield=True): ...`; or leave "
        "the cleanup to the tool: `ctx.on_cleanup(close)`."
    ),
    "task": (
        "Start tasks only in a task group of the tool's own (anyio.create_task_group), and leave it before the tool "
        "returns. What asyncio.create_task starts, or asyncio.shield keeps, goes on when the tool is cancelled."
    ),
    "thread": "Use anyio.to_thread.run_sync, which waits for its thread, or join it in the cleanup.",
    "abandoned": (
        "Nobody can stop a thread: it has to look. Call `ctx.check_cancelled()` at every turn, sleep in slices that "
        "are shorter than the grace, and give every call that waits a timeout. What cannot look belongs into a process "
        "that can be killed: tool(..., isolation='process')."
    ),
    "asyncgen": "Close it: `async with contextlib.aclosing(generator)`.",
    "resource": _OPEN,
    "fd": _OPEN,
    "subprocess": "End the process and wait for it in the cleanup, shielded; or use agentrun's tools for processes.",
    "swallowed": (
        "Let the cancellation through. `except Exception` does not catch it; `except BaseException` and a bare "
        "`except` do, and must end with `raise`. No `return`, `break` or `continue` in a `finally`. On asyncio a task "
        "group that fails loses a cancellation that comes meanwhile: catch the errors in its tasks, not with `except*` "
        "around it. Before Python 3.12 asyncio.wait_for loses one that comes with its result: use anyio.fail_after."
    ),
    "unhandled": (
        "Await each task that is started (best in a task group), whatever comes: also when it was cancelled, its error "
        "reaches nobody else. What a callback of the event loop or a finalizer may raise must be caught there."
    ),
    "cleanup": "Catch in the cleanup what it may raise: nobody is left who could do something about it.",
    "grace": (
        "Bound the cleanup (`anyio.move_on_after(seconds)`), or give it more time: RunConfig(cleanup_grace=seconds)."
    ),
    "stuck": (
        "Something waits, or turns, for ever once the tool is cancelled. A shield needs a deadline, and a cleanup must "
        "not wait for a task that is cancelled as well."
    ),
    "failed": (
        "Give it the arguments, and the deps=, with which it does its work. If it is meant to raise that with these "
        "arguments, say so: check_tool(..., raises=...)."
    ),
    "unworkable": (
        "It was raised without anything done to the run: give the tools the arguments, and the deps, with which they "
        "do their work."
    ),
    "endless": "Give the tool a timeout, tool(..., timeout=seconds), or arguments with which it ends.",
    "diverged": (
        "The tool does not do the same each time. Have it made afresh for each run with all that it uses: pass a "
        "function that makes the tool, and `deps=`; seed what is random, and iterate no sets."
    ),
    "aftermath": (
        "What the tool has taken, such as a lock of its module, is still taken when it was stopped there. Begin the "
        "`try` (or `async with`) with the very next statement after what takes something, with no await between them; "
        "or register what gives it back: `ctx.on_cleanup(release)`. If it is meant to keep something from one run to "
        "the next, have it made afresh: pass a function that makes the tool with all that it uses, and `deps=`."
    ),
    "other": "A tool cannot bring this about: please report it, together with the tool, as a bug of agentrun's.",
}

_MACHINERY: Final = re.compile(
    r"\n *task \d+ \((the scenario\) waits at .*|agentrun [^\n]* waits at \S*\bagentrun/(runtime|testing)/.*)"
)
_TOOL_TASK: Final = re.compile(r"task \d+ \(agentrun (run|tool .*? \([^()]*\))\)")
_TOOL_THREAD: Final = re.compile(r"thread \d+ \(agentrun thread\)")
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
_TOOL: Final = re.compile(r"\(agentrun tool (.*?) \(")
_THREAD: Final = "thread "
_OF_TOOL: Final = "(agentrun "  # the tool runs in a task of its own, or in that of the run


@dataclass(slots=True)
class _Group:
    """Failures in which the same thing was wrong."""

    law: int | None
    what: str
    advice: str
    failures: list[Failure] = field(default_factory=list[Failure])


def describe_failures(name: str, report: SweepReport, backends: Sequence[str], *, in_full: bool = False) -> str:
    """The message of `agentrun.testing.ToolCheckFailed`.

    Args:
        name: The tool.
        report: The sweep, in which something was wrong.
        backends: Where it was run.
        in_full: Whether to add what the sweep saw of each run, in its own words.
    """
    where = " and ".join(backends)
    if report.injections:
        runs = f"{len(report.failures)} of {report.injections} runs on {where} went wrong"
        lines = [f"tool {name!r} does not cope with being stopped: {runs}"]
    else:
        lines = [f"tool {name!r} was not stopped anywhere: what it does by itself on {where} is wrong already"]
    lines += describe_groups(report.failures, lambda failure: f"check_tool(..., only={failure.id!r})")
    if in_full:
        for failure in report.failures:
            lines += ["", "the run in full:", *(f"  {line}" for line in str(failure).splitlines())]
    return "\n".join(lines)


def describe_groups(failures: Iterable[Failure], replay: Callable[[Failure], str]) -> list[str]:
    """What went wrong, by law and by place, each with what to do about it, and with ``replay`` of a failure of it."""
    groups = sorted(_grouped(failures), key=lambda group: (group.law or 99, -len(group.failures)))
    return [line for group in groups for line in ("", *_describe(group, replay))]


def teardown_findings(teardown: TeardownReport) -> Iterator[BrokenLaw]:
    """What tools and other user code did to a run's teardown, as laws that they have broken."""
    for what in dict.fromkeys(map(_without_id, teardown.swallowed_cancellations)):
        yield BrokenLaw(8, f"{what} was cancelled, and returned as if it had not been")
    abandoned = [_without_id(entry.partition(" in thread ")[0]) for entry in teardown.abandoned_threads]
    for what in dict.fromkeys(abandoned):
        yield BrokenLaw(1, f"{what} {_ABANDONED}")
    for what in dict.fromkeys(map(_without_id, teardown.expired_graces)):
        if what in abandoned:
            continue  # the same
        yield BrokenLaw(6, f"{what}: its cleanup took longer than its grace, and was cut short")
    for error in teardown.cleanup_errors:
        what, _, text = error.partition("): ")
        yield BrokenLaw(7, f"{_without_id(what + ')')}: its cleanup raised {text}" if text else f"cleanup: {error}")


def _without_id(what: str) -> str:
    """``"tool query"`` from ``"tool query (call_1)"``."""
    return re.sub(r" \([^()]*\)$", "", what)


def _grouped(failures: Iterable[Failure]) -> list[_Group]:
    groups: dict[tuple[object, ...], _Group] = {}
    for failure in failures:
        alone = any(_kind(violation, failure) == "failed" for violation in failure.violations)
        for violation in failure.violations:
            if alone and violation.check == "exception":
                continue  # the same: it has made the run fail
            law = violation.law if violation.check != "oracle" else _LAW_OF_ORACLE
            kind = _kind(violation, failure)
            group = groups.setdefault((law, kind, _what(violation)), _Group(law, _what(violation), _ADVICE[kind]))
            if failure not in group.failures:
                group.failures.append(failure)
    return list(groups.values())


def _kind(violation: Violation, failure: Failure) -> str:
    check, law = violation.check, violation.law
    if check == "law" and violation.message.endswith(_ABANDONED):
        return "abandoned"
    if check == "oracle" or (check == "law" and law == 1):
        others = (label for label, _ in _cuts(failure) if not label.startswith(_THREAD))
        return "oracle in a task" if any(_OF_TOOL not in label for label in others) else "oracle"
    if check in ("livelock", "deadlock"):
        return "stuck"
    if check == "exception":
        return "unworkable" if failure.mode == "baseline" else "cleanup"
    if check == "law":
        if law == 6:
            return "endless" if "by itself" in violation.message else "grace"
        return {7: "cleanup", 8: "swallowed", 9: "failed"}.get(law or 0, "other")
    return check if check in _ADVICE else "other"


def _what(violation: Violation) -> str:
    if violation.check == "oracle":
        # pytest adds lines to the message of an assertion, with addresses that are different in each run.
        verdict = violation.message.removeprefix("AssertionError: ").partition("\n")[0]
        return f"the oracle says: {_ADDRESS.sub('', verdict)}"
    what = "" if violation.check == "law" else f"{CHECKS[violation.check]}: "
    where = f" {violation.place}" if violation.place is not None else ""
    message = _TOOL_TASK.sub("the tool", _MACHINERY.sub("", violation.message)).replace("the scenario", "the run")
    message = _TOOL_THREAD.sub("the tool's thread", message)
    return f"{what}{_ADDRESS.sub('', message)}{where}"


def _describe(group: _Group, replay: Callable[[Failure], str]) -> Iterator[str]:
    title = f"law {group.law} ({LAWS[group.law]}): " if group.law is not None else "no law of its own: "
    yield f"{'' if UNDISTURBED in group.what else title}{group.what}"
    stops: dict[tuple[str, ...], list[Failure]] = {}
    for failure in group.failures:
        stops.setdefault(tuple(_where(failure)), []).append(failure)
    ordered = sorted(stops.items(), key=lambda stop: -len(stop[1]))
    for where, failures in ordered[:_MOST_SHOWN]:
        yield from (f"  {line}" for line in where)
        yield f"    {_by(failures)}"
        yield f"    to see it again: {replay(failures[0])}"
    if len(ordered) > _MOST_SHOWN:
        yield f"  ... and at {len(ordered) - _MOST_SHOWN} other places"
    yield from textwrap.wrap(f"What to do: {group.advice}", 110, initial_indent="  ", subsequent_indent="    ")


def _where(failure: Failure) -> Iterator[str]:
    """Where the tool was when it was stopped: one line for each time the cancellation reached it."""
    if failure.mode == "baseline":
        yield "without anything done to it"
        return
    cuts = _cuts(failure)
    if not cuts:
        if in_user_code(failure.place):
            yield f"stopped when it was at {failure.place}"
        else:
            yield "stopped before its first line, or after its last one"
    seen: set[str] = set()
    for label, place in cuts:
        if label.startswith(_THREAD):
            thread = _TOOL_THREAD.sub("the tool's thread", label)
            yield f"{thread} was at {place}"
            continue
        tool = _TOOL.search(label)
        who = f"tool {tool[1]}" if tool is not None else "the tool" if _OF_TOOL in label else f"its {label}"
        how = "cancelled again" if label in seen else "cancelled"
        seen.add(label)
        yield f"{who} was {how} at {place}"


def _cuts(failure: Failure) -> list[tuple[str, Place]]:
    return [(label, place) for label, place in failure.cut if in_user_code(place)]


def in_user_code(place: Place | None) -> bool:
    """Whether a place is in no code of agentrun's own."""
    return place is not None and not place.file.startswith(_OWN_CODE)


def _by(failures: Sequence[Failure]) -> str:
    """What was done there, and on which backends."""
    if failures[0].mode == "baseline":
        return f"on {' and '.join(dict.fromkeys(failure.backend for failure in failures))}"
    # A second cancellation is worth telling only where one was not enough.
    once = [failure for failure in failures if failure.second is None]
    actions = dict.fromkeys(failure.mode.rpartition("-")[0] for failure in once or failures)
    backends = dict.fromkeys(failure.backend for failure in failures)
    again = "" if once else ", each followed by a cancellation from outside"
    return f"by {', '.join(actions)}{again} (on {' and '.join(backends)})"
