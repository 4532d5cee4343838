"""What one run found: the machine, the settings, the tables and the bars, as JSON and on the screen. Loads no torch."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from fewstep.bench.machine import QUIET
from fewstep.bench.table import Section, print_section

FORMAT = 1


@dataclass(frozen=True)
class Bar:
    """Something a figure must reach, or stay under."""

    name: str
    value: float
    needed: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether it does."""
        return self.value <= self.needed if self.at_most else self.value >= self.needed


@dataclass(frozen=True)
class Results:
    """One run."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    sections: tuple[Section, ...]
    bars: tuple[Bar, ...] = ()
    complete: bool = True  # whether all was measured that was asked for

    @property
    def failed(self) -> list[str]:
        """A sentence for each row that failed."""
        return [sentence for section in self.sections for sentence in section.failed]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values. A figure that is not finite becomes None."""
        return {
            "format": FORMAT,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "complete": self.complete,
            "sections": [
                {"name": section.name, "rows": [{key: _plain(value) for key, value in row.items()} for row in section.rows], "notes": list(section.notes)}
                for section in self.sections
            ],
            "bars": [{"name": bar.name, "value": _plain(bar.value), "needed": bar.needed, "at_most": bar.at_most, "met": bar.met} for bar in self.bars],
            "failed": self.failed,
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Results:
        """The run that ``to_dict`` described. Raises ValueError on a file of another format."""
        if content.get("format") != FORMAT:
            raise ValueError(f"format {content.get('format')!r} is not {FORMAT}: measure again with this version")
        sections = tuple(Section(part["name"], tuple(part["rows"]), tuple(part["notes"])) for part in content["sections"])
        bars = tuple(Bar(bar["name"], bar["value"], bar["needed"], bar["at_most"]) for bar in content["bars"])
        return cls(content["machine"], content["settings"], sections, bars, content["complete"])

    def to_json(self, path: Path) -> Path:
        """Write ``to_dict``, whole or not at all; into a folder as KIND.json, after the kind of machine. Returns the file."""
        path = path / f"{self.machine['kind']}.json" if path.is_dir() else path
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as folder:
            written = Path(folder) / path.name
            written.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf8")
            written.replace(path)
        return path


def read(path: Path) -> Results:
    """The run in a file that ``Results.to_json`` wrote. Raises ValueError on another, OSError where it cannot be read."""
    return Results.of(json.loads(path.read_text(encoding="utf8")))


def bars_section(bars: Sequence[Bar]) -> Section:
    """The bars as a table."""
    rows = [
        {"name": bar.name, "value": bar.value, "bar": f"{'at most' if bar.at_most else 'at least'} {bar.needed:g}", "verdict": "met" if bar.met else "not met"}
        for bar in bars
    ]
    return Section("bars", tuple(rows))


def print_end(results: Results, stream: TextIO) -> None:
    """The bars, what failed, and the conditions."""
    if results.bars:
        print_section(bars_section(results.bars), stream)
    for sentence in results.failed:
        print(f"FAILED: {sentence}", file=stream)
    print(summary(results), file=stream)


def summary(results: Results) -> str:
    """The machine and the conditions in one line."""
    machine, asked = results.machine, results.settings
    where = machine["accelerator"] or f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    line = f"{where}; {versions}; {asked['rounds']} rounds after {asked['warmup']} that do not count; {asked['date']}"
    return line + (f"; NOT QUIET: others used {machine['others']:.1f} cores meanwhile" if noisy(results) else "")


def noisy(results: Results) -> bool:
    """Whether others used so much of the machine that the figures should not be quoted."""
    return (results.machine.get("others") or 0.0) > QUIET


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
