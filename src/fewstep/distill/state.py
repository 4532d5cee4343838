"""A run on disk: checkpoint, progress and metrics that survive SIGKILL at any moment.

    DIR/state.json                 where the run stands; names the checkpoint that belongs to it
    DIR/checkpoint-<n>.safetensors weights, averages and optimizer moments of the phase in progress
    DIR/metrics.jsonl              one line an update; cut back to the checkpoint's length on resume, so each line stands once
    DIR/health.jsonl               one line a look at fixed prompts (probe.py); cut back likewise
    DIR/weights/*.safetensors      what finished stages leave behind
    DIR/lock                       held by the process that carries the run out

A checkpoint is written whole under its own name first; renaming state.json is the one atomic act that makes it current.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from fewstep.distill import dist
from fewstep.distill.ema import Ema
from fewstep.distill.kept import damaged, read_kept
from fewstep.distill.recipe import RecipeError, changes, recipe_hash, said
from fewstep.distill.sharding import fill, local, read_shares, save_shares, share

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from fewstep.distill.trainer import Routine


class DiskFull(RuntimeError):
    """The run's disk has no room; the message says how much was needed, and that the same command goes on."""


@dataclass
class State:
    """Progress: the phase in progress, updates and samples within it, and how much of metrics.jsonl belongs to it."""

    recipe: str = ""  # hash of the recipe: a run is not resumed with another one
    phase: str = ""
    update: int = 0
    samples: int = 0
    seconds: float = 0.0
    checkpoint: str = ""
    metrics_bytes: int = 0
    done: tuple[str, ...] = ()
    health_bytes: int = 0
    spent: dict[str, float] = field(default_factory=dict)  # seconds in each phase
    ended: str = ""  # the phase whose end has been looked at
    stopped: str = ""  # why the run ended before its end; empty while it goes
    best: dict[str, dict[str, Any]] = field(default_factory=dict)  # by step count: the best student so far, its file and its figure
    said: dict[str, Any] = field(default_factory=dict)  # what the recipe says
    began: dict[str, str] = field(default_factory=dict)  # what lies outside the recipe and the run began with: its teacher, its pictures

    @classmethod
    def read(cls, path: Path) -> State:
        """What a run left of itself. Raises RecipeError where it is damaged, or another version's."""
        saved, usual = read_kept(path, ("recipe", "phase", "done")), vars(cls())
        if wrong := [key for key, value in saved.items() if not isinstance(value, list if key == "done" else type(usual.get(key)))]:
            raise RecipeError(damaged(path, f"'{wrong[0]}' is not what this version of fewstep writes"))
        return cls(**{**saved, "done": tuple(saved["done"])})


