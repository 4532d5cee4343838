"""Make docs/performance.md from the results in bench/results, and the README's table from the embedded model's evaluation: python bench/report.py

The figures come from those files and from nowhere else. With --check it writes nothing, and says whether the documents are up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fewstep.bench.results import Bar, Results, bars_section, noisy, read, summary
from fewstep.bench.table import markdown
from fewstep.evals.table import markdown as rows_of
from fewstep.export.card import EVALUATION, SHOWN
from fewstep.zoo.registry import find

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "performance.md"
README = HERE.parent / "README.md"
MARKS = "<!-- evaluation -->", "<!-- end of evaluation -->"  # around its table
INTRODUCTION = """# Performance

Made by `python bench/report.py` from the files in [bench/results](../bench/results), and never typed by hand. Each file is one run of

    fewstep bench --json bench/results/

on one kind of machine. Within a run all sides work in turn, A B A B, with the same weights, noise, scheduler, number type, cores and
threads, on prompts that none of them has seen. Warm-up rounds do not count; a ratio is the median of the rounds' own ratios. Pictures
are compared with what they should be, those of the full decoder in every round, those of the tiny one in the warm-up rounds, and a row
whose pictures differ has no ratio.
"""
SERVER = "`python bench/serve.py`, with `emoji` and the engine on one thread."
NOTHING = "No results are here yet."
ACCELERATOR = "No accelerator has been measured: `bench/gpu.sh` does it in one go, and has not run."


def document(folder: Path = HERE / "results") -> str:
    """The text of docs/performance.md for the results in ``folder``."""
    runs = {path: read(path) for path in sorted(folder.glob("*.json"))}
    parts = [INTRODUCTION.strip()]
    parts += [glance(runs)] if runs else [NOTHING]
    if not any(results.machine["accelerator"] for results in runs.values()):
        parts.append(ACCELERATOR)
    for path, results in runs.items():
        parts += [f"## {path.stem}", *chapter(results)]
    for path in sorted((folder / "serve").glob("*.json")):
        parts += server(path)
    return "\n\n".join(parts) + "\n"


def readme() -> str:
    """The README, with the table of the embedded model's evaluation."""
    rows = json.loads((find("emoji") / EVALUATION).read_text(encoding="utf8"))["rows"]
    before, _, rest = README.read_text(encoding="utf8").partition(MARKS[0])
    return f"{before}{MARKS[0]}\n\n{rows_of(rows, SHOWN)}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def server(path: Path) -> list[str]:
    """The paragraphs of one run of bench/serve.py: the conditions and the bars."""
    found = json.loads(path.read_text(encoding="utf8"))
    machine, bars = found["machine"], [Bar(bar["name"], bar["value"], bar["needed"], bar["at_most"]) for bar in found["bars"]]
    link = f"[{path.stem}](../bench/results/serve/{path.name})"
    about = f"{SERVER} {link}: {machine['processor']}, {machine['cores']} cores, server and clients together; {found['settings']['date']}."
    return [f"## The server on {path.stem}", about, markdown(bars_section(bars))]


def glance(runs: dict[Path, Results]) -> str:
    """A line for each run."""
    lines = ["| results | measured | computed by | date | bars met | rows that failed |", "|---|---|---|---|---|---|"]
    for path, results in runs.items():
        met = f"{sum(bar.met for bar in results.bars)} of {len(results.bars)}" if results.bars else "–"
        name = f"[{path.stem}](../bench/results/{path.name})"
        who = ", ".join(sorted({row["backend"] for section in results.sections for row in section.rows if row.get("backend")})) or "–"
        lines.append(f"| {name} | {results.settings['model']} | {who} | {results.settings['date']} | {met} | {len(results.failed)} |")
    return "\n".join(lines)


def chapter(results: Results) -> list[str]:
    """The paragraphs of one run: the machine, what makes it worth less, the bars, what failed, and every table."""
    parts = [f"{summary(results)}."]
    if noisy(results):
        parts.append("**Other processes used the machine meanwhile: these figures are not to be quoted.**")
    if results.settings["quick"] or not results.complete:
        parts.append("**A quick or unfinished run: it shows that the benchmark works, and no more.**")
    if results.bars:
        parts.append(markdown(bars_section(results.bars)))
    if results.failed:
        parts.append("\n".join(f"- FAILED: {sentence}" for sentence in results.failed))
    return parts + [markdown(section) for section in results.sections]


def main(arguments: list[str]) -> int:
    """Write the documents, or with --check compare. Returns 1 if one was to be up to date and is not."""
    stale = False
    for path, text in ((DOCUMENT, document()), (README, readme())):
        if arguments == ["--check"]:
            same = path.is_file() and path.read_text(encoding="utf8") == text
            print(f"{path.name} is {'up to date' if same else 'out of date: run python bench/report.py'}")
            stale |= not same
        else:
            path.write_text(text, encoding="utf8")
            print(path)
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
