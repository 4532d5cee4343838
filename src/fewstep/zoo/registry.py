"""The models that are known by name, and where they lie. Reads headers only: loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fewstep.models.weights import FILE, WeightsError, find_weights, read_header
from fewstep.stamp import Stamp
from fewstep.zoo.hub import REPO, cached, command, snapshot
from fewstep.zoo.known import KNOWN, Known, Weights

INDEX = "model_index.json"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
NETWORKS = {"text_encoder": "model.safetensors", "text_encoder_2": "model.safetensors", "unet": FILE, "vae": FILE}  # the weights of each, in its folder
VOCABULARY = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
TEXTS = (  # what a whole model has besides
    INDEX,
    "scheduler/scheduler_config.json",
    *(f"{part}/{name}" for part in ("tokenizer", "tokenizer_2") for name in VOCABULARY),
    *(f"{part}/config.json" for part in NETWORKS),
)


class ModelError(ValueError):
    """A model that is not there or whose files cannot be read; the message says what to give instead."""


@dataclass(frozen=True)
class Entry:
    """A known model as a list shows it, and what is on this disk of it."""

    known: Known
    folder: Path | None  # of a whole model, complete or not; None for weights that apply to another
    steps: tuple[int, ...]  # that there are few-step weights for on this disk, ascending
    fetch: tuple[str, ...]  # what to type for what is missing, its base included
    megabytes: float  # on this disk, without its base

    @property
    def state(self) -> str:
        """How much of it is on this disk, in a word or two."""
        if not self.fetch:
            return "here"
        return "partly here" if self.steps or self.megabytes else "not here"


def names() -> list[str]:
    """The names that ``find`` knows."""
    return list(KNOWN)


def embedded(name: str) -> Path:
    """Where the model ``name`` lies inside the package, whether or not it is there."""
    return Path(str(files("fewstep.zoo"))) / name


def find(model: str) -> Path:
    """The folder, or the .safetensors file, that ``model`` means: a known name first, then a path, then an id on the Hub that is in its cache.

    Raises ModelError, naming what can be given or what to type to fetch it, if there is no such thing.
    """
    if model in KNOWN:
        return whole(KNOWN[model])
    path = Path(model)
    if path.suffix in PICKLES:
        raise ModelError(f"{model}: only safetensors are read, for a pickle ({', '.join(PICKLES)}) can run code when it is opened: convert it first")
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return path.absolute() if path.is_symlink() else path.resolve()  # the Hub's cache links to files without a suffix
    if path.is_file():
        raise ModelError(f"{model} is no model: give a diffusers folder or a .safetensors file, or one of {', '.join(KNOWN)}")
    if REPO.fullmatch(model) and (folder := snapshot(model)) is not None:
        check_whole(folder, model, model)
        return folder
    hub = f"; one of the Hub's is fetched with: {command(model)}" if REPO.fullmatch(model) else ""
    raise ModelError(f"there is no model '{model}': give one of {', '.join(KNOWN)}, a diffusers folder or a .safetensors file{hub}")


def whole(known: Known) -> Path:
    """The folder of a known model that is whole. Raises ModelError if it is not on this disk, or is weights that apply to another."""
    if known.weights:
        raise ModelError(f"{known.name} is weights for {known.base}: make pictures with it, or give {known.base} or a folder here")
    if not known.repo:
        folder = embedded(known.name)
        if not (folder / INDEX).is_file():
            raise ModelError(f"the embedded model '{known.name}' is not in this installation ({folder}): install fewstep again, or give --model a folder")
        return folder
    folder = snapshot(known.repo) or Path(known.repo)
    check_whole(folder, known.name, known.repo)
    return folder


def check_whole(folder: Path, name: str, repo: str) -> None:
    """Raises ModelError, with what to type, unless all files that a model of the Hub needs are in its snapshot ``folder``."""
    lacking = missing(folder)
    if any(Path(name).name != VOCABULARY[-1] for name in lacking):  # some publish none of those
        raise ModelError(f"{name} is not whole on this disk ({len(lacking)} files are missing): fetch them with: {command(repo, lacking)}")


def missing(folder: Path) -> list[str]:
    """The files that a whole model needs and ``folder`` lacks, weights by the names of their float16 variants."""
    lacking = [name for name in TEXTS if not (folder / name).is_file()]
    weights = [(part, file) for part, file in NETWORKS.items() if not find_weights(folder / part, file).is_file()]
    return lacking + [f"{part}/{file.replace('.safetensors', '.fp16.safetensors')}" for part, file in weights]


def weights_file(known: Known, weights: Weights) -> Path:
    """Where one file of a known model lies. Raises ModelError, with what to type, if it is not on this disk or cannot be opened."""
    if Path(weights.file).suffix in PICKLES:
        there = Path(weights.file).with_suffix(".safetensors").name
        raise ModelError(
            f"{known.name} for {weights.row.steps} step{'s' * (weights.row.steps > 1)} is published as a pickle ({weights.file}), which can run code when it "
            f"is opened: convert it to {there} as docs/models.md says, and give that file as --model"
        )
    path = cached(known.repo, weights.file)
    if path is None:
        raise ModelError(f"{weights.file} of {known.name} is not on this disk: fetch it with: {command(known.repo, [weights.file])}")
    return path


def by_name(path: Path) -> Weights | None:
    """The known weights that a file is by its name, wherever it lies and whatever it was converted from; None for a name that says nothing."""
    alike = [one for known in KNOWN.values() for one in known.weights if Path(one.file).stem == path.stem]
    return alike[0] if len(alike) == 1 else None


def base_of(path: Path) -> Path:
    """The folder that a weights file belongs to: the diffusers folder around it, else the embedded model."""
    around = path.parent.parent
    return around if (around / INDEX).is_file() else find(next(iter(KNOWN)))


def students(folder: Path) -> dict[int, Path]:
    """The few-step weights of a model's folder by their step count, ascending. Raises ModelError on a file that cannot be read."""
    found: dict[int, Path] = {}
    for path in sorted((folder / "students").glob("*.safetensors")):
        stamp = peek(path)
        if stamp is not None and stamp.kind != "teacher":
            found.setdefault(stamp.steps, path)
    return dict(sorted(found.items()))


