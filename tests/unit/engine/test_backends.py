"""Backends make the same picture, whoever computes; and the plain install makes it without torch."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests import loras
from tests.alike import BOUND, EVERY, difference, named
from tests.tiny import SMALLER, tiny_bundle

from fewstep.engine import backends
from fewstep.engine.backends import BackendError, graphs, open_backend
from fewstep.engine.backends.graphs import Graphs
from fewstep.engine.device import cores, quota
from fewstep.engine.engine import Engine
from fewstep.engine.model import open_model
from fewstep.engine.request import ASPECTS, Request, RequestError
from fewstep.models.bundle import load_bundle, save_weights
from fewstep.models.weights import WeightsError
from fewstep.zoo.registry import embedded

EMOJI = embedded("emoji")
pytestmark = pytest.mark.skipif(not (EMOJI / "graphs").is_dir(), reason="the embedded model is not in this checkout")


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    return Engine.load("emoji", backend="onnxruntime"), Engine.load("emoji", backend="eager")


@pytest.mark.parametrize("request_", EVERY, ids=named)
def test_onnxruntime_makes_the_picture_of_eager_torch(engines: tuple[Engine, Engine], request_: Request) -> None:
    quick, reference = (engine.generate(request_) for engine in engines)
    assert (quick.record.backend, reference.record.backend) == ("onnxruntime", "eager")
    assert difference(quick, reference) <= BOUND
    assert np.asarray(reference.image).std() > 5, "a flat picture would hide any difference"


def test_of_many_kinds_of_sessions_the_last_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_UNETS", 2)
    engine = Engine.load("emoji", backend="onnxruntime")
    requests = [Request("a fox", 1, 1, 64, 64, negative=negative, tile=tile) for tile in (None, "x") for negative in (None, "duck")]
    made = [engine.generate(request).image.tobytes() for request in [*requests, *requests]]
    assert made[:4] == made[4:] and len(set(made)) == 4
    assert len(engine.backend._unets) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [0, -1, "2", True, 1.5, 10_000])
def test_a_number_of_threads_that_is_none_is_a_sentence(threads: Any) -> None:
    with pytest.raises(RequestError, match="give a whole number from 1"):
        Engine.load("emoji", threads=threads)


@pytest.mark.parametrize(("given", "says"), [({"device": 5}, "device = 5: give the name of one"), ({"backend": None}, "backend = None: there is auto")])
def test_what_is_no_name_is_a_sentence(given: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        Engine.load("emoji", **given)


@pytest.mark.parametrize("steps", ["4", 4.0])
def test_a_number_of_steps_that_is_none_is_a_sentence(steps: Any) -> None:
    with pytest.raises(RequestError, match=f"steps = {steps!r}: give a whole number"):
        Engine.load("emoji", steps=steps)


def test_onnxruntime_begins_from_images_as_eager_torch_does(engines: tuple[Engine, Engine]) -> None:
    image = engines[0].generate(Request("a ghost on a purple background", 3, 4, 160, 128)).image
    mask = Image.linear_gradient("L").resize(image.size)
    requests = [Request("a pizza", 3, 4, image=image, strength=strength) for strength in (0.25, 0.75)]
    requests += [Request("a pizza", 3, 2, image=image, mask=mask), Request("a pizza", 3, 4, image=image, outpaint=(16, 0, 0, 32))]
    for request in requests:
        quick, reference = (engine.generate(request) for engine in engines)
        assert difference(quick, reference) <= BOUND
    own, other = (engine.backend.encode_image(np.asarray(image)) for engine in engines)
    np.testing.assert_allclose(own, other, atol=1e-4)


def test_an_image_that_is_encoded_and_decoded_is_nearly_itself(engines: tuple[Engine, Engine]) -> None:
    image = np.asarray(engines[0].generate(Request("a ghost on a purple background", 3, 4)).image)
    backend = engines[0].backend
    again = backend.decode(backend.encode_image(image), "full")[0]
    assert np.abs(again.astype(int) - image).mean() < 6


def test_graphs_without_an_encoder_still_make_pictures_of_prompts(copy: Path) -> None:
    path = copy / "graphs" / "weights.json"
    path.write_text(json.dumps({graph: weights for graph, weights in json.loads(path.read_text()).items() if graph != "encoder"}))
    (copy / "graphs" / "encoder.onnx").unlink()
    engine = Engine.load(str(copy), backend="onnxruntime")
    picture = engine.generate(Request("x", 1, 1, 64, 64))
    with pytest.raises(RequestError, match=r"cannot begin from an image, .* no encoder\.onnx: .* fewstep export MODEL --steps 4 --to graphs"):
        engine.generate(Request("x", 1, 2, 64, 64, image=picture.image))
    assert Engine.load(str(copy), backend="eager").generate(Request("x", 1, 2, 64, 64, image=picture.image)).strength == 0.5


def test_alone_and_in_a_batch_are_the_same(engines: tuple[Engine, Engine]) -> None:
    requests = [Request(f"a {subject} on a blue background", seed, 2, 128, 128) for seed, subject in enumerate(["pizza", "ghost", "", "cat face"])]
    together = list(engines[0].generate_many(requests))
    assert {picture.record.batch for picture in together} == {4}
    assert max(difference(picture, engines[0].generate(request)) for picture, request in zip(together, requests, strict=True)) <= BOUND


@pytest.mark.parametrize("aspect", ASPECTS)
def test_the_reduced_decoder_makes_nearly_the_full_ones_picture_and_the_same_by_either_backend(engines: tuple[Engine, Engine], aspect: str) -> None:
    request = Request("a ghost on a purple background", 3, 4, aspect=aspect)
    quick, reference = (Engine(engine.model, engine.backend, "tiny").generate(request) for engine in engines)
    assert (quick.record.decoder, quick.image.size) == ("tiny", reference.image.size)
    assert difference(quick, reference) <= BOUND
    full = np.asarray(engines[0].generate(request).image, float)
    assert 10 * np.log10(255**2 / np.square(np.asarray(quick.image) - full).mean()) > 27, "dB, between the two decoders"


def test_previews_come_from_the_reduced_decoder(engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = engines[0], []
    decode = engine.backend.decode

    def noted(latents: object, decoder: str, tile: str | None) -> np.ndarray:
        asked.append(decoder)
        return decode(latents, decoder, tile)

    monkeypatch.setattr(engine.backend, "decode", noted)
    images = [frame.image for frame in engine.stream(Request("a ghost", 3, 2, 64, 64))]
    assert asked == ["tiny", "full"]
    assert len(images) == 2


def test_a_record_is_repeated_by_the_backend_that_made_it(engines: tuple[Engine, Engine]) -> None:
    quick, reference = engines
    made = reference.generate(Request("a ghost", 5, 1, 128, 128))
    again = quick.repeat(made.record)
    assert again.record == made.record
    assert difference(made, again) == 0


def test_a_record_is_repeated_on_the_device_that_it_names_and_as_it_says_or_not_at_all(engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.engine import engine as room

    record = engines[0].generate(Request("a ghost", 5, 1, 64, 64)).record
    opened: list[tuple[str, str, int]] = []

    def noted(model: Any, name: str, device: str, threads: int, precision: str) -> Any:
        opened.append((name, device, threads))
        backend = backends.open_backend(model, name, "cpu", threads, precision=precision)
        backend.device = answers.get("device", device)
        return backend

    monkeypatch.setattr(room, "open_backend", noted)
    answers: dict[str, str] = {}
    card = dataclasses.replace(record, device="cuda:1")
    assert engines[0].repeat(card).record == card
    assert opened == [("onnxruntime", "cuda:1", record.threads)]
    answers["device"] = "cuda:0"
    with pytest.raises(RequestError, match="made with device cuda:1, which is cuda:0 here: give its prompt and seed"):
        engines[0].repeat(card)
    with pytest.raises(RequestError, match="made with 4000 threads, and here are"):
        engines[0].repeat(dataclasses.replace(record, threads=4000))


def test_a_repeat_goes_on_with_no_other_backend(copy: Path) -> None:
    record = Engine.load(str(copy), device="cpu").generate(Request("a ghost", 3, 1, 64, 64)).record
    (copy / "graphs" / "unet.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match="onnxruntime cannot use"):
        Engine.load(str(copy), device="cpu").repeat(record)


@pytest.mark.parametrize("backend", ["onnxruntime", "eager"])
def test_pictures_with_other_loras_between_two_evaluations_change_nothing(tmp_path: Path, backend: str) -> None:
    bundle = load_bundle(EMOJI)
    paths = [loras.write(loras.kohya(loras.factors(bundle, seed, parts=(loras.UNET,))), tmp_path / f"{seed}.safetensors") for seed in (0, 1)]
    engine = Engine.load("emoji", backend=backend)
    one, other = (Request("a ghost", 3, 4, 64, 64, loras=[(path, 1.0)]) for path in paths)
    expected = engine.generate(one)
    plain = engine.generate(other)
    frames = engine.stream(one)
    next(frames)
    assert difference(engine.generate(other), plain) == 0
    *_, last = frames
    assert last.picture is not None
    assert difference(last.picture, expected) == 0 < difference(plain, expected)


def test_threads_that_are_asked_for_are_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    session = onnxruntime.InferenceSession

    def noted(content: bytes, options: onnxruntime.SessionOptions, **more: object) -> onnxruntime.InferenceSession:
        made.append(options.intra_op_num_threads)
        return session(content, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    engine = Engine.load("emoji", backend="onnxruntime", threads=2)
    assert engine.generate(Request("a ghost", 5, 1, 64, 64)).record.threads == 2
    assert made == [2, 2, 2], "text, UNet and decoder"


def test_the_plain_install_generates_without_torch(tmp_path: Path) -> None:
    """As on a machine where none of these is installed: importing them fails, and nothing asks."""
    program = f"""
