"""The report: figures that follow from constructed answers, and files that hold all of it."""

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from tests.unit.evals.synthetic import SUBJECTS, WORLD

from fewstep.data.emoji import COLOURS
from fewstep.engine.output import put_json
from fewstep.evals.judge import BACKGROUNDS, Judge, look
from fewstep.evals.measure import Answers, Backgrounds, Seen, border_colours, psnr, rms
from fewstep.evals.prompts import Question, ambiguous, held_out
from fewstep.evals.report import evaluate
from fewstep.evals.table import bars

NAMES = [subject.name for subject in SUBJECTS]


def _renders(questions, seeds):
    scenes = [replace(q.scene, shift=(0.0, (seed % 7 - 3) / 300)) for q, seed in zip(questions, seeds, strict=True)]
    return np.stack([WORLD.render(scene, 96, 96) for scene in scenes]), 5.0


def _noise(questions, seeds):
    return np.stack([np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8) for seed in seeds]), 2.0


def _blurred(questions, seeds):
    soft = [Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.5)) for picture in _renders(questions, seeds)[0]]
    return np.stack([np.asarray(picture) for picture in soft]), 1.0


def _first_only(questions, seeds):
    """A model without diversity: it answers every question with the first subject that fits."""
    fixed = [replace(q, scene=replace(q.scene, subject=0)) if q.keyword else q for q in questions]
    return _renders(fixed, seeds)


@pytest.fixture(scope="module")
def judge() -> Judge:
    """A random network with heads fitted in closed form (ridge regression) to plain renders: an expert on this world, at no cost."""
    torch.manual_seed(1)
    judge = Judge(NAMES).eval().requires_grad_(False)
    scenes = [WORLD.scene(WORLD.rng(index), held_out=bool(index % 2)) for index in range(400)]
    features = look(judge, np.stack([WORLD.render(scene, 96, 96) for scene in scenes])).double()
    inputs = torch.cat([features, torch.ones(len(scenes), 1)], dim=1)
    for head, labels, classes in (
        (judge.subject, [scene.subject for scene in scenes], len(NAMES)),
        (judge.background, [BACKGROUNDS.index(scene.background) for scene in scenes], len(BACKGROUNDS)),
    ):
        targets = torch.nn.functional.one_hot(torch.tensor(labels), classes).double()
        solution = torch.linalg.solve(inputs.T @ inputs + 1e-6 * torch.eye(inputs.shape[1]), inputs.T @ targets)
        head.weight.copy_(solution[:-1].T)
        head.bias.copy_(solution[-1])
    return judge


@pytest.fixture(scope="module")
def report(judge):
    rows = {"renders": _renders, "reconstruction": _blurred, "teacher": _renders, "4": _first_only, "1": _noise}
    return evaluate(rows, held_out(WORLD, 60), judge, WORLD, ambiguous=ambiguous(WORLD), keep=3, about={"model": "a <b> & c"})


@pytest.fixture(scope="module")
def rows(report):
    return {result.name: result for result in report.results}


def test_renders_are_recognised_and_noise_is_not(rows):
    assert rows["renders"].top1 > 0.9 and rows["renders"].background > 0.9
    assert rows["1"].top1 < 0.5 and rows["1"].background < 0.5
    assert all(row.top1 <= row.top5 <= 1 and row.background <= row.background_judge for row in rows.values())


def test_repainted_subjects_have_a_figure_of_their_own(judge, rows):
    plain = held_out(WORLD, 12)
    asked = [replace(q, scene=replace(q.scene, paint="red" if index < 4 else "")) for index, q in enumerate(plain)]

    def unpainted(questions, seeds):
        return _renders([replace(q, scene=replace(q.scene, paint="")) for q in questions], seeds)

    def lost(questions, seeds):  # the first four answers, of which one takes the place of the other
        pictures, milliseconds = unpainted(questions, seeds)
        wrong = [next(j for j in range(12) if plain[j].scene.subject != plain[i].scene.subject) for i in range(4)]
        return np.concatenate([pictures[wrong], pictures[4:]]), milliseconds

    found = {result.name: result for result in evaluate({"renders": unpainted, "1": lost}, asked, judge, WORLD).results}
    assert found["renders"].repainted == 1 and found["1"].repainted == 0
    assert found["1"].top1 == pytest.approx(8 / 12)
    assert rows["renders"].repainted is None  # nobody asked


def test_distances_are_smallest_for_renders_and_largest_for_noise(rows):
    assert rows["renders"].frechet < rows["reconstruction"].frechet < rows["1"].frechet
    assert rows["renders"].patch_frechet < rows["reconstruction"].patch_frechet < rows["1"].patch_frechet


def test_sharpness_is_one_for_renders_less_when_blurred_and_more_for_noise(rows):
    assert rows["renders"].sharpness == pytest.approx(1, abs=0.05)
    assert rows["reconstruction"].sharpness < 0.8
    assert rows["1"].sharpness > 2


def test_columns_relative_to_the_teacher_apply_to_the_rows_after_it(rows):
    assert rows["renders"].distance is None and rows["teacher"].distance is None and rows["reconstruction"].diversity is None
    assert rows["4"].distance == 0  # the same renders where the prompt is not ambiguous
    assert rows["1"].distance > 50


