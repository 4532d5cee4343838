"""Token ids without transformers are transformers' own, for every text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from fewstep.models.clip_tokens import END, START, ClipTokens
from fewstep.models.tokenizer import make_tokenizer, save_tokenizer, train_vocabulary
from fewstep.zoo.registry import embedded

SOURCE = Path(__file__).parents[3] / "src"
CAPTIONS = ["a red apple on a blue background", "a fox in the snow", "an owl to the left of a pizza"] * 4


def flagged(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **flags}


MAP: dict[str, Any] = {"bos_token": flagged(START), "eos_token": flagged(END), "unk_token": flagged(END), "pad_token": "!"}
TYPED = {key: {"__type": "AddedToken", **value} if isinstance(value, dict) else value for key, value in MAP.items()}
Folders = dict[str, tuple[ClipTokens, CLIPTokenizer]]


def small(folder: Path, pad: str = END, length: int = 77) -> Path:
    """A folder as this project writes it."""
    save_tokenizer(make_tokenizer(*train_vocabulary(CAPTIONS, 700), pad, length), folder)
    return folder


def laid_out(folder: Path, config: dict[str, Any], special: dict[str, Any] | None) -> Path:
    """A folder as others write it."""
    small(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", **config}))
    (folder / "special_tokens_map.json").unlink()
    if special is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Every layout there is, opened both ways."""
    root = tmp_path_factory.mktemp("tokenizers")
    vocab = json.loads((small(root / "ours") / "vocab.json").read_text(encoding="utf8"))
    table = {str(vocab[START]): flagged(START), str(vocab[END]): flagged(END), str(vocab["!"]): flagged("!", normalized=False)}
    table = {key: {**value, "special": True} for key, value in table.items()}
    paths = {
        "embedded": embedded("emoji") / "tokenizer",
        "embedded, second": embedded("emoji") / "tokenizer_2",
        "ours": root / "ours",
        "ours, second, short": small(root / "second", "!", 20),
        "first of SDXL": laid_out(root / "sdxl", {**TYPED, "pad_token": END}, {**MAP, "pad_token": END}),
        "second of SDXL": laid_out(root / "sdxl-2", {"added_tokens_decoder": table, **dict.fromkeys(MAP, END), "bos_token": START, "pad_token": "!"}, MAP),
        "the map goes first": laid_out(root / "map", {"pad_token": END}, MAP),
        "no map": laid_out(root / "no-map", TYPED, None),
        "nothing said": laid_out(root / "nothing", {}, None),
        "stripping": laid_out(root / "strip", {}, {**MAP, "eos_token": flagged(END, lstrip=True, rstrip=True), "pad_token": flagged("!", single_word=True)}),
    }
    return {name: (ClipTokens.open(path), CLIPTokenizer.from_pretrained(path)) for name, path in paths.items()}


def theirs(tokenizer: CLIPTokenizer, text: str | list[str]) -> Any:
    return tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids


PIECES = st.sampled_from(
    [
        *(START, END, START.upper(), "!", "!!", " ", "\n\t", "\u3000", "\u200d", "apple", "A red", "it's", "'S", "12", "</w>"),
        *("e\u0301", "é", "İ", "ß", "猫", "🦊", "\U0001f469\u200d\U0001f680"),
    ]
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.lists(PIECES, max_size=12).map("".join) | st.lists(PIECES, max_size=99).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("")
@example(" ")
@example("a fox " * 500)
@example("🦊" * 100)
@example(f"{END}{END} a {START} fox! {END}")
def test_any_text_has_the_ids_that_transformers_gives(folders: Folders, text: str) -> None:
    for name, (ours, reference) in folders.items():
        got = ours.tokens(text)
        assert got.dtype == np.int64 and got.shape == (reference.model_max_length,), name
        assert got.tolist() == theirs(reference, text), name


@pytest.mark.parametrize("texts", [[], [""], ["a red apple", "", "a fox " * 90]])
def test_several_prompts_are_rows(folders: Folders, texts: list[str]) -> None:
    for ours, reference in folders.values():
        got = ours.tokens(texts)
        assert got.shape == (len(texts), ours.length)
        assert got.tolist() == (theirs(reference, texts) if texts else [])


def test_what_is_too_long_is_cut_and_still_ends(folders: Folders) -> None:
    for ours, reference in folders.values():
        got = ours.tokens("fox " * 500)
        assert (got[0], got[-1]) == (reference.bos_token_id, reference.eos_token_id)


def test_the_second_of_sdxl_pads_with_an_exclamation_mark(folders: Folders) -> None:
    assert folders["ours"][0].tokens("fox")[-1] == folders["ours"][1].eos_token_id
    assert folders["second of SDXL"][0].tokens("fox")[-1] == 0


def test_it_needs_no_transformers_and_no_torch() -> None:
    code = "import sys, fewstep.models.clip_tokens\nprint(*{'torch', 'transformers', 'diffusers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=SOURCE, check=True)
    assert done.stdout.strip() == ""


def write(name: str, content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content.encode("utf8", "surrogateescape"))

    return damage


def configured(**changes: Any) -> Callable[[Path], None]:
    return write("tokenizer_config.json", json.dumps({"model_max_length": 77, **changes}))


def mapped(**changes: Any) -> Callable[[Path], None]:
    return write("special_tokens_map.json", json.dumps({**MAP, **changes}))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def damages() -> Iterator[tuple[str, Callable[[Path], None]]]:
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        yield f"no {name}", without(name)
    for name in ("vocab.json", "tokenizer_config.json", "special_tokens_map.json"):
        for content in ("", "{", "[]", "null", "7", "\udcff", "[" * 100_000):
            yield f"{name} is {content[:9]!r}", write(name, content)
    for content in ('{"a": "b"}', '{"a": -1}', '{"a": 1.5}', "{}"):
        yield f"vocab.json is {content}", write("vocab.json", content)
    for content in ("", "#version: 0.2\n", "#version: 0.2\nnot in", "#version: 0.2\nalone", "a b c", "\udcff"):
        yield f"merges.txt is {content!r}", write("merges.txt", content)
    for length in (None, "77", 77.0, True, 0, 2, -1, 10**12, 10**30):
        yield f"length {length!r}", configured(model_max_length=length)
    token: Any
    for token in ("nowhere", "", 7, None, [], {}, {"content": 7}, {"content": "!", "lstrip": "yes"}):
        yield f"pad token {token!r}", mapped(pad_token=token)
    table: Any
    for table in (7, [], "x", {"0": 7}, {"0": {"content": []}}, {"0": {}}, {"x": flagged("!")}):
        yield f"table {table!r}", configured(added_tokens_decoder=table, pad_token="!")


DAMAGES = dict(damages())


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_missing_or_damaged_is_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    folder = small(tmp_path / "damaged")
    DAMAGES[damage](folder)
    with pytest.raises(ValueError, match="damaged") as caught:
        ClipTokens.open(folder)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(folder))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer_config\.json cannot be read"):
        ClipTokens.open(tmp_path / "none")


def test_a_copy_opens_anywhere(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small(tmp_path / "one"), tmp_path / "other é"))
    assert ClipTokens.open(folder).tokens("fox").tolist() == ClipTokens.open(tmp_path / "one").tokens("fox").tolist()
