"""The process that serves the local model; run as a script by `agentrun.models.local_process`, never imported by it.

It speaks a small protocol with its parent. On stdin it gets one line of JSON with the options and then nothing more:
the end of stdin means that the parent has gone, and ends the process at once. On stdout it writes one line of JSON,
``{"url": ...}`` when the model is loaded or ``{"error": ...}``, and from then on nothing, so that the parent need not
keep reading. The parent's id is watched as well: a child that the parent forked may hold the other end of stdin open.

Only the standard library and xllamacpp are imported here: the process should be up quickly, and work whatever the
parent did to its own import path.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any

_PARENT_CHECK_SECONDS = 1.0


def _watch_parent(parent: int) -> None:
    """End the process when stdin ends or the parent has changed; two threads, as neither can wait for both."""

    def until_eof() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    def until_orphaned() -> None:
        pause = threading.Event()
        while not pause.wait(_PARENT_CHECK_SECONDS):
            if os.getppid() != parent:
                os._exit(0)

    threading.Thread(target=until_eof, daemon=True).start()
    if os.name == "posix":  # elsewhere the parent's id does not change when it ends
        threading.Thread(target=until_orphaned, daemon=True).start()


def _read_options() -> dict[str, Any]:
    # Byte by byte from the descriptor: a buffered reader would keep what the watching thread has to see.
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(0)
        line += byte
    options: dict[str, Any] = json.loads(line)
    return options


def _tell(**message: str) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _serve(options: dict[str, Any]) -> Any:
    import xllamacpp  # type: ignore[import-untyped,unused-ignore]  # pyright: ignore

    lib: Any = xllamacpp
    params = lib.CommonParams()
    params.model.path = options["weights"]
    params.model_alias = {options["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [options["api_key"]]
    params.cors_origins = ""  # no web page has any business here
    params.ui = False
    params.n_ctx = options["context"] * options["slots"]  # llama.cpp divides it among the slots
    params.n_parallel = options["slots"]
    params.n_batch = 512
    params.n_ubatch = 256
    params.cpuparams.n_threads = options["threads"]
    params.cpuparams_batch.n_threads = options["threads"]
    params.n_threads_http = options["slots"] * 2 + 4  # each open stream holds one; /slots must still be answered
    params.cache_ram_mib = 0  # prompts stay cached in their slot; no second copy in memory
    params.prefill_assistant = False  # a history that ends with the model's words is not a sentence to be continued
    params.endpoint_slots = True
    params.verbosity = 1  # errors only
    return lib.Server(params)


def main() -> None:
    """Load the model, say where it listens, and serve until the parent ends."""
    options = _read_options()
    _watch_parent(options["parent"])
    try:
        server = _serve(options)
    except Exception as exc:  # whatever it is, the parent tells its user  # noqa: BLE001
        _tell(error=f"{type(exc).__name__}: {exc}")
        os._exit(1)
    _tell(url=server.listening_address)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # nobody reads any longer, so that a full pipe could block the server
    os.dup2(nowhere, 2)
    threading.Event().wait()  # the watching threads end the process


if __name__ == "__main__":
    main()
