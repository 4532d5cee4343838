"""An export on the Hub: huggingface_hub uploads it, and only where that was asked for by name. Loads that library when it is needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fewstep.engine.request import RequestError, listed
from fewstep.export import card_path
from fewstep.export.card import PROGRAMS
from fewstep.zoo.hub import REPO

CARD = "README.md"


def check_push(repo: str, to: str) -> None:
    """Raises RequestError, before anything is exported, on a format that has no card, a name that is no repository's, without a token, or offline."""
    if to not in PROGRAMS:
        raise RequestError(f"--push with --to {to}: what is published has a card, and there are cards of {listed(list(PROGRAMS))}")
    if not REPO.fullmatch(repo):
        raise RequestError(f"--push {repo!r:.80}: give a repository of the Hub as OWNER/NAME")
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        raise RequestError("--push needs huggingface_hub, which the plain install does not bring: python -m pip install 'fewstep[sdxl]'") from None
    if constants.HF_HUB_OFFLINE:
        raise RequestError("--push needs the Hub, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: take it away")
    if get_token() is None:
        raise RequestError("--push needs a token of the Hub that may write: log in with hf auth login, or set HF_TOKEN")


def publish(out: Path, repo: str) -> str:
    """Upload the export ``out``, with its card, to ``repo``, which is made if it is not there. Returns its address.

    Raises RequestError on whatever the Hub or the way there says against it; what was exported stays.
    """
    from huggingface_hub import HfApi

    api: Any = HfApi()
    try:
        api.create_repo(repo, repo_type="model", exist_ok=True)
        if out.is_dir():
            done = api.upload_folder(repo_id=repo, folder_path=os.fspath(out), commit_message=f"fewstep export: {out.name}")
        else:
            done = api.upload_file(repo_id=repo, path_or_fileobj=os.fspath(out), path_in_repo=out.name, commit_message=f"fewstep export: {out.name}")
            done = api.upload_file(repo_id=repo, path_or_fileobj=os.fspath(card_path(out)), path_in_repo=CARD, commit_message="fewstep export: the card")
    except Exception as error:  # the library's own, its client's and the system's have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{out} is written, but {repo} did not take it ({reason}): see to that and give the same command with another --out") from error
    return str(getattr(done, "repo_url", None) or f"https://huggingface.co/{repo}")
