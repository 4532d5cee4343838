"""A bundle is a diffusers folder: what is saved is what is loaded, in the released layout, and files that are not it are refused."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fewstep.models.bundle import WEIGHTS, Bundle, WeightsError, load_bundle, load_weights, read_stamp, read_weights, save_bundle, save_weights
from fewstep.models.prompt import conditioning, encode, time_ids
from fewstep.stamp import KEY, Stamp


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Bundle:
    return load_bundle(tiny)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_round_trip_in_full_precision(bundle: Bundle, tmp_path: Path) -> None:
    bundle.words = {"subjects": ["piñata"]}
    folder = bundle.folder
    save_bundle(bundle, tmp_path, dtype=torch.float32)
    bundle.folder = folder
    again = load_bundle(tmp_path)
    for name, model in bundle.models.items():
        theirs = again.models[name].state_dict()
        assert model.state_dict().keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items()), name
    assert again.words == {"subjects": ["piñata"]} and again.stamp == bundle.stamp
    assert again.tokenizer("a red apple").input_ids == bundle.tokenizer("a red apple").input_ids
    assert again.tokenizer.pad_token_id != 0 and again.tokenizer_2.pad_token_id == 0


def test_half_precision_files_load_in_full_and_ready_to_use(tiny: Path, bundle: Bundle) -> None:
    assert all(value.dtype == torch.float16 for value in load_file(tiny / "unet" / WEIGHTS).values())
    for model in bundle.models.values():
        assert not model.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.parameters())


def test_the_parts_say_what_they_are(bundle: Bundle, tiny: Path) -> None:
    assert bundle.factor == 16 and bundle.device == torch.device("cpu")
    assert re.fullmatch("[0-9a-f]{12}", bundle.hash)
    assert bundle.stamp.kind == "teacher" and read_stamp(tiny / "unet" / WEIGHTS) == bundle.stamp
    assert set(bundle.models) == {"text_encoder", "text_encoder_2", "unet", "vae"}


def test_every_student_is_stamped_with_its_steps_and_its_base(tiny: Path) -> None:
    stamps = [read_stamp(path) for path in sorted((tiny / "students").glob("*.safetensors"))]
    assert sorted(stamp.steps for stamp in stamps if stamp) == [1, 2, 4, 8]
    assert {stamp.base for stamp in stamps if stamp} == {load_bundle(tiny).hash}


def test_names_are_those_of_the_released_files(tiny: Path) -> None:
    """The layout of stabilityai/stable-diffusion-xl-base-1.0, file by file and key by key where it matters."""
    files = {str(path.relative_to(tiny)) for path in tiny.rglob("*") if path.is_file() and path.parent.name != "students"}
    tokenizer = {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"}
    assert files == {
        "model_index.json",
        "words.json",
        "scheduler/scheduler_config.json",
        *(f"{name}/{file}" for name in ("tokenizer", "tokenizer_2") for file in tokenizer),
        *(f"{name}/{file}" for name in ("text_encoder", "text_encoder_2") for file in ("config.json", "model.safetensors")),
        *(f"{name}/{file}" for name in ("unet", "vae") for file in ("config.json", WEIGHTS)),
    }
    first, second = (set(load_file(tiny / name / "model.safetensors")) for name in ("text_encoder", "text_encoder_2"))
    assert all(key.startswith("text_model.") for key in first)
    assert {key for key in second if not key.startswith("text_model.")} == {"text_projection.weight"}
    assert "text_model.embeddings.token_embedding.weight" in first and "text_model.encoder.layers.0.self_attn.q_proj.weight" in second
    unet, vae = (set(load_file(tiny / name / WEIGHTS)) for name in ("unet", "vae"))
    assert {"conv_in.weight", "add_embedding.linear_1.weight", "mid_block.attentions.0.proj_in.weight", "conv_out.bias"} <= unet
    assert {"encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight", "post_quant_conv.weight"} <= vae
    for name in ("text_encoder", "text_encoder_2"):  # otherwise a plain from_pretrained loads float16 and fails on a CPU
        config = json.loads((tiny / name / "config.json").read_text())
        assert config["dtype"] == "float32" or config["torch_dtype"] == "float32"


def test_diffusers_opens_the_folder(tiny: Path, bundle: Bundle) -> None:
    """A plain from_pretrained, every component of ours with the same weights and the same answer."""
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny)
    for name, model in bundle.models.items():
        theirs = getattr(pipeline, name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items()), name
        assert all(value.dtype == torch.float32 for value in theirs.values() if value.is_floating_point()), name
    assert type(pipeline.scheduler).__name__ == "EulerDiscreteScheduler" and pipeline.scheduler.config.timestep_spacing == "trailing"
    assert pipeline.config.force_zeros_for_empty_prompt is True and pipeline.vae_scale_factor == bundle.factor
    x, keywords = torch.randn(1, 4, 16, 16), conditioning(encode(bundle, ["a pizza"]), time_ids(1, 256, 256))
    with torch.no_grad():
        assert torch.equal(pipeline.unet(x, 999, **keywords).sample, bundle.unet(x, 999, **keywords).sample)
        assert torch.equal(pipeline.vae.decode(x).sample, bundle.vae.decode(x).sample)


def test_saving_again_keeps_the_hash(tiny: Path, bundle: Bundle, tmp_path: Path) -> None:
    """A student names its base by hash: the same weights must have the same one, however often they are written."""
    folder, before = bundle.folder, bundle.hash
    hashes = set()
    for number in range(6):  # the order of a safetensors file's metadata is random
        save_bundle(bundle, tmp_path / str(number))
        hashes.add(bundle.hash)
    bundle.folder = folder
    assert hashes == {before}


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(WeightsError, match=r"is no model: it holds no model_index\.json"):
            load_bundle(path)


@pytest.mark.parametrize("name", ["unet/config.json", "text_encoder/config.json", "vae/config.json", "tokenizer/vocab.json", "words.json"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_damaged_folder_is_refused_in_one_sentence(folder: Path, name: str, damage: str) -> None:
    if damage == "missing":
        (folder / name).unlink()
        if name == "words.json":
            assert load_bundle(folder).words == {}
            return
    else:
        (folder / name).write_text("{")
    with pytest.raises(WeightsError) as caught:
        load_bundle(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "bin", "pth"])
def test_a_pickle_is_never_opened(tmp_path: Path, suffix: str) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "opened",))  # type: ignore[return-value]

    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps(Hostile()))
    assert "only safetensors files are read" in refused(path)
    shutil.copy(path, tmp_path / "disguised.safetensors")
    assert "not a readable safetensors file" in refused(tmp_path / "disguised.safetensors")
    assert not (tmp_path / "opened").exists()


def test_missing_truncated_and_hostile_files_are_refused(tiny: Path, tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.safetensors")
    whole = (tiny / "unet" / WEIGHTS).read_bytes()
    for number, content in enumerate([b"", whole[:5], whole[:100], whole[: len(whole) // 2], whole[:-1], (2**40).to_bytes(8, "little") + b"{}"]):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        assert "not a readable safetensors file" in refused(path)
        with pytest.raises(WeightsError):
            read_stamp(path)
    (tmp_path / "folder.safetensors").mkdir()
    assert "not a readable safetensors file" in refused(tmp_path / "folder.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"good": torch.ones(3), "bad.weight": torch.tensor([1.0, value]).half()}, path)
    assert "'bad.weight' holds a value that is not finite" in refused(path)


def test_weights_that_are_whole_numbers_are_refused(tmp_path: Path) -> None:
    """They were rounded by whoever wrote them; counters, which are none, may be whole."""
    path = tmp_path / "rounded.safetensors"
    save_file({"a.weight": torch.ones(2, dtype=torch.int32), "position_ids": torch.arange(2)}, path)
    assert "'a.weight' has whole numbers (I32)" in refused(path)
    save_file({"a.weight": torch.ones(2), "position_ids": torch.arange(2)}, path)
    assert set(read_weights(path)) == {"a.weight", "position_ids"}


def test_wrong_names_and_shapes_are_named(bundle: Bundle, tiny: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny / "unet" / WEIGHTS)
    before = {key: value.clone() for key, value in bundle.unet.state_dict().items()}

    def refusal(**changed: torch.Tensor | None) -> str:
        kept = {**tensors, **{key.replace("__", "."): value for key, value in changed.items()}}
        save_file({key: value for key, value in kept.items() if value is not None}, tmp_path / "w.safetensors")
        with pytest.raises(WeightsError) as caught:
            load_weights(bundle.unet, tmp_path / "w.safetensors")
        return str(caught.value)

    assert "'conv_in.bias' is missing" in refusal(conv_in__bias=None)
    assert "'conv_in.scale' is not known" in refusal(conv_in__scale=torch.ones(2))
    assert "'conv_in.bias' has shape [7], not [32]" in refusal(conv_in__bias=torch.ones(7))
    save_file({"other": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"'conv_in.weight' is missing; .*; and \d+ more"):
        load_weights(bundle.unet, tmp_path / "w.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in bundle.unet.state_dict().items())  # refused means untouched


def test_a_stamp_that_cannot_be_read_is_refused(folder: Path) -> None:
    path = folder / "unet" / WEIGHTS
    save_file(load_file(path), path, metadata={KEY: "{"})
    with pytest.raises(WeightsError, match="the stamp in this file cannot be read"):
        load_bundle(folder)


def test_a_folder_without_a_stamp_is_a_teacher(folder: Path) -> None:
    path = folder / "unet" / WEIGHTS
    save_file(load_file(path), path)
    assert load_bundle(folder).stamp.kind == "teacher"


def test_weights_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.models import bundle as module

    path = tmp_path / "w.safetensors"
    save_weights({"a": torch.zeros(2)}, path, Stamp(kind="unet", steps=4).to_metadata())

    def torn(tensors: object, target: Path, metadata: object = None) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        save_weights({"a": torch.ones(2)}, path, {})
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("a"), torch.zeros(2))
    assert [found.name for found in tmp_path.glob("*.safetensors")] == ["w.safetensors"]
