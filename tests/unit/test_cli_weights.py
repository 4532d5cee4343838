"""Weights files that are not what they are given as: a sentence each on the command line, exit code 2, nothing loaded and nothing written."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.headers import sparse

from fewstep.cli import main
from fewstep.engine.engine import Engine

TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
KOHYA = f"lora_unet_{TO_K.replace('.', '_')}"


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", "")


FILES: dict[str, Callable[[Path], object]] = {
    "zip": zipped,
    "pickle": lambda path: path.write_bytes(pickle.dumps({"weight": 1})),
    "lie": lambda path: path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}"),
    "controlnet": lambda path: sparse(path, {f"{TO_K}.weight": (320, 768), "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}),
    "lora": lambda path: sparse(path, {f"{KOHYA}.lora_down.weight": (4, 768), f"{KOHYA}.lora_up.weight": (320, 4)}),
}
SAID = {
    ("zip", "--lora"): "it is a zip archive",
    ("zip", "--model"): "it is a zip archive",
    ("pickle", "--model"): "it is a pickle, which can run code when it is opened",
    ("pickle", "--controlnet"): "it is a pickle, which can run code when it is opened",
    ("lie", "--model"): "claims to be 1099511627776 bytes long",
    ("lie", "--lora"): "claims to be 1099511627776 bytes long",
    ("controlnet", "--controlnet"): "is a ControlNet for Stable Diffusion 1.5, and emoji is another model",
    ("controlnet", "--model"): "is no model of SDXL's kind, but a ControlNet of Stable Diffusion 1.5",
    ("controlnet", "--lora"): "is no LoRA",
    ("lora", "--lora"): "this LoRA is not for this model, but seems to be for Stable Diffusion 1.5",
    ("lora", "--few-step"): "was made for Stable Diffusion 1.5, and emoji is another model",
    ("lora", "--controlnet"): "is no ControlNet, but a LoRA of Stable Diffusion 1.5",
}


@pytest.mark.parametrize(("what", "option"), SAID)
def test_a_sentence_and_nothing_else(what: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    path, picture = tmp_path / "given.safetensors", tmp_path / "given.png"
    FILES[what](path)
    Image.new("RGB", (64, 64)).save(picture)
    control = ("--control", str(picture)) if option == "--controlnet" else ()
    with pytest.raises(SystemExit) as left:
        main(["generate", "x", "--size", "64x64", "--out", str(tmp_path / "out"), option, str(path), *control])
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    assert said.err.startswith("fewstep: ") and said.err.count("\n") == 1 and SAID[what, option] in said.err and str(path) in said.err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["given.png", "given.safetensors"]
