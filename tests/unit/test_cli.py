"""The command line: what is printed, what is written, and one sentence with exit code 2 for every bad input."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from safetensors import SafetensorError

from fewstep import __version__
from fewstep.cli import main
from fewstep.engine.files import read_record
from fewstep.engine.output import Output

SOURCE = Path(__file__).parents[2] / "src"


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def fewstep(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(int(caught.value.code or 0), captured.out, captured.err)

    return run


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=100, **options)  # type: ignore[call-overload,no-any-return]


def test_what_a_terminal_cannot_show_is_told_all_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fewstep", "generate", "a fox", "--steps", "1", "--size", "64x64", "--out", "狐.png"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "ascii"}
    told = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=100)
    assert (told.returncode, told.stderr) == (0, b"") and told.stdout.startswith(rb"\u72d0.png")
    assert (tmp_path / "狐.png").is_file()


HEAVY = "{'torch', 'diffusers', 'transformers', 'fastapi'}"


@pytest.mark.parametrize(
    "code",
    [
        "import fewstep; fewstep.__version__; dir(fewstep)",
        "import fewstep; fewstep.Request('a cat', seed=1); fewstep.Picture",
        "import fewstep.zoo.registry as r; r.names()",
        "from fewstep.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from fewstep.cli import main\ntry: main(['generate', '--help'])\nexcept SystemExit: pass",
        "from fewstep.cli import main\ntry: main(['models'])\nexcept SystemExit: pass",
        "from fewstep.cli import main\ntry: main(['generate', 'a cat', '--size', '7x7', '--model', MODEL])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str, tiny: Path) -> None:
    done = python("-c", f"import sys\nMODEL = {str(tiny)!r}\n{code}\nprint('loaded:', *sorted({HEAVY} & set(sys.modules)))")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "loaded:"), done.stderr


def test_help_answers_at_once() -> None:
    """Processor time, for the machine may be busy with something else."""
    code = """import time
