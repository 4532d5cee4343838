"""LoRA files as people have them, for a UNet and both text encoders: under kohya's names, by diffusers' modules or the original's blocks,
under diffusers' names, and under peft's.

W' = W + strength · (alpha / rank) · B A        A: [rank, in·k·k] ("down"), B: [out, rank] ("up"); alpha is the rank where a file does not say

Reads headers first, works on torch's tensors and NumPy's alike, and loads no torch.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewstep.models.keys import original_module
from fewstep.models.weights import WeightsError, read_header, read_weights

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]  # of a model's weights: {part: {name: shape}}
UNET, TEXT = "unet", ("text_encoder", "text_encoder_2")  # parts, as a model's folder names them
KOHYA = {UNET: ("lora_unet_",), TEXT[0]: ("lora_te1_", "lora_te_"), TEXT[1]: ("lora_te2_",)}  # what kohya's names of each part begin with
DOTTED = {"unet.": UNET, "text_encoder.": TEXT[0], "text_encoder_2.": TEXT[1], "diffusion_model.": UNET, "model.diffusion_model.": UNET}
PEFT = "base_model.model."
PEFT_CONFIG = "adapter_config.json"  # beside a file of peft's
DIFFUSERS_CONFIG = "lora_adapter_metadata"  # the same in the metadata of a file of diffusers', with the part before each key
FACTOR = re.compile(r"(?P<module>.+?)[._]lora(?:_linear_layer)?[._](?P<side>down|up|A|B)(?:\.\w+)?\.weight")
ALPHA = re.compile(r"(?P<module>.+?)(?:[._]lora)?\.alpha")
OTHERS = {  # what names of other kinds of adapters hold
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "lora_mid": "a LoCon with a Tucker core",
    "oft_": "an OFT",
    "boft_": "a BOFT",
}
WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 1280: "SDXL's refiner", 2048: "SDXL"}  # of the text that a UNet's attn2 reads
LARGEST_CONFIG = 1 << 20  # bytes


@dataclass(frozen=True)
class Place:
    """Where a low-rank change belongs, and under which names its factors lie in the file."""

    part: str
    name: str  # of the weight
    shape: tuple[int, ...]
    down: str
    up: str
    rank: int
    alpha: str | float | None  # the name of a tensor, or the number itself
    rooted: bool = False  # rank-stabilised: alpha is divided by √rank


@dataclass(frozen=True)
class Change:
    """(scale) · B A, not multiplied out: a file's change of one weight."""

    shape: tuple[int, ...]
    scale: float
    up: Any  # [out, rank]
    down: Any  # [rank, in·k·k]

    def full(self, strength: float) -> Any:
        """What is added to the weight, float32 in its shape."""
        single = isinstance(self.up, np.ndarray)
        b, a = (part.astype(np.float32) if single else part.float() for part in (self.up, self.down))
        return (strength * self.scale * (b @ a)).reshape(self.shape)

    def to(self, device: Any) -> Change:
        """The same on a device of torch's."""
        return dataclasses.replace(self, up=self.up.to(device), down=self.down.to(device))


def read_changes(path: Path, own: Shapes, parts: Iterable[str] = (), framework: Literal["pt", "numpy"] = "pt") -> dict[str, dict[str, Change]]:
    """{part: {name of a weight: its change}} of a LoRA for a model of the shapes ``own``; of these ``parts`` alone where some are given.

    Raises WeightsError, as :func:`places` and :func:`read_weights` do.
    """
    wanted = [place for place in places(path, own) if not parts or place.part in parts]
    names = {name for place in wanted for name in (place.down, place.up, place.alpha) if isinstance(name, str)}
    tensors = read_weights(path, framework, names) if names else {}
    found: dict[str, dict[str, Change]] = {}
    for place in wanted:
        alpha = float(tensors[place.alpha].reshape(-1)[0]) if isinstance(place.alpha, str) else place.rank if place.alpha is None else place.alpha
        up, down = tensors[place.up].reshape(place.shape[0], place.rank), tensors[place.down].reshape(place.rank, -1)
        found.setdefault(place.part, {})[place.name] = Change(place.shape, alpha / (place.rank**0.5 if place.rooted else place.rank), up, down)
    return found


