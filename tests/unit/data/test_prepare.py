"""From a folder to shards: what is in them, that nothing vanishes, and that a killed preparation ends like one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.tiny import CAPTIONS, build
from tests.unit.data.prepared import RULES, Deadly, prepared, write_pictures

from fewstep.cli import main
from fewstep.data import prepare as module
from fewstep.data.encode import encode_picture, encoders_key
from fewstep.data.filters import REASONS
from fewstep.data.item import Item
from fewstep.data.score import Scorer, load_scorer
from fewstep.data.workers import looks
from fewstep.engine.request import RequestError
from fewstep.models.bundle import Bundle, load_bundle
from fewstep.models.prompt import encode


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return build()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "in", 12)


@pytest.fixture(scope="module")
def whole(source: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In three parts of four pictures, or of what is left."""
    out = tmp_path_factory.mktemp("data") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", 4)
        prepared(source, out, bundle)
    return out


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_picture_is_kept_or_dropped_for_a_reason(whole: Path) -> None:
    audit = json.loads((whole / "audit.json").read_text())
    assert (audit["seen"], audit["kept"]) == (12, 9)
    assert audit["dropped"] == {"no caption": 1, "unreadable": 1, "duplicate": 1}
    assert audit["buckets"] == {"64x64": 7, "84x48": 2}
    dropped = [json.loads(line) for line in (whole / "dropped.jsonl").read_text().splitlines()]
    assert {(drop["name"], drop["reason"]) for drop in dropped} == {("005.png", "duplicate"), ("006.png", "no caption"), ("007.png", "unreadable")}
    kept = [name for path in whole.glob("*-*.json") for name in json.loads(path.read_text())["names"]]
    assert sorted(kept + [drop["name"] for drop in dropped]) == [f"{number:03d}.png" for number in range(12)]


