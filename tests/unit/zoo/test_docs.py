"""docs/models.md says what the table of known models says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fewstep.engine.listing import how, size_of, steps_of
from fewstep.zoo.hub import command
from fewstep.zoo.known import KNOWN, Known
from fewstep.zoo.registry import TEXTS, embedded, missing

PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf8")


def row(known: Known) -> str:
    """A known model's line of the page's table."""
    home = f"[{known.repo}](https://huggingface.co/{known.repo})" if known.repo else "in the package"
    steps = steps_of(known) if known.repo else "1, 2, 4, 8"
    size = size_of(known, sum(path.stat().st_size for path in embedded(known.name).rglob("*") if path.is_file()) / 1e6)
    return f"| `{known.name}` | {known.about} | {steps} | {size} | {known.licence} | {home} |"


def files(known: Known) -> list[str]:
    """The lines on its files."""
    return [f"| `{known.name}` | {one.row.steps} | `{one.file}` | {one.row.kind} | {one.row.sampler} {how(one.row)} |" for one in known.weights] + [
        f"| `{known.name}` | {steps} | the whole model | unet | {row.sampler} {how(row)} |" for steps, row in (known.rows or {}).items()
    ]


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_every_known_model_has_its_line(known: Known) -> None:
    assert row(known) in PAGE.splitlines()


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_every_file_has_its_line(known: Known) -> None:
    assert [line for line in PAGE.splitlines() if line.startswith(f"| `{known.name}` | ") and line not in (row(known),)] == files(known)


def test_the_commands_are_those_that_the_program_gives(tmp_path: Path) -> None:
    base = KNOWN["sdxl"]
    typed = re.sub(r"\\\n\s*", "", PAGE)
    assert command(base.repo, missing(tmp_path)) in re.sub(r"[ ]+", " ", typed)
    assert len(missing(tmp_path)) == len(TEXTS) + 4
    published = {(known.repo, one.file) for known in KNOWN.values() for one in known.weights}
    single = re.findall(r"hf download (\S+) (\S+(?:safetensors|bin))", PAGE)
    assert len(single) >= 3 and set(single) <= published
