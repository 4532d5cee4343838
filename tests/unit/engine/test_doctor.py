"""What this machine can run, and the numbers behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.cli import main
from fewstep.engine import device, doctor
from fewstep.engine.memory import sdxl

CPUINFO = "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu sse avx2 amx_tile avx512f\n"


def test_the_processors_instructions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cpuinfo", lambda: CPUINFO)
    assert (device.processor(), device.instructions()) == ("A Processor", ["AVX2", "AVX-512", "AMX"])
    monkeypatch.setattr(device, "_cpuinfo", lambda: "Features\t: fp asimd\n")
    assert device.instructions() == ["NEON"]


def test_sdxl_takes_what_its_published_files_do() -> None:
    wanted = sdxl(2)
    assert sum(wanted.weights.values()) == pytest.approx(6.94e9, rel=1e-3), "bytes of the four float16 files"
    assert wanted.weights["unet"] == pytest.approx(5.14e9, rel=1e-3)


@pytest.mark.parametrize(
    ("card", "setting", "says"),
    [
        (24, "", "fits"),
        (8, "--memory model", "more than the 8.0 GB that are free, and 6 GB with --memory model"),
        (4, "--memory sequential", "more than the 4.0 GB that are free, and 2.2 GB with --memory sequential"),
    ],
)
def test_for_a_card_there_is_the_quickest_setting_that_fits(card: int, setting: str, says: str) -> None:
    assert doctor.advice(sdxl(2), int(card * 1e9), "cuda") == (setting, says)


def test_a_processor_is_told_when_a_model_does_not_fit() -> None:
    assert doctor.advice(sdxl(4), 8 * 10**9, "cpu") == (None, "does not fit the 8.0 GB that are free")
    assert doctor.advice(sdxl(4), None, "mps") == ("", "how much is free is not known")


def test_it_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "doctor.json"
    with pytest.raises(SystemExit) as done:
        main(["doctor", "--json", str(path)])
    assert done.value.code == 0
    found, said = json.loads(path.read_text()), capsys.readouterr().out
    emoji, large = (next(one for one in found["models"] if one["name"] == name) for name in ("emoji", "sdxl"))
    assert emoji["says"] in said and large["says"] in said
    assert 0 < emoji["needs"]["sequential"] < emoji["needs"]["model"] < emoji["needs"]["full"] < large["needs"]["full"]
    assert large["controlnet"]["needs"]["full"] == sdxl(4, 1).of("full") and "GB with a ControlNet: " in large["says"]
    assert "controlnet" not in emoji, "it has none of its own"
    assert found["memory"]["bytes"] >= found["memory"]["available"] > 0
    assert next(iter(doctor.report(found))) == ("fewstep", found["fewstep"])


def test_without_torch_it_says_what_that_would_give() -> None:
    program = """
import sys
for name in ("torch", "diffusers", "transformers", "accelerate", "peft", "huggingface_hub"):
    sys.modules[name] = None
import fewstep.engine.doctor as doctor
doctor.installed = lambda package: None
for what, state in doctor.report():
    print(what, state)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "torch not installed; the extra fewstep[sdxl] brings it, for SDXL and its few-step models, the eager backend, training" in done.stdout
    assert "device cpu; numbers are float32" in done.stdout
    assert "model emoji" in done.stdout
