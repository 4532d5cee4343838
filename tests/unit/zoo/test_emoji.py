"""What ships in the package: small enough to, and of one piece."""

from __future__ import annotations

import json

from fewstep.engine.model import open_model
from fewstep.models.weights import FILE, TINY, check_decoder
from fewstep.stamp import file_hash
from fewstep.zoo.registry import find, peek


def test_the_embedded_model_is_at_most_40_megabytes() -> None:
    sizes = {path.relative_to(find("emoji")): path.stat().st_size for path in find("emoji").rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 40_000_000, sorted(sizes.items(), key=lambda item: -item[1])[:8]


def test_its_parts_belong_together() -> None:
    folder, model = find("emoji"), open_model("emoji")
    assert model.limits.students == (1, 2, 4, 8) and model.limits.teacher
    for path in model.students.values():
        stamp = peek(path)
        assert stamp is not None and stamp.phases and stamp.pictures and stamp.recipe
        assert stamp.base == model.hash(32), f"{path.name} was made for another teacher"
    assert (folder / TINY / FILE).is_file()
    check_decoder(folder)
    shapes = json.loads((folder / "graphs" / "weights.json").read_text())
    assert {"text", "unet", "decoder", "decoder_tiny", "encoder"} <= set(shapes)


def test_its_evaluation_is_of_the_weights_that_ship() -> None:
    about = json.loads((find("emoji") / "evaluation.json").read_text(encoding="utf8"))["about"]
    model = open_model("emoji")
    assert {steps: about[f"student {steps}"] for steps in model.limits.students} == {steps: model.hash(steps) for steps in model.limits.students}
    assert about["teacher"] == file_hash(model.unet)
