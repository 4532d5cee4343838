"""A table on disk rather than in memory, for a job may have ten million rows: a temporary file that goes with the process."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Sequence
from typing import Any

PRAGMAS = ("PRAGMA journal_mode = OFF",)  # nothing of it is needed after a crash
FULL = "there is no room for a job's temporary files: make some, or set SQLITE_TMPDIR to a folder with more, and give the same command again"


class SpillError(OSError):
    """A temporary file that cannot be written. The message says why."""

    def __str__(self) -> str:
        return str(self.strerror)


class Spill:
    """A table of SQLite in a file without a name, in SQLITE_TMPDIR, TMPDIR or /var/tmp, of which two megabytes are held in memory.

    Two threads may use it in turn.
    """

    def __init__(self, schema: str) -> None:
        """``schema`` is the table as CREATE TABLE has it. Raises SpillError."""
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (*PRAGMAS, f"CREATE TABLE {schema}", "BEGIN"):
            self.execute(statement)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """What ``statement`` finds. Raises SpillError where the file cannot be written."""
        try:
            return self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            full = "full" in str(error)
            raise SpillError(errno.ENOSPC if full else errno.EIO, FULL if full else f"a temporary file cannot be used ({error})") from error

    def close(self) -> None:
        """Done with."""
        self._db.close()
