"""A job's folder in an object storage such as S3: each object is put whole or not at all, and nothing can be appended to."""

from __future__ import annotations

import errno
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from fewstep.batch.job import NAME as JOB
from fewstep.batch.job import check, said
from fewstep.batch.plan import Item
from fewstep.batch.results import NAME, Results
from fewstep.batch.store import is_whole, path_of
from fewstep.engine.files import FORMATS
from fewstep.engine.request import RequestError

T = TypeVar("T")
SEGMENTS = ".results"  # lines of results.jsonl until the job is finished
NO_BUCKET = "specified bucket does not exist"  # in what S3 answers; otherwise it is an object that is missing
SEGMENT_LINES, SEGMENT_SECONDS = 1000, 10.0  # what is lost with a machine, and made again
LISTINGS = 8  # folders of which it is remembered what they hold


class Bucket:
    """What lies under an URL such as s3://bucket/run1, by way of fsspec. Every method raises OSError on what cannot be done."""

    def __init__(self, url: str) -> None:
        """Raises RequestError on an URL that nothing here understands."""
        self.url = url.rstrip("/")
        if not self.url.partition("://")[2]:
            raise RequestError(f"--out {url}: name the bucket and a folder in it, such as s3://BUCKET/FOLDER")
        try:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise RequestError(f"--out {url} cannot be written here ({error}): for s3:// python -m pip install 'fewstep[s3]'") from None

    def get(self, name: str) -> bytes | None:
        """What an object holds, None where there is none."""
        return self._try(name, lambda path: self._files.cat_file(path), None)

    def put(self, name: str, content: bytes) -> None:
        """Put an object in its place, at once."""
        self._try(name, lambda path: self._files.pipe_file(path, content))

    def upload(self, name: str, file: Path) -> None:
        """The same of a file, which may be too large for the memory."""
        self._try(name, lambda path: self._files.put_file(str(file), path))

    def download(self, name: str, file: Path) -> None:
        """Append what an object holds to a file; nothing where there is none."""

        def copy(path: str) -> None:
            with self._files.open(path, "rb") as source, file.open("ab") as target:
                while part := source.read(1 << 24):
                    target.write(part)

        self._try(name, copy, None)

    def names(self, folder: str = "") -> dict[str, int]:
        """{name: bytes} of the objects and folders in ``folder``, in order; a folder's bytes are 0."""
        found: list[dict[str, Any]] = self._try(folder, lambda path: self._files.ls(path, detail=True), [])
        sizes = {one["name"].rstrip("/").rpartition("/")[2]: int(one.get("size") or 0) for one in found}
        return dict(sorted(sizes.items()))

    def drop(self, name: str) -> None:
        """Take an object away, if it is there."""
        self._try(name, lambda path: self._files.rm_file(path), None)

    def _try(self, name: str, work: Callable[[str], T], *missing: T) -> T:
        """``work`` on the path of ``name``; whatever a storage's own client raises becomes an OSError that names the object."""
        try:
            return work(f"{self._root}/{name}".rstrip("/"))
        except FileNotFoundError as error:
            if missing and NO_BUCKET not in str(error):
                return missing[0]
            raise OSError(errno.ENOENT, _reason(error), f"{self.url}/{name}") from error
        except Exception as error:
            raise OSError(getattr(error, "errno", None) or errno.EIO, _reason(error), f"{self.url}/{name}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0] or type(error).__name__


class Objects:
    """Pictures as objects of a bucket, named as in a folder. Any machine can write them."""

    def __init__(self, bucket: Bucket, kind: str) -> None:
        self._bucket, self._suffix = bucket, FORMATS[kind].suffixes[0]
        self._listings: OrderedDict[str, dict[str, int]] = OrderedDict()

    def place(self, item: Item) -> dict[str, str]:
        """The name of its object."""
        return {"path": path_of(item, self._suffix)}

    def read(self, line: dict[str, Any]) -> bytes | None:
        """The object of a line."""
        content = self._bucket.get(line["path"])
        return content if content is not None and is_whole(line, content) else None

    def has(self, line: dict[str, Any]) -> bool:
        """Whether there is an object of its name and length: storages check what they are sent themselves. A thousand cost one listing."""
        folder, _, name = line["path"].rpartition("/")
        if folder not in self._listings:
            self._listings[folder] = self._bucket.names(folder)
            if len(self._listings) > LISTINGS:
                self._listings.popitem(last=False)
        return self._listings[folder].get(name) == line["bytes"]

    def write(self, line: dict[str, Any], content: bytes) -> None:
        """Put it."""
        self._bucket.put(line["path"], content)

    def retell(self, line: dict[str, Any], content: bytes) -> None:
        """Only the results say it."""

    def settled(self, index: int, line: dict[str, Any] | None, count: int = 1) -> None:
        """Nothing waits for it."""


class Sent(Results):
    """Results in a file of this machine, which are sent to the bucket a thousand lines or ten seconds at a time."""

    def __init__(self, path: Path, bucket: Bucket) -> None:
        """Fetches what the bucket has of them. Raises OSError."""
        self._bucket, self._unsent, self._begun = bucket, list[bytes](), time.monotonic()
        self._segments = [f"{SEGMENTS}/{name}" for name in bucket.names(SEGMENTS)]
        for name in (NAME, *self._segments):
            bucket.download(name, path)
        super().__init__(path)

    def _append(self, content: bytes) -> None:
        super()._append(content)
        self._unsent.append(content)
        if len(self._unsent) >= SEGMENT_LINES or time.monotonic() > self._begun + SEGMENT_SECONDS:
            self._send()

    def _send(self) -> None:
        """Segments sort by the time they were sent at; no two processes use the same name."""
        self._begun = time.monotonic()
        if self._unsent:
            name = f"{SEGMENTS}/{time.time_ns():020d}-{uuid.uuid4().hex}.jsonl"
            self._bucket.put(name, b"".join(self._unsent))
            self._segments.append(name)
            self._unsent.clear()

    def finish(self, scratch: Path) -> None:
        """In the manifest's order, as one object; then the segments are not needed."""
        super().finish(scratch)
        self._bucket.upload(NAME, self.path)
        self._unsent.clear()
        for name in self._segments:
            self._bucket.drop(name)

    def close(self) -> None:
        """Sends what is left. Where it cannot, those pictures are made again."""
        with suppress(OSError):
            self._send()
        super().close()


class InBucket:
    """The output of a job in a bucket. See ``output.Output``."""

    def __init__(self, bucket: Bucket, scratch: Path, results: Results) -> None:
        self.name, self.scratch, self.results, self._bucket = bucket.url, scratch, results, bucket

    def put(self, name: str, content: bytes) -> None:
        """An object."""
        self._bucket.put(name, content)

    def take(self, name: str, path: Path) -> None:
        """An object of a file."""
        self._bucket.upload(name, path)


@contextmanager
def job_bucket(url: str, manifest: Path, settings: dict[str, Any]) -> Iterator[InBucket]:
    """The job in a bucket's folder, and what was made of it. Raises RequestError if it cannot be written, holds something else or another job."""
    bucket = Bucket(url)
    try:
        there = bucket.names()
        begun = any(name != JOB for name in there)  # pictures come before the first results
        if there and JOB not in there:
            raise RequestError(f"{url} holds other objects: give another folder, or an empty one, with --out")
        if begun:
            check(url, bucket.get(JOB), settings, manifest)
        else:
            bucket.put(JOB, said(settings))
        scratch = TemporaryDirectory(prefix="fewstep-batch-")
        results = Sent(Path(scratch.name) / "lines.jsonl", bucket)
    except OSError as error:
        advice = "see that the bucket is there and that credentials are set that may list and write it"
        raise RequestError(f"{url} cannot be used ({error.strerror or error}): {advice}") from None
    with scratch:
        try:
            yield InBucket(bucket, Path(scratch.name), results)
        finally:
            results.close()
