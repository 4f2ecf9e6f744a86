"""A tool is encoded once, however often it is sent."""

from __future__ import annotations

import json
from typing import Any

from agentrun.models import ModelRequest, ModelSettings, OpenAIChatModel, OpenAIResponsesModel, ToolSpec
from agentrun.models.encoded_tools import ToolEncoder


def spec(name: str) -> ToolSpec:
    return ToolSpec(name, "", {"type": "object"})


def test_each_tool_is_encoded_once_also_beside_others() -> None:
    encoded: list[str] = []

    def encode(tool: ToolSpec) -> dict[str, Any]:
        encoded.append(tool.name)
        return {"name": tool.name}

    one, other, encoder = spec("one"), spec("other"), ToolEncoder(encode)
    assert json.loads(b"[%b]" % encoder.encode([one])) == [{"name": "one"}]
    assert json.loads(b"[%b]" % encoder.encode((other, one))) == [{"name": "other"}, {"name": "one"}]
    assert json.loads(b"[%b]" % encoder.encode([])) == []
    assert encoded == ["one", "other"]


def test_tools_that_are_made_anew_each_time_are_not_kept_for_ever() -> None:
    encoder = ToolEncoder(lambda tool: {"name": tool.name})
    for number in range(3000):
        assert json.loads(b"[%b]" % encoder.encode([spec(str(number))])) == [{"name": str(number)}]
    assert len(encoder._known) <= 1024


def test_the_tools_of_extra_body_win() -> None:
    mine = [{"type": "web_search"}]
    request = ModelRequest(None, [], [spec("one")], ModelSettings(extra_body={"tools": mine}))
    for model in (OpenAIChatModel("m", api_key="k"), OpenAIResponsesModel("m", api_key="k")):
        body = model._body(request)
        assert body.count(b'"tools"') == 1
        assert json.loads(body)["tools"] == mine
