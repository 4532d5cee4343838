"""UNets that wear students: in their own tensors, held once, and to the bit what each student is alone."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.hub import make, plain

from fewstep.engine.backends import compiled, eager
from fewstep.engine.engine import Engine
from fewstep.engine.model import Model, open_model
from fewstep.engine.request import Request
from fewstep.models.bundle import Bundle, load_bundle
from fewstep.models.keys import PREFIXES, entries
from fewstep.models.students import Unets, Wardrobe, read_student, share_projections
from fewstep.models.weights import WeightsError
from fewstep.stamp import Stamp
from fewstep.zoo.known import Weights

LORA, UNET, TEACHER = Stamp("lora", 4), Stamp("unet", 2), Stamp("teacher", 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("students") / "base")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Stamp, Path]:
    root = tmp_path_factory.mktemp("files")
    return {stamp: make(Weights(f"{stamp.kind}.safetensors", 0, stamp), root / f"{stamp.kind}.safetensors") for stamp in (LORA, UNET)}


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder)


def held(networks: Iterable[torch.nn.Module]) -> int:
    """Bytes of all the weights of ``networks``, each piece of memory once."""
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for one in networks for weight in one.parameters()}
    return sum(storages.values())


def values(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in network.named_parameters()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("prefix", [PREFIXES["unet"], ""])
def test_a_unet_in_the_original_layout_is_worn_as_its_twin_in_diffusers_names(bundle: Bundle, files: dict[Stamp, Path], tmp_path: Path, prefix: str) -> None:
    """As ComfyUI saves and loads a UNet alone, with the prefix of a checkpoint and without: to the bit."""
    tensors = load_file(files[UNET])
    names = {entry.of[0]: entry.name for entry in entries("unet", {name: tuple(value.shape) for name, value in tensors.items()})}
    save_file({prefix + names[name].removeprefix(PREFIXES["unet"]): value for name, value in tensors.items()}, tmp_path / "original.safetensors")
    assert_equal(*(values(read_student(bundle, path, UNET)[0]) for path in (tmp_path / "original.safetensors", files[UNET])))


def test_what_is_worn_is_the_student_and_nothing_of_the_last(bundle: Bundle, files: dict[Stamp, Path]) -> None:
    alone = {stamp: values(read_student(bundle, files[stamp], stamp)[0]) for stamp in files} | {TEACHER: values(bundle.unet)}
    wardrobe = Wardrobe(bundle.unet, bundle)
    for stamp in (LORA, TEACHER, UNET, LORA, UNET, TEACHER, LORA):
        wardrobe.wear(files.get(stamp), lambda stamp=stamp: stamp)  # type: ignore[misc]
        assert_equal(values(bundle.unet), alone[stamp])
    assert not torch.equal(alone[LORA]["conv_in.weight"], alone[UNET]["conv_in.weight"])


def test_a_lora_is_its_product_rounded_as_a_file_holds_it(bundle: Bundle, files: dict[Stamp, Path]) -> None:
    from safetensors.torch import load_file

    name, tensors = "mid_block.resnets.0.conv1", load_file(files[LORA])
    unet, _ = read_student(bundle, files[LORA], LORA)
    own, worn = (network.get_submodule(name).weight for network in (bundle.unet, unet))
    key = f"lora_unet_{name.replace('.', '_')}"
    product = tensors[f"{key}.lora_up.weight"].float().flatten(1) @ tensors[f"{key}.lora_down.weight"].float().flatten(1)
    assert torch.equal(worn, (own + product.view_as(own)).half().float())  # type: ignore[operator, arg-type]


def test_a_large_model_has_one_network_and_no_second_copy(bundle: Bundle, files: dict[Stamp, Path]) -> None:
    before = held([bundle.unet])
    unets = Unets(bundle, 3, lambda network: network, room=0)
    made = [unets.get(files.get(stamp), lambda stamp=stamp: stamp) for stamp in (LORA, UNET, TEACHER)]  # type: ignore[misc]
    assert unets.single and all(network is bundle.unet for network in made)
    assert held([bundle.unet, *made]) == before


def test_small_ones_lie_side_by_side(bundle: Bundle, files: dict[Stamp, Path]) -> None:
    unets = Unets(bundle, 3, lambda network: network)
    first = unets.get(files[LORA], lambda: LORA)
    assert unets.get(files[UNET], lambda: UNET) is not first is unets.get(files[LORA], lambda: LORA)
    assert unets.get(None, lambda: TEACHER) is bundle.unet is not first


@pytest.mark.parametrize("count", [1, 2, 3])
def test_how_many_fit_is_a_matter_of_their_bytes(bundle: Bundle, count: int) -> None:
    size = held([bundle.unet])
    assert [Unets(bundle, count, lambda network: network, room=room).single for room in (count * size - 1, count * size)] == [True, False]
    assert Unets(bundle, count, lambda network: network, apart=True, room=count * size).single, "a base that is kept apart is one more"


def test_fused_projections_are_held_once_and_follow_what_is_worn(bundle: Bundle, files: dict[Stamp, Path]) -> None:
    before, plain_unet = held([bundle.unet]), copy.deepcopy(bundle.unet)
    fused, follows = Wardrobe(bundle.unet, bundle), Wardrobe(plain_unet, bundle)
    bundle.unet.fuse_qkv_projections()
    share_projections(bundle.unet)
    assert held([bundle.unet]) == before
    x, text, pooled = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 64), torch.randn(1, 32)
    conditions = {"encoder_hidden_states": text, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.zeros(1, 6)}}
    for stamp in (TEACHER, LORA, UNET):
        for wardrobe in (fused, follows):
            wardrobe.wear(files.get(stamp), lambda stamp=stamp: stamp)  # type: ignore[misc]
        with torch.inference_mode():
            one, other = (network(x, 499, **conditions).sample for network in (bundle.unet, plain_unet))
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def opened(folder: Path, files: dict[Stamp, Path]) -> Model:
    model = open_model(few_step=f"{files[LORA]}:4", base=str(folder))
    return Model(model.folder, {4: files[LORA], 2: files[UNET]}, model.base, model.limits, model.channels, {4: LORA, 2: UNET})


def test_the_compiled_backend_exchanges_weights_too(folder: Path, files: dict[Stamp, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its networks are compiled once, in their own place, and hold no weight twice."""
    monkeypatch.setattr("fewstep.models.students.ROOM", 0)
    monkeypatch.setattr(compiled.torch, "compile", lambda function, **_: function)
    model = opened(folder, files)
    quick, reference = compiled.open(model, "cpu"), eager.open(model, "cpu")
    before = held(reference.bundle.models.values())
    for steps in (4, 16, 2, 4):
        assert_equal(values(reference._unet(steps)), values(quick._unet(steps)))
    assert held(quick.bundle.models.values()) == before
    pictures = [Engine(model, backend).generate(Request("a red apple", 5, 4, 64, 64)) for backend in (quick, reference)]
    assert np.abs(np.subtract(*(np.asarray(picture.image, int) for picture in pictures))).max() <= 2


def test_a_lora_for_other_weights_is_refused_before_anything_changes(bundle: Bundle, files: dict[Stamp, Path]) -> None:
    before, wardrobe = values(bundle.unet), Wardrobe(bundle.unet, bundle)
    with pytest.raises(WeightsError, match="is a LoRA for the weights 0123456789ab"):
        wardrobe.wear(files[LORA], lambda: Stamp("lora", 4, base="0123456789ab"))
    assert_equal(values(bundle.unet), before)
