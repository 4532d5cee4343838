"""A run on disk: checkpoint, progress and metrics that survive SIGKILL at any moment.

    DIR/state.json                 where the run stands; names the checkpoint that belongs to it
    DIR/checkpoint-<n>.safetensors weights, averages and optimizer moments of the phase in progress
    DIR/metrics.jsonl              one line an update; cut back to the checkpoint's length on resume, so each line stands once
    DIR/weights/*.safetensors      what finished stages leave behind

A checkpoint is written whole under its own name first; renaming state.json is the one atomic act that makes it current.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fewstep.distill import dist
from fewstep.distill.ema import Ema
from fewstep.distill.recipe import RecipeError


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


class Run:
    """The folder of one run. Opening it again goes on where its last checkpoint stood. Only rank 0 writes to it.

    Raises RecipeError if the folder holds a run of another recipe.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        self.folder = Path(folder)
        (self.folder / "weights").mkdir(parents=True, exist_ok=True)
        self.state = State(recipe=recipe)
        path = self.folder / "state.json"
        if path.is_file():
            saved = json.loads(path.read_text())
            if saved["recipe"] != recipe:
                raise RecipeError(
                    f"{self.folder} holds a run of another recipe ({saved['recipe']}, not {recipe}): give another --run, or the recipe it began with"
                )
            self.state = State(**{**saved, "done": tuple(saved["done"])})
        dist.wait()  # every rank has read the state before rank 0 may change it
        self._metrics = (self.folder / "metrics.jsonl" if dist.rank() == 0 else Path(os.devnull)).open("ab")
        if dist.rank() == 0:
            self._metrics.truncate(self.state.metrics_bytes)

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        self._metrics.write((json.dumps(line) + "\n").encode())
        self._metrics.flush()

    def save(self, models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], averages: Mapping[str, Ema]) -> None:
        """Write a checkpoint of everything that :meth:`load` needs to go on bit for bit."""
        if dist.rank() != 0:
            return
        tensors = {f"model/{name}/{key}": value for name, model in models.items() for key, value in model.state_dict().items()}
        tensors |= {f"ema/{name}/{key}": value for name, average in averages.items() for key, value in average.state().items()}
        tensors |= {f"optimizer/{name}/{key}": value for name, optimizer in optimizers.items() for key, value in _moments(optimizer).items()}
        previous, name = self.state.checkpoint, f"checkpoint-{self.state.phase.replace('/', '-')}-{self.state.update}.safetensors"
        save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, self.folder / name)
        self.state.checkpoint = name
        self._commit()
        if previous and previous != name:
            (self.folder / previous).unlink(missing_ok=True)

    def load(self, models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], averages: Mapping[str, Ema]) -> None:
        """Restore the current checkpoint into models, averages and optimizers, which must be built as they were when it was saved."""
        tensors = load_file(self.folder / self.state.checkpoint)
        for name, model in models.items():
            model.load_state_dict(_under(tensors, f"model/{name}/"))
        for name, average in averages.items():
            average.load(_under(tensors, f"ema/{name}/"))
        for name, optimizer in optimizers.items():
            _restore(optimizer, _under(tensors, f"optimizer/{name}/"))

    def begin(self, phase: str) -> bool:
        """Turn to ``phase``; True if a checkpoint of it is there to load."""
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
            (self.folder / previous).unlink(missing_ok=True)

    def _commit(self) -> None:
        self.state.metrics_bytes = self._metrics.tell()
        write_text(self.folder / "state.json", json.dumps(asdict(self.state), indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf8")
    temporary.replace(path)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}/{key}": torch.as_tensor(value) for index, entry in state.items() for key, value in entry.items()}


def _restore(optimizer: Optimizer, moments: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
