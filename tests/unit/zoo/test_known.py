"""Every known model by its one word, from a cache of the Hub that holds tiny ones: the same pictures as from plain folders, or what to type."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.hub import fill, made, make, plain, publish, stamped

from fewstep.cli import main
from fewstep.engine.engine import Engine
from fewstep.engine.model import open_model
from fewstep.engine.request import Request, RequestError
from fewstep.models.bundle import load_bundle
from fewstep.models.students import Unets
from fewstep.models.weights import WeightsError
from fewstep.stamp import Stamp, StepMismatch
from fewstep.zoo import hub
from fewstep.zoo.known import KNOWN, Known, Weights
from fewstep.zoo.registry import ModelError, entries

PROMPT = "a red apple on a blue background"
FAMILIES = [known for known in KNOWN.values() if known.weights]
FILES = [(known, one) for known in FAMILIES for one in known.weights if known.choose(one.row.steps) == one and not one.file.endswith(".bin")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    folders = fill(root / "cache", root / "scratch")
    folders["cache"], folders["scratch"] = root / "cache", root / "scratch"
    return folders


@pytest.fixture
def full(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("HF_HUB_CACHE", str(folders["cache"]))
    return folders


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(engine: Engine, steps: int | None = None) -> bytes:
    image = engine.generate(Request(PROMPT, 5, steps, 64, 64)).image
    assert np.asarray(image).std() > 5, "a flat picture proves nothing"
    return image.tobytes()


@pytest.mark.parametrize(("known", "one"), FILES, ids=[f"{known.name}-{one.row.steps}" for known, one in FILES])
def test_a_family_by_its_one_word(full: dict[str, Path], tmp_path: Path, known: Known, one: Weights) -> None:
    engine = Engine.load(known.name, one.row.steps, backend="eager")
    assert engine.model.stamp(one.row.steps) == one.row
    assert engine.limits.name == known.name and engine.limits.default_steps == one.row.steps
    folder = stamped(full["sdxl"], made(known, one, full["scratch"]), one.row, tmp_path / "plain")
    assert picture(engine) == picture(Engine.load(str(folder), one.row.steps, backend="eager"))
    assert picture(engine) != picture(Engine.load(str(folder), 16, backend="eager"))
    parameters = engine.generate(Request(PROMPT, 5, None, 64, 64)).record.parameters()
    assert f"Sampler: {one.row.sampler}" in parameters and ("SGM Uniform" in parameters) == (one.row.sampler == "Euler")


def test_turbo_is_a_whole_model(full: dict[str, Path]) -> None:
    engine = Engine.load("sdxl-turbo", backend="eager")
    assert (engine.limits.students, engine.limits.teacher, engine.limits.default_steps) == ((1, 2, 3, 4), False, 1)
    pictures = {picture(engine, steps) for steps in (1, 2, 4)}
    assert len(pictures) == 3
    assert engine.model.stamp(4) == (KNOWN["sdxl-turbo"].rows or {})[4]
    with pytest.raises(RequestError, match="8 steps were asked for, and sdxl-turbo has weights for 1, 2, 3 and 4 steps: use --steps 4"):
        open_model("sdxl-turbo", 8)


def test_sdxl_is_a_teacher_of_50_steps_by_its_own_scheduler(full: dict[str, Path]) -> None:
    engine = Engine.load("sdxl", backend="eager")
    assert (engine.limits.students, engine.limits.teacher, engine.limits.default_steps) == ((), True, 50)
    stamp = engine.model.stamp(50)
    assert (stamp.timesteps[0], stamp.timesteps[-1], stamp.start_scale, stamp.guidance_scale) == (981, 1, 1.0, 5.0)
    assert picture(engine, 16) == picture(Engine.load(str(full["sdxl"]), backend="eager"), 16)


def test_an_id_of_the_hub(full: dict[str, Path]) -> None:
    by_id, by_name = (open_model(name, 50) for name in (KNOWN["sdxl"].repo, "sdxl"))
    assert by_id.folder == by_name.folder
    assert by_id.limits.name == KNOWN["sdxl"].repo


def test_the_cache_is_where_huggingface_hub_says(full: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in KNOWN.values():
        for name in ["model_index.json", "nothing", *(one.file for one in known.weights)]:
            theirs = try_to_load_from_cache(known.repo or "no/body", name, cache_dir=full["cache"])
            assert hub.cached(known.repo or "no/body", name) == (Path(theirs) if isinstance(theirs, str) else None)
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert hub.cache() == tmp_path / "hub"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.cache() == tmp_path / "huggingface" / "hub"


@pytest.mark.parametrize("known", [known for known in KNOWN.values() if known.repo], ids=lambda known: known.name)
def test_what_is_not_there_is_a_command_to_type(empty: Path, known: Known) -> None:
    with pytest.raises(ModelError) as caught:
        open_model(known.name)
    said = str(caught.value)
    assert f"hf download {known.repo}" in said and "\n" not in said
    if known.weights:
        assert f"&& hf download {KNOWN['sdxl'].repo} model_index.json" in said
        assert known.choose(known.default_steps).file in said  # type: ignore[union-attr]


def test_only_what_is_missing_is_fetched(full: dict[str, Path], empty: Path, tmp_path: Path) -> None:
    """``empty`` comes last: its cache is the one that counts."""
    files = {str(path.relative_to(full["sdxl"])): path for path in full["sdxl"].rglob("*") if path.is_file() and path.parent.name != "vae"}
    publish(empty, KNOWN["sdxl"].repo, files)
    with pytest.raises(ModelError) as caught:
        open_model("sdxl")
    assert str(caught.value).endswith(f"hf download {KNOWN['sdxl'].repo} vae/config.json vae/diffusion_pytorch_model.fp16.safetensors")
    states = {entry.known.name: entry for entry in entries()}
    assert states["sdxl"].state == "partly here" and states["sdxl-lightning"].state == "not here" and states["emoji"].state == "here"
    publish(empty, KNOWN["sdxl"].repo, {str(path.relative_to(full["sdxl"])): path for path in full["sdxl"].glob("vae/*")})
    lightning = KNOWN["sdxl-lightning"]
    publish(empty, lightning.repo, {one.file: made(lightning, one, full["scratch"]) for one in lightning.weights if one.row.steps == 2})
    assert open_model("sdxl-lightning").limits.default_steps == 2
    with pytest.raises(ModelError, match=r"fetch it with: hf download ByteDance/SDXL-Lightning sdxl_lightning_8step_unet\.safetensors$"):
        open_model("sdxl-lightning", 8)


def test_a_wrong_step_count_names_those_there_are(full: dict[str, Path]) -> None:
    with pytest.raises(StepMismatch, match="3 steps were asked for, and sdxl-lightning has weights for 1, 2, 4 and 8: use --steps 2"):
        open_model("sdxl-lightning", 3)
    with pytest.raises(StepMismatch, match="1 steps were asked for, and sdxl-lightning-lora has weights for 2, 4 and 8: use --steps 2"):
        open_model("sdxl-lightning-lora", 1)


def test_a_published_pickle_is_not_opened_but_its_conversion_is(full: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="published as a pickle"):
        open_model("dmd2", 1)
    one = KNOWN["dmd2"].choose(1)
    assert one is not None
    path = make(one, tmp_path / "dmd2_sdxl_1step_unet_fp16.safetensors")
    engine = Engine.load(str(path), backend="eager")
    assert engine.model.stamp(1) == one.row and engine.model.folder == open_model("sdxl").folder
    picture(engine)


def test_few_step_weights_on_a_fine_tune(full: dict[str, Path], tmp_path: Path) -> None:
    mine = plain(tmp_path / "mine", seed=9, variant="")
    lora = KNOWN["sdxl-lightning-lora"].choose(4)
    assert lora is not None
    folder = stamped(mine, made(KNOWN["sdxl-lightning-lora"], lora, full["scratch"]), lora.row, tmp_path / "plain")
    expected = picture(Engine.load(str(folder), 4, backend="eager"))
    ways = [
        {"few_step": "lightning-lora:4", "base": str(mine)},
        {"few_step": "sdxl-lightning-lora:4", "model": str(mine)},
        {"model": "sdxl-lightning-lora", "base": str(mine), "steps": 4},
        {"few_step": str(hub.cached(KNOWN["sdxl-lightning-lora"].repo, lora.file)), "base": str(mine)},
    ]
    for way in ways:
        engine = Engine.load(backend="eager", **way)  # type: ignore[arg-type]
        assert engine.limits.default_steps == 4
        assert picture(engine) == expected, way
    assert picture(Engine.load("sdxl-lightning-lora", 4, backend="eager")) != expected
    with pytest.raises(ModelError, match="already is a few-step model"):
        open_model(few_step="lightning-lora:4", base="sdxl-turbo")
    with pytest.raises(ModelError, match="use LoRAs"):
        open_model(few_step="lightning:4", base=str(mine))
    with pytest.raises(StepMismatch, match="use --steps 4"):
        open_model(few_step="lightning-lora:4", base=str(mine), steps=8)
    with pytest.raises(ModelError, match="there are no few-step weights 'nothing:4'"):
        open_model(few_step="nothing:4", base=str(mine))
    with pytest.raises(ModelError, match="give one of them"):
        open_model("sdxl", few_step="lightning-lora:4", base=str(mine))
    with pytest.raises(ModelError, match="is a whole model"):
        open_model("sdxl", base=str(mine))


def test_a_lora_that_nobody_knows_is_sampled_as_lightning_is(full: dict[str, Path], tmp_path: Path) -> None:
    path = make(Weights("mine.safetensors", 0, Stamp("lora", 4)), tmp_path / "mine.safetensors")
    with pytest.raises(ModelError, match=r"mine\.safetensors:STEPS"):
        open_model(few_step=str(path), base="sdxl")
    assert open_model(few_step=f"{path}:4", base="sdxl").stamp(4) == Stamp("lora", 4)
    with pytest.raises(ModelError, match="does not say how many steps"):
        open_model(str(path))


@pytest.mark.parametrize("key", ["beta_end", "rescale_betas_zero_snr"])
def test_another_noise_schedule_is_refused(tmp_path: Path, key: str) -> None:
    folder = plain(tmp_path / "other")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: 1}))
    with pytest.raises(ModelError, match=f"{key} is 1, and fewstep knows"):
        open_model(str(folder))


def test_a_v_prediction_model_says_so_in_its_scheduler(tmp_path: Path) -> None:
    folder = plain(tmp_path / "v")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    assert open_model(str(folder)).stamp(20).prediction_type == "v_prediction"


def test_a_records_hash_tells_bases_apart(full: dict[str, Path], tmp_path: Path) -> None:
    mine = plain(tmp_path / "mine", seed=9)
    on_sdxl, on_mine = open_model("sdxl-lightning-lora", 4), open_model("sdxl-lightning-lora", 4, base=str(mine))
    assert on_sdxl.hash(4) != on_mine.hash(4)
    assert open_model("sdxl").hash(50) == on_sdxl.hash(50)


def test_the_command_line_takes_them_and_makes_the_picture_again(full: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = str(plain(tmp_path / "mine", seed=9)), tmp_path / "a.png"
    few = ["--base", base, "--few-step", "lcm-lora:4"]

    def fewstep(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(words)
        captured = capsys.readouterr()
        assert left.value.code == 0, captured.err
        return captured.out

    made = json.loads(fewstep("generate", PROMPT, "--seed", "5", "--size", "64x64", "--backend", "eager", "--out", str(out), "--json", *few))
    assert (made["model"], made["steps"]) == ("lcm-lora on mine", 4)
    again = tmp_path / "b.png"
    fewstep("generate", "--from", str(out), "--out", str(again), *few)
    assert again.read_bytes() == out.read_bytes()
    with pytest.raises(SystemExit) as left:
        main(["generate", "--from", str(out), "--out", str(tmp_path / "c.png"), "--base", base, "--few-step", "hyper-sd:4"])
    assert left.value.code == 2 and "the picture was made with weights" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lcm-lora", "sdxl-turbo"])
def test_an_image_is_begun_from_with_families_that_draw_noise_anew(full: dict[str, Path], name: str) -> None:
    """Half of the steps: the draws are those of the steps that are run, so a stream and a batch make the same picture."""
    engine = Engine.load(name, 4, backend="eager")
    image = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    request = Request(PROMPT, 5, 4, 64, 64, image=image, strength=0.5)
    alone = engine.generate(request)
    *_, last = engine.stream(request)
    _, batched = engine.generate_many([dataclasses.replace(request, seed=6), request])
    assert alone.strength == 0.5 and np.asarray(alone.image).std() > 5
    assert last.image.tobytes() == alone.image.tobytes()
    assert np.abs(np.subtract(np.asarray(alone.image, int), np.asarray(batched.image, int))).max() <= 2


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("fewstep.models.students.ROOM", 0)
    yield


@pytest.mark.usefixtures("single")
def test_one_network_wears_all_students_in_turn(full: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A LoRA, a UNet, the teacher, in any order: to the bit what each is alone, in the same tensors."""
    engine = Engine.load("hyper-sd", 4, backend="eager")
    unets: Unets = engine.backend._unets  # type: ignore[attr-defined]
    assert unets.single
    places = [weight.data_ptr() for weight in engine.backend._unet(4).parameters()]  # type: ignore[attr-defined]
    monkeypatch.setattr("fewstep.models.students.ROOM", 1 << 40)
    alone = {steps: picture(Engine.load("hyper-sd", steps, backend="eager")) for steps in (1, 2, 4, 16)}
    for steps in (4, 1, 16, 2, 4, 2, 1, 1, 16, 4):
        assert picture(engine, steps) == alone[steps], steps
    assert [weight.data_ptr() for weight in engine.backend._unet(4).parameters()] == places  # type: ignore[attr-defined]
    assert engine.backend._unet(1) is engine.backend._unet(16)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("single")
