"""Where pictures lie: in folders of a thousand rows, or in tar files as WebDataset reads them. What is there is whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from fewstep.batch.plan import Item
from fewstep.engine.files import FORMATS

PICTURES, SHARDS = "pictures", "shards"
FOLDER_ROWS = 1000  # of one folder
OPEN_SHARDS = 4  # whose tables are remembered
FLEETING = ("timings_ms", "path", "member")  # fields of a result that are not told in a tar: its bytes are the same every time


class Store(Protocol):
    """Where the pictures of a job lie. ``read`` and the rest may be called by two threads at once."""

    def place(self, item: Item) -> dict[str, str]:
        """Where the picture of ``item`` belongs, as its line in the results says it: a path, and the member of a tar."""

    def read(self, line: dict[str, Any]) -> bytes | None:
        """The picture of a line in the results, None unless it is there with the checksum that the line has."""

    def has(self, line: dict[str, Any]) -> bool:
        """Whether the picture of a line is there, whole."""

    def write(self, line: dict[str, Any], content: bytes) -> None:
        """Put the picture of a line in its place, whole or not at all. Raises OSError."""

    def retell(self, line: dict[str, Any], content: bytes) -> None:
        """More is said of a picture that is there. Raises OSError."""

    def settled(self, index: int, line: dict[str, Any] | None, count: int = 1) -> None:
        """What is to be made from ``index`` on is there, with its line, or failed. Raises OSError."""


class Folders:
    """Files in OUT/pictures/00000, a folder for a thousand rows."""

    def __init__(self, out: Path, scratch: Path, kind: str) -> None:
        self._out, self._scratch, self._suffix = out, scratch, FORMATS[kind].suffixes[0]

    def place(self, item: Item) -> dict[str, str]:
        """The path of its file."""
        return {"path": path_of(item, self._suffix)}

    def read(self, line: dict[str, Any]) -> bytes | None:
        """The file of a line."""
        try:
            content = (self._out / line["path"]).read_bytes()
        except OSError:
            return None
        return content if is_whole(line, content) else None

    def has(self, line: dict[str, Any]) -> bool:
        """Whether it can be read."""
        return self.read(line) is not None

    def write(self, line: dict[str, Any], content: bytes) -> None:
        """A file under a temporary name, then renamed."""
        put(self._scratch, self._out / line["path"], content)

    def retell(self, line: dict[str, Any], content: bytes) -> None:
        """Only the results say it."""

    def settled(self, index: int, line: dict[str, Any] | None, count: int = 1) -> None:
        """Nothing waits for it."""


class Tars:
    """Tar files OUT/shards/000000.tar, each of as many pictures in the manifest's order, with what is said of each as NAME.txt and NAME.json.

    Until all of a shard are there they wait as files in OUT/.staged/000000; then it is written, whole or not at all.
    """

    def __init__(self, out: Path, scratch: Path, kind: str, each: int, total: int) -> None:
        self._out, self._scratch, self._suffix = out, scratch, FORMATS[kind].suffixes[0]
        self._each, self._total = each, total
        self._left: dict[int, int] = {}  # of each shard that has begun, how many are not settled
        self._lines: dict[int, list[dict[str, Any]]] = {}
        self._tables: OrderedDict[tuple[str, int], dict[str, tuple[int, int]]] = OrderedDict()

    def place(self, item: Item) -> dict[str, str]:
        """The path of its tar, and its name in it."""
        return {"path": f"{SHARDS}/{item.index // self._each:06d}.tar", "member": f"{item.name}{self._suffix}"}

    def read(self, line: dict[str, Any]) -> bytes | None:
        """The member of a line, or the file that waits to become it."""
        for read in (self._staged, self._packed):
            content = read(line)
            if content is not None and is_whole(line, content):
                return content
        return None

    def has(self, line: dict[str, Any]) -> bool:
        """Whether it can be read."""
        return self.read(line) is not None

    def write(self, line: dict[str, Any], content: bytes) -> None:
        """A file that waits."""
        put(self._scratch, self._waiting(line["path"]) / line["member"], content)

    def retell(self, line: dict[str, Any], content: bytes) -> None:
        """Its tar says it too, and is written again when all of it is settled."""
        self.write(line, content)

    def settled(self, index: int, line: dict[str, Any] | None, count: int = 1) -> None:
        """One less to wait for; the last of a shard has it written."""
        for one in range(index, index + count):
            shard = one // self._each
            first = shard * self._each
            self._left.setdefault(shard, min(self._each, self._total - first))
            self._lines.setdefault(shard, []).extend([line] if line else [])
            self._left[shard] -= 1
            if not self._left[shard]:
                del self._left[shard]
                self._pack(self._lines.pop(shard))

    def _pack(self, lines: list[dict[str, Any]]) -> None:
        """Write the tar of ``lines``, unless it holds them all and nothing waits."""
        if not lines:
            return
        path, waiting = lines[0]["path"], self._waiting(lines[0]["path"])
        if not waiting.is_dir():
            return
        place, written = self._out / path, self._scratch / Path(path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(written, "w", format=tarfile.PAX_FORMAT) as tar:
                for line in sorted(lines, key=lambda line: line["index"]):
                    for name, content in self._members(line):
                        member = tarfile.TarInfo(name)  # no time, no owner: the same pictures are the same bytes
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
            written.replace(place)
        finally:
            written.unlink(missing_ok=True)
        shutil.rmtree(waiting)
        if not any(waiting.parent.iterdir()):
            waiting.parent.rmdir()

    def _members(self, line: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of what a tar holds of one picture."""
        content = self.read(line)
        if content is None:
            raise OSError(f"{line['member']} was there and is not any more")
        stem = line["member"].removesuffix(self._suffix)
        said = {key: value for key, value in line.items() if key not in FLEETING}
        yield line["member"], content
        yield f"{stem}.txt", line["prompt"].encode()
        yield f"{stem}.json", json.dumps(said, sort_keys=True, ensure_ascii=False).encode()

    def _waiting(self, path: str) -> Path:
        return self._out / ".staged" / Path(path).stem

    def _staged(self, line: dict[str, Any]) -> bytes | None:
        try:
            return (self._waiting(line["path"]) / line["member"]).read_bytes()
        except OSError:
            return None

    def _packed(self, line: dict[str, Any]) -> bytes | None:
        path = self._out / line["path"]
        try:
            with path.open("rb") as stream:
                start, length = self._table(path, os.fstat(stream.fileno()).st_mtime_ns).get(line["member"], (0, 0))
                stream.seek(start)
                return stream.read(length)
        except (OSError, tarfile.TarError, EOFError):
            return None

    def _table(self, path: Path, changed: int) -> dict[str, tuple[int, int]]:
        """Where the members of a tar begin and how long they are. The last few tars are remembered."""
        table = self._tables.get((str(path), changed))
        if table is None:
            with tarfile.open(path, "r:") as tar:
                table = {member.name: (member.offset_data, member.size) for member in tar}
            self._tables[str(path), changed] = table
            if len(self._tables) > OPEN_SHARDS:
                self._tables.popitem(last=False)
        return table


def path_of(item: Item, suffix: str) -> str:
    """Where the file of ``item`` lies in its job: in a folder for a thousand rows."""
    return f"{PICTURES}/{item.row // FOLDER_ROWS:05d}/{item.name}{suffix}"


def is_whole(line: dict[str, Any], content: bytes) -> bool:
    """Whether ``content`` is the picture of which ``line`` tells."""
    return hashlib.sha256(content).hexdigest() == line.get("sha256")


def put(scratch: Path, path: Path, content: bytes) -> None:
    """Write ``path`` by way of the folder ``scratch``, whole or not at all. Raises OSError."""
    temporary = scratch / path.name
    try:
        temporary.write_bytes(content)
        try:
            temporary.replace(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
