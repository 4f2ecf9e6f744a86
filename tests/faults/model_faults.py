"""Faults in a model behind HTTP: what is not closed, and what is not given back."""

from __future__ import annotations

from .catalog import Edit, Fault

__all__ = ["FAULTS"]

STREAM = "agentrun.models.http_stream:ModelStream"

FAULTS = [
    Fault(
        "the limiter is not released when the request is cut",
        (
            Edit(
                f"{STREAM}._open",
                "            except BaseException:\n",
                "            except Exception:\n",
            ),
        ),
        "over http",
        ("interrupt",),
        1,
    ),
    Fault(
        "the limiter is acquired before the try",
        (
            Edit(
                f"{STREAM}._attempt",
                "            self._limiter = limiter\n",
                "            await anyio.sleep(0.1)\n            self._limiter = limiter\n",
            ),
        ),
        "over http",
        ("cancel", "interrupt"),
        1,
    ),
    Fault(
        "the response is not closed",
        (Edit("agentrun.models.http_client:_shut", "            await response.aclose()\n", "            pass\n"),),
        "over http",
        ("interrupt",),
        1,
    ),
]
