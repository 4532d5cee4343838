"""What can be said of a picture only beside those before it, or by a scorer: duplicates, captions that keep coming, and how it looks."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fewstep.data.filters import Look, Rules
from fewstep.data.score import Score


class Ledger:
    """The pixels and captions that were kept so far. Pictures come to it in the source's order."""

    def __init__(self, rules: Rules, score: Score) -> None:
        self.rules, self.score = rules, score
        self._pixels: set[str] = set()
        self._captions: Counter[str] = Counter()

    def judge(self, look: Look) -> tuple[str, str]:
        """(why the picture is dropped, empty if it is kept; what to say of it). A picture that is kept is remembered."""
        if look.digest in self._pixels:
            return "duplicate", ""
        if self.rules.same_caption and self._captions[look.caption] >= self.rules.same_caption:
            return "caption repeated", f"{self.rules.same_caption} pictures before it"
        if self.rules.min_score:
            score = self.score(look)
            if score is None:
                return "no score", ""
            if score < self.rules.min_score:
                return "low score", f"{score:.2f}"
        self._pixels.add(look.digest)
        self._captions[look.caption] += 1
        return "", ""

    def absorb(self, record: dict[str, Any], shards: list[dict[str, Any]]) -> None:
        """Remember what an earlier run kept of a part: its record, and the JSON of its shards."""
        self._pixels.update(record["digests"])
        for shard in shards:
            self._captions.update(shard.get("captions", ()))
