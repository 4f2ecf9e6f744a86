"""What is left of a run: results, teardown reports, snapshots, and pictures of a run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.core.errors import UserError
from agentrun.core.item_json import json_text
from agentrun.core.items import AssistantMessage, Item, SystemMessage, ToolCall, ToolOutput, UserMessage
from agentrun.core.results import RunResult, RunState, ScopeState, TeardownReport
from agentrun.core.snapshot import RunSnapshot, UndeliveredInput
from agentrun.core.usage import Usage

from . import strategies as s


def test_a_teardown_report_says_what_it_took() -> None:
    report = TeardownReport(seconds=0.0123)
    assert report.clean
    assert str(report) == "torn down in 12 ms; nothing left over"
    report.cancelled_tools.append("f (c1)")
    assert report.clean
    assert str(report) == "torn down in 12 ms; cancelled: f (c1)"
    report.cleanup_errors.append("f: ValueError")
    report.seconds = 2.0
    assert str(report) == "torn down in 2000 ms; cancelled: f (c1); errors in cleanup: f: ValueError"


@pytest.mark.parametrize(
    ("field", "title"),
    [
        ("swallowed_cancellations", "swallowed their cancellation"),
        ("abandoned_threads", "abandoned threads"),
        ("killed_processes", "killed processes"),
        ("expired_graces", "cleanup beyond its grace"),
        ("cleanup_errors", "errors in cleanup"),
    ],
)
def test_a_teardown_in_which_something_misbehaved_is_not_clean(field: str, title: str) -> None:
    report = TeardownReport()
    getattr(report, field).extend(["x", "y"])
    assert not report.clean
    assert f"; {title}: x, y" in str(report)


def _result(*items: Item, **more: Any) -> RunResult[str]:
    return RunResult("run_1", "completed", "out", items, items, "a", Usage(requests=1), 1, **more)


def test_the_text_of_a_result_is_the_last_thing_the_model_said() -> None:
    assert _result(AssistantMessage("a"), AssistantMessage("b", "incomplete"), UserMessage("u")).text == "b"
    assert _result(UserMessage("u")).text == ""


def test_a_result_gives_a_snapshot_that_later_use_does_not_change() -> None:
    undelivered = (UndeliveredInput("injection-1", (UserMessage("x"),), "idle"),)
    calls = (ToolCall("c", "f"),)
    result = _result(UserMessage("u"), undelivered=undelivered, pending_approvals=calls)
    snapshot = result.snapshot()
    result.usage.requests += 1
    assert snapshot == RunSnapshot(
        "run_1", "completed", "a", (UserMessage("u"),), calls, undelivered, Usage(requests=1), 1, 1
    )


@st.composite
def snapshots(draw: st.DrawFn) -> RunSnapshot:
    history = draw(s.histories())
    calls = [item for item in history if isinstance(item, ToolCall)]
    inputs = st.lists(s.user_messages | s.system_messages, max_size=2).map(tuple)
    deliveries = st.sampled_from(("next", "now", "idle"))
    return RunSnapshot(
        draw(s.texts),
        draw(st.sampled_from(("completed", "interrupted", "failed", "cancelled"))),
        draw(s.texts),
        tuple(history),
        tuple(call for call in calls if draw(st.booleans())),
        tuple(draw(st.lists(st.builds(UndeliveredInput, s.texts, inputs, deliveries), max_size=2))),
        draw(st.builds(Usage, st.integers(0, 99), st.integers(0, 99))),
        draw(st.integers(0, 99)),
    )


@given(snapshots())
def test_a_snapshot_survives_the_way_through_json(snapshot: RunSnapshot) -> None:
    assert RunSnapshot.from_dict(snapshot.to_dict()) == snapshot
    text = snapshot.to_json(indent=1)
    text.encode()
    assert RunSnapshot.from_json(text) == snapshot
    assert RunSnapshot.from_json(snapshot.to_json().encode()) == snapshot
    assert snapshot.to_json() == json_text(snapshot.to_dict())  # one line; and as many as are asked for
    assert snapshot.to_json(indent=1) == json_text(snapshot.to_dict(), indent=1)


_VALID = RunSnapshot(
    "run_1",
    "interrupted",
    "a",
    (UserMessage("u"), ToolCall("c", "f"), ToolOutput("c", "x", "cancelled")),
    undelivered=(UndeliveredInput("injection-1", (UserMessage("v"),), "next"),),
).to_dict()


def test_fields_of_a_snapshot_that_have_defaults_may_be_left_out() -> None:
    smallest = {key: _VALID[key] for key in ("version", "run_id", "status", "agent", "history")}
    snapshot = RunSnapshot.from_dict(smallest)
    assert (snapshot.pending_approvals, snapshot.undelivered, snapshot.usage, snapshot.turns) == ((), (), Usage(), 0)


def test_a_snapshot_may_hold_messages_in_the_style_of_the_apis() -> None:
    system = {"role": "system", "content": "S"}
    undelivered = {"injection_id": "i", "items": [system], "deliver": "next"}
    snapshot = RunSnapshot.from_dict({**_VALID, "history": [system], "undelivered": [undelivered]})
    assert snapshot.history == (SystemMessage("S"),)
    assert snapshot.undelivered == (UndeliveredInput("i", (SystemMessage("S"),), "next"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "snapshot version 2 is not supported; this agentrun reads version 1"),
        ({"version": None}, "snapshot version None is not supported"),
        ({"status": "odd"}, "not a valid run snapshot: status: Input should be 'completed'"),
        ({"run_id": 5}, "not a valid run snapshot: run_id: Input should be a valid string"),
        ({"run_id": 5, "turns": None}, "should be a valid string; turns: Input should be a valid integer"),
        ({"history": 5}, "history must be a list of items, not int"),
        ({"history": [{"role": "odd"}]}, "history[0]: unknown role 'odd'"),
        ({"pending_approvals": ["other"]}, "not a valid run snapshot: KeyError('other')"),
        ({"pending_approvals": [[]]}, "not a valid run snapshot: TypeError"),
        ({"undelivered": [{"items": []}]}, "not a valid run snapshot: undelivered.0.injection_id: Field required"),
        ({"undelivered": [5]}, "not a valid run snapshot: TypeError"),
        ({"undelivered": [{"injection_id": "i", "items": [], "deliver": "later"}]}, "undelivered.0.deliver: Input"),
        ({"usage": {"input_tokens": "many"}}, "not a valid run snapshot: usage.input_tokens: Input should be"),
        ({"turns": None}, "not a valid run snapshot: turns: Input should be a valid integer"),
    ],
)
def test_what_is_no_snapshot_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        RunSnapshot.from_dict({**_VALID, **changes})
    assert message in str(caught.value)


def test_a_snapshot_without_its_history_is_refused() -> None:
    with pytest.raises(UserError, match=r"not a valid run snapshot: KeyError\('history'\)"):
        RunSnapshot.from_dict({"version": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "the snapshot is not valid JSON: "), ("[]", "a run snapshot must be a JSON object, not list")],
)
def test_text_that_is_no_snapshot_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunSnapshot.from_json(text)


@given(st.dictionaries(st.sampled_from(sorted(_VALID)), s.json_values))
def test_reading_any_dict_gives_a_snapshot_or_a_user_error(changes: dict[str, Any]) -> None:
    try:
        snapshot = RunSnapshot.from_dict({**_VALID, **changes})
    except UserError:
        return
    assert RunSnapshot.from_dict(json.loads(snapshot.to_json())) == snapshot


def test_a_picture_of_a_run_can_be_read_as_a_tree() -> None:
    scope = ScopeState(
        "run",
        "a",
        "run_1",
        seconds=1.25,
        children=(ScopeState("tool", "f", "c1", "cancelling", 0.5), ScopeState("model", "m")),
    )
    state = RunState("run_1", "running", "tools", "a", 1, (), Usage(), None, False, scope)
    assert state.tree() == ("run a run_1 [running, 1.2 s]\n  tool f c1 [cancelling, 0.5 s]\n  model m [running, 0.0 s]")
