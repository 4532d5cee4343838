"""Lists with what nobody thought of: each a picture, or its row's own failure, and a folder that can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.batch.fake import SMALL, Batch

from fewstep.batch.results import NAME, read_lines


def test_labels_of_every_kind_leave_results_and_a_page_that_can_be_read(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text("- {prompt: pizza, day: 2026-01-01, at: !!timestamp 2026-01-01, price: .nan, size: [.inf, .nan]}\n")
    answer = batch("rows.yaml", "--out", "o", "--keep", "day,at,price,size", *SMALL, "--parquet")
    assert (answer.code, answer.err) == (0, "")

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    labels = {"day": "2026-01-01", "at": "2026-01-01", "size": ["inf", None]}
    assert json.loads((tmp_path / "o" / NAME).read_text(), parse_constant=refuse)["labels"] == labels
    entries = re.search(r'type="application/json">(.*)</script>', (tmp_path / "o" / "index.html").read_text())
    assert entries is not None
    assert json.loads(entries[1], parse_constant=refuse)[0]["labels"] == labels


NO_FILE = {
    '"image": "a\\u0000.png"': "image 'a\\x00.png': no file can have this name",
    '"control": [{"image": "\\ud800.png"}]': "its control is not valid Unicode",
    '"loras": [["\\ud800.safetensors", 1]]': "its loras is not valid Unicode",
    '"loras": "a\\u0000.safetensors"': "'a\\x00.safetensors': no file can have this name",
    '"control": [{"image": "here.png", "net": "a\\u0000"}]': "there is no such ControlNet",
}


def test_a_path_that_no_file_can_have_is_its_rows_failure(batch: Batch, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "here.png")
    (tmp_path / "rows.jsonl").write_text("\n".join(f'{{"prompt": "pizza", {field}}}' for field in NO_FILE) + '\n{"prompt": "ghost"}\n')
    answer = batch("rows.jsonl", "--out", "o", *SMALL)
    assert answer.code == 1
    *failed, made = read_lines(tmp_path / "o" / NAME)
    assert made["prompt"] == "ghost"
    for line, sentence in zip(failed, NO_FILE.values(), strict=True):
        assert sentence in line["error"]


def test_a_job_of_words_that_are_no_unicode_is_sentences(batch: Batch, tmp_path: Path) -> None:
    """As the shell gives them, where they are not in the encoding of the system."""
    answer = batch("prompts.txt", "--out", "o", "--template", "\udcff {prompt}", *SMALL)
    assert (answer.code, answer.err.count("the prompt is not valid Unicode")) == (1, 2)
