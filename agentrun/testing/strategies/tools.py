"""Strategies for tools: bodies, cleanups, options."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from agentrun.testing.programs.plans import ToolPlan
from agentrun.testing.programs.steps import (
    Cleanup,
    Critical,
    Enter,
    Group,
    Look,
    LoopCall,
    Native,
    OnCleanup,
    Progress,
    Raise,
    Request,
    Shielded,
    Sleep,
    Step,
    Swallow,
    ThreadStep,
    Timeout,
    UntilInterrupted,
)

__all__ = ["cleanups", "seconds", "some", "steps", "thread_steps", "tools"]

_T = TypeVar("_T")

# Composite strategies ask for these in each draw. Made anew, they would be validated anew, too, which takes longer than
# drawing from them; so each is made once. (The public functions are no caches themselves: types would be lost.)


def seconds() -> SearchStrategy[float]:
    """Durations: few different ones, so that things happen in the same moment often."""
    return _seconds()


@functools.cache
def _seconds() -> SearchStrategy[float]:
    return st.sampled_from([0.0, 0.1, 0.25, 1.0, 3.0])


@st.composite
def some(draw: st.DrawFn, items: SearchStrategy[_T], most: int) -> list[_T]:
    """Up to so many of these, none being rare.

    Args:
        draw: Given by Hypothesis.
        items: What to draw.
        most: How many at most.
    """
    # A plain list would be empty in two cases out of five.
    least = draw(st.sampled_from([0, *range(1, most + 1)] * 2 + [1] * most)) if most else 0
    return draw(st.lists(items, min_size=least, max_size=most))


def cleanups(*, tidy: bool = False) -> SearchStrategy[Cleanup | None]:
    """What a ``finally`` does, or ``None`` for none.

    Args:
        tidy: Only such that do not raise.
    """
    return _cleanups(tidy)


@functools.cache
def _cleanups(tidy: bool) -> SearchStrategy[Cleanup | None]:
    raises = st.just(False) if tidy else _rarely()
    return st.none() | st.builds(Cleanup, seconds(), shielded=_rarely(), raises=raises)


@functools.cache
def _rarely() -> SearchStrategy[bool]:
    return st.sampled_from([False, False, False, True])


def steps(*, native: bool = True, tidy: bool = False, requests: bool = True) -> SearchStrategy[Step]:
    """One step of a tool's body.

    Args:
        native: Also those that use asyncio itself; on trio they do the same by other means, as far as it can be done.
        tidy: Only such that do not misbehave: no swallowed cancellations, no errors in cleanup, no foreign ones.
        requests: Also such that do something to the run.
    """
    return _steps(native, tidy, requests)


@functools.cache
def _steps(native: bool, tidy: bool, requests: bool) -> SearchStrategy[Step]:
    choices: list[SearchStrategy[Any]] = [
        st.builds(Sleep, seconds()),
        st.builds(Shielded, seconds()),
        st.builds(Critical, st.sampled_from([0.0, 0.1, 0.25, 1.0])),
        st.builds(OnCleanup, seconds()),
        st.builds(Enter, seconds(), seconds()),
        st.builds(Progress, st.integers(1, 3)),
        st.builds(Timeout, st.sampled_from([0.13, 2.01]), st.sampled_from([0.25, 1.0])),
        st.builds(Group, st.integers(1, 3), seconds(), cleanups(tidy=True)),
        st.builds(UntilInterrupted, st.sampled_from([0.28, 1.03])),
        st.builds(Raise, st.sampled_from(["error", "error", "error", "fatal"]), st.sampled_from([0, 1])),
    ]
    if native:
        choices.append(
            st.builds(Native, st.sampled_from(["gather", "wait_for", "timeout", "TaskGroup", "shield"]), seconds())
        )
    if requests:
        actions = ["inject_next", "inject_now", "inject_idle", "after_turn", "interrupt"]
        choices.append(st.builds(Request, st.sampled_from(actions)))
    if not tidy:
        choices += [
            st.builds(Swallow, seconds()),
            st.just(Sleep(float("inf"))),
            st.builds(Critical, st.just(3.0), st.just(1.02)),
            st.builds(OnCleanup, seconds(), st.just(True)),
            st.builds(Enter, seconds(), seconds(), st.just(True)),
            st.builds(Group, st.integers(1, 2), seconds(), cleanups(), st.just(True)),
        ]
        if native:
            choices.append(st.just(Raise("cancellation")))
    return st.one_of(choices)


def thread_steps(*, tidy: bool = False, requests: bool = True) -> SearchStrategy[ThreadStep]:
    """One step of a sync tool's body, which runs in a thread.

    Args:
        tidy: Only such that do not misbehave. Whether a thread looks at its cancellation within the grace depends on
            all of its steps.
        requests: Also such that do something to the run.
    """
    return _thread_steps(tidy, requests)


@functools.cache
def _thread_steps(tidy: bool, requests: bool) -> SearchStrategy[ThreadStep]:
    choices: list[SearchStrategy[Any]] = [
        st.builds(Look, st.sampled_from([0.1, 0.25]), st.integers(1, 10)),
        st.builds(Sleep, st.sampled_from([0.0, 0.1, 0.25]) if tidy else seconds()),
        st.builds(LoopCall, st.sampled_from([0.0, 0.1, 0.25]) if tidy else seconds()),
        st.builds(OnCleanup, seconds()),
        st.builds(Progress, st.integers(1, 3)),
    ]
    if requests:
        actions = ["inject_next", "inject_now", "inject_idle", "after_turn", "interrupt"]
        choices.append(st.builds(Request, st.sampled_from(actions)))
    if not tidy:
        choices += [
            st.builds(Raise, st.sampled_from(["error", "error", "error", "fatal"]), st.sampled_from([0, 1])),
            st.just(Sleep(7.0)),
            st.builds(OnCleanup, seconds(), st.just(True)),
        ]
    return st.one_of(choices)


@st.composite
def tools(
    draw: st.DrawFn, name: str = "t1", *, native: bool = True, tidy: bool = False, requests: bool = True
) -> ToolPlan:
    """A tool: async, or (one in four) sync.

    Args:
        draw: Given by Hypothesis.
        name: Its name.
        native: See `steps`.
        tidy: See `steps`.
        requests: See `steps`.
    """
    options: dict[str, Any] = {}
    body: list[Any]
    if draw(_rarely()):
        options["sync"] = True
        body = draw(st.lists(thread_steps(tidy=tidy, requests=requests), min_size=1, max_size=3))
    else:
        body = draw(st.lists(steps(native=native, tidy=tidy, requests=requests), min_size=1, max_size=3))
    cleanup = draw(cleanups(tidy=tidy))
    option_strategies: dict[str, SearchStrategy[Any]] = {
        "timeout": st.sampled_from([0.13, 0.54, 2.07]),
        "retries": st.just(1),
        "parallel": st.just(False),
        "approval": st.sampled_from(["yes", "asks"] if tidy else ["yes", "asks", "fails"]),
        "on_error": st.sampled_from(["raise", "answers", "fails"]),
        "on_cancel": st.sampled_from(["quick", "slow"] if tidy else ["quick", "slow", "raises"]),
    }
    for option in draw(st.lists(st.sampled_from(sorted(option_strategies)), max_size=2, unique=True)):
        options[option] = draw(option_strategies[option])
    return ToolPlan(name, body, cleanup, **options)
