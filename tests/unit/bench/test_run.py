"""The whole benchmark on a tiny model, in small: what it writes, what it prints, and that a wrong answer does not win."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SHAPE
from tests.unit.bench.test_sdxl import SMALL

from fewstep.bench import options as options_module
from fewstep.bench.options import SECTIONS
from fewstep.bench.run import bars_of, settings
from fewstep.bench.sides import Question, Questions
from fewstep.bench.table import Section
from fewstep.cli import main
from fewstep.engine.engine import Engine
from fewstep.engine.request import BACKENDS, listed
from fewstep.models.tiny_decoder import TinyConfig, build_tiny, save_tiny
from fewstep.stamp import file_hash
from fewstep.zoo.known import KNOWN


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a reduced decoder."""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("bench") / "tiny")
    torch.manual_seed(0)
    decoder = build_tiny(TinyConfig(SHAPE.latent_channels, 16, (16, 16), (1, 1)))
    save_tiny(decoder, folder, file_hash(folder / "vae" / "diffusion_pytorch_model.safetensors"))
    return folder


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "cores", lambda: 1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def bench(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, dict[str, Any]]]:
    """``fewstep bench`` on the tiny model with eager torch at 64 pixels: (exit code, what it printed, the file it wrote)."""

    def run(*arguments: str) -> tuple[int, str, dict[str, Any]]:
        fixed = ["bench", "--model", str(model), "--backend", "eager", "--size", "64", "--rounds", "1", "--quick", "--json", str(tmp_path / "out.json")]
        with pytest.raises(SystemExit) as caught:
            main([*fixed, *arguments])
        return int(caught.value.code or 0), capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())

    return run


def test_with_a_dash_the_json_stands_alone_and_the_tables_are_beside_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fewstep.bench.run.measured", lambda *_: iter([Section("memory", ({"batch": 1},))]))
    with pytest.raises(SystemExit):
        main(["bench", "--model", str(model), "--backend", "eager", "--json", "-"])
    shown = capsys.readouterr()
    assert [section["name"] for section in json.loads(shown.out)["sections"]] == ["memory"]
    assert shown.err.startswith("Peak memory")
    assert not list(tmp_path.glob("-"))


