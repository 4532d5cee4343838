"""Where pictures with captions come from: a folder, WebDataset tars, parquet files, or a data set of the Hub that is on this disk.

A source is enumerated in one fixed order without decoding anything: that order is what a preparation is resumed by.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from fewstep.data.fields import read_table, text_of, told
from fewstep.data.item import CAPTIONS, OTHERS, PICTURES, Item, Lost, Stretch
from fewstep.engine.request import RequestError
from fewstep.zoo.hub import REPO, snapshot

TABLES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")  # ours, and those of the Hub's image folders
GIVE = "give a folder of pictures, a folder or file of WebDataset's .tar or of .parquet, or a data set of the Hub that is on this disk"


@dataclass(frozen=True)
class Source:
    """A source that was found."""

    kind: str  # "folder", "webdataset" or "parquet"
    path: Path
    files: tuple[Path, ...] = ()  # tars or parquet files, in order

    def items(self) -> Iterator[Item]:
        """Its pictures, in the order that every call gives. Raises RequestError on a file that cannot be read on from."""
        if self.kind == "folder":
            yield from _folder(self.path)
            return
        if self.kind == "webdataset":
            from fewstep.data.webdataset import read
        else:
            from fewstep.data.parquet import read
        for file in self.files:
            yield from read(file)


@dataclass(frozen=True)
class Todo:
    """The pictures of those parts of a source that are not there yet. Small enough to be handed to another process."""

    source: Source
    part: int  # pictures
    done: tuple[bool, ...]  # of each part

    def items(self) -> Iterator[Item]:
        """Those pictures, in the source's order. Raises RequestError on a file that cannot be read on from."""
        return chain.from_iterable(part for part, done in zip(batches(self.source.items(), self.part), self.done, strict=False) if not done)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """``items`` in lists of ``size``, the last one shorter."""
    source = iter(items)
    while part := list(islice(source, size)):
        yield part


def open_source(given: str) -> Source:
    """The source that ``given`` means: a path, or else the id of a data set in the Hub's cache. Uses no network.

    Raises RequestError, saying what can be given or what to type to fetch it, if there is no such thing.
    """
    path = Path(given)
    if not path.exists() and REPO.fullmatch(given):
        found = snapshot(given, "datasets")
        if found is None:
            fetch = shlex.join(["hf", "download", "--repo-type", "dataset", given])
            raise RequestError(f"there is no source '{given}' on this disk: {GIVE}; one of the Hub's is fetched with: {fetch}")
        path = found
    path = path.absolute()  # for other processes, which have working directories of their own
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise RequestError(f"there is no source '{given}': {GIVE}")
    for kind, suffix in (("webdataset", ".tar"), ("parquet", ".parquet")):
        if files := tuple(sorted(path.rglob(f"*{suffix}"))):
            return Source(kind, path, files)
    if packed := next(path.rglob("*.tar.gz"), None) or next(path.rglob("*.tgz"), None):
        raise RequestError(f"{packed}: a compressed tar cannot be read from the middle: unpack it with gunzip, and give the .tar")
    return Source("folder", path)


def _of_file(path: Path) -> Source:
    kinds = {".tar": "webdataset", ".parquet": "parquet"}
    if path.suffix not in kinds:
        raise RequestError(f"{path} is no source: {GIVE}")
    return Source(kinds[path.suffix], path.parent, (path,))


def _folder(folder: Path) -> Iterator[Item]:
    """The rows of its tables of captions, each table for the folder that it lies in, then the pictures that none names, with the text beside each."""
    named: set[Path] = set()
    files = sorted(path for path in folder.rglob("*") if path.is_file() or (path.is_symlink() and not path.exists()))
    tables: dict[Path, Path] = {}  # of each folder the first that there is
    for path in sorted((path for path in files if path.name in TABLES and path.is_file()), key=lambda path: TABLES.index(path.name)):
        tables.setdefault(path.parent, path)
    for above, table in sorted(tables.items()):
        for item in _told(folder, above, table):
            if isinstance(item.place, Stretch):
                named.add(item.place.path)
            yield item
    for path in files:
        if path.suffix.lower() in PICTURES | OTHERS and path not in named:
            beside = next((path.with_suffix(suffix) for suffix in CAPTIONS if path.with_suffix(suffix).is_file()), None)
            place = Stretch(path) if path.is_file() else Lost("it is a link to what is not there")
            yield Item(path.relative_to(folder).as_posix(), place, text_of(beside.read_bytes()) if beside else None)


def _told(folder: Path, above: Path, table: Path) -> Iterator[Item]:
    """The rows of ``table``, whose paths start from ``above``. Paths count as they are written: in the Hub's cache every file is a link to another folder."""
    prefix = "" if above == folder else f"{above.relative_to(folder).as_posix()}/"
    for name, row in read_table(table):
        said = told(row)
        if said.file is None:
            yield Item(prefix + name, Lost("its row in the table of captions names no file, or is damaged"), said.caption)
            continue
        inside = Path(os.path.relpath(above / said.file, folder))
        if inside.parts[:1] == ("..",):
            yield Item(prefix + said.file, Lost("its row in the table of captions leads out of the folder"), said.caption)
            continue
        path = folder / inside
        there = Stretch(path) if path.is_file() else Lost("there is no such file")
        yield Item(prefix + said.file, there, said.caption, said.score)