def peek(path: Path) -> Stamp | None:
    """The stamp in a safetensors header, None where there is none. Raises ModelError on a file that is no whole safetensors file."""
    try:
        return Stamp.from_metadata(read_header(path).metadata)
    except WeightsError as error:
        raise ModelError(f"{error}, or take it away") from None
    except ValueError as error:
        raise ModelError(f"{path}: {error}; fetch it again, or take it away") from None


def configured(known: Known) -> Path:
    """The folder of a known model of the Hub with its configurations and tokenizers. Raises ModelError, with what to type, where they are missing."""
    folder = snapshot(known.repo) or Path(known.repo)
    lacking = [name for name in TEXTS if not (folder / name).is_file()]
    if any(Path(name).name != VOCABULARY[-1] for name in lacking):
        raise ModelError(f"the configurations and tokenizers of {known.name} are not on this disk: fetch them with: {command(known.repo, lacking)}")
    return folder


def entries() -> list[Entry]:
    """The known models and what is on this disk of each."""
    return [entry(known) for known in KNOWN.values()]


def entry(known: Known) -> Entry:
    """One known model and what is on this disk of it. Raises ModelError on a file of the embedded one that cannot be read."""
    if not known.repo:
        folder = embedded(known.name)
        there = (folder / INDEX).is_file()
        return Entry(known, folder, tuple(students(folder)), () if there else ("python -m pip install --force-reinstall fewstep",), _megabytes(folder))
    if not known.weights:
        folder = snapshot(known.repo) or Path(known.repo)
        lacking = missing(folder)
        steps = () if any(name.startswith("unet/") for name in lacking) else known.steps
        return Entry(known, folder, steps, (command(known.repo, lacking),) if lacking else (), _megabytes(folder))
    paths = {one.file: path for one in known.weights if (path := cached(known.repo, one.file))}
    fetch = [command(known.repo, [name]) for name in dict.fromkeys(one.file for one in known.weights) if name not in paths]  # few need all
    usable = {one.row.steps for one in known.weights if one.file in paths and Path(one.file).suffix not in PICKLES}
    size = sum(path.stat().st_size for path in paths.values()) / 1e6
    return Entry(known, None, tuple(sorted(usable)), (*entry(KNOWN[known.base]).fetch, *fetch), size)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
