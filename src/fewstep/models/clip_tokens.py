"""From a prompt to the token ids of a CLIP tokenizer folder, without transformers: the same library underneath, set up the same way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

START, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"
WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""  # CLIP's own pattern
DEFAULTS = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
FLAGS = ("lstrip", "rstrip", "normalized", "single_word")
SHORTEST, LONGEST = 3, 1024  # tokens of a prompt
SPARE = 16  # tokens that no merge makes: special ones, and those of toys


@dataclass(frozen=True)
class ClipTokens:
    """A CLIP tokenizer, whose rows have ``length`` tokens, and the ids of what stands at the start, after the text, and behind that."""

    tokenizer: Tokenizer
    length: int
    start: int
    end: int
    pad: int

    @classmethod
    def open(cls, folder: Path) -> ClipTokens:
        """Open vocab.json, merges.txt, tokenizer_config.json and, where there is one, special_tokens_map.json, as a released SDXL has them.

        Raises ValueError, one sentence, on a file that is missing or cannot be used.
        """
        config = _read(folder / "tokenizer_config.json")
        length = config.get("model_max_length")
        if type(length) is not int or not SHORTEST <= length <= LONGEST:
            raise ValueError(
                f"{folder / 'tokenizer_config.json'}: model_max_length is {length!r:.60}, which is no number of tokens from {SHORTEST} to {LONGEST}"
            )
        path = folder / "special_tokens_map.json"
        named = _read(path) if "added_tokens_decoder" not in config and path.exists() else {}
        try:
            special, others = _special_tokens({**DEFAULTS, **config, **named})
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"{folder}: its special tokens are written as in no CLIP tokenizer: copy the folder anew") from None
        tokenizer = Tokenizer(_model(folder, special["unk_token"].content))
        known = {name: _known(folder, tokenizer, name, token.content) for name, token in special.items()}
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
        split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tokenizer.add_tokens([*special.values(), *others])
        return cls(tokenizer, length, known["bos_token"], known["eos_token"], known["pad_token"])

    def ids(self, text: str) -> list[int]:
        """The tokens of ``text`` alone, however many they are."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def tokens(self, text: str | Sequence[str]) -> NDArray[np.int64]:
        """Token ids [length] of one prompt, [B, length] of several: start, the text, end, padding; what is too long is cut before the end token."""
        if isinstance(text, str):
            own = self.ids(text)[: self.length - 2]
            return np.array([self.start, *own, self.end, *[self.pad] * (self.length - 2 - len(own))], np.int64)
        return np.array([self.tokens(one) for one in text], np.int64).reshape(-1, self.length)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): copy the tokenizer's folder anew") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no readable JSON: copy the tokenizer's folder anew") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object: copy the tokenizer's folder anew")
    return content


def _model(folder: Path, unknown: str) -> BPE:
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}: copy the tokenizer's folder anew")
    try:
        files = str(folder / "vocab.json"), str(folder / "merges.txt")
        model = BPE.from_file(*files, unk_token=unknown, continuing_subword_prefix="", end_of_word_suffix=END_OF_WORD)
        _check_merges(folder)
        return model
    except Exception as error:  # the library raises no narrower kind
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise ValueError(f"vocab.json and merges.txt of {folder} are no vocabulary ({reason}): copy the tokenizer's folder anew") from None


def _check_merges(folder: Path) -> None:
    """Raises ValueError where merges.txt makes fewer tokens than vocab.json has: the library takes one that is cut short, and splits words otherwise."""
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf8"))
    made = sum(len(token.removesuffix(END_OF_WORD)) > 1 and not token.startswith("<|") for token in vocabulary)
    lines = (folder / "merges.txt").read_text(encoding="utf8").splitlines()
    merges = sum(bool(line) and not line.startswith("#version") for line in lines)
    if made - merges > max(SPARE, made // 100):
        raise ValueError(f"{merges} merges make no {made} tokens")


def _known(folder: Path, tokenizer: Tokenizer, name: str, token: str) -> int:
    """The id of a special token. Raises ValueError if the vocabulary lacks it, for its id would be one that no text encoder knows."""
    index = tokenizer.token_to_id(token)
    if index is None:
        raise ValueError(f"{folder / 'vocab.json'} lacks '{token:.60}', the {name} of this tokenizer: copy the folder anew")
    return index


def _special_tokens(config: dict[str, Any]) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """The special tokens by their names, and what else is never split.

    transformers writes the flags of a token in one of two ways: beside its name, also in special_tokens_map.json, or in a table by id,
    and then it does not read that file.
    """
    table = config.get("added_tokens_decoder", {})
    return {name: _added(config[name]) for name in DEFAULTS}, [_added(token) for _, token in sorted(table.items(), key=lambda item: int(item[0]))]


def _added(token: str | dict[str, Any]) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True)
    return AddedToken(token["content"], special=True, **{flag: token[flag] for flag in FLAGS if flag in token})
