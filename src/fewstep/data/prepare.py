"""Preparing a data set: pictures with captions in, shards of latents and encoded captions out, and an account of what was dropped.

A source is taken in parts of PART pictures. A part's record is written last, so a part is either whole or made again, and the same command goes
on where it was stopped: the files are then those of a run that never was.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from fewstep.data.audit import Audit, write_audit
from fewstep.data.encode import Encoded, encode_picture
from fewstep.data.files import read_json, write_json
from fewstep.data.filters import Look, Rules
from fewstep.data.item import Item
from fewstep.data.ledger import Ledger
from fewstep.data.score import Score
from fewstep.data.shards import AUDIT, FORMAT, MARKER, Rows, write_shard
from fewstep.data.sources import Source, Todo, batches
from fewstep.data.workers import looks
from fewstep.engine.request import RequestError
from fewstep.models.bundle import Bundle
from fewstep.models.prompt import cat

PART = 512  # pictures of the source
SHOWN = 4  # examples of each fate that a part keeps
Size = tuple[int, int]


@dataclass(frozen=True)
class Aim:
    """What pictures are prepared for, and by which rules."""

    key: str  # of the encoders, see encoders_key()
    model: str  # as it was named
    rules: Rules
    score: Score


@dataclass(frozen=True)
class Candidate:
    """A picture that was looked at. What it is encoded to is asked for if it is kept."""

    look: Look
    encoded: Callable[[], Encoded]


Candidates = Callable[[Todo], Generator[Candidate]]
"""Who looks at pictures and encodes them: one for each of Todo.items(), in that order."""


def here(bundle: Bundle, rules: Rules, workers: int, todo: Todo) -> Generator[Candidate]:
    """This machine: ``workers`` processes look, and this one encodes what is kept."""
    for look in looks(todo.items(), rules, workers):
        yield Candidate(look, partial(_encoded, bundle, look))


def _encoded(bundle: Bundle, look: Look) -> Encoded:
    assert look.pixels is not None
    return encode_picture(bundle, look.pixels, look.caption)


@dataclass
class Part:
    """What becomes of one part of the source."""

    names: Any = field(default_factory=hashlib.sha256)
    kept: dict[Size, list[tuple[Look, Encoded]]] = field(default_factory=dict)  # without their pixels
    dropped: list[tuple[str, str, str]] = field(default_factory=list)  # name, reason, detail
    digests: list[str] = field(default_factory=list)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)


def prepare(source: Source, out: Path, aim: Aim, candidates: Candidates, say: Callable[[str], None]) -> Audit:
    """Prepare ``source`` in the folder ``out``; ``say`` is told of every part that is done. This process alone writes.

    Returns the audit, which is in ``out`` as audit.json, audit.html and dropped.jsonl. Raises RequestError on a source that is empty or has changed
    since, or an ``out`` that holds another preparation.
    """
    parts = [_fingerprint(part) for part in batches(source.items(), PART)]
    if not parts:
        raise RequestError(f"{source.path} holds no pictures: give a folder, tars or parquet files that do")
    ledger = Ledger(aim.rules, aim.score)
    settings = {"format": FORMAT, "key": aim.key, "model": aim.model, "rules": asdict(aim.rules), "scorer": aim.score.name}
    _open(out, settings)
    records = [read_json(_record(out, number)) for number in range(len(parts))]
    done = tuple(record.get("source") == names for record, names in zip(records, parts, strict=True))
    changed = next((number for number, record in enumerate(records[:-1]) if record and not done[number]), None)
    if changed is not None or _record(out, len(parts)).is_file():
        raise RequestError(f"{out}: the source is not what it was when this began (from picture {(changed or 0) * PART} on): give an empty --out")
    if not all(done):
        (out / AUDIT).unlink(missing_ok=True)
    with closing(candidates(Todo(source, PART, done))) as stream:
        for number, names in enumerate(parts):
            if done[number]:
                ledger.absorb(records[number], [read_json(out / f"{shard}.json") for shard in records[number]["shards"]])
                continue
            records[number] = _make(out, number, aim.key, ledger, islice(stream, PART))
            if records[number]["source"] != names:
                _record(out, number).unlink()
                raise RequestError(f"{source.path} has changed while it was read: give the same command again once it is at rest")
            kept = sum(records[number]["kept"].values())
            say(f"part {number + 1} of {len(parts)}: {kept} of {records[number]['seen']} pictures kept")
    return write_audit(out, records, settings)


def _record(out: Path, number: int) -> Path:
    return out / f"{number:05d}.json"


def _open(out: Path, settings: dict[str, Any]) -> None:
    """Note the settings in a new folder; in one that has them, raise RequestError unless they are these."""
    out.mkdir(parents=True, exist_ok=True)
    there = read_json(out / MARKER)
    if not there:
        if any(out.iterdir()):
            raise RequestError(f"{out} holds other files: give an empty folder, or one that this command has begun")
        return write_json(out / MARKER, settings)
    before, now = ({**{key: of.get(key) for key in ("format", "key", "scorer")}, **of.get("rules", {})} for of in (there, settings))
    wrong = [f"{name.replace('_', ' ')} {before.get(name)}, not {value}" for name, value in now.items() if before.get(name) != value]
    if wrong:
        raise RequestError(f"{out} was begun with other settings ({'; '.join(wrong)}): give an empty --out")


def _fingerprint(items: list[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        _add(digest, item.name, item.caption or "")
    return digest.hexdigest()[:32]


def _add(digest: Any, name: str, caption: str) -> None:
    digest.update(repr((name, caption)).encode(errors="surrogatepass"))


def _make(out: Path, number: int, key: str, ledger: Ledger, stream: Iterator[Candidate]) -> dict[str, Any]:
    """Make one part: its shards first, then its record, which is returned."""
    for stale in out.glob(f"{number:05d}-*"):
        stale.unlink()
    part = Part()
    for candidate in stream:
        look = candidate.look
        _add(part.names, look.name, look.given)
        verdict = (look.reason, look.detail) if look.reason else ledger.judge(look)
        _example(part, look, *verdict)
        if verdict[0]:
            part.dropped.append((look.name, *verdict))
            continue
        part.digests.append(look.digest)
        part.kept.setdefault(look.size, []).append((look.without_pixels(), candidate.encoded()))
    names = []
    for size, kept in sorted(part.kept.items(), key=lambda of: of[0]):
        names.append(f"{number:05d}-{size[0]}x{size[1]}")
        write_shard(out / f"{names[-1]}.safetensors", key, size, _rows(kept), [look.name for look, _ in kept])
    record = {
        "source": part.names.hexdigest()[:32],
        "seen": len(part.dropped) + len(part.digests),
        "shards": names,
        "kept": {f"{width}x{height}": len(part.kept[width, height]) for width, height in sorted(part.kept)},
        "dropped": part.dropped,
        "digests": part.digests,
        "examples": part.examples,
    }
    write_json(_record(out, number), record)
    return record


def _rows(kept: Sequence[tuple[Look, Encoded]]) -> Rows:
    return Rows(
        torch.cat([encoded.latents for _, encoded in kept]),
        cat(*(encoded.prompt for _, encoded in kept)),
        torch.tensor([look.time_ids for look, _ in kept], dtype=torch.int32),
        [look.caption for look, _ in kept],
    )


def _example(part: Part, look: Look, reason: str, detail: str) -> None:
    shown = part.examples.setdefault(reason or "kept", [])
    if len(shown) < SHOWN:
        thumbnail = base64.b64encode(look.thumbnail).decode()
        shown.append({"name": look.name, "caption": look.caption or look.given[:200], "detail": detail or look.detail, "thumbnail": thumbnail})
