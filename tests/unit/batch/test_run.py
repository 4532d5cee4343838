"""The command: what it leaves in a folder, what it says, and a sentence for every bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.batch.fake import SMALL, Batch, files, redness

from fewstep.batch.results import NAME, read_lines
from fewstep.batch.score import later
from fewstep.engine.engine import Engine
from fewstep.engine.files import read_record

TEMPLATE = ("--template", "a {animal} on a {colour} background")


def test_a_job_leaves_a_folder_to_look_at(batch: Batch, tmp_path: Path) -> None:
    answer = batch("rows.csv", "--out", "o", *TEMPLATE, "--keep", "sku", "--seeds", "1-2", *SMALL, "--parquet", "--json", "s.json", "--metrics", "m.prom")
    assert (answer.code, answer.err) == (0, "")
    assert re.fullmatch(r"o  6 of 6 pictures: 6 made in \d+ s \(.*/s, .*\)\n", answer.out)
    out = tmp_path / "o"
    assert {path.name for path in out.iterdir()} == {"job.json", ".lock", NAME, "pictures", "index.html", "sheet.jpg", "results.parquet"}
    lines = list(read_lines(out / NAME))
    assert [(line["prompt"], line["seed"]) for line in lines[:3]] == [("a pizza on a red background", seed) for seed in (1, 2)] + [
        ("a ghost on a blue background", 1)
    ]
    assert lines[0]["labels"] == {"animal": "pizza", "colour": "red", "sku": "p1"}
    assert set(lines[0]["timings_ms"]) >= {"text", "denoise", "decode"}
    for line in lines:
        record = read_record(out / line["path"])
        assert {name: line[name] for name in ("prompt", "seed", "steps", "width", "height", "hash", "batch")} == {
            name: getattr(record, name) for name in ("prompt", "seed", "steps", "width", "height", "hash", "batch")
        }
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    assert [(row["prompt"], row["seed"], row["sha256"]) for row in table] == [(line["prompt"], line["seed"], line["sha256"]) for line in lines]
    assert table[0]["ms_decode"] == lines[0]["timings_ms"]["decode"]
    assert table[0]["transparent"] is False
    assert {"total": 6, "done": 6, "made": 6, "kept": 0, "failed": 0}.items() <= json.loads((tmp_path / "s.json").read_text()).items()
    assert 'fewstep_batch_pictures{end="made"} 6.0' in (tmp_path / "m.prom").read_text()
    with Image.open(out / "sheet.jpg") as sheet:
        assert sheet.size == (3 * 64, 2 * 64)


def test_it_says_where_another_backend_made_what_is_there(batch: Batch, tmp_path: Path) -> None:
    """Their last bits are others, and a job that goes on would mix them unsaid."""
    asked = "rows.csv", "--out", "o", *TEMPLATE, "--keep", "sku", *SMALL
    batch(*asked)
    first, *others = read_lines(results := tmp_path / "o" / NAME)
    (tmp_path / "o" / first["path"]).unlink()
    assert batch(*asked).err == ""
    results.write_text("".join(json.dumps({**line, "backend": "another"}) + "\n" for line in (first, *others)))
    (tmp_path / "o" / first["path"]).unlink()
    answer = batch(*asked)
    assert answer.code == 0
    assert answer.err == f"note: pictures that were there were computed by another, the new ones by {first['backend']}: they may differ in the last bits\n"
    assert batch(*asked).err == "", "nothing is new"


def test_pictures_are_those_of_the_engine(batch: Batch, tmp_path: Path, tiny: Path) -> None:
    """In a batch of the same size; alone they may differ in the last bits."""
    batch("rows.csv", "--out", "o", *TEMPLATE, "--keep", "sku", *SMALL)
    line = next(read_lines(tmp_path / "o" / NAME))
    with Image.open(tmp_path / "o" / line["path"]) as picture:
        assert picture.tobytes() == Engine.load(str(tiny)).repeat(read_record(tmp_path / "o" / line["path"])).image.tobytes()


def test_a_prompt_is_encoded_once_however_often_it_comes_back(batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [f"pizza {number}" for number in range(70)]
    (tmp_path / "many.txt").write_text("\n".join(prompts * 2))
    encoded = []
    load = Engine.load.__func__  # type: ignore[attr-defined]

    def counting(cls: type[Engine], *args: object, **options: object) -> Engine:
        engine: Engine = load(cls, *args, **options)
        encode = engine.backend.encode

        def counted(words: object, chunks: int = 1) -> object:
            encoded.append(words)
            return encode(words, chunks)  # type: ignore[arg-type]

        monkeypatch.setattr(engine.backend, "encode", counted)
        return engine

    monkeypatch.setattr(Engine, "load", classmethod(counting))
    assert batch("many.txt", "--out", "o", *SMALL).code == 0
    assert len(encoded) == 70


def test_a_dry_run_says_what_it_would_come_to_and_writes_nothing(batch: Batch, tmp_path: Path) -> None:
    answer = batch(
        "rows.csv", "--out", "o", *TEMPLATE, "--keep", "sku", "--seeds", "1-5", "--aspects", "1:1,16:9", "--steps", "1", "--dry-run", "--json", "s.json"
    )
    assert answer.code == 0
    assert re.match(r"30 pictures of 2 kinds; all can be made\nabout .* as 16 pictures took that were made to find out\nabout .* of disk", answer.out)
    assert not (tmp_path / "o").exists()
    told = json.loads((tmp_path / "s.json").read_text())
    assert (told["pictures"], told["kinds"], told["failed"]) == (30, 2, 0)
    assert batch("rows.csv", "--out", "o", *TEMPLATE, "--keep", "sku", "--seeds", "1-5", "--aspects", "1:1,16:9", "--steps", "1").code == 0
    size = sum(len(content) for content in files(tmp_path / "o").values())
    assert 0.8 < told["bytes"] / size < 1.25


def test_a_dry_run_names_what_cannot_be_made(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,steps\npizza,1\nghost,3\n")
    answer = batch("rows.csv", "--out", "o", "--dry-run", "--set", "width=64", "--set", "height=64")
    assert answer.code == 1
    assert "line 3: 3 steps were asked for" in answer.err
    assert answer.out.startswith("1 pictures of 1 kind; 1 cannot be made\n")


def test_one_bad_row_is_named_by_its_line_and_the_others_are_made(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "pizza"}\n{"prompt": "ghost", "steps": 3}\n{"promt": "x"}\n{"prompt": "pizza", "seed": 1}\n{"prompt": "ghost"}\n'
    )
    answer = batch("rows.jsonl", "--out", "o", *SMALL)
    assert answer.code == 1
    assert [re.match(r"fewstep: line (\d+): ", line)[1] for line in answer.err.splitlines()] == ["2", "3", "4"]  # type: ignore[index]
    assert "means the same as row 1 in line 1" in answer.err
    assert len(files(tmp_path / "o")) == 2
    strict = batch("rows.jsonl", "--out", "strict", *SMALL, "--strict")
    assert strict.code == 1
    assert strict.err.splitlines()[-1] == "fewstep: stopped at the first failure, for --strict; 0 of 5 pictures are finished"


def test_a_score_may_be_asked_for_when_the_job_is_done(batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.batch.run.scorer", lambda name, folder: redness if name else None)
    batch("prompts.txt", "--out", "o", *SMALL)
    answer = batch("prompts.txt", "--out", "o", *SMALL, "--score", "judge")
    assert ": 0 made in" in answer.out
    assert all(0 <= line["score"] <= 255 for line in read_lines(tmp_path / "o" / NAME))
    assert '"score": ' in (tmp_path / "o" / "index.html").read_text()


def test_what_scores_is_loaded_when_there_is_something_to_score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded: list[Path] = []
    monkeypatch.setattr("fewstep.batch.score.judged", lambda folder: loaded.append(folder) or redness)
    score = later("judge", tmp_path)
    assert score is not None and not loaded
    assert [score(Image.new("RGB", (8, 8), "red"), "pizza") for _ in range(2)] == [255.0, 255.0]
    assert loaded == [tmp_path]
    assert later(None, tmp_path) is None


def test_a_machine_reads_lines_of_json(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,steps\npizza,1\nghost,3\n")
    answer = batch("rows.csv", "--out", "o", "--set", "width=64", "--set", "height=64", "--json", "-")
    told = [json.loads(line) for line in answer.out.splitlines()]
    assert told[0] == {"event": "failed", "line": 3, "row": 2, "pictures": 1, "error": told[0]["error"]}
    assert [one["event"] for one in told[-2:]] == ["progress", "summary"]
    assert (told[-1]["made"], told[-1]["failed"], answer.err) == (1, 1, "")


def test_a_job_goes_on_when_nobody_reads_its_progress(batch: Batch, tmp_path: Path, tiny: Path) -> None:
    """As with ``--json - | head -1``: every picture is made, stderr says that nobody listens, and the exit code is the job's."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": "pizza", "seed": seed, "width": 64 if seed else "x"}) + "\n" for seed in range(6)))
    command = [sys.executable, "-m", "fewstep", "batch", "rows.jsonl", "--out", "o", "--json", "-", "--model", str(tiny)]
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert found.returncode == 1, "one row is bad"
    assert found.stderr.count("nobody reads the output any more; the work goes on") == 1
    assert len(list((tmp_path / "o").rglob("*.png"))) >= 5