def test_the_page_shows_examples_and_fetches_nothing(whole: Path) -> None:
    page = (whole / "audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 9
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for reason in ("no caption", "unreadable", "duplicate"):
        assert REASONS[reason] in page


def test_shards_hold_the_mean_latents_both_embeddings_and_the_true_sizes(whole: Path, source: Path, bundle: Bundle) -> None:
    """The first square: encoded here by itself, it is what the shard has, but for bfloat16."""
    tensors, record = load_file(whole / "00000-64x64.safetensors"), json.loads((whole / "00000-64x64.json").read_text())
    assert record["names"] == ["000.png", "001.png", "002.png"]
    assert record["captions"] == CAPTIONS[:3]
    assert tensors["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 2 + [[96, 96, 0, 0, 64, 64]]
    x = torch.from_numpy(np.array(Image.open(source / "000.png"))).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents, prompt = bundle.vae.encode(x).latent_dist.mean, encode(bundle, CAPTIONS[:1])
    for name, wanted in (("latents", latents), ("prompt_embeds", prompt.embeds), ("pooled", prompt.pooled)):
        assert tensors[name].dtype == torch.bfloat16
        torch.testing.assert_close(tensors[name][:1].float(), wanted, rtol=2**-7, atol=1e-3)


def test_what_encodes_needs_no_unet(bundle: Bundle, tiny: Path) -> None:
    """Of SDXL it is three quarters of what would be loaded."""
    encoder = load_bundle(tiny, unet=False)
    assert {parameter.device.type for parameter in encoder.unet.parameters()} == {"meta"}
    assert encoder.device == bundle.device
    assert encoders_key(encoder) == encoders_key(bundle)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    ours, theirs = (encode_picture(of, pixels, CAPTIONS[0]) for of in (encoder, load_bundle(tiny)))
    assert torch.equal(ours.latents, theirs.latents) and torch.equal(ours.prompt.embeds, theirs.prompt.embeds)


@pytest.mark.usefixtures("small_parts")
def test_what_is_finished_is_not_made_again(whole: Path, source: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Of three parts the last two are taken away, one of them half: only they are made, and the folder is the same to the byte."""
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    (out / "00001.json").unlink()
    (out / "00002.json").unlink()
    next(out.glob("00002-*.safetensors")).write_bytes(b"half")
    assert prepared(source, out, bundle) == ["part 2 of 3: 2 of 4 pictures kept", "part 3 of 3: 3 of 4 pictures kept"]
    assert contents(out) == contents(whole)
    assert prepared(source, out, bundle) == []


@pytest.mark.usefixtures("small_parts")
def test_processes_make_no_difference(whole: Path, source: Path, bundle: Bundle, tmp_path: Path) -> None:
    prepared(source, tmp_path / "out", bundle, workers=2)
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.slow
def test_a_worker_that_dies_is_a_sentence() -> None:
    with pytest.raises(RequestError, match="a worker process died"):
        list(looks([Item("x.png", Deadly(), "a red apple")] * 20, RULES, 2))


@pytest.mark.usefixtures("small_parts")
def test_pictures_that_are_added_are_taken_in_and_other_changes_refused(whole: Path, source: Path, bundle: Bundle, tmp_path: Path) -> None:
    out, more = Path(shutil.copytree(whole, tmp_path / "out")), write_pictures(tmp_path / "more", 14)
    first = Path(shutil.copytree(source, tmp_path / "first"))
    (first / "captions.jsonl").write_text("\n".join(reversed((source / "captions.jsonl").read_text().splitlines())))
    with pytest.raises(RequestError, match="the source is not what it was when this began"):
        prepared(first, out, bundle)
    with pytest.raises(RequestError, match="min words 2, not 1"):
        prepared(source, out, bundle, replace(RULES, min_words=1))
    assert contents(out) == contents(whole)
    assert prepared(more, tmp_path / "new", bundle)[0] == "part 1 of 4: 4 of 4 pictures kept"


@pytest.mark.usefixtures("small_parts")
def test_a_killed_preparation_goes_on_and_ends_the_same(whole: Path, source: Path, bundle: Bundle, tmp_path: Path) -> None:
    """SIGKILL once the first part is there; its workers leave too, and the same call then makes what the undisturbed one made."""
    out = tmp_path / "out"

    def begin() -> None:
        os.setsid()
        torch.set_num_threads(1)  # those that another test had are not in a fork, and OpenMP would wait for them
        prepared(source, out, bundle, workers=2)

    process = multiprocessing.get_context("fork").Process(target=begin)
    process.start()
    while not (out / "00000.json").is_file():
        assert process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not (out / "audit.json").is_file()
    first = (out / "00000.json").stat().st_mtime_ns
    prepared(source, out, bundle)
    assert (out / "00000.json").stat().st_mtime_ns == first
    assert contents(out) == contents(whole)
    deadline = time.monotonic() + 20
    while _alive(process.pid or 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(process.pid or 0), "a killed preparation left workers behind"


def _alive(group: int) -> bool:
    """Whether a process of the group runs; those that wait for an init that reaps none do not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(of) == group and state != "Z":
            return True
    return False


def test_who_scores_decides_and_the_sources_own_score_is_taken_without(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    rules = replace(RULES, min_score=5.5)
    prepared(source, tmp_path / "none", bundle, rules)
    assert json.loads((tmp_path / "none" / "audit.json").read_text())["dropped"]["no score"] == 10
    scorer = Scorer("by:width", lambda image: image.width / 10)
    prepared(source, tmp_path / "wide", bundle, rules, score=scorer)
    audit = json.loads((tmp_path / "wide" / "audit.json").read_text())
    assert (audit["kept"], audit["buckets"], audit["dropped"].get("low score", 0)) == (9, {"64x64": 7, "84x48": 2}, 0)
    prepared(source, tmp_path / "wider", bundle, replace(rules, min_score=7), score=scorer)
    assert json.loads((tmp_path / "wider" / "audit.json").read_text())["buckets"] == {"84x48": 2}

    def lacks(image: Image.Image) -> float:
        raise FileNotFoundError("aesthetic.safetensors")

    with pytest.raises(RequestError, match=r"--scorer x:y failed on 000.png \(FileNotFoundError: aesthetic.safetensors\)"):
        prepared(source, tmp_path / "lacking", bundle, rules, score=Scorer("x:y", lacks))


def test_a_caption_that_keeps_coming_is_dropped_also_across_a_resumed_run(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 2)
    source = write_pictures(tmp_path / "in", 5)
    (source / "captions.jsonl").unlink()
    for path in source.glob("*.png"):
        path.with_suffix(".txt").write_text("stock photo")
    rules = replace(RULES, same_caption=3)
    prepared(source, tmp_path / "out", bundle, rules)
    (tmp_path / "out" / "00001.json").unlink()
    (tmp_path / "out" / "00002.json").unlink()
    prepared(source, tmp_path / "out", bundle, rules)
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (audit["kept"], audit["dropped"]) == (3, {"caption repeated": 2})


BAD = {
    "no such source": (("nothing",), "there is no source 'nothing'"),
    "an empty one": (("empty",), "holds no pictures"),
    "a full folder": (("in", "--out", "in"), "holds other files"),
    "a rule below zero": (("in", "--min-sharpness", "-1"), "give a number from 0 on"),
    "a scorer without a score": (("in", "--scorer", "a:b"), "without --min-score"),
    "no scorer": (("in", "--scorer", "nowhere:nothing", "--min-score", "5"), "cannot be imported"),
    "no model": (("in", "--model", "nothing"), "there is no model"),
    "no such device": (("in", "--device", "abacus"), "torch cannot compute on a device .abacus. here"),
    "nothing kept": (("in", "--min-side", "9999"), "none of 2 pictures was kept"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "in", 2)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fewstep.models.bundle.load_bundle", lambda *_, **__: build())
    arguments, sentence = BAD[case]
    with pytest.raises(SystemExit) as caught:
        main(["data", "prepare", *arguments, *(() if "--out" in arguments else ("--out", "out"))])
    assert caught.value.code == 2
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["nonsense", "json:", "json:nothing", "json:__doc__"])
def test_a_scorer_that_is_none_is_a_sentence(name: str) -> None:
    with pytest.raises(RequestError, match=f"--scorer {name}"):
        load_scorer(name)
