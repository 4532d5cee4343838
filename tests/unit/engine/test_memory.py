"""What a model takes, and how it is kept where that is more than there is."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import nets

from fewstep.engine import backends
from fewstep.engine.backends import BackendError, open_backend, settle_memory, slower
from fewstep.engine.backends.eager import Eager
from fewstep.engine.backends.offloaded import HOME, Guests, Offloaded
from fewstep.engine.backends.offloaded import open as open_offloaded
from fewstep.engine.control import Control
from fewstep.engine.device import allowed
from fewstep.engine.engine import Engine
from fewstep.engine.memory import Need, choose, decoding, need, sdxl
from fewstep.engine.model import Model, open_model
from fewstep.engine.request import Request, RequestError
from fewstep.models.bundle import load_bundle
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


def test_activations_are_what_the_networks_hold_at_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: bytes of all tensors alive, at every operation, on the meta device."""
    import weakref

    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Alive(TorchDispatchMode):
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

    vae = load_bundle(tiny).vae.to("meta").half()
    with torch.no_grad(), Alive() as alive:
        vae.decode(torch.zeros(1, 4, 16, 12, dtype=torch.half, device="meta"))
    assert alive.peak == pytest.approx(decoding(vae.config, 192, 256, 2), rel=0.05)

    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(CONFIGS["unet"]).half()
        prompt = torch.zeros(1, 77, 2048, dtype=torch.half)
        told = {"text_embeds": torch.zeros(1, 1280, dtype=torch.half), "time_ids": torch.zeros(1, 6, dtype=torch.half)}
        x = torch.zeros(1, 4, 128, 128, dtype=torch.half)
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query))  # keeps no matrix
    with torch.no_grad(), Alive() as alive:
        unet(x, torch.tensor(999, device="meta"), encoder_hidden_states=prompt, added_cond_kwargs=told)
    assert alive.peak == pytest.approx(sdxl(2).denoise, rel=0.15)


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
