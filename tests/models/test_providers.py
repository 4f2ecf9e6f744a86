"""Models from strings, and what is said when there is none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from agentrun.core.errors import UserError
from agentrun.core.model import Model
from agentrun.models import OpenAIChatModel, OpenAIResponsesModel, model_from_string


def test_strings_name_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    model = model_from_string("openai:gpt-5.1-mini")
    assert isinstance(model, OpenAIResponsesModel)
    assert isinstance(model, Model)
    assert (model.model, model.name, model.base_url) == (
        "gpt-5.1-mini",
        "openai:gpt-5.1-mini",
        "https://api.openai.com/v1",
    )
    assert "sk-test" not in repr(model)
    chat = model_from_string("openai-chat:org/model:free")
    assert isinstance(chat, OpenAIChatModel)
    assert chat.name == "openai-chat:org/model:free"


def test_the_same_string_is_the_same_model_until_the_environment_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    model = model_from_string("openai:gpt-5.1-mini")
    assert model_from_string("openai:gpt-5.1-mini") is model
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    assert model_from_string("openai:gpt-5.1-mini") is not model


def test_the_environment_can_name_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1/")
    model: Any = model_from_string("openai-chat:m")
    assert model.base_url == "http://localhost:8000/v1"
    assert "authorization" not in model._headers
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    model = model_from_string("openai-chat:m")
    assert model._headers["authorization"] == "Bearer sk-test"


def test_a_key_of_the_environment_is_not_given_to_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    for base_url in ("https://example.com/v1", "https://api.openai.com.example.com/v1"):
        assert "authorization" not in OpenAIChatModel("m", base_url=base_url)._headers
    regional = OpenAIChatModel("m", base_url="https://eu.api.openai.com/v1")
    assert regional._headers["authorization"] == "Bearer sk-test"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("openai:gpt-5.1-mini", "OPENAI_API_KEY.*api_key="),
        ("openai-chat:m", "OPENAI_API_KEY.*base_url="),
        ("openai:", "names no model"),
        ("openai-chat: ", "names no model"),
        ("openai", "names no model"),
        ("local:", "use 'local'"),
        ("anthropic:claude", "no adapter.*OpenAIChatModel"),
        ("gpt-5.1-mini", "no provider.*openai:"),
        ("", "no provider"),
    ],
)
def test_a_string_that_names_no_model_says_what_to_do(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        model_from_string(name)


def test_something_that_is_no_string_is_refused() -> None:
    with pytest.raises(UserError, match="must be a string"):
        model_from_string(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "ftp://x/v1"}, "base_url"),
        ({"client": object()}, "httpx.AsyncClient"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"first_token_timeout": -1}, "first_token_timeout"),
        ({"chunk_timeout": float("nan")}, "chunk_timeout"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retry_wait": -1}, "max_retry_wait"),
        ({"max_connections": 0}, "max_connections"),
    ],
)
@pytest.mark.parametrize("cls", [OpenAIChatModel, OpenAIResponsesModel])
def test_impossible_arguments_are_named(cls: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        cls("m", api_key="sk-test", **options)
    with pytest.raises(UserError, match="model is empty"):
        cls(" ", api_key="sk-test")


def test_an_authorization_header_stands_in_for_a_key() -> None:
    model = OpenAIResponsesModel("m", headers={"Authorization": "Bearer own"}, organization="o", project="p")
    assert model._headers["authorization"] == "Bearer own"
    assert model._headers["openai-organization"] == "o"
    assert model._headers["openai-project"] == "p"


def test_importing_the_package_imports_no_http_client() -> None:
    code = (
        "import sys, agentrun.models as m; "
        "assert 'httpx' not in sys.modules, 'eager'; "
        "m.OpenAIResponsesModel('m', api_key='k'); "
        "assert 'httpx' not in sys.modules and 'httpx2' not in sys.modules, 'client'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    import agentrun.models

    with pytest.raises(AttributeError, match="Nope"):
        agentrun.models.Nope  # noqa: B018
    assert "OpenAIChatModel" in dir(agentrun.models)
