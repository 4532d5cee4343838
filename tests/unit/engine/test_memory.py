"""What a model takes, and how it is kept where that is more than there is."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from tests import nets
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewstep.cli import main
from fewstep.engine import backends
from fewstep.engine.backends import BackendError, open_backend, settle_memory, slower
from fewstep.engine.backends.eager import Eager
from fewstep.engine.backends.offloaded import HOME, Guests, Offloaded
from fewstep.engine.backends.offloaded import open as open_offloaded
from fewstep.engine.control import Control
from fewstep.engine.device import allowed
from fewstep.engine.engine import Engine
from fewstep.engine.memory import SDXL_CONTROLNET, SPARE, Need, choose, decoding, need, numbers, sdxl
from fewstep.engine.model import Model, open_model
from fewstep.engine.request import Request, RequestError
from fewstep.models.bundle import load_bundle
from fewstep.models.controlnet import read, together
from fewstep.models.dimensions import CONFIGS

GIB = 1 << 30


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return open_model(str(tiny), 2)


def test_weights_are_counted_from_headers(model: Model, tiny: Path) -> None:
    bundle = load_bundle(tiny)
    wanted = need(model, 256, 256, 4)
    assert wanted.weights == {part: 4 * sum(weight.numel() for weight in network.parameters()) for part, network in bundle.models.items()}


def test_one_network_at_a_time_needs_less_than_all_and_a_layer_still_less() -> None:
    wanted = Need({"text_encoder": 2 * GIB, "text_encoder_2": 3 * GIB, "unet": 8 * GIB, "vae": GIB}, denoise=GIB, decode=4 * GIB)
    full, model, sequential = (wanted.of(way) for way in ("full", "model", "sequential"))
    assert (full - model, model - sequential) == (9 * GIB, 5 * GIB)
    assert [choose(wanted, there) for there in (full, full - 1, model, model - 1, 0)] == ["full", "model", "model", "sequential", "sequential"]


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, at every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)):
            storage = tensor.untyped_storage()
            if not self.tensors.setdefault(storage._cdata, 0):
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
            self.tensors[storage._cdata] += 1
            weakref.finalize(tensor, self._gone, storage._cdata, storage.nbytes())
        return output

    def _gone(self, key: int, size: int) -> None:
        self.tensors[key] -= 1
        if not self.tensors[key]:
            self.now -= size


def test_a_decoder_holds_at_once_what_is_reckoned(tiny: Path) -> None:
    """On the meta device."""
    vae = load_bundle(tiny).vae.to("meta").half()
    with torch.no_grad(), Alive() as alive:
        vae.decode(torch.zeros(1, 4, 16, 12, dtype=torch.half, device="meta"))
    assert alive.peak == pytest.approx(decoding(vae.config, 192, 256, 2), rel=0.05)


@pytest.mark.slow
def test_a_unet_and_its_controlnets_hold_at_once_what_is_reckoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDXL's at 1024 pixels, on the meta device: none, one, and four at once, whose answers are added up."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(CONFIGS["unet"]).half()
        net = ControlNetModel.from_unet(unet, load_weights_from_unet=False).half()
        prompt = torch.zeros(1, 77, 2048, dtype=torch.half)
        told = {"text_embeds": torch.zeros(1, 1280, dtype=torch.half), "time_ids": torch.zeros(1, 6, dtype=torch.half)}
        x, t = torch.zeros(1, 4, 128, 128, dtype=torch.half), torch.tensor(999)
        hint = torch.zeros(1, 3, 1024, 1024, dtype=torch.half)
    assert sum(weight.numel() for weight in net.parameters()) == SDXL_CONTROLNET
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query))  # keeps no matrix
    condition = {"encoder_hidden_states": prompt, "added_cond_kwargs": told}
    for count in (0, 1, 4):
        with torch.no_grad(), Alive() as alive:
            answers = together([read(net, x, t, condition, hint) for _ in range(count)]) if count else {}
            unet(x, t, **condition, **answers)
        assert alive.peak == pytest.approx(sdxl(2, count).denoise, rel=0.15), count


def test_controlnets_take_their_part_of_the_card() -> None:
    """All of them beside everything else; where networks visit it, one at a time."""
    plain, guided = sdxl(2), sdxl(2, 2)
    assert guided.of("full") - plain.of("full") == 2 * 2 * SDXL_CONTROLNET
    assert guided.of("model") - plain.of("model") == guided.denoise - plain.denoise
    assert Need({**dict.fromkeys(("text_encoder", "text_encoder_2", "vae"), 0), "unet": GIB}, 1, 0, [4 * GIB]).of("model") == 4 * GIB + 1 + SPARE


def test_a_models_own_controlnet_is_counted_unless_it_is_not_used(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    net = nets.build(load_bundle(folder), 7)
    net.save_pretrained(folder / "controlnet")
    count, model = sum(weight.numel() for weight in net.parameters()), open_model(str(folder), 2)
    assert need(model, 256, 256, 2).nets == [2 * count]
    assert need(model, 256, 256, 2, nets=()) == need(open_model(str(tiny), 2), 256, 256, 2)


def test_auto_leaves_room_for_the_controlnets_that_are_named(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line names those of its requests, once each."""
    nets.build(load_bundle(tiny), 7).save_pretrained(net := tmp_path / "net")
    asked: list[Any] = []
    monkeypatch.setattr(backends, "settle_memory", lambda *given: asked.append(given[-1]) or "full")
    Engine.load(str(tiny), 2, backend="eager", controlnets=[net, net])
    Engine.load(str(tiny), 2, backend="eager")
    path = tmp_path / "hint.png"
    Image.new("RGB", (64, 64)).save(path)
    words = ["generate", "x", "--model", str(tiny), "--steps", "2", "--size", "64x64", "--backend", "eager", "--out", str(tmp_path / "out")]
    for more in ((), ("--control", str(path), "--controlnet", str(net))):
        with pytest.raises(SystemExit):
            main([*words, *more])
    assert asked == [(count := [numbers(net / "diffusion_pytorch_model.safetensors")]), None, [], count]