from fewstep.cli import main
try: main(["--help"])
except SystemExit: print(time.process_time())"""
    assert min(float(python("-c", code).stdout.splitlines()[-1]) for _ in range(3)) < 0.3


def test_streams_that_are_closed_take_nothing_with_them(tiny: Path, tmp_path: Path) -> None:
    made = f"{sys.executable} -m fewstep generate x --model {tiny} --steps 1 --out {tmp_path / 'a.png'} >&- 2>&-"
    assert subprocess.run(made, shell=True).returncode == 0
    assert (tmp_path / "a.png").is_file()


def test_every_verb_is_there(fewstep: Run) -> None:
    answer = fewstep("--help")
    assert answer.code == 0
    for verb in ("generate", "batch", "models", "doctor", "data", "train", "distill", "evaluate", "export"):
        assert f"  {verb} " in answer.out
        assert fewstep(verb, "--help").code == 0


def test_one_picture(fewstep: Run, tiny: Path, tmp_path: Path) -> None:
    answer = fewstep("generate", "a red apple", "--model", tiny, "--seed", 7, "--steps", 2, "--size", "96x64")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("a-red-apple-7.png  seed 7  2 steps  96x64  text ")
    assert "denoise" in answer.out
    assert answer.out.count("\n") == 1
    assert "\x1b" not in answer.out
    with Image.open(tmp_path / "a-red-apple-7.png") as picture:
        assert picture.size == (96, 64)


def test_json_is_one_object_a_picture(fewstep: Run, tiny: Path) -> None:
    answer = fewstep("generate", "pizza", "ghost", "--count", 2, "--seed", 5, "--model", tiny, "--steps", 1, "--aspect", "16:9", "--json", "--out", "o")
    objects = [json.loads(line) for line in answer.out.splitlines()]
    assert [(o["prompt"], o["seed"]) for o in objects] == [("pizza", 5), ("pizza", 6), ("ghost", 5), ("ghost", 6)]
    for o in objects:
        assert list(o) == ["path", "prompt", "seed", "steps", "width", "height", "model", "timings_ms"]
        assert (o["steps"], o["width"], o["height"], o["model"]) == (1, 336, 192, "tiny")
        assert set(o["timings_ms"]) == {"text", "denoise", "decode"}
        assert read_record(Path(o["path"])).prompt == o["prompt"]


def test_a_random_seed_is_printed_and_repeats_the_picture(fewstep: Run, tiny: Path) -> None:
    first = json.loads(fewstep("generate", "pizza", "--model", tiny, "--steps", 1, "--json").out)
    again = json.loads(fewstep("generate", "pizza", "--model", tiny, "--steps", 1, "--json", "--seed", first["seed"]).out)
    assert first["path"] != again["path"], "nothing is overwritten unasked"
    assert Path(first["path"]).read_bytes() == Path(again["path"]).read_bytes()


def test_from_repeats_to_the_byte(fewstep: Run, tiny: Path) -> None:
    made = [json.loads(line) for line in fewstep("generate", "pizza", "--count", 3, "--model", tiny, "--steps", 2, "--json").out.splitlines()]
    for number, one in enumerate(made):
        answer = fewstep("generate", "--from", one["path"], "--model", tiny, "--out", f"again-{number}.png")
        assert answer.code == 0
        assert Path(f"again-{number}.png").read_bytes() == Path(one["path"]).read_bytes()


@pytest.mark.parametrize(("kind", "suffix"), [("webp", ".webp"), ("jpeg", ".jpg")])
def test_other_formats_are_written_and_repeated_to_the_byte(fewstep: Run, tiny: Path, kind: str, suffix: str) -> None:
    arguments = ("generate", "pizza", "--count", 2, "--seed", 5, "--model", tiny, "--steps", 1, "--size", "64x64", "--json", "--format", kind, "--out", "o")
    made = [json.loads(line)["path"] for line in fewstep(*arguments).out.splitlines()]
    assert made == [f"o/pizza-{seed}{suffix}" for seed in (5, 6)]
    again = json.loads(fewstep("generate", "--from", made[1], "--model", tiny, "--json").out)["path"]
    assert again == f"pizza-6{suffix}", "in the format that it was in"
    assert Path(again).read_bytes() == Path(made[1]).read_bytes()
    assert fewstep("generate", "--from", made[1], "--model", tiny, "--out", "again.png").code == 0
    with Image.open("again.png") as plain, Image.open(again) as packed:
        assert plain.format == "PNG"
        assert packed.format == kind.upper()
        assert plain.size == packed.size


def test_from_another_version_is_said(fewstep: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = json.loads(fewstep("generate", "pizza", "--model", tiny, "--steps", 1, "--size", "64x64", "--json").out)
    again = ("generate", "--from", made["path"], "--model", tiny, "--out", "again.png")
    assert "was made by" not in fewstep(*again).err
    monkeypatch.setattr("fewstep.engine.run.__version__", "9.0")
    answer = fewstep(*again)
    assert answer.code == 0
    assert f"was made by fewstep {__version__}, and this is 9.0" in answer.err


def test_from_does_not_open_a_folder_that_only_the_picture_names(fewstep: Run, tiny: Path) -> None:
    made = json.loads(fewstep("generate", "pizza", "--model", tiny, "--steps", 1, "--size", "64x64", "--json").out)
    answer = fewstep("generate", "--from", made["path"], "--out", "again.png")
    assert (answer.code, answer.out) == (2, "")
    assert "made with 'tiny', which is no known name: give --model" in answer.err


def test_prompts_from_a_file(fewstep: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("pizza\n\n  ghost \n")
    answer = fewstep("generate", "--prompts", "prompts.txt", "--model", tiny, "--steps", 1, "--size", "64x64", "--json")
    assert [json.loads(line)["prompt"] for line in answer.out.splitlines()] == ["pizza", "ghost"]


def test_hints_go_to_standard_error(fewstep: Run, tiny: Path) -> None:
    answer = fewstep("generate", "a red aple", "", "--model", tiny, "--steps", 1, "--size", "64x64")
    assert answer.code == 0
    assert "the nearest it knows is 'apple'" in answer.err
    assert "null prompt" in answer.err
    assert len(answer.out.splitlines()) == 2


def test_models_are_listed_and_subjects_printed_one_a_line(fewstep: Run, tiny: Path) -> None:
    assert fewstep("models").out.startswith("emoji  ")
    assert "1, 2, 4 and 8 steps" in fewstep("models", tiny).out
    assert fewstep("models", tiny, "--subjects").out.splitlines() == json.loads((tiny / "words.json").read_text())["subjects"]


def test_doctor_names_versions_device_and_model(fewstep: Run) -> None:
    out = fewstep("doctor").out
    for what in ("fewstep", "python", "torch", "diffusers", "device", "threads", "model emoji"):
        assert any(line.startswith(what) for line in out.splitlines())


def test_what_is_written_as_json_can_stand_alone_on_the_standard_output(fewstep: Run) -> None:
    """No file is called "-", and what is always a file says that it is."""
    assert json.loads(fewstep("doctor", "--json", "-").out)["fewstep"]
    assert not Path("-").exists()
    assert fewstep("evaluate", "--source", ".", "--html", "-") == Answer(
        2, "", "fewstep: --html -: this is written as a file, and not to the standard output: give its name\n"
    )


def test_where_nothing_can_be_written_the_name_is_the_one_that_was_given(fewstep: Run) -> None:
    assert fewstep("doctor", "--json", "nowhere/x.json") == Answer(
        2, "", f"fewstep: --json nowhere/x.json: {Path.cwd() / 'nowhere'} cannot be written (No such file or directory): make it, or name another file\n"
    )


GOOD = ("generate", "pizza", "--model", "TINY")
BAD = {
    "no prompt": ((*GOOD[:1], *GOOD[2:]), "holds no prompt"),
    "empty prompt list": ((*GOOD[:1], *GOOD[2:], "--prompts", "empty.txt"), "empty.txt holds no prompt"),
    "missing prompt list": ((*GOOD[:1], *GOOD[2:], "--prompts", "none.txt"), "none.txt cannot be read"),
    "prompt list that is no text": ((*GOOD[:1], *GOOD[2:], "--prompts", "binary"), "not UTF-8"),
    "unknown step count": ((*GOOD, "--steps", "3"), "3 steps were asked for, and tiny has weights for 1, 2, 4 and 8 steps"),
    "steps of one file": (("generate", "pizza", "--model", "TINY/students/4-step.safetensors", "--steps", "2"), "use --steps 4"),
    "size off the grid": ((*GOOD, "--size", "250x256"), "size 250x256: .* nearest is 256x256"),
    "size beyond the limits": ((*GOOD, "--size", "4096x4096"), "size 4096x4096: .* nearest is 512x512"),
    "size that is none": ((*GOOD, "--size", "big"), "size 'big'"),
    "unknown aspect": ((*GOOD, "--aspect", "2:1"), "aspect = '2:1': give one of 16:9, 4:3, 1:1, 3:4, 9:16"),
    "size and aspect": ((*GOOD, "--size", "64x64", "--aspect", "1:1"), "give one of them"),
    "negative seed": ((*GOOD, "--seed", "-1"), "seed = -1"),
    "unwritable output": ((*GOOD, "--out", "binary/x.png"), "cannot be written"),
    "one file for many": ((*GOOD, "--out", "x.png", "--count", "2"), "give a folder"),
    "other format": ((*GOOD, "--out", "x.gif"), "ends in .png, .webp or .jpg, or a folder"),
    "unknown format": ((*GOOD, "--format", "gif"), "--format gif: there is png, webp and jpeg"),
    "two formats": ((*GOOD, "--out", "x.png", "--format", "webp"), "do not go together"),
    "missing model": (("generate", "pizza", "--model", "nothing"), "there is no model 'nothing': give one of emoji"),
    "pickle": (("generate", "pizza", "--model", "weights.ckpt"), "only safetensors are read"),
    "pickle in disguise": (("generate", "pizza", "--model", "pickle.safetensors"), "not a readable safetensors file"),
    "folder that is no model": (("generate", "pizza", "--model", "."), "holds no model_index.json"),
    "from and prompt": ((*GOOD, "--from", "x.png"), "give it alone"),
    "from nothing": (("generate", "--from", "x.png"), "x.png cannot be read"),
    "from no picture": (("generate", "--from", "binary"), "is no PNG"),
    "subjects of nothing": (("models", "--subjects"), "give a model"),
    "no emoji there": (("data", "emoji", "--source", ".", "--out", "o"), "holds no emoji"),
    "a repeat by another backend": (("generate", "--from", "p.png", "--backend", "eager"), "give it alone"),
    "unknown export": (("export", "TINY", "--steps", "4", "--to", "gguf", "--out", "o"), "there is diffusers, unet, lora, single-file, onnx and graphs"),
    "export of no student": (("export", "TINY", "--steps", "3", "--out", "o"), "3 steps were asked for"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(fewstep: Run, tiny: Path, tmp_path: Path, case: str, request: pytest.FixtureRequest) -> None:
    if case == "pickle in disguise":
        request.getfixturevalue("no_embedded")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\xd8")
    for name in ("weights.ckpt", "pickle.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"weights": 1}) * 50)
    before = sorted(path.name for path in tmp_path.iterdir())
    arguments, sentence = BAD[case]
    answer = fewstep(*(argument.replace("TINY", str(tiny)) for argument in arguments))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("fewstep: ")
    assert answer.err.count("\n") == 1, answer.err
    assert re.search(sentence, answer.err), answer.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.fixture
def no_embedded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone weights file belongs to the embedded model: let that be the tiny one."""
    monkeypatch.setattr("fewstep.zoo.registry.embedded", lambda name: tiny)