class Run:
    """The folder of one run. Opening it again goes on where its last checkpoint stood. Only rank 0 writes to it.

    ``recipe`` is its hash, ``said`` what it says. Raises RecipeError if the folder holds a run of another recipe, or one that another process is
    carrying out.
    """

    def __init__(self, folder: Path, recipe: str, said: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        (self.folder / "weights").mkdir(parents=True, exist_ok=True)
        self._lock = self._hold()
        self.state = State(recipe=recipe, said=dict(said or {}))
        path = self.folder / "state.json"
        if path.is_file():
            saved = State.read(path)
            if saved.recipe != recipe:
                changed = ", ".join(changes(saved.said, said or {})) if saved.said else f"{saved.recipe}, not {recipe}"
                raise RecipeError(f"{self.folder} holds a run of another recipe ({changed}): give another --run, or the recipe it began with")
            self.state = saved
        dist.wait()  # every rank has read the state before rank 0 may change it
        if dist.rank() == 0:
            self._sweep()
        self._metrics = self._open("metrics.jsonl", self.state.metrics_bytes)
        self._health = self._open("health.jsonl", self.state.health_bytes)
        self.latest: dict[str, Any] = {}  # the line that was logged last
        self.observers: Sequence[Routine] = ()  # what acts beside the training in every phase
        self.stopping: Exception | None = None  # what the trainer shall end the run with now, its state saved

    @classmethod
    def of(cls, recipe: Any, folder: Path) -> Run:
        """The run of a ``recipe`` in ``folder``. Raises RecipeError."""
        return cls(folder, recipe_hash(recipe), said(recipe))

    def keep_to(self, what: str, identity: str, way_out: str) -> None:
        """Note in a new run what of the world outside its recipe it is begun with. Raises RecipeError in one that began with another."""
        if self.state.began.setdefault(what, identity) != identity:
            was = self.state.began[what]
            raise RecipeError(f"{self.folder} began with {what} {was}, and is given {identity} now: {way_out}, or give another --run")

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. Raises DiskFull."""
        self.latest = dict(line)
        self._append(self._metrics, line)

    def note(self, line: Mapping[str, Any]) -> None:
        """Append one line to health.jsonl. Raises DiskFull."""
        self._append(self._health, line)

    def _hold(self) -> BinaryIO:
        """The run's lock, this process's until it ends: two that write to one run would cut each other's lines off. Windows goes without."""
        stream = (self.folder / "lock" if dist.rank() == 0 else Path(os.devnull)).open("ab")
        if dist.rank() == 0 and fcntl is not None:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    return stream  # a file system without locks
                raise RecipeError(f"{self.folder} is being carried out by another process: wait for it or end it, or give another --run") from None
        return stream

    def _sweep(self) -> None:
        """Remove what a process that was killed has left half-written or not yet removed: a checkpoint may have tens of gigabytes."""
        for path in (*self.folder.glob("checkpoint-*"), *(self.folder / "weights").glob(".*.tmp")):
            if path.name != self.state.checkpoint:
                _remove(path)

    def _open(self, name: str, length: int) -> BinaryIO:
        stream = (self.folder / name if dist.rank() == 0 else Path(os.devnull)).open("ab")
        if dist.rank() == 0:
            stream.truncate(_whole_lines(self.folder / name, length))
            stream.seek(0, os.SEEK_END)
        return stream

    def _append(self, stream: BinaryIO, line: Mapping[str, Any]) -> None:
        content = (json.dumps(line) + "\n").encode()
        with self.room(len(content)):
            stream.write(content)
            stream.flush()

    @contextmanager
    def room(self, needed: int) -> Iterator[None]:
        """A context that turns a full disk into DiskFull; ``needed`` bytes are for its sentence."""
        try:
            yield
        except (OSError, SafetensorError, CheckpointException) as error:
            causes = [failure[0] for failure in error.failures.values()] if isinstance(error, CheckpointException) else [error]
            if not any(getattr(cause, "errno", None) == errno.ENOSPC or "os error 28" in str(cause) for cause in causes):
                raise
            free = shutil.disk_usage(self.folder).free
            raise DiskFull(
                f"{self.folder}: the disk is full ({needed / 1e6:.1f} MB were needed, {free / 1e6:.1f} MB are free): make room and give the same "
                f"command again, it goes on from its last checkpoint"
            ) from None

    def save(self, models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], averages: Mapping[str, Ema]) -> None:
        """Write a checkpoint of everything that :meth:`load` needs to go on bit for bit. Raises DiskFull, and leaves the last one as it was.

        Where tensors lie in shares each rank writes its own, into a folder of safetensors files.
        """
        tensors = {f"model/{name}/{key}": value for name, model in models.items() for key, value in model.state_dict().items()}
        tensors |= {f"ema/{name}/{key}": value for name, average in averages.items() for key, value in average.state().items()}
        tensors |= {f"optimizer/{name}/{key}": value for name, optimizer in optimizers.items() for key, value in _moments(optimizer).items()}
        shared = any(isinstance(value, DTensor) for value in tensors.values())
        if dist.rank() != 0 and not shared:
            return
        previous, file = self.state.checkpoint, f"checkpoint-{self.state.phase.replace('/', '-')}-{self.state.update}" + ".safetensors" * (not shared)
        if file != previous:  # the same update gives the same bytes, and what is whole is not written over
            try:
                with self.room(sum(local(value).nbytes for value in tensors.values())):
                    if shared:
                        if dist.rank() == 0:
                            _remove(self.folder / file)  # by a write that was interrupted, perhaps of more ranks
                        dist.wait()
                        save_shares({key: value.detach() for key, value in tensors.items()}, self.folder / file)
                    else:
                        save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, self.folder / file)
            except DiskFull:
                _remove(self.folder / file)
                raise
        self.state.checkpoint = file
        if dist.rank() == 0:
            self._commit()
            if previous not in ("", file):
                _remove(self.folder / previous)

    def load(self, models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], averages: Mapping[str, Ema]) -> None:
        """Restore the current checkpoint into models, averages and optimizers, which must be built as they were when it was saved.

        On how many ranks, and whether in shares, does not matter.
        """
        moments = {f"optimizer/{name}/{key}": like for name, optimizer in optimizers.items() for key, like in _templates(optimizer).items()}
        like = {f"model/{name}/{key}": value for name, model in models.items() for key, value in model.state_dict().items()}
        like |= {f"ema/{name}/{key}": value for name, average in averages.items() for key, value in average.state().items()}
        tensors = _read_checkpoint(self.folder / self.state.checkpoint, like, moments)
        for name, model in models.items():
            fill(model, _under(tensors, f"model/{name}/"))
        for name, average in averages.items():
            average.load(_under(tensors, f"ema/{name}/"))
        for name, optimizer in optimizers.items():
            _restore(optimizer, _under(tensors, f"optimizer/{name}/"))

    def begin(self, phase: str) -> bool:
        """Turn to ``phase``; True if a checkpoint of it is there to load."""
        self.state.stopped, self.stopping = "", None
        if self.state.phase == phase:
            return bool(self.state.checkpoint)
        self._clear(phase)
        return False

    def finish(self) -> None:
        """Mark the phase as done and drop its checkpoint."""
        self.state.done += (self.state.phase,)
        self._clear("")

    def _clear(self, phase: str) -> None:
        dist.wait()
        previous = self.state.checkpoint
        self.state.phase, self.state.update, self.state.samples, self.state.checkpoint = phase, 0, 0, ""
        if dist.rank() != 0:
            return
        self._commit()
        if previous:
            _remove(self.folder / previous)

    def _commit(self) -> None:
        self.state.metrics_bytes, self.state.health_bytes = self._metrics.tell(), self._health.tell()
        content = json.dumps(asdict(self.state), indent=1)
        with self.room(len(content)):
            write_text(self.folder / "state.json", content)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_checkpoint(path: Path, like: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, or of a folder of shares; those in ``like`` are there. Raises RecipeError where it is missing or damaged."""
    try:
        if path.is_dir():
            tensors = read_shares(path, {**like, **moments})
        else:
            tensors = {key: share(value, moments[key]) if key in moments else value for key, value in load_file(path).items()}
    except (OSError, SafetensorError, CheckpointException) as error:
        raise RecipeError(damaged(path, getattr(error, "strerror", None) or str(error))) from None
    if missing := like.keys() - tensors.keys():
        raise RecipeError(damaged(path, f"it lacks '{min(missing)}'"))
    return tensors


def _whole_lines(path: Path, length: int) -> int:
    """``length``, or where a file is shorter, for somebody cut it, where its last whole line ends; stderr says so."""
    if (size := path.stat().st_size) >= length:
        return length
    print(f"fewstep: {path} has lost {length - size:,} bytes at its end: the run goes on without these lines", file=sys.stderr)
    return path.read_bytes().rfind(b"\n") + 1


def _remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}/{key}": torch.as_tensor(value) for index, entry in state.items() for key, value in entry.items()}


def _templates(optimizer: Optimizer) -> dict[str, Tensor]:
    """Tensors laid out as the moments of weights that lie in shares will be."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {f"{i}/{key}": p.detach() for i, p in enumerate(parameters) if isinstance(p, DTensor) for key in ("exp_avg", "exp_avg_sq")}


def _restore(optimizer: Optimizer, moments: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
