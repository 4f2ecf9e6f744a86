"""The file of ``--history``: a JSON array of items, as `agentrun.items.items_to_json` writes it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from agentrun.core.transcript import check_history
from agentrun.errors import UserError
from agentrun.items import Item, items_from_json, items_to_json

__all__ = ["HistoryFile"]


class HistoryFile:
    """A conversation in a file. Its methods block, for as long as a small file takes."""

    def __init__(self, path: Path) -> None:
        self.name: str = str(path)
        # The file itself, not a link to it: the link must survive when the file is replaced.
        self._path = Path(os.path.realpath(path))

    def read(self) -> list[Item]:
        """The conversation so far; nothing when the file does not exist yet or is empty.

        Raises:
            UserError: The file is no history, cannot be read, or could not be written later.
        """
        where = f"--history {self.name}"
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            mode = None
        except OSError as exc:
            raise UserError(f"{where}: {_reason(exc)}") from exc
        if mode is not None and not stat.S_ISREG(mode):
            raise UserError(f"{where} must be a regular file")
        parent = self._path.parent
        if not parent.is_dir():
            raise UserError(f"{where}: there is no directory {parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"{where} could not be written: no permission to write in {parent}")
        if mode is None:
            return []
        try:
            data = self._path.read_bytes()
        except OSError as exc:
            raise UserError(f"{where} cannot be read: {_reason(exc)}") from exc
        if not data.strip():
            return []
        try:
            items = items_from_json(data)
            check_history(items)
        except (UserError, RecursionError) as exc:
            raise UserError(f"{where} is not a valid history, and is left as it is: {exc}") from exc
        return items

    def write(self, items: Iterable[Item]) -> None:
        """Replace the conversation, all or nothing: a reader, or a crash, sees the old file or the new one.

        A new file can be read by its owner only; an existing one keeps its permissions.

        Raises:
            OSError: It cannot be written.
        """
        text = items_to_json(items, indent=2) + "\n"
        descriptor, temporary = tempfile.mkstemp(prefix=f".{self._path.name}.", suffix=".tmp", dir=self._path.parent)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
                file.write(text.encode(errors="replace"))
                file.flush()
                if self._path.exists():
                    os.fchmod(file.fileno(), stat.S_IMODE(self._path.stat().st_mode))
                os.fsync(file.fileno())
            os.replace(temporary, self._path)  # noqa: PTH105
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
