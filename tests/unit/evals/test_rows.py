"""Rows on a real, tiny model: the sampler's pictures, whatever the batch."""

import numpy as np
import pytest
import torch
from tests.unit.evals.synthetic import SUBJECTS, WORLD

from fewstep.evals.judge import Judge
from fewstep.evals.prompts import held_out
from fewstep.evals.report import evaluate
from fewstep.evals.rows import rows_for
from fewstep.models.bundle import load_bundle
from fewstep.models.prompt import conditioning, encode, time_ids
from fewstep.models.students import student

QUESTIONS = held_out(WORLD, 4)


@pytest.fixture(scope="module")
def rows(tiny):
    return rows_for(tiny, WORLD, teacher_steps=16, backend="eager")


def test_every_row_paints_pictures_of_the_models_size(rows):
    assert list(rows) == ["renders", "reconstruction", "teacher", "8", "4", "2", "1"]
    for name, row in rows.items():
        pictures, milliseconds = row(QUESTIONS[:2], [5, 6])
        assert pictures.shape == (2, 256, 256, 3) and pictures.dtype == np.uint8, name
        assert milliseconds > 0


@pytest.mark.parametrize("name", ["renders", "reconstruction", "teacher", "2", "1"])
def test_a_picture_depends_on_its_own_seed_and_not_on_its_neighbours(rows, name):
    together = rows[name](QUESTIONS, [7, 8, 9, 10])[0]
    alone = rows[name](QUESTIONS[2:3], [9])[0]
    assert np.abs(together[2].astype(int) - alone[0]).max() <= 2
    assert not np.array_equal(rows[name](QUESTIONS[2:3], [11])[0], alone)


def test_one_step_from_an_x0_student_decodes_what_the_network_says(rows, tiny):
    bundle = load_bundle(tiny)
    unet, stamp = student(bundle, 1)
    assert stamp.prediction_type == "sample"
    noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(12)) * stamp.start_scale
    with torch.inference_mode():
        given = conditioning(encode(bundle, [QUESTIONS[0].text]), time_ids(1, 256, 256))
        latents = unet(noise, 999, **given).sample / bundle.vae.config.scaling_factor
        picture = bundle.vae.decode(latents).sample[0].permute(1, 2, 0) / 2 + 0.5
    expected = (picture.clamp(0, 1) * 255).round().numpy()
    assert np.abs(rows["1"](QUESTIONS[:1], [12])[0][0] - expected).max() <= 1


def test_the_whole_table_comes_out_of_a_real_model(rows):
    torch.manual_seed(0)
    judge = Judge([subject.name for subject in SUBJECTS], channels=(8, 16, 16)).eval()
    report = evaluate({name: rows[name] for name in ("renders", "reconstruction", "teacher", "1")}, QUESTIONS, judge, WORLD, batch=2)
    assert [result.name for result in report.results] == ["renders", "reconstruction", "teacher", "1"]
    assert all(np.isfinite([r.frechet, r.patch_frechet, r.sharpness, r.milliseconds]).all() for r in report.results)
    assert report.results[3].distance is not None and report.results[3].distance > 0