@pytest.mark.parametrize("way", ["model", "sequential"])
def test_networks_that_visit_the_card_make_the_same_picture(model: Model, way: str, tmp_path: Path) -> None:
    nets.build(load_bundle(model.folder), 7).save_pretrained(net := tmp_path / "net")
    one, other = Engine(model, Eager(model, "cpu", 1)), Engine(model, Offloaded(model, "cpu", 1, way))
    image = one.generate(Request("a pizza", 3, 1, 64, 64)).image
    for request in (
        Request("a red apple", 3, 2, 128, 64),
        Request("a pizza", 4, 1, 64, 64, negative="ghost", tile="x"),
        Request("x", 1, 2, image=image, strength=0.5),
        Request("a rocket", 5, 2, 64, 64, control=[Control(image, net=net)]),
    ):
        first, second = one.generate(request), other.generate(request)
        assert np.abs(np.asarray(first.image, int) - np.asarray(second.image, int)).max() <= 1  # weights lie in another order
    assert second.record.backend == "offloaded"


def test_one_network_at_a_time_is_on_the_card(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, moves = Offloaded(model, "cpu", 1, "model"), []
    networks = {id(network): name for name, network in backend.bundle.models.items()}
    receive = Guests.receive

    class Spy:
        def __init__(self, network: Any) -> None:
            self.network = network

        def to(self, device: str) -> Spy:
            moves.append((networks.get(id(self.network), "student"), device))
            return self

    guests = Guests("card")
    spies: dict[int, Spy] = {}
    monkeypatch.setattr(Guests, "receive", lambda self, network: receive(guests, spies.setdefault(id(network), Spy(network))))  # type: ignore[arg-type]
    Engine(model, backend).generate(Request("a red apple", 3, 2, 64, 64))
    visits = ["text_encoder", "text_encoder_2", "student", "vae"]
    assert [name for name, device in moves if device == "card"] == visits
    assert [name for name, device in moves if device == HOME] == visits[:-1], "each leaves before the next comes"


def test_what_a_network_is_given_goes_to_the_card_with_it(model: Model) -> None:
    """The meta device in the card's place: what was computed there has no values, and is there."""
    backend = Offloaded(model, "cpu", 1, "model")
    backend._guests.device = backend.device = "meta"
    backend._guests.receive = lambda network: network.to_empty(device="meta")  # type: ignore[method-assign]
    with torch.inference_mode():
        x = torch.zeros(1, 4, 4, 4)
        assert backend.bundle.vae.decode(x.to("meta"), return_dict=False)[0].device.type == "meta"
        ids = torch.full((1, 77), 5)
        assert backend.bundle.text_encoder(ids).last_hidden_state.device.type == "meta"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A card with so much memory free, as far as choosing goes."""

    def has(there: int) -> None:
        monkeypatch.setattr(backends, "free", lambda device: there)
        monkeypatch.setattr("fewstep.engine.backends.eager.check_device", lambda device: None)

    return has


def test_auto_takes_the_quickest_way_that_fits(model: Model, card: Any, caplog: pytest.LogCaptureFixture) -> None:
    wanted = need(model, 256, 256, 2, guided=True)
    for there, way in ((wanted.of("full"), "full"), (wanted.of("model"), "model"), (0, "sequential")):
        card(there)
        assert settle_memory(model, "auto", "cuda:0", "auto") == way
    card(wanted.of("full"))
    assert settle_memory(model, "auto", "cuda:0", "auto", [1]) != "full", "a ControlNet takes room too"
    caplog.records.pop()
    assert [f"--memory {way}" in record.message for record, way in zip(caplog.records, ("model", "sequential"), strict=True)] == [True, True]
    card(0)
    assert settle_memory(model, "auto", "cuda", "full") == "full", "who says so gets it"
    assert settle_memory(model, "eager", "cuda", "auto") == "full"
    assert settle_memory(model, "offloaded", "cuda", "full") == "model"


def test_a_processor_keeps_everything_and_says_so(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fewstep"):
        engine = Engine.load(str(tiny), memory="model", device="cpu")
    assert engine.backend.name in ("eager", "onnxruntime")
    assert "--memory model changes nothing here: on cpu the networks lie where they are computed" in caplog.text
    with pytest.raises(BackendError, match="the offloaded backend is for a card"):
        open_backend(engine.model, "offloaded", "cpu")
    with pytest.raises(BackendError, match="the offloaded backend is for a card"):
        open_offloaded(engine.model)
    assert slower(Offloaded(engine.model, "cpu", 1, "model")) == ()


def test_what_does_not_go_together_is_refused(model: Model) -> None:
    with pytest.raises(RequestError, match="memory = 'model': the backend eager keeps all"):
        open_backend(model, "eager", "cpu", memory="model")
    with pytest.raises(RequestError, match="memory = 'some': there is auto, full, model and sequential"):
        open_backend(model, memory="some")


def test_a_container_allows_less_than_the_machine_has(tmp_path: Path) -> None:
    assert allowed(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert allowed(tmp_path) is None
    (tmp_path / "memory.max").write_text("5000\n")
    assert allowed(tmp_path) == 4000
    (tmp_path / "memory.stat").write_text("anon 300\nactive_file 50\ninactive_file 600\n")
    assert allowed(tmp_path) == 4600, "files that were read make room"


def test_a_file_with_everything_is_counted_too(tmp_path: Path, tiny: Path) -> None:
    from fewstep.export import write

    file = write(tiny, 2, "single-file", tmp_path / "one.safetensors")
    counted = need(dataclasses.replace(open_model(str(tiny), 2), file=file), 256, 256, 2)
    assert counted.weights["unet"] == need(open_model(str(tiny), 2), 256, 256, 2).weights["unet"]
