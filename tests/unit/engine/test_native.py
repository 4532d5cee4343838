"""Kernels of our own make eager torch's pictures, whatever the processor has, the size is and however many threads compute."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.alike import BOUND, EVERY, difference, named

from fewstep.engine.backends import BackendError, fastest, graphs
from fewstep.engine.backends.native import autoencoders, library
from fewstep.engine.backends.native.autoencoders import decoder, encoder, reduced
from fewstep.engine.backends.native.network import GATED, PLANES, RELU, SILU, Network, Norm, UnknownNetwork, around
from fewstep.engine.backends.native.plan import Computed
from fewstep.engine.backends.native.texts import Texts
from fewstep.engine.backends.native.unet import Unet
from fewstep.engine.decode import to_values
from fewstep.engine.doctor import report
from fewstep.engine.engine import Engine
from fewstep.engine.model import open_model
from fewstep.engine.request import Request
from fewstep.engine.software import compiler
from fewstep.models.adapters import TEXT
from fewstep.models.attention import normalized_guidance
from fewstep.models.weights import WeightsError
from fewstep.zoo.registry import embedded

EMOJI = embedded("emoji")
NAME = "native"
VAE = {"norm_num_groups": 4}
pytestmark = [
    pytest.mark.skipif(not (EMOJI / "graphs").is_dir(), reason="the embedded model is not in this checkout"),
    pytest.mark.skipif(compiler() is None, reason="there is no compiler for C"),
]
FLAGS = ["-O3", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
OTHERS = {"AVX2": ["-mavx2", "-mfma"], "no vectors that are looked for": []}  # processors that one with AVX-512 can stand for


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test's compiled kernels are kept, but for those that are shared."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fewstep" / "native"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """Compiled once for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        library.load.cache_clear()
        yield library.load()
    library.load.cache_clear()


@pytest.fixture(scope="module")
def engines(kernels: ctypes.CDLL) -> tuple[Engine, Engine]:
    return Engine.load("emoji", backend=NAME), Engine.load("emoji", backend="eager")


@pytest.fixture
def unloaded() -> Iterator[None]:
    """What was loaded is forgotten before a test and after it."""
    before = library.load
    library.load.cache_clear()
    yield
    before.cache_clear()


@pytest.mark.parametrize("request_", EVERY, ids=named)
def test_pictures_are_those_of_eager_torch(engines: tuple[Engine, Engine], request_: Request) -> None:
    quick, reference = (engine.generate(request_) for engine in engines)
    assert (quick.record.backend, reference.record.backend) == (NAME, "eager")
    assert difference(quick, reference) <= BOUND
    assert np.asarray(reference.image).std() > 5, "a flat picture would hide any difference"


def test_what_else_a_picture_can_be_is_the_same_too(engines: tuple[Engine, Engine]) -> None:
    """With the reduced decoder, of odd sizes, long prompts, guidance, away from others, and wrapped around."""
    tiny = [Engine(engine.model, engine.backend, "tiny") for engine in engines]
    for size in (256, 256), (64, 128), (336, 192):
        assert difference(*(engine.generate(Request("a pizza", 3, 1, *size)) for engine in tiny)) <= BOUND, size
    image = Image.linear_gradient("L").convert("RGB").resize((128, 128))
    for request in (
        Request("a pizza " * 60, 3, 2, 176, 80),
        Request("a pizza", 3, 2, 128, 128, guidance_scale=3.0, negative="snow"),
        Request("a pizza", 3, 2, 128, 128, negative="snow"),
        Request("a pizza", 3, 4, 96, 176, negative="snow " * 80, nag_scale=7.0),
        Request("a pizza", 3, 4, image=image, strength=0.5),
        Request("a pizza", 3, 1, tile="xy"),
        Request("a pizza", 3, 4, 192, 64, tile="x", negative="snow"),
        Request("a pizza", 3, 4, image=image, strength=0.5, tile="y"),
    ):
        assert difference(*(engine.generate(request) for engine in engines)) <= BOUND, request