def places(path: Path, own: Shapes) -> list[Place]:
    """Where each change of the LoRA in ``path`` belongs in a model of the shapes ``own``. Reads the header, and peft's configuration beside it.

    Raises WeightsError on a file that is no LoRA, on another kind of adapter, and, naming the first three that do not fit, on a LoRA for
    another model.
    """
    header = read_header(path)
    shapes, metadata = header.shapes, header.metadata
    foreign = next(((kind, key) for key in shapes for mark, kind in OTHERS.items() if mark in key), None)
    if foreign:
        raise WeightsError(f"{path} is {foreign[0]} ('{foreign[1]}'), and of adapters only plain LoRAs are read: give it as a LoRA")
    modules, wrong = _sorted(shapes)
    if not any(len(sides) == 2 for sides, _ in modules.values()):
        raise WeightsError(f"{path} is no LoRA: it holds no pair of low-rank weights; give a file in kohya's, diffusers' or peft's names")
    said, index, found = _Said.of(path, metadata, shapes), _index(own), dict[tuple[str, str], Place]()
    for module, (sides, alpha) in modules.items():
        if len(sides) < 2:
            wrong.append(f"'{module}' lacks its {'down' if 'up' in sides else 'up'} weight" if sides else f"'{alpha}' is of no change")
            continue
        fitting, misfit = _fitting(module, sides, shapes, own, index)
        if fitting is None or (alpha is not None and prod(shapes[alpha]) != 1):
            wrong.append(misfit or f"'{alpha}' has shape {list(shapes[str(alpha)])}, not one number")
            continue
        part, name = fitting
        if fitting in found:
            wrong.append(f"'{module}' names a weight for the second time")
            continue
        config = said.of_part(part)
        value = alpha if alpha is not None else config.alpha(module)
        found[fitting] = Place(part, name, own[part][name], sides["down"], sides["up"], shapes[sides["down"]][0], value, config.rooted)
    if wrong:
        more = f"; and {len(wrong) - 3} more" * (len(wrong) > 3)
        raise WeightsError(f"{path}: this LoRA is not for this model{_elsewhere(shapes, own)}: {'; '.join(wrong[:3])}{more}")
    return list(found.values())


def _sorted(shapes: Iterable[str]) -> tuple[dict[str, tuple[dict[str, str], str | None]], list[str]]:
    """({module: ({side: name}, name of its alpha)}, sentences on names that are neither)."""
    sides: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    wrong = []
    for key in shapes:
        if match := FACTOR.fullmatch(key):
            sides.setdefault(match["module"], {})["down" if match["side"] in ("down", "A") else "up"] = key
        elif match := ALPHA.fullmatch(key):
            alphas[match["module"]] = key
        else:
            wrong.append(f"'{key}' is not known")
    return {module: (sides.get(module, {}), alphas.get(module)) for module in [*sides, *(alphas.keys() - sides.keys())]}, wrong


def _index(own: Shapes) -> dict[str, tuple[str, str]]:
    """{kohya's name of a module: (part, name of its weight)}, with all the names that it goes by."""
    index = {}
    for part, shapes in own.items():
        for name, shape in shapes.items():
            if name.endswith(".weight") and len(shape) > 1:
                for module in _modules(part, name.removesuffix(".weight"), shapes):
                    index.update({prefix + module.replace(".", "_"): (part, name) for prefix in KOHYA[part]})
    return index


