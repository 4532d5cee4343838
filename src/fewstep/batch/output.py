"""Where a job leaves what it makes: a folder of this machine, or a bucket that every machine can write to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fewstep.batch.job import job_folder
from fewstep.batch.results import NAME, Results
from fewstep.batch.store import Folders, Store, Tars, put

LOCAL = ("file", "local")  # schemes of this machine's own files


class Output(Protocol):
    """What a job has beside its pictures."""

    @property
    def name(self) -> str:
        """The folder or URL, as it was given."""

    @property
    def scratch(self) -> Path:
        """A folder of this machine for what is not whole yet."""

    @property
    def results(self) -> Results:
        """A line for every picture."""

    def put(self, name: str, content: bytes) -> None:
        """Leave a file, whole or not at all. Raises OSError."""

    def take(self, name: str, path: Path) -> None:
        """The same with a file of ``scratch``. Raises OSError."""


@dataclass(frozen=True)
class InFolder:
    """The output of a job in a folder of this machine."""

    name: str
    scratch: Path
    results: Results

    def put(self, name: str, content: bytes) -> None:
        """By way of a temporary name."""
        put(self.scratch, Path(self.name) / name, content)

    def take(self, name: str, path: Path) -> None:
        """Rename it."""
        path.replace(Path(self.name) / name)


@dataclass(frozen=True)
class Place:
    """Where pictures go and as what. Any machine can be told, and opens a store of its own from it."""

    out: str
    format: str
    tars: int | None = None  # pictures in one; None: files
    total: int = 0

    @property
    def shared(self) -> bool:
        """Whether every machine can write there, or only this one."""
        return is_bucket(self.out)

    def store(self, scratch: Path) -> Store:
        """Files, tars, or objects of a bucket."""
        if self.shared:
            from fewstep.batch.bucket import Bucket, Objects

            return Objects(Bucket(self.out), self.format)
        if self.tars is None:
            return Folders(Path(self.out), scratch, self.format)
        return Tars(Path(self.out), scratch, self.format, self.tars, self.total)


def is_bucket(out: str) -> bool:
    """Whether ``out`` is the URL of a storage rather than a folder."""
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://", out)
    return scheme is not None and scheme[1] not in LOCAL


@contextmanager
def opened(out: str, manifest: Path, settings: dict[str, Any]) -> Iterator[Output]:
    """The output of the job with these ``settings``, for this process. Raises RequestError if it cannot be written or is another's."""
    if is_bucket(out):
        from fewstep.batch.bucket import job_bucket

        with job_bucket(out, manifest, settings) as output:
            yield output
        return
    with job_folder(Path(out), manifest, settings) as scratch:
        results = Results(Path(out) / NAME)
        try:
            yield InFolder(out, scratch, results)
        finally:
            results.close()