def test_damaged_weights_are_bad_input(fewstep: Run, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    path = folder / "students" / "4-step.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    answer = fewstep("generate", "pizza", "--model", folder, "--out", "o.png")
    assert (answer.code, answer.out) == (2, "")
    assert "4-step.safetensors" in answer.err.splitlines()[-1]
    assert not (tmp_path / "o.png").exists()


def test_what_fails_midway_is_named_and_the_rest_is_made(fewstep: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Output.save

    def full(self: Output, picture: object) -> Path:
        if picture.seed == 6:  # type: ignore[attr-defined]
            raise OSError(28, "No space left on device", "pizza-6.png")
        return save(self, picture)  # type: ignore[arg-type]

    monkeypatch.setattr(Output, "save", full)
    answer = fewstep("generate", "pizza", "--model", tiny, "--seed", 5, "--count", 3, "--steps", 1, "--size", "64x64")
    assert answer.code == 1
    assert "pizza-6.png was not written: No space left on device" in answer.err
    assert len(answer.out.splitlines()) == 2


def test_training_that_diverges_is_a_sentence_and_exit_code_1(fewstep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.distill.trainer import NonFinite

    def diverge(*_: object) -> None:
        raise NonFinite("the loss is nan at sample 640")

    monkeypatch.setattr("fewstep.distill.pretrain.train_teacher", diverge)
    recipe = Path(__file__).parents[2] / "recipes" / "smoke-teacher.toml"
    assert fewstep("train", recipe) == Answer(1, "", "fewstep: the loss is nan at sample 640\n")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "unet.safetensors"), SafetensorError("I/O error: No space (os error 28)")])
