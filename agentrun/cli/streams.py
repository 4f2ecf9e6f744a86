"""Reading and writing the standard streams without blocking the event loop, on both backends.

The descriptors stay in blocking mode: they are shared with the shell and with other programs, which would be surprised
to find them changed. So each read and write first waits until it will not block. Regular files cannot be waited for,
and need not be. What else was considered: a thread for stdin, which nobody could stop at the end.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel

__all__ = ["Output", "read_all", "read_chunk", "read_lines"]

# A pipe that is ready takes at least PIPE_BUF bytes without blocking: 512 by POSIX, 4096 on Linux.
_WRITE_SIZE: Final = 512
_READ_SIZE: Final = 65536


async def read_chunk(fd: int) -> bytes:
    """What there is to read, once there is something; empty at the end of the input. A checkpoint."""
    try:
        await anyio.wait_readable(fd)
    except OSError:  # a regular file or /dev/null, which epoll refuses: reading does not block there
        await anyio.lowlevel.checkpoint()
    try:
        return os.read(fd, _READ_SIZE)
    except OSError:  # the descriptor is closed, or the terminal has gone
        return b""


async def read_all(fd: int) -> str:
    """The whole input, as text. A checkpoint."""
    data = bytearray()
    while chunk := await read_chunk(fd):
        data += chunk
    return data.decode(errors="replace")


async def read_lines(fd: int, on_line: Callable[[str], None]) -> None:
    """Call ``on_line`` with each line, without its end, until the end of the input. A checkpoint."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    while chunk := await read_chunk(fd):
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        for line in lines:
            on_line(line.removesuffix("\r"))
    rest += decoder.decode(b"", final=True)
    if rest:
        on_line(rest)


class Output:
    """A descriptor to write to. What a cancelled write has not written is left to the next one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._can_wait = True
        self._rest = bytearray()
        self.is_terminal: bool = os.isatty(fd)

    async def write(self, text: str) -> None:
        """Write all of ``text``, as UTF-8. A checkpoint.

        Raises:
            OSError: It cannot be written; a `BrokenPipeError` when nobody reads any more.
        """
        self._rest += text.encode(errors="replace")
        await anyio.lowlevel.checkpoint()
        while self._rest:
            if self._can_wait:
                try:
                    await anyio.wait_writable(self._fd)
                except OSError:
                    self._can_wait = False  # a regular file
            size = _WRITE_SIZE if self._can_wait else len(self._rest)
            del self._rest[: os.write(self._fd, self._rest[:size])]
