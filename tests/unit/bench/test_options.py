"""Options: what is filled in, and one sentence for each that cannot be meant."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fewstep.bench import options as module
from fewstep.bench.options import BATCHES, QUICK_ROUNDS, ROUNDS, SECTIONS, numbers, open_checked, settle
from fewstep.engine.request import RequestError


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 2)


def test_what_is_left_out_is_all_there_is(tiny: Path) -> None:
    model, options = open_checked(settle(model=str(tiny)))
    assert (options.only, options.steps, options.batch, options.sizes) == (SECTIONS, (1, 2, 4, 8), BATCHES, (model.limits.native,))
    assert (options.threads, options.rounds, settle(quick=True).rounds, settle(quick=True, rounds=5).rounds) == (2, ROUNDS, QUICK_ROUNDS, 5)


def test_in_a_list_each_counts_once() -> None:
    assert settle(steps="4, 1,4", batch="8,1").steps == (1, 4)
    assert numbers("--size", "768,512,768", 64, 2048) == (768, 512), "sizes are measured in the order they are given in"
    assert settle(only="growth,compare,growth").only == ("growth", "compare")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"only": "compare,speed"}, "--only 'speed': there is compare, memory, standard, stages, growth and startup, separated by commas"),
        ({"only": ""}, "--only '': there is compare, memory, standard, stages, growth and startup, separated by commas"),
        ({"steps": "1,zwei"}, "--steps '1,zwei': give whole numbers from 1 to 1000, separated by commas"),
        ({"batch": "0"}, "--batch '0': give whole numbers from 1 to 32, separated by commas"),
        ({"batch": "33"}, "--batch '33': give whole numbers from 1 to 32, separated by commas"),
        ({"sizes": "256x256"}, "--size '256x256': give whole numbers from 64 to 2048, separated by commas"),
        ({"threads": 3}, "--threads 3: give 1 to 2: this process may use no more cores (affinity, quota, OMP_NUM_THREADS)"),
        ({"threads": 0}, "--threads 0: give 1 to 2: this process may use no more cores (affinity, quota, OMP_NUM_THREADS)"),
        ({"rounds": 0}, "--rounds 0: give 1 to 1000"),
        ({"architecture": "flux"}, "--architecture 'flux': there is sdxl; leave it out to measure --model"),
        ({"json": Path("/no/such/folder/a.json")}, "--json /no/such/folder/a.json: /no/such/folder cannot be written"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        settle(**given)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"steps": "1,3"}, "--steps 3: tiny has weights for 1, 2, 4 and 8 steps; its teacher is part of 'standard'"),
        ({"sizes": "100"}, "size 100x100: tiny makes pictures whose sides are multiples of 16"),
    ],
)
def test_what_the_model_cannot_do_is_one_sentence(tiny: Path, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        open_checked(settle(model=str(tiny), **given))
    assert str(caught.value).startswith(sentence)


def test_a_file_of_weights_is_no_model_for_diffusers(tiny: Path) -> None:
    with pytest.raises(RequestError, match="is one file of weights: give --model the folder"):
        open_checked(settle(model=str(tiny / "students" / "4-step.safetensors")))


def test_without_students_there_is_nothing_to_measure(tiny: Path, tmp_path: Path) -> None:
    teacher = shutil.copytree(tiny, tmp_path / "teacher", ignore=shutil.ignore_patterns("students"))
    with pytest.raises(RequestError, match="teacher has no few-step weights"):
        open_checked(settle(model=str(teacher)))


def test_without_what_it_compares_with_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "diffusers" else object())
    with pytest.raises(RequestError, match="diffusers is not installed"):
        settle()