def test_a_network_may_be_exchanged_between_two_evaluations(full: dict[str, Path]) -> None:
    engine = Engine.load("hyper-sd", 4, backend="eager")
    expected = picture(engine, 4)
    frames = engine.stream(Request(PROMPT, 5, 4, 64, 64))
    next(frames)
    picture(engine, 2)
    *_, last = frames
    assert last.image.tobytes() == expected


@pytest.mark.usefixtures("single")
def test_a_student_that_cannot_be_worn_leaves_the_network_as_it_is(full: dict[str, Path], tmp_path: Path) -> None:
    engine = Engine.load("hyper-sd", 4, backend="eager")
    expected, unets = picture(engine), engine.backend._unets  # type: ignore[attr-defined]
    one = KNOWN["hyper-sd"].choose(1)
    assert one is not None
    bad = make(dataclasses.replace(one, file="bad"), tmp_path / "bad.safetensors")
    tensors = load_file(bad)
    tensors["stranger"] = tensors.pop("conv_in.weight")
    save_file(tensors, bad)
    with pytest.raises(WeightsError, match="not the weights of this model"):
        unets.get(bad, lambda: one.row)
    assert picture(engine) == expected


def test_a_bundle_of_the_hubs_has_no_copy_of_its_unet(full: dict[str, Path]) -> None:
    """Side by side the base is the bundle's own network, and a student is one more."""
    bundle = load_bundle(open_model("sdxl").folder)
    unets = Unets(bundle, 2, lambda network: network)
    assert not unets.single and unets.get(None, lambda: Stamp("teacher", 50)) is bundle.unet
