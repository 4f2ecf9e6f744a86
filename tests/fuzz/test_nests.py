"""Contained code in nests of scopes, task groups and cleanups."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from agentrun.runtime.relay import Relay

from .nests import Ask, CancelOwn, Group, Nest, Pause, Shield, Timeout, Try, nests, what_breaks

BACKENDS = ["asyncio", "trio"]
SLEEP, LOCK = Pause("sleep", 0.25), Pause("lock")


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(nest=nests())
def test_code_in_nests_of_scopes_is_told_of_its_cancellation_and_then_left_in_peace(backend: str, nest: Nest) -> None:
    assert what_breaks(nest, backend) == []


IN_A_GROUP = Group((SLEEP,), ((SLEEP,),))
ONCE_BROKEN = {
    "a task group takes the cancellation for its own": Nest((Group((SLEEP,), ((IN_A_GROUP,),)), SLEEP), at=0.12),
    "the body of a group has awaited by itself": Nest((Group((), ((IN_A_GROUP,),)), SLEEP, SLEEP), at=0.12),
    "a timeout around such a group passes meanwhile": Nest(
        (Timeout(0.05, (Group((SLEEP,), ((Group((SLEEP,), ((Shield((SLEEP,)),),)),),)),)), SLEEP), at=0.02
    ),
    "what is awaited does not wait": Nest((LOCK, LOCK, LOCK, LOCK), steps=1),
    "nor behind a group that has ended well": Nest((Group((Shield((Group((), ((SLEEP,),)),)),)), LOCK), at=0.1),
    "a task of the group asks for it": Nest((Group((), ((Ask(),),)), LOCK), at=0.12),
    "it comes with the end of a sleep": Nest((Pause(), Try((Pause("sleep", 0.0),), (SLEEP,), "swallow, then")), at=0.1),
    "the cleanup cancels what it is in": Nest((Timeout(0.6, (Try((SLEEP,), (CancelOwn(),)),)), SLEEP), at=0.1),
    "a checkpoint tells it": Nest((Try((Pause("sleep", 0.0),), (), "swallow"), Shield((SLEEP,)))),
    "and its cleanup has a group of its own": Nest((Try((Pause("sleep", 0.0),), (Group((CancelOwn(), SLEEP)),)),)),
    "a group was winding up by itself": Nest(
        (Try((Group((CancelOwn(),), ((Group((), ((),)),),)),), (Pause("sleep", 0.0), SLEEP)),), steps=2
    ),
    "a timeout cuts the cleanup, and there is more behind it": Nest(
        (Try((Timeout(0.05, (Try((SLEEP,), (SLEEP,)),)),), (LOCK, SLEEP)),)
    ),
    "a scope of its own is cancelled in the same moment": Nest(
        (Try((Group((Timeout(0.05, (CancelOwn(), SLEEP)),)),), (), "swallow"),)
    ),
    "the cleanup behind a group cancels what it is in after a shield": Nest(
        (Try((Group((), ((SLEEP,),)),), (Group((Shield((SLEEP, CancelOwn())), SLEEP)), SLEEP)),)
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", ONCE_BROKEN)
def test_what_was_found_once_stays_mended(what: str, backend: str) -> None:
    for seed in range(4):
        assert what_breaks(ONCE_BROKEN[what], backend, seed) == []


def never_raises_its_shield(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relay, "_raise_shield", lambda self, *, told=False, knows=None: False)


def never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relay, "_look", lambda self, request: request)


def lets_scopes_take_the_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relay, "_taken", False)


def trusts_no_scope_that_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relay, "_let_out", False)


@pytest.mark.parametrize(
    ("fault", "nest", "backend"),
    [
        (never_raises_its_shield, Nest((Try((SLEEP,), (SLEEP, SLEEP)),), at=0.12), "asyncio"),
        (never_raises_its_shield, Nest((Try((SLEEP,), (SLEEP, SLEEP)),), at=0.12), "trio"),
        (never_looks, Nest((Try((Group((), ((Try((SLEEP,), (Shield((SLEEP,)),)),),)),), (SLEEP,)),), at=0.12), "trio"),
        (lets_scopes_take_the_cancellation, ONCE_BROKEN["the cleanup cancels what it is in"], "trio"),
        (trusts_no_scope_that_was_left, ONCE_BROKEN["a group was winding up by itself"], "asyncio"),
    ],
)
def test_nests_find_what_is_broken_in_the_relay(
    fault: Any, nest: Nest, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert what_breaks(nest, backend) == []
    fault(monkeypatch)
    assert what_breaks(nest, backend)