def test_an_image_becomes_the_latents_that_eager_torch_makes_of_it(kernels: ctypes.CDLL, engines: tuple[Engine, Engine]) -> None:
    """Of any size, on any number of threads, and computed by the kernels."""
    assert engines[0].backend._runtime("encoder", False).name == NAME
    alone, many = (Computed(kernels, encoder(weights("encoder"), VAE), threads) for threads in (1, 3))
    for size in (256, 256), (64, 128), (336, 176), (80, 16):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        made, wanted = (np.asarray(engine.backend.encode_image(image)) for engine in engines)
        np.testing.assert_allclose(made, wanted, atol=1e-4 * float(wanted.std()))
        assert np.array_equal(alone(to_values(image)), many(to_values(image)))


def test_a_picture_is_the_same_to_the_byte_alone_and_among_others_with_any_number_of_threads(kernels: ctypes.CDLL, engines: tuple[Engine, Engine]) -> None:
    layers = decoder(weights("decoder"), VAE)
    sides = (16, 16), (16, 16), (5, 7), (9, 28)
    latents = [np.random.default_rng(seed).standard_normal((1, 16, *side)).astype(np.float32) for seed, side in enumerate(sides)]
    one, three, many = (Computed(kernels, layers, threads) for threads in (1, 3, 300))
    alone = [one(x) for x in latents]
    for other in three, many:
        assert all(np.array_equal(other(x), expected) for x, expected in zip(latents, alone, strict=True))
    assert np.array_equal(one(np.concatenate(latents[:2])), np.concatenate(alone[:2]))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(three, latents * 4))
    assert all(np.array_equal(made, expected) for made, expected in zip(together, alone * 4, strict=True))
    requests = [Request(prompt, seed, 2, 128, 128) for seed, prompt in enumerate(("a pizza", "a ghost", "a pizza"))]
    for engine in engines[0], Engine.load("emoji", backend=NAME, threads=3):
        among = list(engine.generate_many(requests))
        assert all(difference(picture, engine.generate(request)) == 0 for picture, request in zip(among, requests, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (17, 30), (40, 8), (66, 150)], ids=str)
