"""LoRA files of every layout mean the same changes of the same weights; what is no LoRA for the model is a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import loras, tiny

from fewstep.models.adapters import TEXT, UNET, Shapes, places, read_changes
from fewstep.models.bundle import Bundle
from fewstep.models.keys import original_module
from fewstep.models.lora import shapes_of
from fewstep.models.stack import Lora, changes_of, key_of, total
from fewstep.models.weights import WeightsError

RANK = 4


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny.build()


@pytest.fixture(scope="module")
def own(bundle: Bundle) -> Shapes:
    return {part: shapes_of(bundle.models[part]) for part in (UNET, *TEXT)}


@pytest.fixture(scope="module")
def content(bundle: Bundle) -> Any:
    return loras.factors(bundle, 1, RANK)


def full(path: Path, own: Shapes, framework: Any = "pt") -> dict[str, dict[str, np.ndarray]]:
    changes = read_changes(path, own, framework=framework)
    return {part: {name.removeprefix("text_model."): np.asarray(one.full(1.0)) for name, one in its.items()} for part, its in changes.items()}


def expected(content: Any, factor: float = 1.0) -> dict[str, dict[str, np.ndarray]]:
    """factor · B A, by hand."""
    made: dict[str, dict[str, np.ndarray]] = {}
    for part, module, down, up in loras.each(content):
        product = up.flatten(1).double() @ down.flatten(1).double()
        shape = (len(up), *down.shape[1:])
        made.setdefault(part, {})[f"{module.removeprefix('text_model.')}.weight"] = (factor * product).reshape(shape).numpy()
    return made


def same(one: dict[str, dict[str, np.ndarray]], other: dict[str, dict[str, np.ndarray]]) -> None:
    assert {part: set(its) for part, its in one.items()} == {part: set(its) for part, its in other.items()}
    for part, its in one.items():
        for name, values in its.items():
            np.testing.assert_allclose(values, other[part][name], rtol=1e-4, atol=1e-6, err_msg=f"{part} {name}")


@pytest.mark.parametrize("framework", ["pt", "numpy"])
@pytest.mark.parametrize(("alpha", "factor"), [(None, 1.0), (2.0, 0.5), (8.0, 2.0)])
def test_kohyas_files_by_either_naming(bundle: Bundle, own: Shapes, content: Any, tmp_path: Path, framework: str, alpha: float | None, factor: float) -> None:
    by_module = loras.write(loras.kohya(content, alpha=alpha), tmp_path / "module.safetensors")
    by_block = loras.write(loras.sgm(content, bundle, alpha), tmp_path / "block.safetensors")
    same(full(by_module, own, framework), expected(content, factor))
    same(full(by_block, own, framework), expected(content, factor))


def test_diffusers_files_and_their_old_ones(own: Shapes, content: Any, tmp_path: Path) -> None:
    same(full(loras.write(loras.diffusers(content), tmp_path / "new.safetensors"), own), expected(content))
    attention = {UNET: {module: both for module, both in content[UNET].items() if ".attn" in module}}
    same(full(loras.write(loras.old_diffusers(attention), tmp_path / "old.safetensors"), own), expected(attention))


def test_diffusers_metadata_say_alpha(own: Shapes, content: Any, tmp_path: Path) -> None:
    said = {"unet.r": RANK, "unet.lora_alpha": 2, "unet.alpha_pattern": {"to_q": 8}, "text_encoder.lora_alpha": 4, "text_encoder.use_rslora": True}
    path = loras.write(loras.diffusers(content), tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    wanted = expected(content)
    for name, values in wanted[UNET].items():
        values *= 2.0 if name.endswith("to_q.weight") else 0.5
    for values in wanted[TEXT[0]].values():
        values *= 4 / RANK**0.5
    same(full(path, own), wanted)


@pytest.mark.parametrize("config", [None, {"lora_alpha": 8, "r": RANK}])
def test_pefts_files_of_a_network_alone(own: Shapes, content: Any, tmp_path: Path, config: Any) -> None:
    """A UNet's by its names; a text encoder's is whichever it fits, and needs a prefix where it fits both."""
    path = loras.write(loras.peft(content, UNET), tmp_path / "adapter_model.safetensors", config=config)
    same(full(path, own), expected({UNET: content[UNET]}, 2.0 if config else 1.0))
    path = loras.write(loras.peft(content, TEXT[0]), tmp_path / "text" / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"may be either text encoder's: put text_encoder\. or text_encoder_2\. before its names"):
        read_changes(path, own)
    wider = {**own, TEXT[1]: {name: (shape[0] + 1, *shape[1:]) for name, shape in own[TEXT[1]].items()}}
    same(full(path, wider), expected({TEXT[0]: content[TEXT[0]]}))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "input_blocks.4.1.transformer_blocks.0.attn1.to_q"),
        ("down_blocks.2.attentions.1.proj_in", "input_blocks.8.1.proj_in"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
        ("mid_block.attentions.0.transformer_blocks.9.ff.net.2", "middle_block.1.transformer_blocks.9.ff.net.2"),
        ("up_blocks.0.attentions.2.transformer_blocks.1.attn2.to_v", "output_blocks.2.1.transformer_blocks.1.attn2.to_v"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.2.resnets.0.conv_shortcut", "output_blocks.6.0.skip_connection"),
        ("down_blocks.1.resnets.1.time_emb_proj", "input_blocks.5.0.emb_layers.1"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_out", "out.2"),
    ],
)
def test_sdxls_blocks_have_their_published_numbers(module: str, name: str) -> None:
    two = {f"down_blocks.{block}.resnets.{layer}.conv1.weight": (1, 1, 3, 3) for block in range(3) for layer in range(2)}
    three = {f"up_blocks.{block}.resnets.{layer}.conv1.weight": (1, 1, 3, 3) for block in range(3) for layer in range(3)}
    attending = {f"up_blocks.{block}.attentions.0.proj_in.weight": (1, 1) for block in (0, 1)}
    assert original_module(module, {**two, **three, **attending}) == name


KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{KEY}.dora_scale", "a DoRA"),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", "a DoRA"),
        (f"{KEY}.hada_w1_a", "a LoHa"),
        (f"{KEY}.lokr_w1", "a LoKr"),
        (f"{KEY}.lora_mid.weight", "a LoCon with a Tucker core"),
    ],
)
def test_other_kinds_of_adapters_are_known_and_refused(own: Shapes, content: Any, tmp_path: Path, name: str, kind: str) -> None:
    path = loras.write({**loras.kohya(content), name: torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=f"is {kind} .*only plain LoRAs are read"):
        places(path, own)


def test_the_first_three_that_do_not_fit_are_named(own: Shapes, tmp_path: Path) -> None:
    """Stable Diffusion 1.5 reads text of 768 channels."""
    blocks = [f"lora_unet_down_blocks_{i}_attentions_0_transformer_blocks_0_attn2_to_k" for i in range(5)]
    tensors = {f"{block}.lora_{side}.weight": torch.zeros(shape) for block in blocks for side, shape in (("down", (4, 768)), ("up", (320, 4)))}
    with pytest.raises(WeightsError, match=r"not for this model, but seems to be for Stable Diffusion 1\.5: '.*; '.*; '.*; and 2 more$"):
        places(loras.write(tensors, tmp_path / "a.safetensors"), own)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({f"{KEY}.lora_up.weight": None}, "lacks its up weight"),
        ({f"{KEY}.lora_down.weight": torch.zeros(4, 7)}, "has shapes"),
        ({f"{KEY}.lora_down.weight": torch.tensor(1.0)}, "has shapes"),
        ({f"{KEY}.lora_down.weight": torch.zeros(0, 64), f"{KEY}.lora_up.weight": torch.zeros(64, 0)}, "has shapes"),
        ({f"{KEY}.alpha": torch.zeros(2)}, r"'.*alpha' has shape \[2\], not one number"),
        ({f"{KEY}.alpha": torch.zeros(0)}, "not one number"),
        ({"lora_unet_nowhere.alpha": torch.tensor(1.0)}, "is of no change"),
        ({"stranger": torch.zeros(1)}, "'stranger' is not known"),
        ({f"{KEY}.diff_b": torch.zeros(64)}, "diff_b' is not known"),
        ({f"{KEY.replace('lora_unet_', 'unet.')}.lora_A.weight": torch.zeros(4, 64)}, "lacks its up weight"),
    ],
)
def test_odd_tensors_are_sentences(own: Shapes, content: Any, tmp_path: Path, change: dict[str, torch.Tensor | None], reason: str) -> None:
    tensors = {key: value for key, value in {**loras.kohya(content), **change}.items() if value is not None}
    with pytest.raises(WeightsError, match=reason):
        places(loras.write(tensors, tmp_path / "a.safetensors"), own)


def test_a_weight_that_is_named_twice_is_refused(own: Shapes, content: Any, bundle: Bundle, tmp_path: Path) -> None:
    both = {**loras.kohya(content), **loras.sgm({UNET: content[UNET]}, bundle)}
    with pytest.raises(WeightsError, match="names a weight for the second time"):
        places(loras.write(both, tmp_path / "a.safetensors"), own)


def test_what_is_no_lora_at_all(own: Shapes, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is no LoRA: it holds no pair"):
        places(loras.write({"conv_in.weight": torch.zeros(1)}, tmp_path / "a.safetensors"), own)
    with pytest.raises(WeightsError, match="there is no such file"):
        places(tmp_path / "none.safetensors", own)
    with pytest.raises(WeightsError, match="a pickle"):
        places(tmp_path / "a.pt", own)
    (tmp_path / "cut.safetensors").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        places(tmp_path / "cut.safetensors", own)


@pytest.mark.parametrize("said", ["[", "[1]", '{"unet.lora_alpha": "x"}', '{"unet.alpha_pattern": 3}'])
def test_a_configuration_that_cannot_be_read(own: Shapes, content: Any, tmp_path: Path, said: str) -> None:
    with pytest.raises(WeightsError, match="the configuration that comes with it cannot be read"):
        places(loras.write(loras.diffusers(content), tmp_path / "a.safetensors", {"lora_adapter_metadata": said}), own)


@given(st.dictionaries(st.text("lora_unetABdownup.weightalpha01", max_size=60), st.integers(0, 3), max_size=5))
def test_no_names_but_a_loras_are_taken(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, int]) -> None:
    path = loras.write({name: torch.zeros([1] * dimensions) for name, dimensions in tensors.items()}, tmp_path_factory.mktemp("any") / "a.safetensors")
    with pytest.raises(WeightsError):
        places(path, {UNET: {"conv_in.weight": (4, 4, 3, 3)}})


def test_a_stack_adds_its_changes_and_is_told_apart_by_what_it_changes(own: Shapes, bundle: Bundle, tmp_path: Path) -> None:
    contents = [loras.factors(bundle, 1), loras.factors(bundle, 2, parts=(UNET,))]
    paths = [loras.write(loras.kohya(content), tmp_path / f"{number}.safetensors") for number, content in enumerate(contents)]
    stack = (Lora("a", 0.5, paths[0], (UNET, *TEXT)), Lora("b", -2.0, paths[1], (UNET,)))
    assert key_of(stack, UNET) == (("a", 0.5), ("b", -2.0)) and key_of(stack, *TEXT) == (("a", 0.5),) and key_of(stack[1:], TEXT[1]) == ()
    made = {name: total(changes) for name, changes in changes_of(stack, UNET, own, "numpy").items()}
    wanted = [expected(content)[UNET] for content in contents]
    same({UNET: made}, {UNET: {name: 0.5 * wanted[0][name] - 2 * wanted[1][name] for name in wanted[0]}})
