"""What errors carry, so that a program need not read their messages."""

from __future__ import annotations

from typing import Any

import pytest

from agentrun.core.errors import (
    AgentRunError,
    InputGuardrailTripped,
    LimitExceeded,
    ModelError,
    OutputGuardrailTripped,
    ToolError,
)


@pytest.mark.parametrize(
    ("cls", "carried"),
    [
        (ModelError, {"status": 429, "request_id": "req_1", "retryable": True, "retry_after": 1.5, "code": "busy"}),
        (ToolError, {"tool_name": "f", "call_id": "c"}),
        (InputGuardrailTripped, {"guardrail": "no secrets", "data": {"found": 1}}),
        (OutputGuardrailTripped, {"guardrail": "no secrets", "data": {"found": 1}}),
        (LimitExceeded, {"limit": 10, "used": 11}),
    ],
)
def test_an_error_carries_what_it_was_made_with(cls: type[AgentRunError], carried: dict[str, Any]) -> None:
    error = cls("what happened", **carried)
    assert str(error) == "what happened"
    assert {name: getattr(error, name) for name in carried} == carried
    assert error.result is None


def test_what_is_not_known_of_an_error_is_left_open() -> None:
    model, tool = ModelError("broke"), ToolError("broke")
    assert (model.status, model.request_id, model.retry_after, model.code) == (None, None, None, None)
    assert model.retryable is False
    assert (tool.tool_name, tool.call_id) == (None, None)
