"""Training from shards: samples are the cached pictures, every rank and every resumed run sees the same, and what does not fit is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from tests.tiny import tiny_bundle
from tests.unit.data.prepared import prepared, write_pictures
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from fewstep.cli import main
from fewstep.data import prepare as module
from fewstep.data.encode import encoders_key
from fewstep.data.shards import Shards, ShardsError
from fewstep.distill import dist, trainer
from fewstep.distill.feed import open_feed
from fewstep.distill.latents import stretch
from fewstep.distill.prepared import Prepared
from fewstep.distill.pretrain import train_teacher
from fewstep.distill.recipe import RecipeError
from fewstep.distill.state import Run
from fewstep.distill.trainer import Terminated, Unread
from fewstep.distill.walk import distill
from fewstep.distill.watch.status import read_status
from fewstep.distill.world import DataRecipe, open_world
from fewstep.models.bundle import Bundle, load_bundle, load_weights
from fewstep.models.prompt import encode
from fewstep.models.weights import FILE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and pictures that it encoded: 14 squares of which 11 were kept, and 4 wide ones less one."""
    folder = tmp_path_factory.mktemp("prepared")
    model = tiny_bundle(folder / "model", ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", 8)
        prepared(write_pictures(folder / "in", 16), folder / "shards", load_bundle(model))
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder / "model")


@pytest.fixture(scope="module")
def cache(folder: Path, bundle: Bundle) -> Prepared:
    return Prepared(Shards(folder / "shards", encoders_key(bundle)), 11, float(bundle.vae.config.scaling_factor))


def recipe(folder: Path, **values: Any) -> DataRecipe:
    return DataRecipe(shards=str(folder / "shards"), **values)


