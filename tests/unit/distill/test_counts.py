"""One student for several step counts: told which, and settled on one, it is the same network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import build, tiny_bundle

from fewstep.distill.latents import Samples
from fewstep.distill.plan import DistillPlan, EvaluationRecipe, Stage
from fewstep.distill.steps import Task
from fewstep.distill.walk import distill
from fewstep.models.bundle import read_stamp
from fewstep.models.counts import CONDITION, LAYER, learn_counts, settled, told
from fewstep.models.prompt import conditioning, encode, time_ids
from fewstep.schedule import CLEAN

RECIPES = Path(__file__).parents[3] / "recipes"
ONE = {"steps": 1, "teacher_steps": 8, "n": 8, "prediction_type": "sample", "convert": 2, "warm": 2, "full": 2}


def test_told_a_count_and_settled_on_it_the_network_is_the_same() -> None:
    bundle = build()
    unet, x, t = bundle.unet, torch.randn(3, 4, 16, 16), torch.tensor([999, 499, 10])
    conditions = conditioning(encode(bundle, ["a red apple"] * 3), time_ids(3, 256, 256))
    with torch.no_grad():
        before = unet(x, t, **conditions).sample
        learn_counts(unet, 4)
        assert torch.equal(unet(x, t, **conditions, **told(torch.tensor([0, 1, 3]), 4)).sample, before)  # nothing has been learnt yet
        torch.nn.init.normal_(unet.time_embedding.cond_proj.weight)
        each = [unet(x, t, **conditions, **told(torch.full((3,), place), 4)).sample for place in range(4)]
        tensors = {key: value.clone() for key, value in unet.state_dict().items()}
        unet.time_embedding.cond_proj = None
        for place, wanted in enumerate(each):
            own = settled(tensors, place)
            assert CONDITION not in own
            unet.load_state_dict(own)
            assert torch.allclose(unet(x, t, **conditions).sample, wanted, atol=1e-5)
            assert not torch.allclose(wanted, before, atol=1e-2)


def test_each_count_has_its_own_timesteps() -> None:
    count = 400
    samples = Samples(torch.zeros(count, 1, 1, 1), [""] * count, time_ids(count, 16, 16), list(range(count)), seed=0)
    jump = Task(None, None, 8, 8, (8,), counts=(8, 4, 2, 1)).jump(samples)  # type: ignore[arg-type]
    assert jump.place is not None
    for place, steps in enumerate((8, 4, 2, 1)):
        rows = jump.place == place
        assert 60 < int(rows.sum()) < 140
        starts = [round(1000 * k / steps) - 1 for k in range(1, steps + 1)]
        ends = [CLEAN, *starts]
        found = {(int(t), int(end)) for t, end in zip(jump.t[rows], jump.t_end[rows], strict=True)}
        assert found == set(zip(starts, ends, strict=False))


@pytest.mark.slow
def test_a_run_makes_one_student_for_several_counts(tmp_path: Path) -> None:
    """Whose files differ in one bias."""
    teacher = tiny_bundle(tmp_path / "teacher", students=())
    written = ", ".join(f"{key}={json.dumps(value)}" for key, value in {**ONE, "also": [2, 4]}.items())
    settings = ["data.pictures=4", "batch_size=4", "health.every=1", "health.stop=false", "evaluation.prompts=0", "method=mse", "r1_weight=0.0"]
    model = distill(RECIPES / "smoke.toml", tmp_path / "run", [*settings, f"teacher={json.dumps(str(teacher))}", f"stages=[{{{written}}}]"])
    files = {steps: load_file(model / "students" / f"{steps}-step-unet.safetensors") for steps in (1, 2, 4)}
    for steps in files:
        stamp = read_stamp(model / "students" / f"{steps}-step-unet.safetensors")
        assert stamp is not None
        assert (stamp.steps, stamp.prediction_type, stamp.phases) == (steps, "sample", ("convert", "warm", "full"))
    different = [key for key in files[1] if not torch.equal(files[1][key], files[4][key])]
    assert different == [f"{LAYER}.bias"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"also": (1, 2)}, "the fewest"),
        ({"also": (3,)}, "a multiple"),
        ({"also": (2,), "n": 4}, "give n = 8"),
        ({"also": (2,), "prediction_type": "epsilon", "convert": 0}, "predicts x0"),
        ({"also": (2,), "masked": 0.5}, "leave levels and masked out"),
    ],
)
def test_what_no_student_of_several_counts_can_be_is_a_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Stage(**{**ONE, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stages", "values", "sentence"),
    [
        (
            (Stage(8, 16, 2, full=2), Stage(4, 8, 2, full=2), Stage(1, 8, 8, prediction_type="sample", convert=2, full=2, also=(4,))),
            {},
            "4-step student already",
        ),
        ((Stage(1, 8, 8, prediction_type="sample", convert=2, full=2, also=(4,)), Stage(2, 4, 2, full=2)), {}, "teaches nobody"),
        ((Stage(1, 8, 8, prediction_type="sample", convert=2, full=2, also=(8,)), Stage(2, 8, 4, full=2)), {"start": "emoji:8"}, "8-step student already"),
        ((Stage(1, 8, 8, prediction_type="sample", convert=2, full=2, also=(2,)),), {"evaluation": EvaluationRecipe(ship="best")}, "one network"),
        ((Stage(1, 8, 8, prediction_type="sample", convert=2, full=2, also=(2,)),), {"sharded": True}, "sharded"),
    ],
)
def test_a_step_count_is_one_stages_to_make(stages: tuple[Stage, ...], values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DistillPlan("emoji", stages, **values)