def test_pictures_may_begin_from_images_beside_the_manifest(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "list" / "base.png")
    (tmp_path / "list" / "rows.yaml").write_text("- {prompt: pizza, image: base.png, strength: 0.5, steps: 4}\n- {prompt: pizza, image: none.png}\n")
    answer = batch("list/rows.yaml", "--out", "o")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert "line 2: image list/none.png cannot be read" in answer.err
    assert next(read_lines(tmp_path / "o" / NAME))["strength"] == 0.5


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no manifest": (("none.csv", "--out", "o"), "none.csv cannot be read"),
    "another kind": (("rows.xls", "--out", "o"), "is no manifest"),
    "no rows": (("empty.csv", "--out", "o"), "holds no rows"),
    "unknown column": (("rows.csv", "--out", "o"), "unknown column 'animal'"),
    "template without its column": (("rows.csv", "--out", "o", "--template", "a {thing}"), "the template names {thing}"),
    "missing column": (("seeds.csv", "--out", "o"), "there is no column 'prompt'"),
    "unknown field": (("prompts.txt", "--out", "o", "--set", "sede=1"), "'seed' for instance"),
    "bad value": (("prompts.txt", "--out", "o", "--set", "width=wide"), "give a whole number"),
    "aspects": (("prompts.txt", "--out", "o", "--aspects", "myspace"), "--aspects 'myspace'"),
    "seeds": (("prompts.txt", "--out", "o", "--seeds", "8-1"), "--seeds '8-1'"),
    "combine": (("prompts.txt", "--out", "o", "--combine", "all"), "there is zip and matrix"),
    "format": (("prompts.txt", "--out", "o", "--format", "gif"), "there is png, webp and jpeg"),
    "batch": (("prompts.txt", "--out", "o", "--batch", "9"), "--batch 9"),
    "tars": (("prompts.txt", "--out", "o", "--tars", "0"), "--tars 0"),
    "score": (("prompts.txt", "--out", "o", "--score", "taste"), "there is judge and clip"),
    "no CLIP": (("prompts.txt", "--out", "o", "--score", "clip"), "is not in the Hub's cache: hf download openai/clip-vit-large-patch14 config.json"),
    "no judge": (("prompts.txt", "--out", "o", "--score", "judge"), "has no judge.safetensors"),
    "steps": (("prompts.txt", "--out", "o", "--steps", "3"), "3 steps were asked for"),
    "elsewhere": (("prompts.txt", "--out", "s3:/bucket/run"), "write a bucket as s3://BUCKET/FOLDER"),
    "no client for it": (("prompts.txt", "--out", "nowhere://bucket/run"), "nowhere://bucket/run cannot be written here"),
    "tars in a bucket": (("prompts.txt", "--out", "s3://bucket/run", "--tars", "5"), "tars are written to a folder"),
    "on what": (("prompts.txt", "--out", "o", "--on", "mars"), "--on mars: give here, ray, or the HOST:PORT"),
    "actors here": (("prompts.txt", "--out", "o", "--actors", "4"), "--actors is for a Ray cluster"),
    "actors": (("prompts.txt", "--out", "o", "--on", "ray", "--actors", "4-1"), "--actors 4-1: give their number"),
    "GPUs": (("prompts.txt", "--out", "o", "--on", "ray", "--gpus-per-actor", "1.5"), "--gpus-per-actor 1.5: give a share of one"),
    "CPUs": (("prompts.txt", "--out", "o", "--on", "ray", "--cpus-per-actor", "0"), "--cpus-per-actor 0"),
    "devices": (("prompts.txt", "--out", "o", "--on", "ray", "--device", "cuda:0,cuda:1"), "on a cluster each actor has one device"),
    "a dry run elsewhere": (("prompts.txt", "--out", "o", "--on", "ray", "--dry-run"), "give it without --on ray"),
    "no Unicode": (("prompts.txt", "--out", "\udcff"), "is not valid Unicode"),
    "a file": (("prompts.txt", "--out", "rows.csv"), "rows.csv cannot be written"),
    "other files": (("prompts.txt", "--out", "."), "holds other files"),
    "no place for the summary": (("prompts.txt", "--out", "o", "--json", "none/s.json"), "none cannot be written"),
    "a folder for the summary": (("prompts.txt", "--out", "o", "--json", "."), "--json . is a folder"),
    "a folder for the progress": (("prompts.txt", "--out", "o", "--metrics", ""), "--metrics . is a folder"),
    "the list for the summary": (("prompts.txt", "--out", "o", "--json", "prompts.txt"), "is the list itself"),
    "no YAML": (("rows.yaml", "--out", "o"), "a YAML manifest is a list"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(batch: Batch, tmp_path: Path, case: str) -> None:
    (tmp_path / "empty.csv").write_text("prompt\n")
    (tmp_path / "seeds.csv").write_text("seed\n1\n")
    (tmp_path / "rows.yaml").write_text("prompt: pizza\n")
    arguments, sentence = BAD[case]
    answer = batch(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("fewstep: ")
    assert answer.err.count("\n") == 1, answer.err
    assert sentence in answer.err
    assert not (tmp_path / "o" / NAME).exists() or not (tmp_path / "o" / NAME).read_bytes()


@pytest.mark.skipif(find_spec("ray") is not None, reason="[ray] is here")
def test_a_cluster_without_its_extra_is_a_sentence(batch: Batch, tmp_path: Path) -> None:
    answer = batch("prompts.txt", "--out", "o", "--on", "ray")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "python -m pip install 'fewstep[ray]'" in answer.err
    assert not (tmp_path / "o").exists()


@pytest.fixture
def begun(batch: Batch, tmp_path: Path) -> Iterator[Path]:
    """A folder with a finished job."""
    assert batch("prompts.txt", "--out", "o", *SMALL).code == 0
    before = files(tmp_path / "o", "**/*")
    yield tmp_path / "o"
    assert files(tmp_path / "o", "**/*") == before


def test_a_manifest_that_changed_is_a_sentence(batch: Batch, begun: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("pizza\nghost\nrocket\n")
    answer = batch("prompts.txt", "--out", begun, *SMALL)
    assert answer.code == 2
    assert "prompts.txt is not what it was when the job in" in answer.err


def test_a_folder_where_all_has_failed_takes_another_job(batch: Batch, tmp_path: Path) -> None:
    """Whoever has put the list right need not give another folder; what failed is forgotten."""
    (tmp_path / "prompts.txt").write_text("pizza\n")
    assert batch("prompts.txt", "--out", "o", *SMALL, "--set", "steps=7").code == 1
    assert [line["error"] for line in read_lines(tmp_path / "o" / NAME)]
    (tmp_path / "prompts.txt").write_text("pizza\nghost\n")
    assert batch("prompts.txt", "--out", "o", *SMALL).code == 0
    assert [line["prompt"] for line in read_lines(tmp_path / "o" / NAME)] == ["pizza", "ghost"]


@pytest.mark.parametrize(
    ("more", "what"), [(("--seeds", "1-2"), "seeds"), (("--tars", "5"), "tars"), (("--format", "webp"), "format"), (("--set", "seed=4"), "settings")]
)
def test_a_folder_of_another_job_is_a_sentence(batch: Batch, begun: Path, more: tuple[str, ...], what: str) -> None:
    answer = batch("prompts.txt", "--out", begun, *SMALL, *more)
    assert answer.code == 2
    assert f"belongs to another job: its {what} is" in answer.err


def test_a_folder_in_use_is_a_sentence(batch: Batch, begun: Path) -> None:
    import fcntl

    lock = os.open(begun / ".lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        answer = batch("prompts.txt", "--out", begun, *SMALL)
    finally:
        os.close(lock)
    assert answer.code == 2
    assert "another fewstep batch is writing" in answer.err


def test_the_same_command_again_changes_nothing(batch: Batch, begun: Path) -> None:
    answer = batch("prompts.txt", "--out", begun, *SMALL)
    assert answer.code == 0
    assert ": 0 made in" in answer.out
    assert "2 were there" in answer.out
