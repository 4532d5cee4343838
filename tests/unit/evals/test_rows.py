"""Rows on a real, tiny model: the sampler's pictures, whatever the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.evals.synthetic import SUBJECTS, WORLD

from fewstep.evals.judge import Judge
from fewstep.evals.prompts import held_out
from fewstep.evals.report import evaluate
from fewstep.evals.rows import Model, rows_for
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import cat, conditioning, encode, time_ids

QUESTIONS = held_out(WORLD, 4)


@pytest.fixture(scope="module")
def rows(tiny):
    return rows_for(tiny, WORLD, teacher_steps=2)


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


def test_the_same_seed_is_the_same_noise_and_students_differ_in_their_weights_alone(rows):
    student = rows["4"]
    assert isinstance(student, Model)
    twin = replace(student, stamp=replace(student.stamp))
    assert np.array_equal(student(QUESTIONS[:1], [3])[0], twin(QUESTIONS[:1], [3])[0])


def test_the_teacher_is_guided_away_from_the_null_prompt(rows):
    """û = u₀ + g·(u - u₀) at one network evaluation, against two separate calls."""
    teacher = rows["teacher"]
    assert teacher.stamp.guidance_scale == 5.0
    texts = [question.text for question in QUESTIONS[:2]]
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        prompt, ids = encode(teacher.bundle, texts), time_ids(2, 256, 256)
        prompted = teacher.unet(noise, 999, **conditioning(prompt, ids)).sample
        null = teacher.unet(noise, 999, **conditioning(prompt.null(), ids)).sample
        guided = denoiser(teacher.unet, prompt, ids, teacher.stamp.guidance_scale)
        assert torch.allclose(guided(noise, 999), null + 5.0 * (prompted - null), atol=1e-4)
        assert torch.allclose(guided(noise, torch.tensor([999, 999])), guided(noise, 999), atol=1e-5)
        assert cat(prompt.null(), prompt).embeds.shape[0] == 4


def test_one_step_from_an_x0_student_decodes_what_the_network_says(rows):
    student = rows["1"]
    assert student.stamp.prediction_type == "sample"
    noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(12)) * student.stamp.start_scale
    with torch.inference_mode():
        given = conditioning(encode(student.bundle, [QUESTIONS[0].text]), time_ids(1, 256, 256))
        latents = student.unet(noise, 999, **given).sample / student.bundle.vae.config.scaling_factor
        picture = student.bundle.vae.decode(latents).sample[0].permute(1, 2, 0) / 2 + 0.5
    expected = (picture.clamp(0, 1) * 255).round().numpy()
    assert np.abs(student(QUESTIONS[:1], [12])[0][0] - expected).max() <= 1


def test_the_whole_table_comes_out_of_a_real_model(rows):
    torch.manual_seed(0)
    judge = Judge([subject.name for subject in SUBJECTS], channels=(8, 16, 16)).eval()
    report = evaluate({name: rows[name] for name in ("renders", "reconstruction", "teacher", "1")}, QUESTIONS, judge, WORLD, batch=2)
    assert [result.name for result in report.results] == ["renders", "reconstruction", "teacher", "1"]
    assert all(np.isfinite([r.frechet, r.patch_frechet, r.sharpness, r.milliseconds]).all() for r in report.results)
    assert report.results[3].distance is not None and report.results[3].distance > 0
