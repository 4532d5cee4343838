"""A stack of LoRAs over a loaded model: the same in any order, off to the bit, told in the record; and what does not go together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests import loras, tiny
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.engine.adapters import FEW_STEP, _plain, find_again, find_stack, parse_lora
from fewstep.engine.engine import Engine
from fewstep.engine.files import read_record
from fewstep.engine.model import open_model
from fewstep.engine.request import Picture, Request, RequestError
from fewstep.models.bundle import load_bundle, save_weights
from fewstep.models.miniature import build_unet
from fewstep.stamp import Stamp, file_hash

PROMPT = "a red apple on a blue background"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Three LoRAs for the tiny model: "both" for UNet and text, "unet" and "text" for one of them."""
    bundle, folder = load_bundle(tiny), tmp_path_factory.mktemp("loras")
    for seed, (name, parts) in enumerate({"both": (loras.UNET, *loras.TEXTS), "unet": (loras.UNET,), "text": loras.TEXTS}.items()):
        loras.write(loras.kohya(loras.factors(bundle, seed, parts=parts), alpha=2.0), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.load(str(tiny), backend="eager")


def make(engine: Engine, *stack: tuple[Path, float], steps: int = 4) -> Picture:
    return engine.generate(Request(PROMPT, 3, steps, 64, 64, loras=stack))


def pixels(picture: Picture) -> bytes:
    return picture.image.tobytes()


def test_in_any_order_it_is_the_same_stack(engine: Engine, folder: Path) -> None:
    one, other = (folder / "both.safetensors", 0.7), (folder / "unet.safetensors", -0.4)
    assert pixels(make(engine, one, other)) == pixels(make(engine, other, one)) != pixels(make(engine, one))


def test_a_weight_of_nothing_is_the_plain_picture_to_the_bit(engine: Engine, folder: Path) -> None:
    plain = make(engine)
    nothing = make(engine, (folder / "both.safetensors", 0.0))
    assert pixels(nothing) == pixels(plain) and nothing.record.loras is None


def test_twice_at_half_is_once_at_all_but_for_rounding(engine: Engine, folder: Path) -> None:
    path = folder / "both.safetensors"
    twice, once = (np.asarray(make(engine, *stack).image, int) for stack in ([(path, 0.5), (path, 0.5)], [(path, 1.0)]))
    assert np.abs(twice - once).max() <= 1


def test_every_part_of_a_stack_matters(engine: Engine, folder: Path) -> None:
    """A LoRA of the text encoders too: prompts that were encoded before are encoded anew."""
    seen = {
        pixels(make(engine, *stack))
        for stack in ([], *([(folder / f"{name}.safetensors", weight)] for name in ("both", "unet", "text") for weight in (0.5, 1)))
    }
    assert len(seen) == 7


@pytest.mark.parametrize("room", [0, 1 << 40], ids=["one network", "side by side"])
def test_stacks_take_turns_over_all_students_to_the_bit(folder: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """What each is in an engine of its own."""
    stacks = {"": [], "both": [(folder / "both.safetensors", 1.0)], "unet": [(folder / "unet.safetensors", 0.5)]}
    alone = {(name, steps): pixels(make(Engine.load(str(tiny), backend="eager"), *stacks[name], steps=steps)) for name in stacks for steps in (2, 16)}
    monkeypatch.setattr("fewstep.models.students.ROOM", room)
    engine = Engine.load(str(tiny), backend="eager")
    for name, steps in [("both", 16), ("", 2), ("both", 2), ("unet", 16), ("both", 16), ("", 16), ("unet", 2), ("both", 2), ("", 2)]:
        assert pixels(make(engine, *stacks[name], steps=steps)) == alone[name, steps], (name, steps)


def test_an_engines_own_stack_is_for_requests_that_name_none(tiny: Path, folder: Path) -> None:
    path = folder / "both.safetensors"
    engine = Engine.load(str(tiny), backend="eager", loras=[(path, 0.5)])
    own = engine.generate(Request(PROMPT, 3, 4, 64, 64))
    assert own.record.loras == (("both", 0.5, file_hash(path)),)
    assert "adapters" in own.timings and "adapters" not in engine.generate(Request(PROMPT, 3, 4, 64, 64)).timings
    plain = make(engine)
    assert plain.record.loras is None and "adapters" in plain.timings
    engine.use_loras([])
    assert pixels(engine.generate(Request(PROMPT, 3, 4, 64, 64))) == pixels(plain) != pixels(own)
    with pytest.raises(RequestError, match="there is no such file"):
        engine.use_loras([(folder / "none.safetensors", 1.0)])


def test_pictures_of_other_stacks_are_of_another_kind(engine: Engine, folder: Path) -> None:
    path = folder / "both.safetensors"
    requests = [Request(PROMPT, seed, 4, 64, 64, loras=[(path, weight)] if weight else ()) for seed in (1, 2) for weight in (0.0, 0.5, 1.0)]
    pictures = list(engine.generate_many(requests))
    assert {engine.limits.settle(request).kind for request in requests[:3]} == {engine.limits.settle(request).kind for request in requests[3:]}
    assert [picture.record.batch for picture in pictures] == [2] * 6
    for request, picture in zip(requests, pictures, strict=True):
        difference = np.abs(np.asarray(engine.generate(request).image, int) - np.asarray(picture.image, int)).max()
        assert difference <= 2


def test_another_stack_between_two_evaluations_changes_nothing(engine: Engine, folder: Path) -> None:
    request = Request(PROMPT, 3, 4, 64, 64, loras=[(folder / "both.safetensors", 1.0)])
    expected = pixels(engine.generate(request))
    frames = engine.stream(request)
    next(frames)
    make(engine)
    *_, last = frames
    assert last.image.tobytes() == expected


@pytest.mark.parametrize(
    "loras", ["a.safetensors", [("a.safetensors",)], [("", 1.0)], [("a", "b")], [("a", True)], [("a", float("nan"))], [("a", 21)], [("a", 1)] * 17]
)
def test_what_is_no_stack_is_a_sentence(loras: object) -> None:
    with pytest.raises(RequestError, match=r"^(loras = |the weight of a is|17 LoRAs were given)"):
        Request(PROMPT, loras=loras)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a\0.safetensors", "\ud800.safetensors"])
def test_a_name_that_no_file_can_have_is_a_sentence(tiny: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"^'.*\\.*safetensors': no file can have this name: give the path of a .safetensors file"):
        find_stack(open_model(str(tiny), 1), (), [(name, 1.0)], 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style.safetensors", ("style.safetensors", None)),
        ("style.safetensors:0.8", ("style.safetensors", 0.8)),
        ("style.safetensors:-1", ("style.safetensors", -1.0)),
        (r"C:\loras\style.safetensors", (r"C:\loras\style.safetensors", None)),
        (r"C:\loras\style.safetensors:.5", (r"C:\loras\style.safetensors", 0.5)),
        ("a:1.safetensors", ("a:1.safetensors", None)),
        ("a:1.safetensors:2", ("a:1.safetensors", 2.0)),
    ],
)
def test_a_colon_before_a_number_is_a_weight(text: str, expected: tuple[str, float | None]) -> None:
    assert parse_lora(text) == expected


@pytest.mark.parametrize("text", ["", "style", "style:0.8", "style.safetensors:", "style.safetensors:much", "style.ckpt:0.8", ":0.8"])
def test_anything_else_is_a_sentence(text: str) -> None:
    with pytest.raises(RequestError, match="write it as"):
        parse_lora(text)


@given(st.text(max_size=40))
def test_any_words_are_a_file_or_a_sentence(text: str) -> None:
    try:
        name, _ = parse_lora(text)
    except RequestError:
        return
    assert name.endswith(".safetensors") and text.startswith(name)


def stamped(folder: Path, name: str, base: str = "", steps: int = 4) -> Path:
    """ "unet" as a LoRA that says it is for so many steps."""
    return stamp(folder, f"{name}.safetensors", Stamp("lora", steps, base=base))


def stamp(folder: Path, name: str, stamp: Stamp | None, **metadata: str) -> Path:
    save_weights(load_file(folder / "unet.safetensors"), folder / name, {**(stamp.to_metadata() if stamp else {"format": "pt"}), **metadata})
    return folder / name


def test_few_step_loras_on_few_step_weights_are_refused(engine: Engine, folder: Path, tiny: Path) -> None:
    few = stamped(folder, "few", base=file_hash(tiny / "unet" / "diffusion_pytorch_model.safetensors"))
    with pytest.raises(RequestError, match=r"few\.safetensors makes a model few-step \(its stamp says 4 steps\), .* tiny for 2 steps are so already"):
        make(engine, (few, 1.0), steps=2)
    with pytest.raises(RequestError, match="and 16 steps of tiny are not: give it as --few-step"):
        make(engine, (few, 1.0), steps=16)
    named = stamp(folder, "sdxl_lightning_4step_lora.safetensors", None)
    with pytest.raises(RequestError, match=r"sdxl_lightning_4step_lora\.safetensors is for 4 steps"):
        make(engine, (named, 1.0))
    titled = stamp(folder, "mine.safetensors", None, ss_output_name="My LCM LoRA")
    with pytest.raises(RequestError, match="it is called 'My LCM LoRA'"):
        make(engine, (titled, 1.0))
    with pytest.raises(RequestError, match=r"two LoRAs that each make a model few-step .*: give one of (few|mine)\.safetensors .* and "):
        make(engine, (few, 1.0), (titled, 1.0))


def test_a_few_step_lora_that_was_made_for_these_weights_is_not(engine: Engine, folder: Path, tiny: Path) -> None:
    own = stamped(folder, "own", base=file_hash(tiny / "students" / "4-step.safetensors"))
    assert pixels(make(engine, (own, 1.0))) == pixels(make(engine, (folder / "unet.safetensors", 1.0)))
    with pytest.raises(RequestError, match="are so already"):
        make(engine, (own, 1.0), steps=2)


@pytest.mark.parametrize(
    ("name", "few"),
    [
        ("sdxl_lightning_4step_lora", True),
        ("Hyper-SDXL-8steps-lora", True),
        ("lcm-lora-sdxl", True),
        ("dmd2_sdxl_4step_lora_fp16", True),
        ("sdxl-turbo-lora", True),
        ("models--latent-consistency--lcm-lora-sdxl", True),
        ("lightning_bolts_style", False),
        ("hyperrealism_v2", False),
        ("turbocharged cars", False),
        ("porsche-911-turbo", False),
        ("Turbo the snail", False),
        ("realvis_turbo_8steps", True),
        ("step by step drawing", False),
        ("add-detail-xl", False),
    ],
)
def test_well_known_few_step_names_are_told_from_subjects(name: str, few: bool) -> None:
    assert bool(FEW_STEP.search(_plain(name))) is few


def test_a_lora_for_another_model_is_refused_and_the_next_picture_is_right(engine: Engine, folder: Path) -> None:
    plain = pixels(make(engine))
    wider = tiny.build_unet(tiny.Shape(**{**vars(tiny.SHAPE), "unet_channels": (32, 96, 96)}))
    bundle = tiny.build()
    bundle.unet = wider
    path = loras.write(loras.kohya(loras.factors(bundle, 1, parts=(loras.UNET,))), folder / "wider.safetensors")
    with pytest.raises(RequestError, match=r"this LoRA is not for this model: '.*; '.*; '.*; and \d+ more"):
        make(engine, (path, 1.0))
    assert pixels(make(engine)) == plain


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.stdout, str(result.exception or "")


def test_the_command_line_makes_and_repeats(tiny: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record names its LoRAs by hash: the files are given again, or lie beside the picture under their names."""
    common = ("--model", tiny, "--backend", "eager")
    path, other, out = folder / "both.safetensors", folder / "text.safetensors", tmp_path / "one.png"
    code, said, error = run("generate", PROMPT, "--seed", 3, "--size", "64x64", *common, "--lora", f"{path}:0.5", "--lora", other, "--out", out, "--json")
    assert code == 0, error
    assert {lora["name"]: lora["weight"] for lora in json.loads(said)["loras"]} == {"both": 0.5, "text": 1.0}
    record = read_record(out)
    assert sorted(record.loras or ()) == [("both", 0.5, file_hash(path)), ("text", 1.0, file_hash(other))]
    assert "<lora:both:0.5>" in record.parameters() and f"both: {file_hash(path)}" in record.parameters()

    def again(*files: object) -> tuple[int, str]:
        code, _, error = run("generate", "--from", out, "--model", tiny, "--out", tmp_path / "two.png", *(word for file in files for word in ("--lora", file)))
        return code, error

    assert again(other, path) == (0, "")
    assert (tmp_path / "two.png").read_bytes() == out.read_bytes()
    assert "with the LoRA 'both'" in again(other)[1]
    assert "not what the picture was made with: give" in again(other, path, folder / "unet.safetensors")[1]
    assert "the picture says its weights itself" in again(other, f"{path}:0.5")[1]
    for file in (path, other):
        shutil.copy(file, tmp_path)
    assert again() == (0, "")
    shutil.copy(folder / "unet.safetensors", tmp_path / "both.safetensors")
    assert "both.safetensors is another of that name" in again()[1]


def test_a_picture_without_loras_takes_none(folder: Path) -> None:
    with pytest.raises(RequestError, match="it had no LoRAs"):
        find_again((), [str(folder / "both.safetensors")], ())


def test_a_name_in_a_picture_leads_to_no_other_folder(folder: Path, tmp_path: Path) -> None:
    own = file_hash(folder / "both.safetensors")
    (tmp_path / "in").mkdir()
    shutil.copy(folder / "both.safetensors", tmp_path)
    assert find_again([("both", 1.0, own)], [], [tmp_path]) == [(tmp_path / "both.safetensors", 1.0)]
    for name in ("../both", str(tmp_path / "both")):
        with pytest.raises(RequestError, match="give that file with --lora"):
            find_again([(name, 1.0, own)], [], [tmp_path / "in"])


def test_a_float32_base_makes_the_same_student_with_a_lora_by_either_reader(tmp_path: Path) -> None:
    """Sums of a LoRA that is a student are rounded to float16, and nothing else is."""
    from fewstep.engine.backends.graphs import Graphs
    from fewstep.models.students import read_student

    place = tiny.tiny_bundle(tmp_path / "single", students=())
    path = place / "unet" / "diffusion_pytorch_model.safetensors"
    torch.manual_seed(5)
    save_weights({key: value.contiguous() for key, value in build_unet(tiny.SHAPE).state_dict().items()}, path, Stamp("teacher", 32).to_metadata())
    bundle = load_bundle(place)
    lora = place / "students" / "4.safetensors"
    save_weights(loras.kohya(loras.factors(bundle, 1, parts=(loras.UNET,))), lora, Stamp("lora", 4, base=bundle.hash).to_metadata())
    unet, stamp = read_student(bundle, lora)
    backend = Graphs.__new__(Graphs)
    backend.model = open_model(str(place))
    weights = backend._unet_weights(lora, stamp)
    changed = 0
    for name, value in unet.state_dict().items():
        difference = np.abs(value.numpy() - weights[name].astype(np.float32)).max()
        assert difference <= 2e-3 * np.abs(value.numpy()).max(), name
        changed += not torch.equal(value, bundle.unet.state_dict()[name])
        assert torch.equal(value, value.half().float()) or not (value - bundle.unet.state_dict()[name]).any()
        assert weights[name].dtype == (np.float16 if (value - bundle.unet.state_dict()[name]).any() else np.float32), name
    assert changed > 20


def test_damage_is_a_sentence_and_nothing_is_worn(engine: Engine, folder: Path) -> None:
    plain = pixels(make(engine))
    broken = load_file(folder / "unet.safetensors")
    broken[next(key for key in broken if "lora_up" in key)][0] = torch.nan
    path = loras.write(broken, folder / "nan.safetensors")
    with pytest.raises(RequestError, match=r"nan\.safetensors: .* not finite"):
        make(engine, (path, 1.0))
    assert pixels(make(engine)) == plain