def test_operations_are_torchs(compiled: dict[str, ctypes.CDLL], size: tuple[int, int]) -> None:
    """Normalised, activated, doubled and halved, added to another and put beside it, from few channels and to few."""
    random = torch.Generator().manual_seed(5)
    shapes = {"a": (48, 3, 3, 3), "b": (32, 48, 3, 3), "c": (32, 32, 3, 3), "d": (32, 48), "e": (192, 48), "f": (64, 80), "h": (96, 64)}
    own = {name: torch.randn(shape, generator=random) / 8 for name, shape in shapes.items()}
    own |= {f"{name}.bias": torch.randn(shape[0], generator=random) for name, shape in shapes.items()}
    own |= {f"{name}.{part}": torch.randn(count, generator=random) for name, count in {"n": 48, "m": 32, "k": 80}.items() for part in ("weight", "bias")}
    given = {name if "." in name else f"{name}.weight": value.numpy() for name, value in own.items()}

    def norm(x: torch.Tensor, name: str, groups: int) -> torch.Tensor:
        return F.group_norm(x, groups, own[f"{name}.weight"], own[f"{name}.bias"], 1e-6)

    def conv(x: torch.Tensor, name: str, tile: str = "", sides: tuple[int, int] = (1, 1), **more: Any) -> torch.Tensor:
        x = F.pad(x, (*sides, 0, 0), mode="circular" if "x" in tile else "constant")
        x = F.pad(x, (0, 0, *sides), mode="circular" if "y" in tile else "constant")
        return F.conv2d(x, own[name], own[f"{name}.bias"], **more)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x.movedim(1, -1), own[name], own[f"{name}.bias"]).movedim(-1, 1)

    even = not any(side % 2 for side in size)
    x = torch.randn(1, 3, *size, generator=random)
    first = conv(x, "a")
    found: list[tuple[Network, torch.Tensor]] = []

    net = Network(given, "")
    b = net.product(net.product(0, "a"), "b", norm=Norm("n", 4), activation=SILU)
    c = net.product(b, "c", norm=Norm("m", 8), activation=RELU, residual=b)
    net.shuffled(net.product(c, "c", doubled=True), 1, 5, PLANES)
    second = conv(F.silu(norm(first, "n", 4)), "b")
    third = second + conv(F.relu(norm(second, "m", 8)), "c")
    found.append((net, conv(F.interpolate(third, scale_factor=2.0), "c")[:, :5]))

    net = Network(given, "")
    net.shuffled(net.product(net.product(0, "a"), "d", norm=Norm("n", 16)), 4, 2, PLANES)
    aside = linear(norm(first, "n", 16), "d").reshape(1, 4, 4, 2, *size)
    found.append((net, aside.permute(0, 3, 4, 1, 5, 2).reshape(1, 2, 4 * size[0], 4 * size[1])))

    net = Network(given, "")
    a = net.product(0, "a", direct=True)
    b = net.product(a, "b", norm=Norm("n", 4), activation=SILU, direct=True, stride=2)
    c = net.product(b, "c", doubled=True, direct=True)
    f = net.product(net.beside(c, a), "f", norm=Norm("k", 16))
    net.shuffled(f, 1, 64, PLANES)
    second = F.interpolate(conv(F.silu(norm(first, "n", 4)), "b", stride=2), size=size)
    found.append((net, linear(norm(torch.cat([conv(second, "c"), first], 1), "k", 16), "f")))

    for tile in "x", "y", "xy":
        net = Network(given, "")
        b = net.product(net.product(0, "a", direct=True), "b", norm=Norm("n", 4), activation=SILU)
        c = net.product(net.product(b, "c", direct=True, stride=2), "c", doubled=True)
        late = {"stride": 2, "late": True} if even else {}  # as encoders do it, whose pictures have even sides
        net.shuffled(net.product(c, "c", direct=True, **late), 1, 32, PLANES)
        net.layers = list(around(net.layers, tile))
        second = conv(F.silu(norm(conv(x, "a", tile), "n", 4)), "b", tile)
        third = conv(F.interpolate(conv(second, "c", tile, stride=2), size=size), "c", tile)
        found.append((net, conv(third, "c", tile, (0, 1), stride=2) if even else conv(third, "c", tile)))

    net = Network(given, "")
    e = net.product(net.product(0, "a"), "e", norm=Norm("n"))  # each pixel by itself
    d = net.product(net.attention(e, 64, 2), "h")
    net.shuffled(net.product(d, "d", activation=GATED), 1, 32, PLANES)
    looks = linear(F.layer_norm(first.movedim(1, -1), [48], own["n.weight"], own["n.bias"], 1e-6).movedim(-1, 1), "e")
    seen = F.scaled_dot_product_attention(*(part.reshape(2, 32, -1).mT for part in looks[0].reshape(3, 64, -1)))
    hidden, gate = linear(seen.mT.reshape(1, 64, *size), "h").chunk(2, 1)
    found.append((net, linear(hidden * F.gelu(gate), "d")))

    for net, wanted in found:
        for processor, kernels in compiled.items():
            made = torch.from_numpy(Computed(kernels, tuple(net.layers), 2)(x.numpy()))
            assert made.shape == wanted.shape, processor
            torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()), msg=lambda said, name=processor: f"{name}: {said}")