def rows(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for section in found["sections"] if section["name"] == name for row in section["rows"]]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_table_is_measured_printed_and_written(bench: Callable[..., tuple[int, str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.bench.growth.LARGEST_BATCH", 4)
    monkeypatch.setattr("fewstep.bench.growth.sizes", lambda limits: [64, 96])
    code, shown, found = bench("--steps", "1,2", "--batch", "2")
    assert code == 0, shown
    names = ["compare", "memory", "method", "product", "peaks", "stages", "growth_size", "growth_batch", "growth_steps", "startup"]
    assert [section["name"] for section in found["sections"]] == names
    assert (found["complete"], found["failed"], found["bars"]) == (True, [], [])
    assert (found["settings"]["only"], found["settings"]["model"], found["machine"]["threads"]) == (list(SECTIONS), "tiny", 1)

    compared = rows(found, "compare")
    assert [(row["batch"], row["steps"], row["decoder"]) for row in compared] == [(b, s, d) for b in (2,) for s in (1, 2) for d in ("full", "tiny")]
    assert all(row["difference"] <= 2 and row["ratio"] > 0 for row in compared)
    assert all(row["ours_ms"] <= row["ours_p95_ms"] for row in compared)
    assert [row["psnr"] is None for row in compared] == [True, False] * 2

    memory = {(row["batch"], row["what"]): row["megabytes"] for row in rows(found, "memory")}
    assert set(memory) == {(2, what) for what in ("ours, full decoder", "ours, tiny decoder", "diffusers")}
    assert all(50 < megabytes < 2000 for megabytes in memory.values())

    for row in rows(found, "method"):
        assert row["of_allowed"] == pytest.approx(row["ratio"] / row["allowed"], rel=1e-4), "of one round"
        assert 1 < row["flops_ratio"] < 100, "a teacher's 50 steps with guidance are 100 evaluations, and a picture is more than those"
    assert len(rows(found, "product")) == 4

    peak = next(row["gflops"] for row in rows(found, "peaks") if row.get("gflops"))
    for row in rows(found, "stages"):
        assert row["of_peak"] == pytest.approx(row["gflops"] / peak, rel=1e-3)
        assert 0 < row["of_peak"] < 1
        assert row["gflop"] / row["gflops"] * 1000 == pytest.approx(row["ms"], rel=1e-3)
    denoise = {row["steps"]: row["gflop"] for row in rows(found, "stages") if row["stage"] == "denoise"}
    assert denoise[2] == pytest.approx(2 * denoise[1], rel=1e-5)

    assert [row["side"] for row in rows(found, "growth_size")] == [64, 96]
    assert [row["batch"] for row in rows(found, "growth_batch")] == [1, 2, 4]
    assert [row["steps"] for row in rows(found, "growth_steps")] == [1, 2, 4, 8]
    assert next(row["relative"] for row in rows(found, "growth_steps")) == 1.0
    started = {row["what"]: row for row in rows(found, "startup")}
    assert started["python alone"]["seconds"] < started["fewstep generate, warm"]["seconds"]
    assert started["python alone"]["megabytes"] < started["diffusers, from_pretrained"]["megabytes"]
    assert "fewstep against diffusers\n" in shown
    assert "\x1b" not in shown


@pytest.mark.slow
def test_a_fast_wrong_answer_does_not_win(bench: Callable[..., tuple[int, str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that answers every request with the picture of another seed is quick, and has no ratio."""
    made: dict[tuple[int, int], list[Any]] = {}
    honest = Engine.generate_many

    def remembered(self: Engine, requests: Any) -> Iterator[Any]:
        asked = list(requests)
        key = (asked[0].steps, len(asked))
        if key not in made:
            made[key] = list(honest(self, asked))
        return iter(made[key])

    monkeypatch.setattr(Engine, "generate_many", remembered)
    code, shown, found = bench("--steps", "1", "--batch", "1", "--only", "compare")
    row = rows(found, "compare")[0]
    assert code == 1
    assert (row["decoder"], row["ratio"]) == ("full", None)
    assert row["difference"] > 2
    assert f"its pictures differ by {row['difference']} of 255" in found["failed"][0]
    assert "FAILED: compare, 64 px, batch 1, steps 1, decoder full" in shown


@pytest.mark.slow
def test_without_a_tiny_decoder_or_a_teacher_rows_are_left_out_with_a_note(
    bench: Callable[..., tuple[int, str, dict[str, Any]]], model: Path, tmp_path: Path
) -> None:
    from fewstep.export import write

    alone = write(model, 2, "diffusers", tmp_path / "two")
    code, _, found = bench("--model", str(alone), "--batch", "1", "--only", "standard,stages")
    assert code == 0
    assert [(section["name"], len(section["rows"])) for section in found["sections"]] == [("method", 0), ("product", 0), ("peaks", 2), ("stages", 3)]
    assert found["sections"][0]["notes"] == ["left out: two has no teacher with guidance beside its students"]
    assert found["sections"][3]["notes"][0].startswith("rows with the tiny decoder are left out: ")


@pytest.mark.slow
def test_what_is_interrupted_leaves_the_tables_that_were_finished(
    bench: Callable[..., tuple[int, str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewstep.bench import compare

    whole = compare.compare_one

    def stop(sides: Any, setting: Any, *rest: Any) -> Any:
        if setting.steps == 2:
            raise KeyboardInterrupt
        return whole(sides, setting, *rest)

    monkeypatch.setattr(compare, "compare_one", stop)
    code, shown, found = bench("--steps", "1,2", "--batch", "1", "--only", "compare,growth")
    assert code == 130
    assert [(section["name"], [row["steps"] for row in section["rows"]]) for section in found["sections"]] == [("compare", [1, 1])]
    assert found["complete"] is False
    assert "times faster" in shown


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sdxl_on_an_accelerator_goes_the_same_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As far as it can be tried without one: a small SDXL with random weights on a processor, one folder for all step counts."""
    from fewstep.bench import sdxl

    write = sdxl.write_random
    monkeypatch.setattr("fewstep.bench.run.best_device", lambda: "cuda")
    monkeypatch.setattr("fewstep.bench.sdxl.write_random", lambda folder, steps, device: write(folder, steps, SMALL))
    arguments = ["--architecture", "sdxl", "--size", "128", "--steps", "1,2", "--batch", "1", "--rounds", "1", "--only", "compare,memory,standard,stages"]
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments, "--backend", "eager", "--json", str(tmp_path)])
    shown = capsys.readouterr().out
    assert not caught.value.code, shown
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    assert path.stem.endswith("-sdxl")
    assert found["settings"]["model"] == "sdxl, random weights"
    assert [(row["steps"], row["decoder"]) for row in rows(found, "compare")] == [(1, "full"), (1, "tiny"), (2, "full"), (2, "tiny")]
    assert [row["what"] for row in rows(found, "memory")] == ["ours, full decoder", "ours, tiny decoder", "diffusers"]
    assert all(row["difference"] <= 2 for name in ("compare", "method", "product") for row in rows(found, name))


def test_bad_input_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    for arguments, sentence in (
        (["--only", "speed"], "fewstep: --only 'speed': there is compare, memory, standard, stages, growth and startup, separated by commas\n"),
        (["--model", str(model), "--steps", "3"], "fewstep: --steps 3: tiny has weights for 1, 2, 4 and 8 steps; its teacher is part of 'standard'\n"),
        (["--model", "nothing"], f"fewstep: there is no model 'nothing': give one of {', '.join(KNOWN)}, a diffusers folder or a .safetensors file\n"),
        (["--backend", "magic"], f"fewstep: backend = 'magic': there is {listed(BACKENDS)}\n"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["bench", *arguments])
        captured = capsys.readouterr()
        assert (caught.value.code, captured.out, captured.err) == (2, "", sentence)


def test_no_prompt_is_asked_twice() -> None:
    questions = Questions()
    first, second = questions(2), questions(1)
    assert first == Question(("a red apple on a blue background, number 1", "a red apple on a blue background, number 2"), (1, 2))
    assert second.seeds == (3,)


def test_only_what_they_were_set_for_is_held_against_the_bars(model: Path) -> None:
    from fewstep.bench.options import Options
    from fewstep.bench.table import Section

    compared = [Section("compare", ({"side": 256, "batch": 1, "steps": 1, "decoder": "full", "ratio": 3.0, "failed": None},))]
    options = Options(sizes=(256,))
    assert len(bars_of("cpu", options, compared)) == 1
    assert bars_of("cuda", options, compared) == []
    assert bars_of("cpu", Options(model=str(model), sizes=(256,)), compared) == []
    assert settings(Options(model=str(model)))["model"] == model.name, "a file is passed on, and holds no path"
    assert os.sep not in json.dumps(settings(Options(model=str(model))))
