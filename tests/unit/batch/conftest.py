"""The command ``fewstep batch`` as tests give it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.batch.fake import Answer, Batch

from fewstep.cli import main

ANIMALS = "animal,colour,sku\npizza,red,p1\nghost,blue,g1\ncat face,green,c1\n"


@pytest.fixture
def batch(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> Batch:
    """``fewstep batch`` with the tiny model, in an empty working directory with a manifest or two."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text(ANIMALS)
    (tmp_path / "prompts.txt").write_text("pizza\nghost\n")

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["batch", *map(str, arguments), "--model", str(tiny)])
        captured = capsys.readouterr()
        return Answer(int(caught.value.code or 0), captured.out, captured.err)

    return run