def test_attention_is_led_away_from_a_negative_prompts_as_torch_does(compiled: dict[str, ctypes.CDLL]) -> None:
    random = torch.Generator().manual_seed(5)
    own = {f"{name}.weight": torch.randn(48, 3, generator=random) for name in "ab"}
    x = torch.randn(1, 3, 5, 7, generator=random)
    x[..., 2, :] = 0  # where a prompt says nothing, its attention is zero
    one, other = (F.linear(x.movedim(1, -1), own[f"{name}.weight"]) for name in "ab")
    net = Network({name: value.numpy() for name, value in own.items()}, "")
    net.shuffled(net.guided(net.product(0, "a"), net.product(0, "b")), 1, 48, PLANES)
    for scale in 1.0, 4.0, 11.0:
        wanted = normalized_guidance(one, other, scale).movedim(-1, 1)
        for processor, kernels in compiled.items():
            made = Computed(kernels, tuple(net.layers), 2).each(x.shape, lambda plan, number: plan(x[number].numpy(), further=scale - 1))  # noqa: B023
            torch.testing.assert_close(torch.from_numpy(made), wanted, rtol=1e-4, atol=1e-5, msg=lambda said, name=processor: f"{name}: {said}")


@pytest.fixture(scope="module")
def compiled(kernels: ctypes.CDLL, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    """{processor: the kernels for it}."""
    found = {"its own": kernels}
    has = set(Path("/proc/cpuinfo").read_text().split()) if platform.machine() == "x86_64" else set()
    for name, flags in OTHERS.items() if has else ():
        if all(flag.removeprefix("-m") in has for flag in flags):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
                patch.setattr(library, "arguments", lambda flags=flags: [*flags, *FLAGS])
                library.load.cache_clear()
                found[name] = library.load()
    library.load.cache_clear()
    return found


def test_damaged_weights_and_unknown_ones_are_refused(kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    read = graphs.read_weights
    engine = Engine.load("emoji", backend=NAME)

    def damaged(path: Path, framework: str) -> Any:
        found = dict(read(path, framework))
        if path.parent.name == "vae":
            found["decoder.conv_in.bias"] = np.full_like(found["decoder.conv_in.bias"], np.nan)
        return found

    monkeypatch.setattr(graphs, "read_weights", damaged)
    with pytest.raises(WeightsError, match="values that are not finite"):
        engine.generate(Request("a pizza", 3, 1, 64, 64))
    good = weights("decoder")
    for changed, other, said in (
        (good, {"act_fn": "relu"}, "act_fn is 'relu'"),
        (good | {"vae.decoder.up_blocks.0.attentions.0.to_q.weight": good["vae.decoder.conv_in.bias"]}, {}, "attentions.0.to_q.weight is of no network"),
        ({name: value for name, value in good.items() if "conv_norm_out" not in name}, {}, "there is no decoder.conv_norm_out.weight"),
        (good, {"norm_num_groups": 7}, "has 96 channels in 7 groups"),
        (good | {"vae.decoder.conv_out.weight": np.zeros((3, 32, 3, 3), np.float32)}, {}, "conv_out takes 32 channels where there are 16"),
    ):
        with pytest.raises(UnknownNetwork, match=said):
            decoder(changed, VAE | other)
    own = weights("encoder")
    with pytest.raises(UnknownNetwork, match=r"there is no encoder\.conv_in\.weight"):
        encoder(good, VAE)
    with pytest.raises(UnknownNetwork, match=r"attentions\.0\.to_q\.weight is of no network"):
        encoder(own | {"vae.encoder.down_blocks.0.attentions.0.to_q.weight": own["vae.encoder.conv_in.bias"]}, VAE)
    config = json.loads((EMOJI / "unet" / "config.json").read_text())
    unet = weights("unet")
    for changed, other, said in (
        (unet, {"freq_shift": 1}, "freq_shift is 1"),
        (unet, {"attention_head_dim": 5}, "attention has 96 channels in 5 heads"),
        (unet | {"unet.class_embedding.weight": unet["unet.conv_in.bias"]}, {}, "class_embedding.weight is of no network"),
        ({name: value for name, value in unet.items() if "add_embedding" not in name}, {}, r"there is no add_embedding\.linear_1\.weight"),
    ):
        with pytest.raises(UnknownNetwork, match=said):
            Unet(kernels, changed, config | other, 1)
    configs = [json.loads((EMOJI / part / "config.json").read_text()) for part in TEXT]
    texts = weights("text")
    for changed, other, said in (
        (texts, {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (texts | {"text_encoder_2.text_model.encoder.layers.9.mlp.fc1.bias": unet["unet.conv_in.bias"]}, {}, r"layers\.9\.mlp\.fc1\.bias is of no network"),
        ({name: value for name, value in texts.items() if "projection" not in name}, {}, r"layer_norm1\.bias is of no network"),
    ):
        with pytest.raises(UnknownNetwork, match=said):
            Texts(kernels, changed, [configs[0] | other, configs[1]], 1)
    with pytest.raises(UnknownNetwork, match=r"there is no layers\.0\.weight"):
        reduced({"decoder_tiny.layers.0.bias": good["vae.decoder.conv_in.bias"]})


@pytest.mark.usefixtures("unloaded")
def test_what_was_compiled_is_kept_whole_and_found_again(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        library.load()
        library.load.cache_clear()
    assert caplog.text.count("compiling the networks for this processor, once") == 1
    (kept,) = cache.iterdir()
    damaged = tmp_path / "other" / "fewstep" / "native" / kept.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"\x7fELF and no more")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    library.load()
    assert damaged.stat().st_size == kept.stat().st_size, "it is compiled anew"


@pytest.mark.usefixtures("unloaded")
def test_no_compiler_and_one_that_fails_are_a_sentence_or_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cache: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'kernels.c:1: error: no such thing' >&2\nexit 1\n")
    broken.chmod(0o755)
    for command, said in (
        ("nowhere-cc", r"there is no compiler for C \(nowhere-cc\): install gcc or clang"),
        (str(broken), "cannot compile the networks .*error: no such"),
    ):
        monkeypatch.setenv("CC", command)
        with pytest.raises(BackendError, match=said):
            Engine.load("emoji", backend=NAME)
        assert not list(cache.iterdir())
    monkeypatch.setenv(fastest.VARIABLE, "onnxruntime,native")
    for _ in range(2):
        assert Engine.load("emoji").backend.name == "onnxruntime"
    assert caplog.text.count("native cannot be used here") == 2, "for it may be repaired"
    broken.write_text('#!/bin/sh\nexec cc "$@"\n')
    monkeypatch.setattr(fastest, "_seconds", lambda work, threads: {name: dict.fromkeys(stages, float(len(name))) for name, stages in work.items()})
    assert Engine.load("emoji").backend.name == NAME, "and it was; native is the shorter name"
    library.load.cache_clear()
    broken.write_text("#!/bin/sh\nprintf 'kernels.c:1: error: \\377' >&2\nexit 1\n")
    shutil.rmtree(cache)
    caplog.clear()
    assert Engine.load("emoji").backend.name == "onnxruntime"
    assert "the faster runtime cannot be used here" in caplog.text, "what was chosen is gone"
    for wrong in ("nowhere-cc", 'cc "'):
        monkeypatch.setenv("CC", wrong)
        assert compiler() is None
    monkeypatch.setenv("CC", "nowhere-cc")
    assert dict(report())["compiler"].startswith("none")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setattr(Path, "home", lambda: Path("/proc/nowhere"))
    caplog.clear()
    assert Engine.load("emoji").backend.name == "onnxruntime"
    assert not caplog.text, "where nothing can be kept nothing is compiled, and nothing said"


@pytest.mark.usefixtures("unloaded")
def test_it_is_taken_where_it_is_faster_and_not_where_its_pictures_are_others(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(fastest.VARIABLE, "onnxruntime,native")
    monkeypatch.setattr(fastest, "_seconds", lambda work, threads: {name: dict.fromkeys(stages, 1.0 / len(name)) for name, stages in work.items()})
    assert Engine.load("emoji").backend.name == "onnxruntime", "native is the shorter name"
    monkeypatch.setattr(fastest, "_seconds", lambda work, threads: {name: dict.fromkeys(stages, float(len(name))) for name, stages in work.items()})
    assert fastest.fastest(open_model("emoji"), 2, lambda name: graphs.Graphs(open_model("emoji"), 2, name)) == NAME
    bias = "vae.decoder.conv_out.bias"
    monkeypatch.setattr(autoencoders, "decoder", lambda weights, config: decoder(weights | {bias: weights[bias] + np.float32(0.05)}, config))
    assert fastest.fastest(open_model("emoji"), 3, lambda name: graphs.Graphs(open_model("emoji"), 3, name)) == "onnxruntime"
    assert "native makes another picture than onnxruntime does, and is not used" in caplog.text


@pytest.mark.usefixtures("kernels")
def test_it_stands_beside_other_runtimes_and_computes_in_float32(engines: tuple[Engine, Engine]) -> None:
    request = Request("a ghost on a purple background", 3, 2, 128, 128)
    for name in ("onnxruntime+native+onnxruntime", "native+onnxruntime+native"):
        mixed = Engine.load("emoji", backend=name).generate(request)
        assert mixed.record.backend == name
        assert difference(mixed, engines[1].generate(request)) <= BOUND
    with pytest.raises(BackendError, match="the native backend computes in float32, not in bfloat16"):
        Engine.load("emoji", backend=NAME, precision="bfloat16")


def test_a_child_computes_after_a_batch_too(kernels: ctypes.CDLL) -> None:
    network = Computed(kernels, reduced(weights("decoder_tiny")), 2)
    latents = np.random.default_rng(0).standard_normal((2, 16, 4, 4)).astype(np.float32)
    expected = network(latents)
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(network(latents), expected) else 1)
    for _ in range(100):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
    assert (done, status) == (child, 0)


@pytest.mark.usefixtures("unloaded")
def test_who_must_not_measure_takes_it_where_it_is_known_to_be_fast(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(fastest.VARIABLE, "onnxruntime,native")
    monkeypatch.setattr(fastest, "instructions", lambda: ["AVX2"])
    assert Engine.load("emoji", measure=False).backend.name == NAME
    monkeypatch.setattr(fastest, "instructions", lambda: ["NEON"])
    assert Engine.load("emoji", measure=False).backend.name == "onnxruntime"
    monkeypatch.setattr(fastest, "instructions", lambda: ["AVX2"])
    monkeypatch.setattr(autoencoders, "decoder", lambda weights, config: reduced(weights))
    assert not caplog.text.count("cannot be used")
    assert Engine.load("emoji", measure=False).backend.name == "onnxruntime"
    assert "the faster runtime cannot be used here (native cannot use" in caplog.text


@pytest.mark.skipif(shutil.which("clang") is None, reason="there is no clang")
@pytest.mark.usefixtures("unloaded")
def test_clang_compiles_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "clang -w")
    latents = np.random.default_rng(0).standard_normal((1, 16, 4, 4)).astype(np.float32)
    layers = reduced(weights("decoder_tiny"))
    made = Computed(library.load(), layers, 1)(latents)
    session: Any = graphs.Graphs(open_model("emoji"), 1)._decoder("tiny", None)
    np.testing.assert_allclose(made, session({"latents": latents})[0], atol=1e-4)


def weights(graph: str) -> dict[str, Any]:
    """Those of one of the embedded model's networks, as its backend reads them."""
    shapes = graphs.read_index(open_model("emoji"))[graph]
    found: dict[str, Any] = {}
    for part in TEXT if graph == "text" else ({"decoder": "vae", "encoder": "vae"}.get(graph, graph),):
        path = EMOJI / part / (graphs.WEIGHTS if graph != "text" else "model.safetensors")
        found |= {f"{part}.{name}": value.astype(np.float32) for name, value in graphs.read_weights(path, "numpy").items()}
    bare = {name.replace(".text_model.", "."): value for name, value in found.items()}
    return {name: bare[name.replace(".text_model.", ".")] for name in shapes}
