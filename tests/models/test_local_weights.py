"""Where the local model's weights are found."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from agentrun.core.errors import UserError
from agentrun.models import local_weights
from agentrun.models.local_source import DEFAULT_WEIGHTS
from agentrun.models.local_weights import cache_directory, find_weights

GGUF = b"GGUF" + bytes(60)


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights anywhere: an empty cache, and a package name that is not installed."""
    monkeypatch.delenv("AGENTRUN_LOCAL_WEIGHTS", raising=False)
    monkeypatch.setenv("AGENTRUN_CACHE", str(tmp_path / "cache"))
    source = dataclasses.replace(DEFAULT_WEIGHTS, member="agentrun_test_weights/tiny.gguf", gguf_size=len(GGUF))
    monkeypatch.setattr(local_weights, "DEFAULT_WEIGHTS", source)


def write(path: Path, content: bytes = GGUF) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_nothing_is_found_on_an_empty_machine() -> None:
    assert find_weights() is None


def test_the_argument_wins_over_the_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRUN_LOCAL_WEIGHTS", str(write(tmp_path / "env.gguf")))
    assert find_weights(write(tmp_path / "arg.gguf")) == tmp_path / "arg.gguf"
    assert find_weights() == tmp_path / "env.gguf"


def test_the_cache_is_the_last_place_to_look(tmp_path: Path) -> None:
    path = write(tmp_path / "cache" / "tiny.gguf")
    assert find_weights() == path


def test_an_installed_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cache" / "tiny.gguf")
    package = tmp_path / "site" / "agentrun_test_weights"
    write(package / "__init__.py", b"raise RuntimeError('imported')")
    path = write(package / "tiny.gguf")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert find_weights() == path
    assert "agentrun_test_weights" not in sys.modules


def test_a_truncated_file_in_the_cache_is_not_used(tmp_path: Path) -> None:
    write(tmp_path / "cache" / "tiny.gguf", GGUF[:-1])
    assert find_weights() is None


def test_a_missing_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"weights must name a \.gguf file, but there is no file '.*nothing\.gguf'"):
        find_weights(tmp_path / "nothing.gguf")
    monkeypatch.setenv("AGENTRUN_LOCAL_WEIGHTS", str(tmp_path / "nothing.gguf"))
    with pytest.raises(UserError, match="the environment variable AGENTRUN_LOCAL_WEIGHTS must name"):
        find_weights()


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is something else"):
        find_weights(write(tmp_path / "model.gguf", b"PK\x03\x04"))


def test_the_cache_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_directory() == tmp_path / "cache"
    if sys.platform == "linux":
        monkeypatch.delenv("AGENTRUN_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_directory() == tmp_path / "xdg" / "agentrun"
