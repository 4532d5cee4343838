"""A student as ONNX files that any runtime opens, checked against torch before they are given out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from fewstep.engine.backends import guided
from fewstep.engine.decode import decode, to_bytes, unscaled
from fewstep.engine.model import Model
from fewstep.engine.steering import Steering
from fewstep.export.diffusers import opened
from fewstep.models.bundle import Bundle
from fewstep.models.graphs import trace, with_weights, write_graphs
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import encode, time_ids
from fewstep.models.weights import GRAPHS
from fewstep.sampler import sample
from fewstep.stamp import Stamp

PARTS = ("text", "unet", "decoder")
SHAPES = ("1:1", "16:9", "9:16")  # of the pictures that are compared
BOUND = 2  # of 255, between a picture of the files and torch's
MOST = 2_000_000_000  # bytes of weights in one file: protobuf ends a little above
PROMPT, SEED = "a red apple on a blue background", 0


def write_onnx(model: Model, steps: int, out: Path) -> Path:
    """Write text.onnx, unet.onnx and decoder.onnx with the weights of the student for ``steps`` inside, in float32, to the folder ``out``.

    A graph whose weights one file has no room for has them in a second, unet.onnx.data, which must lie beside it. Beside them are the two
    tokenizers and model.json, which says how to sample, how large each file is and how far a picture made with the files was from torch's.
    Raises WeightsError on weights that cannot be used, ArithmeticError if that distance is over 2/255; then nothing is written.
    """
    bundle = opened(model, steps)
    stamp = bundle.stamp
    tensors = {f"{part}.{key}": value for part, network in bundle.models.items() for key, value in network.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        written = Path(temporary) / out.name
        written.mkdir()
        for name in PARTS:
            _save(with_weights(_graph(bundle, model.folder, name), tensors), written / f"{name}.onnx")
        for name in ("tokenizer", "tokenizer_2"):
            copytree(model.folder / name, written / name)
        difference = distance(bundle, stamp, written, [model.limits.size_of(aspect) for aspect in SHAPES])
        if difference > BOUND:
            raise ArithmeticError(
                f"a picture of the exported files differs from torch's by {difference}/255, more than {BOUND}/255: this is a fault of fewstep"
            )
        record = {
            **{key: asdict(stamp)[key] for key in ("steps", "prediction_type", "timesteps", "end", "start_scale", "fresh", "boundary", "guidance_scale")},
            "scaling_factor": float(bundle.vae.config.scaling_factor),
            "bytes": {path.name: path.stat().st_size for name in PARTS for path in sorted(written.glob(f"{name}.onnx*"))},
            "largest_difference_of_255": difference,
        }
        (written / "model.json").write_text(json.dumps(record, indent=1))
        written.replace(out)
    return out


def _save(model: Any, path: Path) -> None:
    """``model`` with its weights in the same file, or in a second one beside it where they are too large."""
    apart = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MOST
    onnx.save(model, str(path), save_as_external_data=apart, location=f"{path.name}.data" if apart else None)


def write_weightless(model: Model, steps: int, out: Path) -> Path:
    """Write the model's graphs without weights to the folder ``out``: in a model's own folder, as ``graphs``, fewstep's engine runs on them."""
    bundle = opened(model, steps)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        write_graphs(bundle, Path(temporary) / out.name).replace(out)
    return out


def _graph(bundle: Bundle, folder: Path, name: str) -> Any:
    """The graph that lies beside the weights, or a new one, which takes a minute."""
    there = folder / GRAPHS / f"{name}.onnx"
    return onnx.load(str(there), load_external_data=False) if there.is_file() else trace(bundle, name)


@torch.inference_mode()
def distance(bundle: Bundle, stamp: Stamp, folder: Path, sizes: Sequence[tuple[int, int]]) -> int:
    """The largest difference, of 255, between pictures of these ``sizes`` made with the ONNX files in ``folder`` and with torch, from the same noise."""
    sessions = {name: onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"]) for name in PARTS}
    return max(_distance(bundle, stamp, sessions, *size) for size in sizes)


def _distance(bundle: Bundle, stamp: Stamp, sessions: Mapping[str, Any], width: int, height: int) -> int:
    shape = (1, bundle.unet.config.in_channels, height // bundle.factor, width // bundle.factor)
    noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(SEED))
    ids = time_ids(1, width, height)
    again = noise.flip(-1)  # what is drawn anew, if this student draws
    *_, ours = sample(denoiser(bundle.unet, encode(bundle, [PROMPT]), ids, stamp.guidance_scale), noise, renoise=lambda _: again, **stamp.walk())
    expected = decode(bundle.vae, ours.latents)

    tokens = [
        t([PROMPT], padding="max_length", max_length=t.model_max_length, truncation=True, return_tensors="np").input_ids.astype(np.int64)
        for t in (bundle.tokenizer, bundle.tokenizer_2)
    ]
    prompt = guided.Prompt(*sessions["text"].run(None, {"tokens": tokens[0], "tokens_2": tokens[1]}))
    denoise = guided.denoiser(lambda inputs: sessions["unet"].run(None, inputs)[0], [prompt], Steering(stamp.guidance_scale, None, ids.numpy()))
    *_, theirs = sample(denoise, noise.numpy(), renoise=lambda _: again.numpy(), **stamp.walk())
    pixels = sessions["decoder"].run(None, {"latents": unscaled(bundle.vae.config, theirs.latents).astype(np.float32)})[0]
    return int(np.abs(to_bytes(pixels).astype(int) - expected.astype(int)).max())