import sys
for name in ("torch", "diffusers", "transformers", "accelerate", "peft", "onnx", "onnxscript"):
    sys.modules[name] = None
from fewstep.cli import main
main(["generate", "a red apple on a blue background", "--seed", "7", "--steps", "1", "--out", {str(tmp_path / "apple.png")!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "apple.png").stat().st_size > 1000


@pytest.mark.parametrize(("verb", "extra"), [(["evaluate", "emoji"], "sdxl"), (["generate", "x", "--backend", "eager"], "sdxl")])
def test_what_needs_torch_says_which_extra_brings_it(verb: list[str], extra: str) -> None:
    program = f"""
import sys
for name in ("torch", "diffusers", "transformers"):
    sys.modules[name] = None
from fewstep.cli import main
main({verb!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    assert f"pip install 'fewstep[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_without_graphs_falls_back_with_one_line_and_is_refused_when_forced(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = open_model(str(tiny))
    with caplog.at_level(logging.WARNING, "fewstep"):
        assert open_backend(model, "auto", "cpu").name == "eager"
    (line,) = caplog.messages
    assert "onnxruntime" in line
    assert "going on with eager" in line
    with pytest.raises(BackendError, match=f"fewstep export {tiny} --steps 4 --to graphs --out {tiny / 'graphs'}"):
        open_backend(model, "onnxruntime")


def test_out_of_memory_falls_back_too(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError("not enough of it")

    monkeypatch.setattr(graphs, "open", greedy)
    with caplog.at_level(logging.WARNING, "fewstep"):
        assert open_backend(open_model("emoji"), "auto", "cpu").name == "eager"
    assert "not enough of it" in caplog.text


@pytest.mark.parametrize("error", [MemoryError("not enough of it"), BackendError("it cannot compute this")])
@pytest.mark.parametrize("fails", [0, 1, 2])  # before the first frame, between frames, and in the decoder
def test_a_picture_that_a_backend_cannot_compute_is_made_by_the_next(caplog: pytest.LogCaptureFixture, error: Exception, fails: int) -> None:
    """From the beginning, by that backend alone, and whoever watches is told each step once; with no other it is the error.

    For want of memory it is that picture alone, for the next may be smaller.
    """
    engine, wanted = (Engine(model, open_backend(model, "onnxruntime")) for model in 2 * [open_model("emoji")])
    engine._others = ["eager"]
    backend, calls = engine.backend, 0
    assert isinstance(backend, Graphs)
    real = backend._run

    def run(session: Any, inputs: dict[str, Any]) -> Any:
        nonlocal calls
        if "sample" in inputs or "latents" in inputs:
            calls += 1
            if calls > fails:
                raise error
        return real(session, inputs)

    backend._run = run  # type: ignore[method-assign]
    request = Request("pizza", seed=3, steps=2, width=128, height=128)
    with caplog.at_level(logging.WARNING, "fewstep"):
        frames = list(engine.stream(request))
    assert [(frame.step, frame.picture is not None) for frame in frames] == [(1, False), (2, True)]
    calls = -2  # what was handed out before can still be looked at
    assert all(frame.image.size == (128, 128) for frame in frames)
    assert caplog.text.count("going on with eager") == 1
    picture = frames[-1].picture
    assert picture is not None
    assert picture.record.backend == "eager"
    assert difference(picture, wanted.generate(request)) <= BOUND
    assert (engine.backend is backend) == isinstance(error, MemoryError)
    calls, engine.backend, engine._others = 0, backend, []
    with pytest.raises(type(error)):
        engine.generate(request)


def test_the_fastest_comes_first_where_it_works() -> None:
    assert open_backend(open_model("emoji"), "auto", "cpu").name == backends.ORDER["cpu"][0] == "onnxruntime"


def test_onnxruntime_computes_on_a_cpu_alone() -> None:
    with pytest.raises(BackendError, match="not on cuda"):
        open_backend(open_model("emoji"), "onnxruntime", "cuda")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMOJI, tmp_path / "emoji"))


def test_weights_of_another_shape_are_named(copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"] = torch.zeros(7, 16, 3, 3)
    (copy / "students" / "4-step-lora.safetensors").unlink()
    save_weights(tensors, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"'unet.conv_in.weight' has shape \[7, 16, 3, 3\], not \[48, 16, 3, 3\]"):
        Engine.load(str(copy), backend="onnxruntime").generate(Request("x", steps=16))


def test_a_lora_for_other_weights_is_refused(copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_weights(load_file(path), path, {"format": "pt", "changed": "yes"})
    with pytest.raises(WeightsError, match="is a LoRA for the weights"):
        Engine.load(str(copy), backend="onnxruntime").generate(Request("x", steps=4))


def test_a_reduced_decoder_of_another_autoencoder_is_refused(copy: Path) -> None:
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    save_weights(load_file(path), path, {"format": "pt", "changed": "yes"})
    for backend in ("onnxruntime", "eager"):
        with pytest.raises(WeightsError, match="was made for another autoencoder"):
            Engine.load(str(copy), backend=backend, decoder="tiny").generate(Request("x", steps=1))


def test_a_damaged_graph_is_a_sentence(copy: Path) -> None:
    (copy / "graphs" / "unet.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"onnxruntime cannot use .* with graphs/unet.onnx"):
        Engine.load(str(copy), backend="onnxruntime").generate(Request("x", steps=1))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"text": {"a": 5}, "unet": {}, "decoder": {}}', "\ud800"])
def test_graphs_that_cannot_be_used_fall_back_or_are_a_sentence(copy: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    (copy / "graphs" / "weights.json").write_bytes(content.encode("utf8", "surrogatepass"))
    with pytest.raises(BackendError, match=r"weights\.json .*take the folder .*fewstep export"):
        open_backend(open_model(str(copy)), "onnxruntime")
    assert open_backend(open_model(str(copy)), "auto", "cpu").name == "eager"
    assert "going on with eager" in caplog.text


def test_a_decoder_that_has_no_graph_yet_is_a_sentence(copy: Path) -> None:
    path = copy / "graphs" / "weights.json"
    path.write_text(json.dumps({graph: weights for graph, weights in json.loads(path.read_text()).items() if graph != "decoder_tiny"}))
    (copy / "graphs" / "decoder_tiny.onnx").unlink()
    assert Engine.load(str(copy), backend="onnxruntime").generate(Request("x", 1, 1, 64, 64)).image.size == (64, 64)
    with pytest.raises(BackendError, match=r"has no decoder_tiny\.onnx: .*fewstep export"):
        Engine.load(str(copy), backend="onnxruntime", decoder="tiny").generate(Request("x", 1, 1, 64, 64))


@pytest.mark.parametrize("backend", ["onnxruntime", "eager"])
@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("vae/config.json", {"scaling_factor": "x"}),
        ("vae/config.json", {"scaling_factor": 0}),
        ("vae/config.json", {"shift_factor": []}),
        ("vae/config.json", {"latents_mean": [1.0, 2.0], "latents_std": [1.0, 2.0]}),
        ("vae/config.json", {"block_out_channels": [32, 64, 96]}),
        ("unet/config.json", {"in_channels": 4}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 100}),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 10}),
        ("tokenizer/vocab.json", {"a</w>": 10**6}),
    ],
)
def test_configurations_that_do_not_belong_together_are_a_sentence(copy: Path, backend: str, file: str, changes: dict[str, object]) -> None:
    path = copy / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf8")), **changes}), encoding="utf8")
    with pytest.raises((WeightsError, BackendError), match=r"fetch|not the weights of|belong together|cannot be computed"):
        Engine.load(str(copy), backend=backend).generate(Request("a", 1, 1, 64, 64))


def test_an_autoencoder_that_says_no_scale_has_the_one_of_diffusers(copy: Path) -> None:
    path = copy / "vae" / "config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "scaling_factor"}))
    one, other = (Engine.load(str(copy), backend=backend).generate(Request("a ghost", 1, 1, 64, 64)) for backend in ("onnxruntime", "eager"))
    assert difference(one, other) <= BOUND


@pytest.mark.parametrize("backend", ["auto", "eager", "compiled", "offloaded"])
@pytest.mark.parametrize("device", ["nothing", "meta", "cuda:99", "CPU"])
def test_a_device_that_is_not_there_is_named(backend: str, device: str) -> None:
    with pytest.raises(BackendError, match=rf"a device '{device}' here .*: use --device cpu"):
        open_backend(open_model("emoji"), backend, device)


def test_a_damaged_tokenizer_is_a_sentence(copy: Path) -> None:
    (copy / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(WeightsError, match=r"vocab.json"):
        Engine.load(str(copy), backend="onnxruntime").generate(Request("x", steps=1))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read_in_both_versions(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert quota(tmp_path) == expected


def test_threads_are_at_most_what_the_environment_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    assert cores() >= 1


def test_the_graphs_know_every_weight_by_name_and_shape() -> None:
    """What is bound by name must be there: a graph that lost a weight to folding would go on with the one it was exported with."""
    shapes = json.loads((EMOJI / "graphs" / "weights.json").read_text())
    own = {f"unet.{key}": list(value.shape) for key, value in load_file(EMOJI / "unet" / "diffusion_pytorch_model.safetensors").items()}
    assert shapes["unet"] == shapes["unet_negative"] == own
    vae = load_file(EMOJI / "vae" / "diffusion_pytorch_model.safetensors")
    decoder = {f"vae.{key}": list(value.shape) for key, value in vae.items() if key.startswith(("decoder.", "post_quant_conv."))}
    assert shapes["decoder"] == decoder
    encoder = {f"vae.{key}": list(value.shape) for key, value in vae.items() if key.startswith(("encoder.", "quant_conv."))}
    assert shapes["encoder"] == encoder
    assert sum((EMOJI / "graphs" / name).stat().st_size for name in ("text.onnx", "unet.onnx", "decoder.onnx", "encoder.onnx")) < 330_000, "weights inside"


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's front half alone: it finds every graph break, and takes seconds where code generation takes minutes."""
    from fewstep.engine.backends import compiled

    compile_ = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda function, **options: compile_(function, backend="aot_eager", **options))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("light")
def test_the_networks_compile_whole_and_make_eagers_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_bundle(tmp_path / "tiny", students=(1, 2), shape=SMALLER)
    quick, reference = (Engine.load(str(model), backend=backend) for backend in ("compiled", "eager"))
    for request in (Request("a red apple", 3, 2, 128, 128), Request("pizza", 4, 1, 96, 64), Request("pizza", 4, 16, 64, 64)):
        assert difference(quick.generate(request), reference.generate(request)) <= BOUND
    assert "going on without" not in caplog.text


def test_every_size_compiles_however_many_there_are(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    """The compiler gives up after eight shapes unless it is told otherwise."""
    from fewstep.engine.backends import compiled

    compile_ = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda function, **options: compile_(function, backend="eager", **options))
    compiled.open(open_model(str(tiny)), "cpu")
    network = torch.nn.Conv2d(3, 3, 3)
    network.forward = compiled._Compiling(network.forward, {}, True, "network")
    assert [network(torch.zeros(1, 3, side, 8)).shape[2] for side in range(4, 24)] == [side - 2 for side in range(4, 24)]


def test_what_a_cuda_graph_returned_is_no_longer_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes its next outputs where the last ones lie: two calls' are wanted together where there is guidance, or a picture in parts."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

    from fewstep.engine.backends import compiled

    def graphed(function: Any, **options: object) -> Any:
        last: list[torch.Tensor] = []

        def call(x: torch.Tensor) -> Any:
            for before in last:
                before.fill_(torch.nan)
            last[:] = [x + 1, x + 2]
            return UNet2DConditionOutput(last[0]), (last[1],)

        return call if options.get("mode") == "reduce-overhead" else function

    monkeypatch.setattr(compiled.torch, "compile", graphed)
    network = compiled._Compiling(lambda x: x, {"mode": compiled.CUDA_GRAPHS}, True, "network")
    (one, (two,)), _ = network(torch.zeros(2)), network(torch.ones(2))
    assert isinstance(one, UNet2DConditionOutput)
    assert one.sample.tolist() == [1, 1] and two.tolist() == [2, 2]


def test_a_network_that_does_not_compile_goes_on_without_or_is_an_error(tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from fewstep.engine.backends import compiled

    def broken(function: object, **_: object) -> object:
        def call(*_: object, **__: object) -> None:
            raise torch._dynamo.exc.Unsupported("no such operation")

        return call

    monkeypatch.setattr(compiled.torch, "compile", broken)
    request = Request("a red apple", 3, 1, 64, 64)
    model = open_model(str(tiny))
    with caplog.at_level(logging.WARNING, "fewstep"):
        picture = Engine(model, compiled.open(model, "cpu")).generate(request)
    assert caplog.text.count("going on without") == 2, "the UNet and the decoder"
    assert difference(picture, Engine.load(str(tiny), backend="eager").generate(request)) <= BOUND
    with pytest.raises(BackendError, match=r"cannot be compiled here \(no such operation\): use --backend eager"):
        Engine.load(str(tiny), backend="compiled").generate(request)


def test_what_turns_out_not_to_work_is_left_for_the_next_backend_unless_it_was_asked_for(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "graphs" / "unet.onnx").write_bytes(b"no graph")
    request = Request("a ghost", 3, 1, 64, 64)
    with caplog.at_level(logging.WARNING, "fewstep"):
        picture = Engine.load(str(copy), device="cpu", threads=2).generate(request)
    assert (picture.record.backend, picture.record.threads) == ("eager", 2)
    assert "going on with eager" in caplog.text
    with pytest.raises(BackendError):
        Engine.load(str(copy), backend="onnxruntime").generate(request)
