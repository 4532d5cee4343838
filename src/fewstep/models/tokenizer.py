"""CLIP tokenizers with a vocabulary of our own, in the layout of the released ones (vocab.json, merges.txt)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import CLIPTokenizer

from fewstep.models.clip_tokens import END, END_OF_WORD, START, WORDS


def train_vocabulary(captions: Iterable[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE vocabulary as CLIP's: at most ``size`` tokens, "!" is 0, the two special tokens come last. Returns (vocab, merges).

    The library's trainer breaks ties at random, and a run that is resumed must read captions as it did: here the commonest pair is
    merged first, and of equally common ones the first in the alphabet.
    """
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    splitter = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    counts = Counter(word for caption in captions for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption)))
    words = [([*word[:-1], word[-1] + END_OF_WORD], count) for word, count in sorted(counts.items())]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(letter + END_OF_WORD for letter in alphabet)])
    pairs: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], set[int]] = {}
    for index, (symbols, count) in enumerate(words):
        for pair in zip(symbols, symbols[1:], strict=False):
            pairs[pair] += count
            places.setdefault(pair, set()).add(index)
    merges: list[tuple[str, str]] = []
    while len(tokens) < size - 2 and (left := [pair for pair in pairs if pairs[pair] > 0]):
        best = min(left, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        tokens["".join(best)] = None
        for index in places[best]:
            symbols, count = words[index]
            for pair in zip(symbols, symbols[1:], strict=False):
                pairs[pair] -= count
            merged = _merge(symbols, best)
            words[index] = merged, count
            for pair in zip(merged, merged[1:], strict=False):
                pairs[pair] += count
                places.setdefault(pair, set()).add(index)
    return {token: index for index, token in enumerate([*tokens, START, END])}, merges


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def make_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]], pad_token: str, length: int) -> CLIPTokenizer:
    """A CLIPTokenizer over ``vocab``; SDXL's first one pads with the end token, its second with "!"."""
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad_token, model_max_length=length)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write vocab.json, merges.txt, special_tokens_map.json and tokenizer_config.json, the files of a released SDXL."""
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": str(tokenizer.pad_token)}
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges), encoding="utf8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.model_max_length, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
