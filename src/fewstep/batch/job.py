"""job.json: which job a folder belongs to, so that the same command goes on with it and another one does not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fewstep.batch.results import NAME as RESULTS
from fewstep.batch.results import read_lines
from fewstep.batch.store import put
from fewstep.engine.request import RequestError

NAME, SCRATCH, LOCK = "job.json", ".tmp", ".lock"
VERSION, FORMAT = "fewstep batch", 1  # the key and the number of what a job.json says


@contextmanager
def job_folder(out: Path, manifest: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """``out`` for this process alone, made if it is not there; yields the folder in it for what is not whole yet.

    ``settings`` is all that the pictures and their places depend on; a folder without pictures, because everything failed perhaps, takes any.
    Raises RequestError if ``out`` cannot be written, holds something else, belongs to another job or is in use.
    """
    path, scratch, results = out / NAME, out / SCRATCH, out / RESULTS
    if not path.exists() and out.is_dir() and any(one.name not in (SCRATCH, LOCK) for one in out.iterdir()):
        raise RequestError(f"{out} holds other files: give an empty folder, or a new one, with --out")
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.callback(os.close, lock := os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666))
            _hold(lock, out)
            begun = path.exists() and results.exists() and results.stat().st_size > 0 and not _all_failed(results)
            if begun:
                check(out, path.read_bytes(), settings, manifest)
            shutil.rmtree(scratch, ignore_errors=True)  # what a killed process was in the middle of
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            scratch.mkdir()
            if not begun:
                results.unlink(missing_ok=True)
                put(scratch, path, said(settings))
        except OSError as error:
            raise RequestError(f"{out} cannot be written ({error.strerror}): give another place with --out") from None
        yield scratch


def _all_failed(results: Path) -> bool:
    """Whether a file of results tells of failures, and of nothing else."""
    failed = False
    for line in read_lines(results):
        if "error" not in line:
            return False
        failed = True
    return failed


def _hold(lock: int, out: Path) -> None:
    """Let no second process in as long as ``lock`` is open; it is let go with the process, however that ends."""
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RequestError(f"another fewstep batch is writing {out}: wait for it, or give another --out") from None


def said(settings: dict[str, Any]) -> bytes:
    """What a job.json says of a job with these ``settings``."""
    return (json.dumps({VERSION: FORMAT, **settings}, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def check(out: Path | str, content: bytes | None, settings: dict[str, Any], manifest: Path) -> None:
    """Raises RequestError, saying what differs, unless the job in ``out``, whose job.json has this ``content``, is that of ``settings``."""
    there, settings = _parsed(content), json.loads(json.dumps(settings))
    if there is None:
        raise RequestError(f"{out}/{NAME} cannot be read, so it is not known what the folder holds: give another --out")
    differs = [name for name in settings if there.get(name) != settings[name]]
    if there.get(VERSION) != FORMAT:
        raise RequestError(f"{out} was begun by another version of fewstep: give another --out")
    if differs == ["manifest"]:
        raise RequestError(f"{manifest} is not what it was when the job in {out} began: give it as it was, or another --out")
    if differs:
        before, now = (json.dumps(one.get(differs[0]), ensure_ascii=False) for one in (there, settings))
        raise RequestError(f"{out} belongs to another job: its {differs[0]} is {before:.80} and not {now:.80}; give another --out, or the command as it was")


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    try:
        there = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    return there if isinstance(there, dict) else None
