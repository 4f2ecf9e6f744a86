"""A history is encoded once, however it grows, and comes out as if it had been encoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.core.transcript import Transcript
from agentrun.errors import UserError
from agentrun.items import AssistantMessage, Item, Reasoning, SystemMessage, ToolCall, ToolOutput, UserMessage
from agentrun.models.history import HistoryEncoder

KINDS: list[Any] = [
    UserMessage,
    AssistantMessage,
    Reasoning,
    SystemMessage,
    lambda text: ToolCall(text, "work", "{}"),
    lambda text: ToolOutput(text, text),
]


class Recorder:
    """Encodes a part as what it is made of, and counts."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.encoder = HistoryEncoder(self._encode)

    def _encode(self, part: Sequence[Item]) -> list[dict[str, Any]]:
        self.encoded += [id(item) for item in part]
        # An assistant message depends on its neighbours, as it does for the providers.
        return [{"part": [repr(item) for item in part]}]


@given(st.lists(st.tuples(st.integers(0, 8), st.lists(st.sampled_from(range(len(KINDS))), max_size=5)), max_size=12))
def test_what_comes_out_is_what_a_new_encoder_makes_of_it_however_the_history_was_changed(
    changes: list[tuple[int, list[int]]],
) -> None:
    kept = Recorder()
    history: list[Item] = [UserMessage("first")]
    made = 0
    for cut, kinds in changes:
        del history[max(1, len(history) - cut) :]
        for kind in kinds:
            made += 1
            history.append(KINDS[kind](f"item {made}"))
        assert kept.encoder.encode(history) == Recorder().encoder.encode(history)


def test_a_history_that_grows_by_turns_is_encoded_once() -> None:
    kept = Recorder()
    history: list[Item] = [UserMessage("first")]
    for turn in range(20):
        call = str(turn)
        history += [Reasoning("hm"), ToolCall(call, "work", "{}"), ToolOutput(call, "done")]
        kept.encoder.encode(history)
    assert len(kept.encoded) == len(set(kept.encoded)) == len(history)


def test_what_the_model_goes_on_to_say_is_one_part_with_what_it_said() -> None:
    kept = Recorder()
    history: list[Item] = [UserMessage("first"), AssistantMessage("one")]
    kept.encoder.encode(history)
    history.append(ToolCall("c", "work", "{}"))
    assert kept.encoder.encode(history) == Recorder().encoder.encode(history)


def test_equal_items_are_not_the_same_item() -> None:
    kept = Recorder()
    first = UserMessage("first")
    kept.encoder.encode([first, ToolOutput("c", True)])
    assert b"output=1" in kept.encoder.encode([first, ToolOutput("c", 1)])


def test_histories_with_different_beginnings_do_not_disturb_each_other() -> None:
    kept = Recorder()
    one: list[Item] = [UserMessage("one")]
    other: list[Item] = [UserMessage("other")]
    for number in range(40):
        for history in (one, other):
            history.append(UserMessage(str(number)))
            assert kept.encoder.encode(history) == Recorder().encoder.encode(history)
    assert len(kept.encoded) == len(one) + len(other)


def test_the_histories_of_a_hundred_runs_at_once_are_encoded_once_each() -> None:
    kept = Recorder()
    runs = [Transcript([UserMessage("first")]) for _ in range(100)]
    for turn in range(10):
        for run in runs:
            assert kept.encoder.encode(run.view()) == Recorder().encoder.encode(run.view())
            run.append_input([UserMessage(str(turn))])
    assert len(kept.encoded) == 100 * 10


def test_runs_that_go_on_from_the_same_history_do_not_encode_it_again() -> None:
    kept = Recorder()
    history = [UserMessage(str(number)) for number in range(10)]
    kept.encoder.encode(Transcript(history).view())
    kept.encoded.clear()
    runs = [Transcript(history) for _ in range(3)]
    for _ in range(5):
        for run in runs:
            run.append_input([UserMessage("mine")])
            assert kept.encoder.encode(run.view()) == Recorder().encoder.encode(run.view())
    assert len(kept.encoded) == len(set(kept.encoded)) == 3 * 5


def test_what_could_not_be_encoded_is_tried_again() -> None:
    broken = UserMessage("broken")
    failing = True

    def encode(part: Sequence[Item]) -> list[dict[str, Any]]:
        if failing and part[0] is broken:
            raise UserError("no")
        return [{"part": repr(part[0])}]

    encoder, run = HistoryEncoder(encode), Transcript([UserMessage("first"), broken])
    with pytest.raises(UserError):
        encoder.encode(run.view())
    failing = False
    assert encoder.encode(run.view()) == HistoryEncoder(encode).encode(run.view())
