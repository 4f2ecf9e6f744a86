"""Strategies for what is around a run: settings, hooks, sessions, watchers, and what is done to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from agentrun.core.config import RunConfig
from agentrun.core.errors import UserError
from agentrun.testing.programs.plans import ACTIONS, Action, HooksPlan, SessionPlan, Steer, WatcherPlan
from agentrun.testing.strategies.tools import cleanups, seconds

__all__ = ["configs", "hooks", "sessions", "steers", "watchers"]


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    """Settings of a run: mostly the defaults, with one or two others."""
    choices: dict[str, SearchStrategy[Any]] = {
        "cleanup_grace": st.sampled_from([0.57, 2.03]),
        "max_parallel_tools": st.sampled_from([1, 2]),
        "max_seconds": st.sampled_from([0.27, 1.53]),
        "max_tool_calls": st.sampled_from([1, 2]),
        "max_turns": st.sampled_from([1, 2]),
        "on_approval": st.just("end"),
        "tool_timeout": st.sampled_from([0.31, 1.01]),
    }
    names: list[str] = []
    if draw(st.sampled_from([False, False, True])):
        names = draw(st.lists(st.sampled_from(sorted(choices)), min_size=1, max_size=2, unique=True))
    return RunConfig(**{name: draw(choices[name]) for name in names})


def hooks(*, tidy: bool = False) -> SearchStrategy[HooksPlan]:
    """A `RunHooks` that takes its time.

    Args:
        tidy: Only such that do not raise.
    """
    raises = [f"on_{what}_{when}" for what in ("run", "model", "tool") for when in ("start", "end")]
    return st.builds(
        HooksPlan, seconds(), st.none() if tidy else st.none() | st.sampled_from(raises), cleanups(tidy=tidy)
    )


def sessions(*, tidy: bool = False) -> SearchStrategy[SessionPlan]:
    """A session that takes its time.

    Args:
        tidy: Only such that do not fail.
    """
    return st.builds(
        SessionPlan, seconds(), st.none() if tidy else st.sampled_from([None, None, None, "append", "load"])
    )


def watchers() -> SearchStrategy[WatcherPlan]:
    """A watcher: quick, slow, dead, or one that is not waited for."""
    return st.builds(WatcherPlan, st.sampled_from(["quick", "slow", "dead", "drop"]), st.sampled_from([1024, 1, 4]))


@st.composite
def steers(draw: st.DrawFn, actions: Iterable[Action] = ACTIONS, *, by_time: bool | None = None) -> Steer:
    """Something that is done to the run.

    Args:
        draw: Given by Hypothesis.
        actions: What may be done.
        by_time: Only after so many seconds (``True``), only at scheduling points (``False``), or both.
    """
    known = list(actions)
    if not known or set(known) - set(ACTIONS):
        raise UserError(f"steers(actions=...) must be some of {', '.join(ACTIONS)}, not {known}")
    action = draw(st.sampled_from(known))
    times = draw(st.sampled_from([1, 2, 3])) if action == "native" else 1
    if by_time if by_time is not None else draw(st.sampled_from([False, False, False, True])):
        # As all deadlines here, never in the very moment in which user code goes on: which of two timers of the same
        # moment comes first, the backends do not agree upon, and need not.
        return Steer(action, after=draw(st.sampled_from([0.071, 0.337, 1.173, 3.331])), times=times)
    return Steer(action, draw(st.integers(0, 100)) / 100, resuming=draw(st.booleans()), times=times)
