"""The LoRAs that a server offers: the files of one folder, by their names. No request leads anywhere else."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from fewstep.engine.request import Limits, Loras, RequestError, listed
from fewstep.models.stack import Stack

SUFFIX = ".safetensors"
TAG = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?>")  # A1111's, in a prompt
MOST_NAMED = 10  # in a sentence


class Rack:
    """The LoRAs of ``folder``, which is read anew each time: files may come and go while a server runs."""

    def __init__(self, folder: Path | None = None) -> None:
        """Raises RequestError on a folder that is not there."""
        if folder is not None and not folder.is_dir():
            raise RequestError(f"--lora-dir {folder}: there is no such folder")
        self.folder = folder

    def files(self) -> dict[str, Path]:
        """The files by their names without the ending, in their order."""
        return {path.stem: path for path in sorted(self.folder.glob(f"*{SUFFIX}"))} if self.folder else {}

    def over(self, limits: Limits) -> Limits:
        """``limits`` of an engine for a server: LoRAs are what they are called here, and never a path."""

        def stack(loras: Loras | None, steps: int) -> Stack:
            files = self.files() if loras else {}
            try:
                return limits.stack(None if loras is None else [(_find(str(name), files), weight) for name, weight in loras], steps)
            except RequestError as problem:
                raise RequestError(str(problem).replace(f"{self.folder}{os.sep}", "")) from None

        return dataclasses.replace(limits, stack=stack)

    def facts(self) -> list[dict[str, Any]]:
        """As A1111 lists them; a server's folders are nobody's business."""
        return [{"name": name, "alias": name, "path": path.name, "metadata": {}} for name, path in self.files().items()]


def _find(name: str, files: dict[str, Path]) -> Path:
    if name not in files:
        there = [*list(files)[:MOST_NAMED], *[f"{len(files) - MOST_NAMED} more"] * (len(files) > MOST_NAMED)]
        raise RequestError(f"there is no LoRA {name!r:.100} here: {f'give {listed(there)}' if there else 'this server was started without --lora-dir'}")
    return files[name]


def tagged(prompt: str) -> tuple[str, Loras | None]:
    """(the prompt without A1111's tags, the LoRAs that they name): "<lora:name:0.8>", the weight 1 if it is left out. None where there are no tags.

    Raises RequestError on a weight that is no number.
    """
    loras = []
    for name, weight in TAG.findall(prompt):
        try:
            loras.append((name.strip(), float(weight or 1)))
        except ValueError:
            raise RequestError(f"<lora:{name:.60}:{weight:.40}>: write it as <lora:{name:.60}:0.8>") from None
    return (re.sub(r" {2,}", " ", TAG.sub("", prompt)).strip(), tuple(loras)) if loras else (prompt, None)
