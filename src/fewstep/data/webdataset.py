"""Reading WebDataset's tars: members of one sample follow each other and share their name up to the first dot."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from fewstep.data.fields import parse_object, text_of, told
from fewstep.data.item import CAPTIONS, OTHERS, PICTURES, Item, Lost, Place, Stretch
from fewstep.engine.request import RequestError

BLOCK = 512  # bytes: what tars are made of; one of zeros stands at the end, and Python takes a tar that breaks off between two files for whole
LONGEST = 1 << 20  # bytes of a caption or a JSON record


def read(path: Path) -> Iterator[Item]:
    """The samples of one tar. Nothing is unpacked: a picture's place is a stretch of the tar. Raises RequestError on a tar that breaks off."""
    try:
        with tarfile.open(path, "r:") as archive:
            for key, members in groupby(_files(archive), lambda member: _key(member.name)):
                yield _sample(path, archive, key, list(members))
            end = archive.offset
        if Stretch(path, end, BLOCK).read() != bytes(BLOCK):
            raise tarfile.ReadError("its end mark is missing")
    except (tarfile.TarError, RequestError) as error:
        raise RequestError(f"{path} is no tar, or it is cut short ({str(error).partition(':')[0]}): fetch it again") from None


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # or a long tar's headers would all stay in memory
        if member.isreg() and not member.issparse():
            yield member


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _sample(path: Path, archive: tarfile.TarFile, key: str, members: list[tarfile.TarInfo]) -> Item:
    place: Place = Lost("its sample in the tar holds no picture")
    caption, score = None, None
    for member in members:
        suffix = Path(member.name).suffix.lower()
        if suffix in PICTURES | OTHERS and isinstance(place, Lost):  # of several the first
            place = Stretch(path, member.offset_data, member.size)
        elif suffix in (*CAPTIONS, ".json") and member.size <= LONGEST:
            stream = archive.extractfile(member)
            text = text_of(stream.read()) if stream else ""
            if suffix != ".json":
                caption = text
                continue
            said = told(parse_object(text))
            caption, score = caption or said.caption, said.score
    return Item(f"{path.name}/{key}", place, caption, score)