def test_samples_are_the_encoded_pictures_and_their_prompts(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    feed = open_feed(recipe(folder), Run(tmp_path, "r"), bundle, torch.float32, 2)
    samples = feed.latents.batch(range(6, 8), 2, 0.5, CPU)
    prompt = feed.text(samples)
    assert samples.latents.dtype == prompt.embeds.dtype == samples.time_ids.dtype == torch.float32
    with torch.no_grad():
        wanted = encode(bundle, samples.captions)
    torch.testing.assert_close(prompt.embeds, wanted.embeds, rtol=2**-7, atol=1e-3)
    torch.testing.assert_close(prompt.pooled, wanted.pooled, rtol=2**-7, atol=1e-3)
    doubled = feed.latents.batch(range(6, 8), 2, 1.0, CPU)
    torch.testing.assert_close(samples.latents * 2, doubled.latents)
    assert (samples.indices, feed.words) == ([6, 7], bundle.words)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_a_batch_and_a_phase_shows_every_picture_as_often(cache: Prepared, ranks: int) -> None:
    """Over as many batches of one bucket's multiple: what the ranks see together is what one sees alone, and counts are even."""
    batch_size, seen = 3, Counter[tuple[Any, ...]]()
    start = 5 * stretch(batch_size)
    total = sum(cache.counts.values())
    for number in range(total):  # batch_size epochs: whole batches in every bucket
        indices = range(start + number * batch_size, start + (number + 1) * batch_size)
        parts = [cache.batch(indices[rank::ranks], batch_size, 1.0, CPU) for rank in range(ranks)]
        whole = cache.batch(indices, batch_size, 1.0, CPU)
        for rank, part in enumerate(parts):
            assert part.indices == whole.indices[rank::ranks]
            torch.testing.assert_close(part.latents, whole.latents[rank::ranks], rtol=0, atol=0)
        seen.update((caption, tuple(latents.flatten().tolist()[:4])) for caption, latents in zip(whole.captions, whole.latents, strict=True))
    assert len(seen) == total
    assert set(seen.values()) == {batch_size}


def test_a_run_that_goes_on_with_other_ranks_repeats_and_skips_nothing(cache: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, stopped after three batches; then three, then one: update for update what one rank alone is shown. The cursor is the update's number."""
    batch_size, stops = 6, {0: 2, 3: 3, 7: 1}
    ranks, shown, alone = 0, list[int](), list[int]()
    for update in range(10):
        ranks = stops.get(update, ranks)
        indices = range(update * batch_size, (update + 1) * batch_size)
        monkeypatch.setattr(dist, "world", lambda ranks=ranks: ranks)
        parts = {}
        for rank in range(ranks):
            monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
            reopened = Prepared(cache.shards, cache.seed, cache.scaling_factor)  # as after a restart: nothing is kept in memory
            part = reopened.batch(dist.share(indices), batch_size, 1.0, CPU)
            parts |= dict(zip(part.indices, map(identity, part.latents), strict=True))
        assert sorted(parts) == list(indices)
        shown += [parts[index] for index in indices]
        alone += map(identity, cache.batch(indices, batch_size, 1.0, CPU).latents)
    assert shown == alone
    most = max(Counter(shown).values()) - min(Counter(shown).values())
    assert most <= 1 + batch_size // min(cache.counts.values()), "no picture comes again long before the others"


def identity(latents: torch.Tensor) -> int:
    return hash(tuple(latents.flatten().tolist()))


def test_phases_have_orders_of_their_own(cache: Prepared) -> None:
    first, second = (
        [cache.batch(range(start + n, start + n + 1), 1, 1.0, CPU).captions for n in range(sum(cache.counts.values()))] for start in (0, stretch(1))
    )
    assert sorted(first) == sorted(second)
    assert first != second


def test_what_does_not_fit_is_refused(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"pictures, fewer than a batch of 512: prepare more"):
        open_feed(recipe(folder), Run(tmp_path, "r"), bundle, torch.float32, 512)
    other = load_bundle(tiny_bundle(tmp_path / "other", (), seed=1))
    with pytest.raises(ShardsError, match="another autoencoder"):
        open_feed(recipe(folder), Run(tmp_path, "r"), other, torch.float32, 2)
    with pytest.raises(RecipeError, match="rendered scenes alone"):
        open_world(recipe(folder))
    for values, sentence in (({"pictures": 5}, "leave them out"), ({"source": "emoji"}, "leave them out")):
        with pytest.raises(ValueError, match=sentence):
            recipe(folder, **values)
    with pytest.raises(ValueError, match="goes with"):
        DataRecipe(skip_corrupt=True)


def test_a_run_is_not_resumed_with_other_pictures(folder: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a shard that is damaged it goes on; without one of which nothing is known, not even how many pictures it held, it does not."""
    shards, run = Path(shutil.copytree(folder / "shards", tmp_path / "shards")), Run(tmp_path, "r")
    open_feed(recipe(tmp_path), run, bundle, torch.float32, 2)
    (shards / "00000-64x64.safetensors").unlink()
    feed = open_feed(recipe(tmp_path, skip_corrupt=True), run, bundle, torch.float32, 2)
    said = capsys.readouterr().err
    assert "damaged shards left out: 1 (00000-64x64)" in said
    assert "others of their size are shown" in said
    assert len(feed.latents.rows((64, 64), range(4), range(4), 1.0, CPU).captions) == 4
    (shards / "00000-64x64.json").unlink()
    with pytest.raises(RecipeError, match=r"began with the pictures \w+, and is given \w+ now: put the shards back"):
        open_feed(recipe(tmp_path, skip_corrupt=True), run, bundle, torch.float32, 2)


def test_a_shard_that_is_damaged_in_mid_run_ends_it_saved_and_without_it_the_run_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """status says which file it is; the same command with what the sentence offers does the rest."""
    shards = Path(shutil.copytree(folder / "shards", tmp_path / "shards"))
    path = tmp_path / "teacher.toml"
    path.write_text(
        f"start = {json.dumps(str(folder / 'model'))}\nprecision = 'float32'\n[data]\nshards = {json.dumps(str(shards))}\n"
        "[teacher]\nupdates = 12\nbatch_size = 2\n"
    )
    real, calls = trainer.update, 0

    def spoils(*arguments: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            for file in shards.glob("*-64x64.safetensors"):
                file.write_bytes(file.read_bytes()[:-100])
        return real(*arguments)

    monkeypatch.setattr(trainer, "update", spoils)
    with pytest.raises(Unread, match=r"64x64\.safetensors is damaged .*--set data\.skip_corrupt=true"):
        train_teacher(path, tmp_path / "run")
    status = read_status(tmp_path / "run")
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert status["state"] == "stopped"
    assert "is damaged" in status["why"]
    assert 3 <= status["update"] == state["update"] < 12
    assert train_teacher(path, tmp_path / "run", ["data.skip_corrupt=true"]).is_dir()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 12


def test_a_teacher_learns_from_shards_and_a_resumed_run_ends_like_one_never_stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "teacher.toml"
    path.write_text(
        f"start = {json.dumps(str(folder / 'model'))}\nprecision = 'float32'\n[data]\nshards = {json.dumps(str(folder / 'shards'))}\n"
        "[teacher]\nupdates = 4\nbatch_size = 2\nlearning_rate = 1e-2"
    )
    end = train_teacher(path, tmp_path / "whole")
    real, calls = trainer.update, 0

    def stops(*arguments: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(trainer, "update", stops)
    with pytest.raises(Terminated):
        train_teacher(path, tmp_path / "stopped")
    train_teacher(path, tmp_path / "stopped")
    assert calls == 4
    assert (tmp_path / "stopped" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    before, after = load_bundle(folder / "model"), load_bundle(end)
    assert after.vae.config.scaling_factor == before.vae.config.scaling_factor
    assert after.words == before.words
    assert any(not torch.equal(p, q) for p, q in zip(before.unet.parameters(), after.unet.parameters(), strict=True))
    load_weights(before.vae, end / "vae" / FILE)


def test_a_student_is_distilled_from_shards(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole walk, a look at the pictures included: neither the autoencoder's encoder nor a text encoder is asked for anything.

    Its teacher knows nothing of the pictures, as one under a wrong schedule, and is refused before the first update where nobody insists.
    """
    path = tmp_path / "students.toml"
    path.write_text(
        f"teacher = {json.dumps(str(folder / 'model'))}\nprecision = 'float32'\nbatch_size = 2\n[data]\nshards = {json.dumps(str(folder / 'shards'))}\n"
        "[health]\nevery = 2\n[[stages]]\nkind = 'mse'\nteacher_steps = 4\nsteps = 2\nn = 2\nmse = 2"
    )

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("what was encoded is encoded again")

    for network, method in ((AutoencoderKL, "encode"), (CLIPTextModel, "forward"), (CLIPTextModelWithProjection, "forward")):
        monkeypatch.setattr(network, method, asked)
    with pytest.raises(RecipeError, match=r"^teacher = .* times as much of the noise in the pictures as the best linear guess: .*--set health\.stop=false"):
        distill(path, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()
    distill(path, tmp_path / "run", ["health.stop=false"])
    assert (tmp_path / "run" / "weights" / "2-step.safetensors").is_file()
    assert "endpoint" in (tmp_path / "run" / "health.jsonl").read_text()


def test_a_teacher_from_nothing_cannot_learn_from_shards(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "teacher.toml"
    path.write_text(f"[data]\nshards = {json.dumps(str(folder / 'shards'))}")
    with pytest.raises(SystemExit) as caught:
        main(["train", str(path), "--run", str(tmp_path / "run")])
    assert caught.value.code == 2
    assert "name the model that encoded them as start" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