def test_a_model_that_always_gives_the_same_answer_is_precise_and_not_diverse(rows):
    assert rows["4"].distinct < 0.5 * rows["teacher"].distinct
    assert rows["4"].diversity == pytest.approx(rows["4"].distinct / rows["teacher"].distinct)


def test_diversity_is_the_mean_over_groups_of_seeds(judge):
    asked, more = held_out(WORLD, 4), ambiguous(WORLD)

    def row(questions, seeds):  # the second group knows one answer alone
        return (_first_only if seeds[0] >= len(more) and questions[0].keyword else _renders)(questions, seeds)

    heard = []
    one, other, both = (
        evaluate({"renders": model}, asked, judge, WORLD, ambiguous=more, groups=groups, progress=lambda *said: heard.append(said)).results[0].distinct
        for model, groups in ((_renders, 1), (_first_only, 1), (row, 2))
    )
    assert other < one and both == pytest.approx((one + other) / 2, abs=0.5 / len({q.text for q in more}))
    assert heard[-1] == ("renders", 4 + 2 * len(more), 4 + 2 * len(more))


def test_psnr_and_rms_have_their_closed_forms(rows):
    zeros, tens = np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 10, np.uint8)
    assert rms(tens, zeros) == pytest.approx(10)
    assert psnr(zeros, tens) == pytest.approx(20 * math.log10(25.5))
    assert psnr(tens, tens) == math.inf
    assert rows["reconstruction"].psnr > 10 and rows["renders"].psnr is None


@pytest.mark.parametrize("colour", COLOURS)
def test_the_border_names_the_colour_whatever_stands_in_the_middle(colour):
    picture = np.empty((1, 128, 96, 3), np.uint8)
    picture[:] = COLOURS[colour]
    noisy = np.clip(picture.astype(int) + np.random.default_rng(0).integers(-15, 16, picture.shape), 0, 255).astype(np.uint8)
    noisy[:, 10:-10, 10:-10] = 123
    noisy[:, 40:70, :5] = 0  # and a part of the subject reaches the edge
    assert border_colours(noisy) == [colour]


def test_a_flat_background_needs_judge_and_pixels_and_a_place_the_judge_alone():
    questions = [Question("", replace(WORLD.scene(WORLD.rng(0)), background=name)) for name in ("red", "red", "blue", "snow")]
    answers = Answers((frozenset([0]),) * 4, torch.tensor([BACKGROUNDS.index(q.scene.background) for q in questions]))
    pictures = np.stack([np.full((32, 32, 3), COLOURS[name], np.uint8) for name in ("red", "green", "blue", "blue")])
    judged = torch.tensor([BACKGROUNDS.index(name) for name in ("red", "red", "pink", "snow")])
    seen = Seen(np.zeros((4, 1)), np.zeros((4, 1), int), judged)
    assert Backgrounds.of(pictures, questions, seen, answers) == Backgrounds(both=0.5, judged=0.75, pixels=2 / 3)


def test_the_json_holds_every_figure_and_the_bars(report, tmp_path):
    put_json(report.to_dict(), tmp_path / "report.json")
    table = json.loads((tmp_path / "report.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["renders", "reconstruction", "teacher", "4", "1"]
    assert table["rows"][3]["top1"] == report.results[3].top1
    assert table["about"]["prompts"] == "60" and table["about"]["model"] == "a <b> & c"
    assert {bar["name"] for bar in table["bars"] if not bar["met"]} >= {"1 step: background right", "1 step: top-1 as a share of teacher's"}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_bars_compare_with_the_right_row(rows):
    found = {bar.name: bar for bar in bars(list(rows.values()))}
    assert found["4 steps: top-1 as a share of teacher's"].value == pytest.approx(rows["4"].top1 / rows["teacher"].top1)
    assert found["reconstruction: top-1 as a share of renders'"].needed == 0.97
    assert not found["4 steps: diversity as a share of the teacher's"].met


def test_what_is_printed_into_a_pipe_is_plain_and_whole(report):
    stream = io.StringIO()
    report.print(stream)
    text = stream.getvalue()
    assert "\x1b" not in text and "…" not in text
    for result in report.results:
        assert f"{result.top1:.1%}" in text and f"{result.patch_frechet:.3f}" in text


def test_the_page_is_whole_escaped_and_asks_for_nothing(report, tmp_path):
    report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 5 * 6 and all(source.startswith("data:image/jpeg;base64,/9j/") for source in sources)
    assert not re.search(r"https?://|@import|url\(|<script", page)
    assert "a &lt;b&gt; &amp; c" in page and "<b> & c" not in page
    assert "prefers-color-scheme: dark" in page


def test_what_cannot_be_compared_is_refused(judge):
    with pytest.raises(ValueError, match="renders"):
        evaluate({"teacher": _renders}, held_out(WORLD, 4), judge, WORLD)
    with pytest.raises(ValueError, match="disc 0"):
        evaluate({"renders": _renders}, held_out(WORLD, 4), Judge(NAMES[1:]).eval(), WORLD)
