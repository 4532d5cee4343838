"""Rows multiplied: by a template's columns, by shapes and by seeds, and what a command line cannot mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.batch.fake import LIMITS

from fewstep.batch.expand import Bad, Expansion, Wanted
from fewstep.batch.manifest import open_manifest
from fewstep.batch.multiply import NETWORKS, parse_aspects, parse_seeds, sizes_of
from fewstep.engine.request import Limits, RequestError

ANIMALS = "animal,colour\nfox,red\nowl,blue\n"
TEMPLATE = "a {animal} on a {colour} background"
SDXL = Limits("sdxl", 8, 1024, (4,), False, 4)


def wanted(tmp_path: Path, content: str, expansion: Expansion, name: str = "rows.csv") -> list[Wanted | Bad]:
    (tmp_path / name).write_text(content)
    return list(expansion.wanted(open_manifest(tmp_path / name)))


def prompts(found: Sequence[Wanted | Bad]) -> list[str]:
    return [one.request.prompt if isinstance(one, Wanted) else one.error for one in found]


def test_a_template_takes_its_columns_row_by_row(tmp_path: Path) -> None:
    found = wanted(tmp_path, ANIMALS, Expansion(TEMPLATE))
    assert prompts(found) == ["a fox on a red background", "a owl on a blue background"]
    assert [dict(one.labels) for one in found if isinstance(one, Wanted)] == [{"animal": "fox", "colour": "red"}, {"animal": "owl", "colour": "blue"}]


def test_a_matrix_has_every_combination_of_the_columns_values(tmp_path: Path) -> None:
    content = "animal,colour,steps\nfox,red,1\nowl,blue,\nfox,,2\n"
    found = wanted(tmp_path, content, Expansion(TEMPLATE, "matrix"))
    expected = {(f"a {animal} on a {colour} background", steps) for animal in ("fox", "owl") for colour in ("red", "blue") for steps in (1, 2)}
    assert {(one.request.prompt, one.request.steps) for one in found if isinstance(one, Wanted)} == expected
    assert len(found) == len(expected) == Expansion(TEMPLATE, "matrix").count(open_manifest(tmp_path / "rows.csv"))


def test_a_matrix_is_counted_without_being_gone_through(tmp_path: Path) -> None:
    """A hundred values in each of six columns are 10^12 combinations."""
    (tmp_path / "rows.csv").write_text("a,b,c,d,e,f\n" + "".join(f"{','.join([str(n)] * 6)}\n" for n in range(100)))
    expansion = Expansion("{a} {b} {c} {d} {e} {f}", "matrix", seeds=(1, 2))
    assert expansion.count(open_manifest(tmp_path / "rows.csv")) == 2 * 100**6
    (tmp_path / "rows.csv").write_text("a,b\n")
    assert Expansion("{a} {b}", "matrix").count(open_manifest(tmp_path / "rows.csv")) == 0


def test_choices_of_the_seed_and_braces_that_are_meant_stay_in_a_template(tmp_path: Path) -> None:
    found = wanted(tmp_path, ANIMALS, Expansion(r"{ animal } in {red|blue}, \{colour}", keep=("colour",)))
    assert prompts(found)[0] == r"fox in {red|blue}, \{colour}"


def test_shapes_and_seeds_multiply_rows(tmp_path: Path) -> None:
    expansion = Expansion(sizes=((64, 64), (64, 96)), seeds=(3, 5))
    found = [one for one in wanted(tmp_path, "prompt\na\nb\n", expansion) if isinstance(one, Wanted)]
    assert [one.index for one in found] == list(range(8))
    assert [(one.request.prompt, one.request.height, one.request.seed) for one in found] == [(p, h, s) for p in "ab" for h in (64, 96) for s in (3, 5)]


def test_nothing_is_left_to_chance(tmp_path: Path) -> None:
    """A row without a seed has its number, and a variation without one the next: the same job is the same pictures."""
    (one, two) = wanted(tmp_path, "prompt,variation,seed\na,0.5,\nb,0.5,41\n", Expansion())
    assert isinstance(one, Wanted)
    assert isinstance(two, Wanted)
    assert (one.request.seed, one.request.variation_seed) == (1, 2)
    assert (two.request.seed, two.request.variation_seed) == (41, 42)


def test_settings_are_for_rows_that_do_not_say(tmp_path: Path) -> None:
    found = wanted(tmp_path, "prompt,steps\na,\nb,2\n", Expansion(given={"steps": 8, "negative": "fog"}))
    assert [(one.request.steps, one.request.negative) for one in found if isinstance(one, Wanted)] == [(8, "fog"), (2, "fog")]


@pytest.mark.parametrize(
    ("content", "expansion", "sentence"),
    [
        ("words\na\n", Expansion(), "unknown column 'words'"),
        ("promt\na\n", Expansion(), "a column is 'prompt' for instance"),
        ("seed\n1\n", Expansion(), "there is no column 'prompt': there is seed"),
        ("animal\nfox\n", Expansion(TEMPLATE), r"the template names \{colour\}, and there is no such column: there is animal"),
        ("prompt\na\n", Expansion(keep=("sku",)), "--keep names 'sku'"),
        ("prompt,animal\na,b\n", Expansion("a {animal}"), "both a column 'prompt' and a --template"),
        ("prompt,aspect\na,1:1\n", Expansion(sizes=((64, 64),)), "--aspects and a 'aspect' were both given"),
        ("prompt,seed\na,1\n", Expansion(seeds=(1,)), "--seeds and a 'seed' were both given"),
        ("prompt\na\n", Expansion(seeds=(1,), given={"seed": 2}), "--seeds and a 'seed' were both given"),
    ],
)
def test_columns_that_do_not_go_with_the_command_are_a_sentence(tmp_path: Path, content: str, expansion: Expansion, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        wanted(tmp_path, content, expansion)


@pytest.mark.parametrize(
    ("content", "name", "line", "sentence"),
    [
        ("prompt,seed\na,1\n,2\nc,3\n", "rows.csv", 3, "its prompt is empty"),
        ("prompt,seed\na,1\nb,-2\nc,3\n", "rows.csv", 3, "seed = -2"),
        ("prompt,steps\na,1\nb,x\nc,1\n", "rows.csv", 3, "steps = 'x'"),
        ('{"prompt": "a"}\n{"prompt": "b", "sede": 1}\n{"prompt": "c"}\n', "rows.jsonl", 2, "a column is 'seed' for instance"),
        ('{"prompt": "a"}\n{"seed": 1}\n{"prompt": "c"}\n', "rows.jsonl", 2, "no column 'prompt'"),
    ],
)
def test_a_bad_row_is_its_own_failure(tmp_path: Path, content: str, name: str, line: int, sentence: str) -> None:
    one, bad, two = wanted(tmp_path, content, Expansion(), name)
    assert isinstance(bad, Bad)
    assert (bad.index, bad.line) == (1, line)
    assert sentence in bad.error
    assert prompts([one, two]) == ["a", "c"]


def test_a_bad_row_counts_for_all_its_pictures(tmp_path: Path) -> None:
    found = wanted(tmp_path, "prompt,steps\na,x\nb,1\n", Expansion(seeds=(1, 2, 3)))
    assert isinstance(found[0], Bad)
    assert found[0].count == 3
    assert [one.index for one in found] == [0, 3, 4, 5]


def test_text_that_is_not_utf_8_is_one_rows_failure(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"prompt,sku\na,1\nb\xff,2\nc,\xff\nd,4\n")
    found = list(Expansion(keep=("sku",)).wanted(open_manifest(tmp_path / "rows.csv")))
    assert ["UTF-8" in one.error if isinstance(one, Bad) else one.request.prompt for one in found] == ["a", True, True, "d"]


def test_text_that_is_no_unicode_is_found_inside_a_value(tmp_path: Path) -> None:
    rows = ['{"prompt": "a", "sku": ["\\ud800"]}', '{"prompt": "b", "sku": {"\\ud800": 1}}', '{"prompt": "c", "sku": ["ä"]}']
    found = wanted(tmp_path, "\n".join(rows), Expansion(keep=("sku",)), "rows.jsonl")
    assert prompts(found) == ["its sku is not valid Unicode: write the file in UTF-8"] * 2 + ["c"]


def test_a_cell_that_is_no_number_is_empty(tmp_path: Path) -> None:
    """And so is null: a column that is there and holds nothing is not one that is missing."""
    rows = ['{"prompt": "a", "seed": NaN, "sku": NaN}', '{"prompt": "b", "sku": null}', '{"prompt": "c", "sku": -Infinity}', '{"prompt": "d"}']
    found = wanted(tmp_path, "\n".join(rows), Expansion(keep=("sku",)), "rows.jsonl")
    assert [(one.request.seed, one.labels) for one in found if isinstance(one, Wanted)] == [(1, {}), (2, {}), (3, {"sku": "-inf"})]
    assert prompts(found)[3] == "--keep names 'sku', and there is no such column: there is prompt"


def test_a_template_takes_texts_and_numbers(tmp_path: Path) -> None:
    found = wanted(tmp_path, '{"animal": null}\n{"animal": ["fox"]}\n{"animal": 7}\n', Expansion("a {animal}"), "rows.jsonl")
    assert prompts(found) == ["its animal is empty", "its animal is ['fox'], and the template names it: give a text or a number", "a 7"]


def test_shapes_snap_to_the_model() -> None:
    """SDXL's own training sizes, by ratio; two ratios that are one size to a small model are one."""
    sizes = {aspect: size for size, aspect in sizes_of(("1:1", "4:5", "16:9", "9:16", "1.91:1"), SDXL).items()}
    assert sizes == {"1:1": (1024, 1024), "4:5": (896, 1152), "16:9": (1344, 768), "9:16": (768, 1344), "1.91:1": (1408, 768)}
    assert list(sizes_of(("4:5", "3:4"), Limits("small", 16, 256, (1,), False, 1)).values()) == ["4:5 and 3:4"]


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_has_shapes_that_a_model_makes(network: str) -> None:
    for width, height in sizes_of(parse_aspects(network), SDXL):
        SDXL.check_size(width, height)
    for width, height in sizes_of(parse_aspects(network), LIMITS):
        LIMITS.check_size(width, height)


def test_lists_are_read_and_each_counts_once() -> None:
    assert parse_seeds("1-3, 7,2-4") == (1, 2, 3, 7, 4)
    assert parse_aspects("tiktok,1:1,9:16") == ("9:16", "1:1")
    assert parse_seeds(None) == parse_aspects(None) == ()


@pytest.mark.parametrize("text", ["", "1:1:1", "0:1", "1:9", "myspace", "16/9"])
def test_what_is_no_shape_is_a_sentence(text: str) -> None:
    with pytest.raises(RequestError, match="--aspects"):
        parse_aspects(text)


@pytest.mark.parametrize("text", ["", "8-1", "a", "1--2", "0-99999999999", "9223372036854775808"])
def test_what_are_no_seeds_is_a_sentence(text: str) -> None:
    with pytest.raises(RequestError, match="--seeds"):
        parse_seeds(text)
