"""Graphs on a CPU, and no torch: they lie beside the weights, which are bound to them by name. Each stage has a runtime (fewstep.engine.backends.runtimes)."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.adapters import own_shapes, weight_files
from fewstep.engine.backends import BackendError, log
from fewstep.engine.backends.fastest import fastest, steady
from fewstep.engine.backends.guided import Array, Prompt, denoiser
from fewstep.engine.backends.names import RUNTIMES, STAGES, stages_of
from fewstep.engine.backends.runtimes import DECODERS, ENCODER, NEGATABLE, Graph, Runtime, Session, open_runtime
from fewstep.engine.backends.wrapped import Wrapped
from fewstep.engine.decode import SCALING_FACTOR, check_scaling, scaled, to_bytes, to_values, unscaled
from fewstep.engine.device import cores
from fewstep.engine.model import UNET, Model
from fewstep.engine.recent import recent
from fewstep.engine.request import TILED
from fewstep.engine.steering import Steering
from fewstep.models.adapters import TEXT, read_changes
from fewstep.models.adapters import UNET as PART
from fewstep.models.chunks import Words, count, join, script
from fewstep.models.clip_tokens import ClipTokens
from fewstep.models.stack import Stack, changes_of, key_of, total
from fewstep.models.weights import GRAPHS, INDEX, WeightsError, check_decoder, check_fit, read_weights
from fewstep.stamp import Stamp, file_hash

WEIGHTS = UNET.name
CONFIG = "config.json"
NO_ROOM = "Failed to allocate memory"  # how ONNX Runtime says that there is too little, which has no kind of its own for it
MOST_UNETS = 12  # sessions: of each student and the teacher one without and one with negative prompts, and tiles


def open(  # noqa: A001 - every backend has one
    model: Model,
    device: str = "cpu",
    threads: int | None = None,
    strict: bool = False,
    precision: str = "auto",
    name: str = "auto",
    measure: bool = True,
) -> Graphs:
    """The backend for ``model`` with the runtimes ``name``; "auto" is the fastest of those that are installed for each stage, as measured.

    Unless ``measure``, it is what is known to be fast and will be the same another day.

    Raises BackendError if the model has no usable graphs, ``device`` is no CPU or a runtime cannot be used here, WeightsError on a damaged
    configuration, ImportError if a runtime is not installed.
    """
    if device != "cpu":
        raise BackendError(f"the {name} backend computes on a CPU, not on {device}: use --backend eager")
    if model.file:
        raise BackendError(f"the onnxruntime backend has no graphs for {model.file}: use --backend eager, or export its folder with --to graphs")
    if not (model.folder / GRAPHS / INDEX).is_file():
        if model.rows or model.unet != model.folder / UNET:  # weights as others publish them
            raise BackendError(f"onnxruntime has no graphs of {model.limits.name}: use --backend eager, which needs the extra fewstep[sdxl]")
        raise BackendError(f"{model.folder} has no {GRAPHS}/{INDEX}: {advice(model)}")
    count = threads or cores()
    if name != "auto":
        return Graphs(model, count, name, precision)
    name = fastest(model, count, lambda one: Graphs(model, count, one)) if measure else steady()
    if precision not in ("auto", "float32"):
        return Graphs(model, count, "+".join((*stages_of(name)[:2], "openvino")), precision)  # who alone has other numbers
    try:
        backend = Graphs(model, count, name, precision)
        if not measure:  # nobody has tried whether it works
            backend.prepare(model.limits.default_steps, "full")
        return backend
    except (BackendError, ImportError) as error:
        log.warning("fewstep: the faster runtime cannot be used here (%s); going on with %s", str(error).splitlines()[0], RUNTIMES[0])
        return Graphs(model, count, RUNTIMES[0], precision)


def advice(model: Model) -> str:
    """How to make the graphs of ``model``."""
    return f"make its graphs with fewstep export {model.folder} --steps {model.limits.default_steps} --to graphs --out {model.folder / GRAPHS}"


def read_index(model: Model) -> dict[str, dict[str, tuple[int, ...]]]:
    """{graph: {name of a weight: its shape}} of the graphs that lie there. Raises BackendError if it cannot be read or a graph is missing."""
    path = model.folder / GRAPHS / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf8"))
        shapes = {graph: {name: tuple(map(int, shape)) for name, shape in weights.items()} for graph, weights in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BackendError(f"{path} cannot be read ({error}): take the folder {GRAPHS} away and {advice(model)}") from None
    missing = [graph for graph in ("text", "unet", "decoder", *shapes) if graph not in shapes or not (path.parent / f"{graph}.onnx").is_file()]
    if missing:
        raise BackendError(f"{path.parent} has no {missing[0]}.onnx, or {path.name} does not know it: take the folder away and {advice(model)}")
    return shapes


class Graphs:
    """A backend (see fewstep.engine.backends.Backend) whose arrays are NumPy's. Sessions are made when they are first needed."""

    device = "cpu"

    def __init__(self, model: Model, threads: int, name: str = "onnxruntime", precision: str = "auto") -> None:
        """``name`` is that of one runtime, or of one for each of STAGES, joined by "+"; ``precision`` is the decoder's."""
        self.model, self.threads, self.name, self.precision = model, threads, name, precision
        numbers = ("auto", "auto", precision)
        configs: dict[str, dict[str, Any]] = {part: json.loads((model.folder / part / CONFIG).read_text(encoding="utf8")) for part in (*TEXT, PART, "vae")}
        self._vae: dict[str, Any] = {"scaling_factor": SCALING_FACTOR, **configs["vae"]}
        check_scaling(self._vae, model.channels, model.folder / "vae" / CONFIG)
        self._runtimes = {stage: open_runtime(one, own, configs) for stage, one, own in zip(STAGES, stages_of(name), numbers, strict=True)}
        self._shapes = read_index(model)
        self._stack: Stack = ()
        self._texts: dict[Hashable, Any] = {}  # by what a stack changes
        self._unets: OrderedDict[Hashable, Any] = OrderedDict()  # by weights, graph, how it wraps around, and what a stack changes
        self._autoencoder: dict[tuple[str, Wrapped | None], Any] = {}  # by graph, and how it wraps around

    @property
    def no_control(self) -> str:
        """What is to be done where a ControlNet is wanted: there are no graphs of them."""
        return f"the {self.name} backend computes no ControlNets: use --backend eager, which needs the extra fewstep[sdxl]"

    @property
    def no_images(self) -> str:
        """What is to be done where the graphs are from before there was an encoder among them."""
        if ENCODER in self._shapes:
            return ""
        limits = self.model.limits
        command = f"fewstep export MODEL --steps {limits.default_steps} --to graphs --out MODEL/{GRAPHS}"
        return f"{limits.name} cannot begin from an image, for its folder {GRAPHS} has no {ENCODER}.onnx: take that folder away and make it anew with {command}"

    @cached_property
    def _tokens(self) -> tuple[ClipTokens, ClipTokens]:
        try:
            return ClipTokens.open(self.model.folder / "tokenizer"), ClipTokens.open(self.model.folder / "tokenizer_2")
        except ValueError as error:
            raise WeightsError(str(error)) from None

    def adapt(self, stack: Stack) -> bool:
        """Use sessions with these LoRAs in their weights. Those without any are kept, and of the others the newest."""
        changed, self._stack = stack != self._stack, stack
        if changed:
            self._texts = {key: session for key, session in self._texts.items() if key in ((), key_of(stack, *TEXT))}
            for key in [key for key in self._unets if key[-1] not in ((), key_of(stack, PART))]:  # type: ignore[index]
                del self._unets[key]
        return changed

    @property
    def _text(self) -> Any:
        key = key_of(self._stack, *TEXT)
        if key not in self._texts:
            tensors = {part: read_weights(path, "numpy") for part, path in self._files.items() if part in TEXT}
            added = {part: self._with_stack(values, part, self._stack) for part, values in tensors.items()}
            own = {f"{part}.{key}".replace(".text_model.", "."): value for part, values in added.items() for key, value in values.items()}
            # files and networks differ, by version, in whether they say text_model. before a name
            named = {name: own[bare] for name in self._shapes["text"] if (bare := name.replace(".text_model.", ".")) in own}
            self._texts[key] = self._session("text", named, self._files[TEXT[0]], keep=key == ())
        return self._texts[key]

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The weights of what LoRAs may change."""
        return weight_files(self.model)

    def _with_stack(self, weights: dict[str, np.ndarray], part: str, stack: Stack) -> dict[str, np.ndarray]:
        """``weights`` of one part with what ``stack`` adds to them."""
        if not key_of(stack, part):
            return weights
        added = changes_of(stack, part, own_shapes(self.model), "numpy")
        return {name: value.astype(np.float32) + total(added[name]) if name in added else value for name, value in weights.items()}

    @cached_property
    def _width(self) -> int:
        """How many channels of a prompt are the first encoder's."""
        return int(json.loads((self.model.folder / TEXT[0] / CONFIG).read_text(encoding="utf8"))["hidden_size"])

    def prepare(self, steps: int, decoder: str, attends: bool = False, tile: str | None = None) -> None:
        """Make the sessions that these step count and decoder need, with attentions that take a negative prompt or with plain ones."""
        _ = self._tokens, self._text, self._unet(steps, self._stack, attends), self._decoder(decoder, tile)

    def count(self, words: Words) -> int:
        """The chunks of tokens that ``words`` take, of the tokenizer that makes more of them."""
        return max(count(words, tokenizer) for tokenizer in self._tokens)

    def encode(self, words: tuple[Words, Words], chunks: int = 1) -> Prompt:
        """One prompt, encoded; without words it is zeros."""
        plan = script(words, self._tokens, chunks)
        embeds, pooled = self._run(self._text, dict(zip(("tokens", "tokens_2"), plan.tokens, strict=True)))
        return Prompt(*join(plan, embeds, pooled, self._width, self.array))

    def encode_image(self, pixels: np.ndarray, tile: str | None = None) -> Array:
        """One picture as unit-variance latents. Raises BackendError if the model's graphs lack the encoder."""
        latents = self._run(self._part(ENCODER, "vae", tile), {"pixels": to_values(pixels)})[0]
        if latents.shape[1:] != (self.model.channels, *(side // self.model.limits.factor for side in pixels.shape[:2])):
            raise WeightsError(f"{self.model.folder}: vae/config.json and graphs/{ENCODER}.onnx do not belong together: fetch the model again")
        return scaled(self._vae, latents).astype(np.float32)

    def array(self, values: np.ndarray) -> Array:
        """``values`` as float32."""
        return np.asarray(values, np.float32)

    def denoiser(self, steps: int, prompts: Sequence[Prompt], steering: Steering) -> Callable[[Array, int], Array]:
        """``denoise(x, t)`` with the weights for ``steps`` steps."""
        levels, stack = self.model.limits.levels, self._stack  # between two evaluations others may be served, with LoRAs of their own
        plain = None if steering.tile else self._unet(steps, stack, steering.attends)

        def unet(inputs: dict[str, NDArray[Any]]) -> Array:
            wrapped = steering.wrapped(inputs["sample"], inputs["timestep"][0], levels)
            session = plain or self._unet(steps, stack, steering.attends, (steering.tile, wrapped) if steering.tile and wrapped else None)
            return self._run(session, inputs)[0]

        return denoiser(unet, prompts, steering)

    def crowded(self, width: int, height: int) -> bool:
        """Never: it decodes whole pictures."""
        return False

    def decode(self, latents: Array, decoder: str, tile: str | None = None) -> np.ndarray:
        """Pictures of unit-variance ``latents``."""
        session = self._decoder(decoder, tile)
        raw = unscaled(self._vae, latents).astype(np.float32)
        few = len(raw) if self._runtime(DECODERS[decoder], tile is not None).several else 1
        parts = [self._run(session, {"latents": raw[row : row + few]})[0] for row in range(0, len(raw), few)]
        pixels = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if pixels.shape[2:] != tuple(self.model.limits.factor * side for side in raw.shape[2:]):
            raise WeightsError(f"{self.model.folder}: vae/config.json and graphs/{DECODERS[decoder]}.onnx do not belong together: fetch the model again")
        return to_bytes(pixels)

    def wait(self) -> None:
        """Nothing: a call returns when it is done."""

    def _run(self, session: Session, inputs: dict[str, NDArray[Any]]) -> list[Array]:
        """What ``session`` answers. Raises MemoryError where there is too little for it, BackendError on inputs that its graph does not take."""
        try:
            return session(inputs)
        except MemoryError:
            raise
        except Exception as error:  # the library's own kinds have no common base
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if NO_ROOM in str(error):
                raise MemoryError(f"{self.name}: {reason}") from error
            raise BackendError(f"{self.model.folder} cannot be computed by {self.name} ({reason}): see whether --backend eager can") from error

    def _unet(self, steps: int, stack: Stack, attends: bool = False, wrapped: Wrapped | None = None) -> Any:
        path, graph, changed = self.model.weights(steps), NEGATABLE if attends else PART, key_of(stack, PART)

        def make() -> Session:
            weights = self._with_stack(self._unet_weights(path, self.model.stamp(steps)), PART, stack)
            return self._session(graph, {f"{PART}.{name}": value for name, value in weights.items()}, path, wrapped, keep=changed == ())

        return recent(self._unets, (path, graph, wrapped, changed), make, MOST_UNETS)

    def _unet_weights(self, path: Path, stamp: Stamp) -> dict[str, np.ndarray]:
        """A whole UNet's tensors, or the model's own with a LoRA added, rounded as an exported file holds them."""
        base = self.model.unet
        if stamp.kind != "lora":
            return read_weights(path, "numpy")
        if stamp.base and stamp.base != file_hash(base):
            raise WeightsError(f"{path} is a LoRA for the weights {stamp.base}, and these are {file_hash(base)}: give the model it was made for")
        weights = read_weights(base, "numpy")
        changes = read_changes(path, {PART: {key: value.shape for key, value in weights.items()}}, framework="numpy").get(PART, {})
        return {key: (value.astype(np.float32) + changes[key].full(1.0)).astype(np.float16) if key in changes else value for key, value in weights.items()}

    def _decoder(self, decoder: str, tile: str | None) -> Any:
        if decoder == TILED:
            raise BackendError(f"the {self.name} backend decodes pictures whole: leave --decoder at full, or use --backend eager")
        graph = DECODERS[decoder]
        return self._part(graph, "vae" if decoder == "full" else graph, tile)

    def _part(self, graph: str, part: str, tile: str | None) -> Any:
        """A session of ``graph`` with the weights of one folder of the model."""
        key: tuple[str, Wrapped | None] = graph, (tile, None) if tile else None
        if key not in self._autoencoder:
            if graph == DECODERS["tiny"]:
                check_decoder(self.model.folder)
            path = self.model.folder / part / WEIGHTS
            named = {f"{part}.{name}": value for name, value in read_weights(path, "numpy").items()}
            self._autoencoder[key] = self._session(graph, named, path, key[1])
        return self._autoencoder[key]

    def _session(self, graph: str, weights: dict[str, np.ndarray], path: Path, wrapped: Wrapped | None = None, keep: bool = True) -> Session:
        """A session of one of the model's graphs with ``weights``, which were read from ``path``, bound to it as float32.

        ``keep``: what is compiled is of use to the next process too.
        """
        if graph not in self._shapes:
            raise BackendError(f"{self.model.folder / GRAPHS} has no {graph}.onnx: take the folder away and {advice(self.model)}")
        content = (self.model.folder / GRAPHS / f"{graph}.onnx").read_bytes()
        shapes = self._shapes[graph]
        weights = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items() if name in shapes}
        check_fit(path, weights, shapes)
        runtime = self._runtime(graph, wrapped is not None)
        try:
            return runtime(Graph(graph, content, weights, wrapped), self.threads, keep)
        except Exception as error:
            raise BackendError(f"{runtime.name} cannot use {path} with graphs/{graph}.onnx: {str(error).splitlines()[0]}") from error

    def _runtime(self, graph: str, wrapped: bool) -> Runtime:
        """Who computes ``graph``; what wraps around is ONNX Runtime's where the runtime of its stage does not do it."""
        own = self._runtimes["text" if graph == "text" else "denoise" if graph in (PART, NEGATABLE) else "decode"]
        return own if own.wraps or not wrapped else open_runtime("onnxruntime")
