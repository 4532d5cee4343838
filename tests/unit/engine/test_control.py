"""Control images in requests: what is left out, refused, recorded and made again; and who computes where the backend cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests import loras, nets
from tests.alike import difference
from tests.headers import sparse
from tests.hub import publish

from fewstep.engine.control import Control, acts, find_net, parse_net
from fewstep.engine.engine import Engine
from fewstep.engine.files import read_record
from fewstep.engine.request import Request, RequestError
from fewstep.models.bundle import load_bundle

PROMPT = "a pizza"


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.load(str(tiny), 2, backend="eager")


@pytest.fixture(scope="module")
def net(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nets") / "edges"
    nets.build(load_bundle(tiny), 1).save_pretrained(folder)
    return folder


def image(size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.effect_mandelbrot(size, (-2, -1, 1, 1), 50).convert("RGB")


def asked(*control: Control, **more: Any) -> Request:
    return Request(PROMPT, **{"seed": 3, "steps": 2, "width": 64, "height": 64} | more, control=control)


def test_no_weight_is_no_controlnet_to_the_bit(engine: Engine, net: Path) -> None:
    plain = engine.generate(asked())
    nothing = engine.generate(asked(Control(image(), weight=0, net=net)))
    assert nothing.image.tobytes() == plain.image.tobytes() and nothing.record == plain.record
    assert difference(engine.generate(asked(Control(image(), net=net))), plain) > 5


def test_zero_convolutions_are_no_controlnet(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    nets.build(load_bundle(tiny), 1, size=0.0).save_pretrained(tmp_path / "net")
    assert difference(engine.generate(asked(Control(image(), net=tmp_path / "net"))), engine.generate(asked())) == 0


def test_it_acts_in_the_steps_that_lie_whole_within_its_share() -> None:
    assert acts(0, 1, 1) == [True]
    assert acts(0, 0.5, 4) == [True, True, False, False]
    assert acts(0.5, 1, 4) == [False, False, True, True]
    assert acts(0.1, 0.9, 2) == [False, False]


def test_a_picture_has_its_control_images_size(engine: Engine, net: Path) -> None:
    settled = engine.limits.settle(Request(PROMPT, control=[Control(image((96, 64)), net=net)]))
    assert (settled.width, settled.height) == (96, 64)
    assert settled.control[0].pixels.shape == (64, 96, 3)


def test_only_pictures_with_the_same_nets_are_made_together(engine: Engine, net: Path) -> None:
    kinds = [
        engine.limits.settle(asked(*control)).kind
        for control in ((), [Control(image(), net=net)], [Control(image().rotate(90), net=net)], [Control(image(), net=net, weight=0.5)])
    ]
    assert kinds[1] == kinds[2] and len(set(kinds)) == 3


def test_it_is_recorded_and_made_again_to_the_bit(engine: Engine, net: Path, tmp_path: Path) -> None:
    control = [Control(image(), "lineart", 0.75, net), Control(image().rotate(90), net=net, start=0.5)]
    made = engine.generate(asked(*control, width=96))
    record = read_record(made.save(tmp_path / "a.png"))
    assert record == made.record and record.control is not None and record.control[0].net == "edges"
    assert 'ControlNet 0: "Module: lineart, Model: edges [' in record.parameters() and "Guidance Start: 0.5" in record.parameters()
    assert engine.repeat(record, control=control).image.tobytes() == made.image.tobytes()
    for wrong in ((), control[::-1], [dataclasses.replace(control[0], weight=1.0), control[1]]):
        with pytest.raises(RequestError, match=r"followed lineart hint .* and given hint .* give those, in their order, with --control"):
            engine.repeat(record, control=wrong)
    with pytest.raises(RequestError, match="followed no control image"):
        engine.repeat(engine.generate(asked()).record, control=control)


def written(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A ControlNet for SDXL at full size, by its names and shapes, with a ``change``."""
    shapes = {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 2048)}
    return sparse(folder / "net.safetensors", change(shapes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda own: {name: (320, 768) if "to_k" in name else shape for name, shape in own.items()},
            "a ControlNet for Stable Diffusion 1.5, and .* is another",
        ),
        (lambda own: own, "a ControlNet for SDXL, and .* is another model: give one that was made for"),
        (lambda own: {"control_model.zero_convs.0.0.weight": (320, 320, 1, 1)}, "in the original layout: give it in diffusers' names"),
        (lambda own: {"down_blocks.0.resnets.0.conv1.weight": (32, 32, 3, 3)}, "is no ControlNet, but a UNet"),
        (lambda own: {name: shape for name, shape in own.items() if "to_k" not in name}, "'conv_in.weight' is missing; .*; and [0-9]+ more"),
    ],
)
def test_one_for_another_model_is_a_sentence(engine: Engine, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        engine.limits.settle(asked(Control(image(), net=written(tmp_path, change))))


def test_files_that_are_none_are_sentences(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    path = loras.write(loras.kohya(loras.factors(load_bundle(tiny), 1)), tmp_path / "style.safetensors")
    (tmp_path / "net.safetensors").write_bytes(b"PK\x03\x04" + bytes(64))
    (tmp_path / "net.ckpt").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    cases = {
        path: "is no ControlNet, but a LoRA",
        tmp_path / "net.safetensors": "a zip archive",
        tmp_path / "net.ckpt": "only safetensors files are read",
        tmp_path / "empty": "there is no such file",
        tmp_path / "nowhere": "there is no such ControlNet: give one with --controlnet",
        Path("some/net"): "fetched with: hf download some/net config.json diffusion_pytorch_model.safetensors$",
    }
    for net, said in cases.items():
        with pytest.raises(RequestError, match=said):
            engine.limits.settle(asked(Control(image(), net=net)))
    with pytest.raises(RequestError, match="tiny has no ControlNet of its own: give one with --controlnet"):
        engine.limits.settle(asked(Control(image())))


@pytest.mark.parametrize("name", ["a\0", "\ud800", "x" * 5000])
def test_a_name_that_no_file_can_have_is_a_sentence(engine: Engine, name: str) -> None:
    with pytest.raises(RequestError, match=f"^{name[:200]}: there is no such ControlNet: give one"):
        find_net(name, engine.model)


def test_the_hubs_cache_is_looked_into(engine: Engine, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    publish(tmp_path, "someone/canny-xl", {path.name: path for path in net.iterdir()})
    (hint,) = engine.limits.settle(asked(Control(image(), net="someone/canny-xl"))).control
    assert (hint.net.name, hint.net.hash) == ("canny-xl", find_net(net, engine.model).hash)


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ("edges.png", "give a list of Control"),
        (["edges.png"], "give a list of Control"),
        ([Control(image())] * 5, "5 control images were given: give at most 4"),
        ([Control("edges.png")], "give a PIL image"),  # type: ignore[arg-type]
        ([Control(Image.new("L", (5000, 5000)))], "5000x5000 pixels: give one of at most"),
        ([Control(image(), "pose")], "hint = 'pose': give one of given, canny"),
        ([Control(image(), weight=-1)], "the weight of a ControlNet is -1: give a number from 0 to 10"),
        ([Control(image(), weight=float("nan"))], "the weight of a ControlNet is nan"),
        ([Control(image(), start=True)], "the start of a ControlNet is True"),
        ([Control(image(), net=3)], "net = 3: give a ControlNet's folder"),  # type: ignore[arg-type]
    ],
)
def test_a_control_that_cannot_be_is_a_sentence(control: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Request(PROMPT, control=control)


def test_one_that_would_act_in_no_step_is_a_sentence(engine: Engine, net: Path) -> None:
    with pytest.raises(RequestError, match=r"from 0 to 0\.5 of 1 step, and no step lies within"):
        engine.limits.settle(asked(Control(image(), net=net, end=0.5), steps=1))


def test_the_words_of_a_command_line() -> None:
    assert parse_net("own") == (None, 1.0, 0.0, 1.0)
    assert parse_net("C:/nets/a.safetensors:0.8") == ("C:/nets/a.safetensors", 0.8, 0.0, 1.0)
    assert parse_net("a:b:0.25-0.75") == ("a:b", 1.0, 0.25, 0.75)
    assert parse_net("own:2:0-0.5") == (None, 2.0, 0.0, 0.5)
    with pytest.raises(RequestError, match="write it as FILE, FILE:WEIGHT"):
        parse_net("a:1.2.3")


def test_where_the_backend_cannot_another_may_beside_it(engine: Engine, net: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it goes on with what needs none of it."""
    able, request = engine.generate(asked(Control(image(), net=net))), asked(Control(image(), net=net))
    other = Engine.load(str(tiny), 2, backend="eager")
    monkeypatch.setattr(other.backend, "no_control", "it cannot: use --backend eager", raising=False)
    with pytest.raises(RequestError, match="it cannot"):
        other.generate(request)
    other._others = ["eager"]
    frames = list(other.stream(request))
    assert frames[-1].picture is not None and frames[-1].picture.image.tobytes() == able.image.tobytes()
    assert frames[0].image.size == (64, 64)
    own = other.backend
    assert other.generate(asked()).image.tobytes() == engine.generate(asked()).image.tobytes() and other.backend is own