def test_a_full_disk_is_a_sentence_and_exit_code_1_wherever_it_strikes(fewstep: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("fewstep.distill.pretrain.train_teacher", full)
    recipe = Path(__file__).parents[2] / "recipes" / "smoke-teacher.toml"
    assert fewstep("train", recipe) == Answer(1, "", "fewstep: the disk is full: make room, and give the same command again\n")


@pytest.mark.parametrize("verb", ["train", "distill"])
def test_a_broken_recipe_is_bad_input(fewstep: Run, tmp_path: Path, verb: str) -> None:
    (tmp_path / "broken.toml").write_text("steps = [")
    for recipe, reason in (("none.toml", "there is no such recipe"), ("broken.toml", "not a readable TOML file")):
        answer = fewstep(verb, recipe, "--run", "run")
        assert answer.code == 2
        assert reason in answer.err
        assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "recipe", "right"),
    [("train", "emoji", "distill"), ("train", "emoji-decoder", "distill"), ("distill", "emoji-teacher", "train"), ("distill", "emoji-judge", "train")],
)
def test_a_recipe_for_the_other_verb_names_it(fewstep: Run, verb: str, recipe: str, right: str) -> None:
    path = Path(__file__).parents[2] / "recipes" / f"{recipe}.toml"
    answer = fewstep(verb, path, "--run", "run")
    assert answer.code == 2
    assert answer.err.endswith(f": fewstep {right} {path}\n") and answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("generate", "a fox", "--count", "x"), "'x'"),
        (("generate", "a fox", "--bogus"), "No such option: --bogus"),
        (("paint",), "No such command 'paint'"),
        (("export",), "Missing"),
    ],
)
def test_what_the_command_line_does_not_know_is_a_sentence(fewstep: Run, words: tuple[str, ...], says: str) -> None:
    answer = fewstep(*words)
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err and answer.err.count("\n") == 1
    assert "--help" in answer.err


def test_without_words_there_is_help(fewstep: Run) -> None:
    answer = fewstep()
    assert answer.code == 2 and "Commands" in answer.err + answer.out and "--version" in answer.err + answer.out


def test_evaluating_without_drawings_says_which_are_needed(fewstep: Run, tiny: Path) -> None:
    answer = fewstep("evaluate", tiny)
    assert answer.code == 2
    assert "--source" in answer.err


def test_a_student_in_a_file_is_exported_with_its_folder(fewstep: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "alone.safetensors"
    answer = fewstep("export", tiny / "students" / "4-step.safetensors", "--steps", 4, "--to", "unet", "--out", out)
    assert (answer.code, answer.out.strip()) == (0, str(out))
    assert out.is_file() and out.with_suffix(".md").is_file()


def test_an_export_is_written_where_it_says(fewstep: Run, tiny: Path, tmp_path: Path) -> None:
    answer = fewstep("export", tiny, "--steps", 4, "--out", "four")
    assert answer.code == 0
    assert (Path(answer.out.strip()) / "model_index.json").is_file()
    assert Path(answer.out.strip()) == (tmp_path / "four").resolve()


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 3.00 MiB"), RuntimeError("can't start new thread")])
def test_too_little_memory_is_a_sentence(error: Exception, fewstep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise error

    monkeypatch.setattr("fewstep.engine.doctor.facts", full)
    answer = fewstep("doctor")
    assert answer.code == 2 and "not enough memory" in answer.err


def test_our_own_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fewstep.engine.doctor.facts", broken)
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])