def _modules(part: str, module: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """The names of a module: its own and the original's, and with text_model. before it, which not every version of a network's names has."""
    yield module
    if part == UNET:
        yield original_module(module, shapes)
    if part in TEXT:
        yield module.removeprefix("text_model.")
        yield f"text_model.{module.removeprefix('text_model.')}"


def _aliases(module: str) -> list[str]:
    """Kohya's names that a module of a file may mean: one, but a text encoder alone, as peft writes it, does not say which of the two it is."""
    if module.startswith("lora_"):
        return [module]
    bare = module.removeprefix(PEFT).replace(".processor.", ".")
    bare = f"{bare}.0" if bare.endswith(".to_out") else bare
    prefix = next((prefix for prefix in DOTTED if bare.startswith(prefix)), "")
    parts = [DOTTED[prefix]] if prefix else list(TEXT) if bare.startswith("text_model.") else [UNET]
    return [KOHYA[part][0] + bare.removeprefix(prefix).replace(".", "_") for part in parts]


def _fitting(
    module: str, sides: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], own: Shapes, index: Mapping[str, tuple[str, str]]
) -> tuple[tuple[str, str] | None, str]:
    """((part, name) of the weight that ``module`` means and its factors fit, or else None, a sentence on why)."""
    candidates = [index[alias] for alias in _aliases(module) if alias in index]
    up, down = shapes[sides["up"]], shapes[sides["down"]]
    good = [(part, name) for part, name in candidates if _fits(up, down, own[part][name])]
    if len(good) == 1:
        return good[0], ""
    if not candidates:
        return None, f"'{module}' is not known"
    if good:
        return None, f"'{module}' may be either text encoder's: put text_encoder. or text_encoder_2. before its names"
    part, name = candidates[0]
    return None, f"'{module}' has shapes {list(up)} and {list(down)} for a weight {list(own[part][name])}"


def _fits(up: tuple[int, ...], down: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether B [out, rank, 1, 1] and A [rank, in, k, k] make a weight [out, in, k, k], or as linear layers."""
    rank = down[0] if down else 0
    return bool(rank and up) and up[0] == shape[0] and prod(up[1:]) == rank and prod(down[1:]) == prod(shape[1:])


def _elsewhere(shapes: Mapping[str, tuple[int, ...]], own: Shapes) -> str:
    """For which model a LoRA seems to be, where the text that its cross-attention reads is not as wide as the model's."""
    cross = re.compile(r".*attn2[._]to_k[._].*")
    theirs = {prod(shape[1:]) for key, shape in shapes.items() if cross.fullmatch(key) and (match := FACTOR.fullmatch(key)) and match["side"] in ("down", "A")}
    ours = {shape[1] for key, shape in own.get(UNET, {}).items() if cross.fullmatch(key)}
    width = next(iter(theirs)) if len(theirs) == 1 and not theirs & ours else 0
    return f", but seems to be for {WIDTHS[width]}" if width in WIDTHS else ""


@dataclass(frozen=True)
class _Config:
    """What peft's configuration says of one part."""

    default: float | None = None  # alpha
    patterns: tuple[tuple[str, float], ...] = ()  # (the end of a module's name, its alpha)
    rooted: bool = False

    def alpha(self, module: str) -> float | None:
        """The alpha of ``module``; None where it is not said."""
        return next((alpha for end, alpha in self.patterns if module == end or module.endswith(f".{end}")), self.default)


@dataclass(frozen=True)
class _Said:
    """Peft's configurations that come with a file, by part; "" is that of all parts that have none of their own."""

    configs: Mapping[str, _Config]

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str], names: Iterable[str]) -> _Said:
        """From diffusers' metadata, and from the file beside one of peft's. Raises WeightsError on what cannot be read."""
        configs = {}
        try:
            if DIFFUSERS_CONFIG in metadata:
                content = json.loads(metadata[DIFFUSERS_CONFIG])
                for prefix, part in list(DOTTED.items())[:3]:
                    configs[part] = _config({key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)})
            beside = path.parent / PEFT_CONFIG
            if any(name.startswith(PEFT) for name in names) and beside.is_file():
                if beside.stat().st_size > LARGEST_CONFIG:
                    raise ValueError(f"{beside} is too large")
                configs[""] = _config(json.loads(beside.read_text(encoding="utf8")))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsError(f"{path}: the configuration that comes with it cannot be read ({error}): fetch it again") from None
        return cls(configs)

    def of_part(self, part: str) -> _Config:
        """What is said of ``part``."""
        return self.configs.get(part) or self.configs.get("") or _Config()


def _config(content: Mapping[str, Any]) -> _Config:
    alpha = content.get("lora_alpha")
    patterns = tuple((str(end), float(value)) for end, value in (content.get("alpha_pattern") or {}).items())
    return _Config(None if alpha is None else float(alpha), patterns, bool(content.get("use_rslora")))
