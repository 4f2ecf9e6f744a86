"""Hypothesis strategies and checks that the tests of the core share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from agentrun.core.items import (
    AssistantMessage,
    FilePart,
    ImagePart,
    Item,
    Reasoning,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)

# Also halves of surrogate pairs: Python makes them of file names that are not UTF-8.
texts = st.text(st.characters(), max_size=20)
keys = st.text(max_size=5)  # in the keys of objects pydantic replaces them
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
provider_data = st.none() | st.dictionaries(keys, json_values, max_size=3)
statuses: st.SearchStrategy[Any] = st.sampled_from(("completed", "failed", "cancelled", "rejected", "timed_out"))

parts = st.one_of(
    st.builds(TextPart, texts),
    st.builds(ImagePart, texts, st.sampled_from(("auto", "low", "high"))),
    st.builds(FilePart, st.none() | texts, st.none() | texts, st.none() | texts),
)
user_messages = st.builds(UserMessage, texts | st.lists(parts, max_size=3).map(tuple))
system_messages = st.builds(SystemMessage, texts)
assistant_messages = st.builds(
    AssistantMessage, texts, st.sampled_from(("completed", "incomplete")), st.none() | texts, provider_data
)
reasonings = st.builds(Reasoning, texts, provider_data)
tool_calls = st.builds(ToolCall, texts, texts, texts, provider_data)
tool_outputs = st.builds(ToolOutput, texts, json_values, statuses)
items: st.SearchStrategy[Item] = st.one_of(
    user_messages, system_messages, assistant_messages, reasonings, tool_calls, tool_outputs
)


@st.composite
def responses(draw: st.DrawFn, first_id: int = 0) -> tuple[list[Any], dict[str, ToolOutput]]:
    """A response of the model and the outputs of its calls; the ids of the calls begin at ``first_id``."""
    response = draw(st.lists(assistant_messages | reasonings | tool_calls, max_size=5))
    outputs: dict[str, ToolOutput] = {}
    for index, item in enumerate(response):
        if isinstance(item, ToolCall):
            call_id = f"c{first_id + len(outputs)}"
            response[index] = ToolCall(call_id, item.name, item.arguments, item.provider_data)
            outputs[call_id] = ToolOutput(call_id, draw(json_values), draw(statuses))
    order = draw(st.permutations(list(outputs)))
    return response, {call_id: outputs[call_id] for call_id in order}


@st.composite
def histories(draw: st.DrawFn) -> list[Item]:
    """A valid history."""
    history: list[Item] = []
    calls = 0
    for _ in range(draw(st.integers(0, 4))):
        history += draw(st.lists(user_messages | system_messages, max_size=2))
        response, outputs = draw(responses(calls))
        history += response
        history += outputs.values()
        calls += len(outputs)
    return history


def problems_of(history: Sequence[Item]) -> list[str]:
    """What is wrong with a history, by the providers' rules. Written without regard to agentrun's own check."""
    found: list[str] = []
    calls = {}
    for index, item in enumerate(history):
        if isinstance(item, ToolCall):
            if item.call_id in calls:
                found.append(f"call id {item.call_id!r} used twice")
            calls[item.call_id] = index
    answers: dict[str, list[int]] = {call_id: [] for call_id in calls}
    for index, item in enumerate(history):
        if isinstance(item, ToolOutput):
            answers.setdefault(item.call_id, []).append(index)
    for call_id, at in answers.items():
        if call_id not in calls:
            found.append(f"output {call_id!r} without a call")
        elif len(at) != 1:
            found.append(f"call {call_id!r} has {len(at)} outputs")
        elif at[0] < calls[call_id]:
            found.append(f"the output of {call_id!r} comes before its call")
        else:
            between = history[calls[call_id] + 1 : at[0]]
            kinds = "".join(
                "o" if isinstance(item, ToolOutput) else "i" if isinstance(item, (UserMessage, SystemMessage)) else "m"
                for item in between
            )
            if "i" in kinds or "om" in kinds:
                found.append(f"something was said between call {call_id!r} and its output")
    return found
