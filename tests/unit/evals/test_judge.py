"""The judge: it learns, it sees what it should, and its file is read back whole or refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.evals.synthetic import DIALS, SUBJECTS, WORLD

from fewstep.evals.judge import Judge, judge_batch, judge_losses, judge_world, load_judge, look, save_judge, to_input
from fewstep.models.bundle import save_weights
from fewstep.models.weights import WeightsError

NAMES = [subject.name for subject in SUBJECTS]
FOUR = replace(WORLD, subjects=SUBJECTS[:4])


@pytest.fixture(scope="module")
def trained() -> Judge:
    """A narrow judge after 50 updates on its own world of four shapes on flat colours."""
    torch.manual_seed(0)
    judge, world = Judge(NAMES, channels=(16, 32, 32)), judge_world(FOUR)
    world = replace(world, dials=replace(world.dials, place=0.0))
    optimizer = torch.optim.AdamW(judge.parameters(), 5e-3)
    for update in range(50):
        judge_losses(judge, judge_batch(world, range(update * 32, update * 32 + 32)))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return judge.eval().requires_grad_(False)


def test_it_learns_subjects_that_it_then_recognises_in_full_size_renders(trained):
    scenes = [FOUR.scene(FOUR.rng(index)) for index in range(100)]
    pictures = np.stack([FOUR.render(scene, 256, 256) for scene in scenes])
    subjects, _ = trained.classify(look(trained, pictures))
    assert (subjects.argmax(1) == torch.tensor([scene.subject for scene in scenes])).float().mean() > 0.6  # chance: 0.25


def test_it_learns_flat_backgrounds():
    """Eight batches learnt by heart: the network can tell colours apart, through all its norms."""
    world = replace(judge_world(FOUR), dials=replace(DIALS, place=0.0))
    torch.manual_seed(0)
    judge, batches = Judge(NAMES, channels=(16, 32)), [judge_batch(world, range(at, at + 24)) for at in range(0, 192, 24)]
    optimizer = torch.optim.AdamW(judge.parameters(), 1e-2)
    for update in range(160):
        judge_losses(judge, batches[update % 8])["background"].backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        right = torch.stack([judge_losses(judge, judge_batch(world, range(at, at + 50)))["background_right"] for at in (1000, 1050)])
    assert right.mean() > 0.5  # chance: 0.1


def test_a_sample_depends_on_its_index_alone():
    world = judge_world(WORLD)
    together, alone = judge_batch(world, range(5, 9)), judge_batch(world, [7])
    for whole, part in zip(together, alone, strict=True):
        assert torch.equal(whole[2], part[0])
    assert together[0].shape == (4, 3, 64, 64) and float(together[0].abs().max()) <= 1


def test_the_judges_world_has_its_own_seed_holds_nothing_out_and_shows_single_subjects():
    world = judge_world(WORLD)
    assert world.seed != WORLD.seed and world.dials.held_out == 0
    assert {world.scene(world.rng(index)).other for index in range(300)} == {None}


def test_shrunk_drawings_render_as_the_full_ones_do_at_the_judges_size():
    world = judge_world(WORLD)
    scene = WORLD.scene(WORLD.rng(1))
    small, full = (to_input(each.render(scene, 96, 96)[None]) for each in (world, WORLD))
    assert float((small - full).abs().mean()) < 0.02


def test_the_input_is_the_central_square_by_area():
    picture = np.zeros((1, 128, 256, 3), np.uint8)
    picture[:, :, 64:192] = np.arange(128, dtype=np.uint8)[:, None, None] * 2  # vertical ramp inside the square, black outside
    seen = to_input(picture)
    expected = torch.from_numpy((np.arange(128, dtype=np.float32) * 2).reshape(64, 2).mean(axis=1) / 127.5 - 1)
    assert seen.shape == (1, 3, 64, 64)
    assert torch.allclose(seen, expected[None, None, :, None].expand_as(seen), atol=1e-6)


def test_forward_is_the_classification_of_the_features(trained):
    pictures = torch.rand(3, 3, 64, 64) * 2 - 1
    features = trained.features(pictures)
    assert features.shape == (3, trained.width)
    for one, other in zip(trained(pictures), trained.classify(features), strict=True):
        assert torch.equal(one, other)


def test_bfloat16_autocast_changes_the_losses_little(trained):
    batch = judge_batch(judge_world(WORLD), range(64))
    exact = judge_losses(trained, batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rough = judge_losses(trained, batch)["loss"]
    assert rough.dtype == torch.float32
    assert float(rough) == pytest.approx(float(exact), rel=0.05)


def test_a_saved_judge_gives_identical_logits_ever_after(trained, tmp_path):
    save_judge(trained, tmp_path / "judge.safetensors")
    once = load_judge(tmp_path / "judge.safetensors")
    save_judge(once, tmp_path / "again.safetensors")
    twice = load_judge(tmp_path / "again.safetensors")
    pictures = torch.rand(4, 3, 64, 64) * 2 - 1
    assert once.subjects == tuple(NAMES)
    for first, second, original in zip(once(pictures), twice(pictures), trained(pictures), strict=True):
        assert torch.equal(first, second)
        assert torch.allclose(first, original, atol=0.05)  # float16 in the file
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["again.safetensors", "judge.safetensors"]


def test_files_that_are_no_judge_are_refused_in_a_sentence(trained, tmp_path):
    save_judge(trained, tmp_path / "judge.safetensors")
    whole = (tmp_path / "judge.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.safetensors").write_bytes(b"no tensors here" * 9)
    save_weights({"layers.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors", {"format": "pt"})
    save_weights({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", {"format": "pt", "fewstep-judge": '{"subjects": 3}'})
    for name, reason in (
        ("short", "truncated"),
        ("noise", "truncated"),
        ("other", "not the weights of a judge"),
        ("odd", "not a readable judge"),
    ):
        with pytest.raises(WeightsError, match=f"{name}.safetensors.*{reason}"):
            load_judge(tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match="no such judge"):
        load_judge(tmp_path / "absent.safetensors")


def test_a_judge_with_a_nan_or_a_wrong_shape_is_refused(tmp_path):
    broken = Judge(NAMES, channels=(16, 32, 32))
    with torch.no_grad():
        broken.subject.weight[0, 0] = float("nan")
    save_judge(broken, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        load_judge(tmp_path / "nan.safetensors")
    with torch.no_grad():
        broken.subject.weight[0, 0] = 0.0
    broken.subjects = ("one", "two")  # fewer than the weights have
    save_judge(broken, tmp_path / "shape.safetensors")
    with pytest.raises(WeightsError, match="has shape"):
        load_judge(tmp_path / "shape.safetensors")
