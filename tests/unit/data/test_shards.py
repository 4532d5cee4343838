"""Shards are read as they were written, or a sentence names the one that cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.tiny import build
from tests.unit.data.prepared import prepared, write_pictures

from fewstep.data import prepare as module
from fewstep.data.encode import encoders_key
from fewstep.data.shards import Shards, ShardsError, checksums
from fewstep.models.bundle import Bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return build()


@pytest.fixture(scope="module")
def key(bundle: Bundle) -> str:
    return encoders_key(bundle)


@pytest.fixture(scope="module")
def made(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", 4)
        prepared(write_pictures(folder / "in", 12), folder / "out", bundle)
    return folder / "out"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_every_row_is_there_once_with_its_own_caption(made: Path, key: str) -> None:
    shards = Shards(made, key)
    assert shards.counts == {(64, 64): 7, (84, 48): 2}
    records = [json.loads(path.read_text()) for path in sorted(made.glob("*-*.json"))]
    for size, count in shards.counts.items():
        rows = shards.read(size, range(count))
        assert rows.captions == [caption for record in records if tuple(record["size"]) == size for caption in record["captions"]]
        assert rows.latents.shape[0] == rows.prompt.embeds.shape[0] == rows.prompt.pooled.shape[0] == rows.time_ids.shape[0] == count
        again = shards.read(size, [count - 1, 0])
        torch.testing.assert_close(again.latents, rows.latents[[count - 1, 0]], rtol=0, atol=0)
        assert again.captions == [rows.captions[-1], rows.captions[0]]


def test_the_key_is_the_encoders_whatever_precision_their_files_have(bundle: Bundle, key: str) -> None:
    assert encoders_key(build()) == key
    assert encoders_key(build(1)) != key
    other = build()
    other.text_encoder_2.half().float()
    assert encoders_key(other) == key
    with torch.no_grad():
        next(other.text_encoder_2.parameters()).add_(1)
    assert encoders_key(other) != key


def flip(path: Path) -> None:
    """One bit of the last picture's latents or prompt."""
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def forget(path: Path) -> None:
    path.with_suffix(".json").unlink()


def lose(path: Path) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    record["captions"].pop()
    path.with_suffix(".json").write_text(json.dumps(record))


@pytest.mark.parametrize(("damage", "known"), [(flip, True), (shorten, True), (Path.unlink, True), (forget, False), (lose, False)])
def test_a_damaged_shard_is_named_or_others_are_shown_in_its_place(folder: Path, made: Path, key: str, damage: Callable[[Path], None], known: bool) -> None:
    """Where its JSON still says what it held: the set keeps its order and its identity, so that a run which began with it goes on."""
    damage(folder / "00001-64x64.safetensors")

    def read_all() -> None:
        shards = Shards(folder, key)
        for size, count in shards.counts.items():
            shards.read(size, range(count))

    with pytest.raises(ShardsError, match=r"00001-64x64\.safetensors is damaged .*: take 00001\.json away"):
        read_all()
    shards, whole = Shards(folder, key, skip_corrupt=True), Shards(made, key)
    assert shards.skipped == ["00001-64x64"]
    assert shards.counts == ({(64, 64): 7, (84, 48): 2} if known else {(64, 64): 5, (84, 48): 2})
    assert (shards.lost, shards.identity == whole.identity) == ((2, True) if known else (0, False))
    if known:
        own, wanted = (one.read((64, 64), range(7)).captions for one in (shards, whole))
        gone = {caption for caption in wanted if caption not in own}
        assert len(gone) == 2
        assert [caption for caption in wanted if caption not in gone] == [mine for mine, true in zip(own, wanted, strict=True) if true not in gone]


def test_where_all_of_a_bucket_is_damaged_the_nearest_stands_in(folder: Path, made: Path, key: str) -> None:
    """Whole batches are of another shape then; the order stays that of the run, and what is whole is counted right. Of nothing whole nothing is shown."""
    names = [path.stem for path in sorted(folder.glob("*-84x48.safetensors"))]
    for name in names:
        flip(folder / f"{name}.safetensors")
    shards, whole = Shards(folder, key, skip_corrupt=True), Shards(made, key)
    assert shards.skipped == names
    assert (shards.counts, shards.identity, shards.lost) == (whole.counts, whole.identity, 2)
    shown = shards.read((84, 48), range(2))
    assert shown.latents.shape[2:] == whole.read((64, 64), [0]).latents.shape[2:]
    assert set(shown.captions) <= set(whole.read((64, 64), range(7)).captions)
    for path in folder.glob("*-64x64.safetensors"):
        flip(path)
    with pytest.raises(ShardsError, match="holds no pictures"):
        Shards(folder, key, skip_corrupt=True)


def test_a_damaged_part_is_made_again(folder: Path, made: Path, key: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the sentence says it: its record taken away, and the same command given."""
    monkeypatch.setattr(module, "PART", 4)
    flip(folder / "00001-64x64.safetensors")
    (folder / "00001.json").unlink()
    with pytest.raises(ShardsError, match="is not finished"):
        Shards(folder, key)
    prepared(made.parent / "in", folder, bundle)
    assert Shards(folder, key).identity == Shards(made, key).identity


def test_other_encoders_an_unfinished_set_and_none_are_refused(folder: Path, key: str, tmp_path: Path) -> None:
    with pytest.raises(ShardsError, match=r"another autoencoder or other text encoders .*those of tiny"):
        Shards(folder, "another")
    (folder / "audit.json").unlink()
    with pytest.raises(ShardsError, match="is not finished"):
        Shards(folder, key)
    with pytest.raises(ShardsError, match="holds no shards"):
        Shards(tmp_path / "nothing", key)


def test_a_set_of_which_nothing_was_kept_is_refused(tmp_path: Path, bundle: Bundle, key: str) -> None:
    source = write_pictures(tmp_path / "in", 2)
    (source / "captions.jsonl").unlink()
    prepared(source, tmp_path / "out", bundle)
    with pytest.raises(ShardsError, match=r"holds no pictures: see its audit\.html"):
        Shards(tmp_path / "out", key)


def test_the_checksum_of_a_row_is_of_all_its_tensors() -> None:
    tensors = {"latents": torch.randn(3, 4, 2, 2).bfloat16(), "prompt_embeds": torch.randn(3, 5, 6).bfloat16(), "pooled": torch.randn(3, 6).bfloat16()}
    tensors["time_ids"] = torch.arange(18, dtype=torch.int32).reshape(3, 6)
    before = checksums(tensors)
    assert checksums({name: tensor[1:2] for name, tensor in tensors.items()}) == before[1:2]
    for name in tensors:
        changed = {**tensors, name: tensors[name].clone()}
        changed[name][1] += 1
        assert [old == new for old, new in zip(before, checksums(changed), strict=True)] == [True, False, True]
