"""Fixtures of the adapters' tests: a server, and a model of each kind that talks to it through each client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import httpx
import httpx2
import pytest

from agentrun.models import OpenAIChatModel, OpenAIResponsesModel, http_stream

from . import server as loopback

MakeModel: TypeAlias = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_openai_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def server() -> AsyncIterator[loopback.Server]:
    async with loopback.serving() as running:
        yield running


@pytest.fixture(params=["responses", "chat"])
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["own", "httpx", "httpx2"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """The client passed to the model: none, or one of the two packages."""
    if request.param == "own":
        yield None
        return
    package: Any = httpx if request.param == "httpx" else httpx2
    async with package.AsyncClient(limits=package.Limits(max_connections=None)) as made:
        yield made


@pytest.fixture
def make_model(api: str, server: loopback.Server) -> MakeModel:
    def make(**options: Any) -> Any:
        cls: Any = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
        return cls("test-model", **{"base_url": server.url, "api_key": "sk-test", **options})

    return make


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, recorded instead of waited for; without jitter."""
    recorded: list[float] = []

    async def sleep(seconds: float) -> None:
        recorded.append(seconds)

    monkeypatch.setattr(http_stream, "_sleep", sleep)
    monkeypatch.setattr(http_stream, "_random", lambda: 1.0)
    return recorded


@pytest.fixture(autouse=True)
def _one_thread_computes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local model's threads spin while they wait for each other: beside other tests they would wait for cores."""
    if request.node.get_closest_marker("local_model") is not None:
        monkeypatch.setattr("agentrun.models.local._cpus", lambda: 1)
