"""CLIP tokenizers with a vocabulary of our own, in the layout of the released ones (vocab.json, merges.txt)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""  # CLIP's own pattern


def train_vocabulary(captions: Iterable[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE vocabulary as CLIP's: at most ``size`` tokens, "!" is 0, the two special tokens come last. Returns (vocab, merges)."""
    trainer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    trainer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer.train_from_iterator(
        captions, trainers.BpeTrainer(vocab_size=size - 2 - len(alphabet), initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False)
    )
    learnt = json.loads(trainer.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in learnt["merges"]]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    tokens += [token for token in ("".join(pair) for pair in merges) if token not in set(tokens)]
    tokens += [START, END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


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
