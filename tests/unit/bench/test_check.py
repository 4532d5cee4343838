"""A fast wrong answer, or one with more threads than the other side had, has no figure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from fewstep.bench.check import HALF_BOUND, Check
from fewstep.bench.pixels import BOUND


def made(value: int, threads: int = 1) -> list[Any]:
    return [SimpleNamespace(image=picture(value), record=SimpleNamespace(threads=threads))]


def picture(value: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (value, 0, 0))


@pytest.mark.parametrize(("difference", "fails"), [(0, False), (BOUND, False), (BOUND + 1, True)])
def test_pictures_that_differ_fail(difference: int, fails: bool) -> None:
    check = Check(allowed=1)
    check.see("ours", made(100 + difference), [picture(100)])
    check.see("ours", made(100), [picture(100)])  # a later round that is right makes an earlier one no better
    assert check.row("ours")["difference"] == difference
    assert (check.failure("ours") is not None) is fails
    assert not fails or "differ by 3 of 255" in check.row("ours")["failed"]


def test_two_sides_with_other_numbers_of_threads_fail() -> None:
    check = Check(allowed=1)
    check.see("ours", made(1, threads=2), [picture(1)])
    assert check.failure("ours") == "it used 2 threads and the other side 1"
    accelerator = Check(allowed=None)
    accelerator.see("ours", made(1, threads=2), [picture(1)])
    assert accelerator.failure("ours") is None


def test_sixteen_bits_round_further_apart() -> None:
    check = Check(torch.bfloat16)
    check.see("near", made(HALF_BOUND), [picture(0)])
    check.see("far", made(HALF_BOUND + 1), [picture(0)])
    assert (check.failure("near"), check.failure("far") is not None) == (None, True)


def test_what_was_not_compared_says_so() -> None:
    assert Check().row("other") == {"difference": None, "failed": None}
