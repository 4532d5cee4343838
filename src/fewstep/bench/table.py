"""How figures are shown: which columns each table has, in a terminal, in a pipe and in Markdown. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO


@dataclass(frozen=True)
class Section:
    """One table: rows of plain values by the name of their column, and sentences to read it by."""

    name: str
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[str]:
        """What went wrong, a sentence for each row that failed."""
        return [f"{self.name}, {label(self, row)}: {row['failed']}" for row in self.rows if row.get("failed")]


@dataclass(frozen=True)
class Column:
    """How a value of a row is shown: its heading, and a format for numbers."""

    field: str
    heading: str
    format: str = ""

    def cell(self, row: Mapping[str, Any]) -> str:
        """The value as text; a dash where the row has none. What failed in a row stands where its ratio would."""
        value = row.get(self.field)
        if self.field == "ratio" and row.get("failed"):
            return "FAILED"
        return "–" if value is None else format(value, self.format) if not isinstance(value, str) else value


@dataclass(frozen=True)
class Layout:
    """A table's title, its columns (the first ``keys`` of them name a row), and what it says."""

    title: str
    keys: int
    columns: tuple[Column, ...]
    about: str = field(default="")


SIZE, BATCH, STEPS, DECODER = Column("side", "px"), Column("batch", "batch"), Column("steps", "steps"), Column("decoder", "decoder")
DIFFERS = Column("difference", "differs by")
_GROWTH = (
    Column("ms", "ms", ".1f"),
    Column("p95_ms", "p95", ".1f"),
    Column("ms_a_picture", "ms a picture", ".1f"),
    Column("pictures_per_second", "pictures/s", ".2f"),
    Column("relative", "pictures/s, of the first row's", ".2f"),
    Column("text_ms", "text", ".1f"),
    Column("denoise_ms", "denoise", ".1f"),
    Column("decode_ms", "decode", ".1f"),
)
LAYOUTS = {
    "peaks": Layout(
        "What this machine can do",
        1,
        (Column("what", "peak"), Column("gflops", "GFLOP/s", ".1f"), Column("gigabytes", "GB/s", ".1f")),
        "The best square matrix product and the best copy of a buffer larger than the caches, measured in the same run.",
    ),
    "compare": Layout(
        "fewstep against diffusers",
        4,
        (
            SIZE,
            BATCH,
            STEPS,
            DECODER,
            Column("ours_ms", "ours, ms", ".1f"),
            Column("ours_p95_ms", "p95", ".1f"),
            Column("cached_ms", "with cached text", ".1f"),
            Column("diffusers_ms", "diffusers, ms", ".1f"),
            Column("diffusers_p95_ms", "p95", ".1f"),
            Column("ratio", "times faster", ".2f"),
            DIFFERS,
            Column("psnr", "PSNR dB", ".1f"),
        ),
        "From prompts that neither side has seen to finished pictures, the whole batch, in alternation. diffusers always decodes in full. "
        "Differences are the largest of any colour value, of 255: with the full decoder from diffusers' picture of the same noise, over all "
        "rounds, with the tiny one from the same decoder under eager torch, over the warm-up rounds; PSNR is the tiny decoder's against "
        "diffusers' pictures.",
    ),
    "memory": Layout(
        "Peak memory",
        2,
        (
            BATCH,
            Column("what", "side"),
            Column("megabytes", "MB", ".0f"),
            Column("accelerator_megabytes", "on the accelerator, MB", ".0f"),
            Column("ratio", "of diffusers'", ".2f"),
        ),
        "Of a process that loads the model and makes one batch.",
    ),
    "method": Layout(
        "Against the standard way: the method alone",
        1,
        (
            STEPS,
            Column("ours_ms", "students, ms", ".1f"),
            Column("ours_p95_ms", "p95", ".1f"),
            Column("teacher_ms", "teacher, ms", ".1f"),
            Column("ratio", "times faster", ".2f"),
            Column("allowed", "its evaluations allow", ".2f"),
            Column("of_allowed", "of that", ".0%"),
            Column("flops_ratio", "its operations allow", ".2f"),
            DIFFERS,
        ),
        "The same engine and the same full decoder for both: the teacher in 50 steps with guidance is 100 evaluations of its UNet, a student's "
        "N. What evaluations allow is the teacher's time over that of N of its own evaluations with its own text and decoding; what operations "
        "allow is the ratio of floating-point operations counted from the networks.",
    ),
    "product": Layout(
        "Against the standard way: the product",
        2,
        (
            STEPS,
            DECODER,
            Column("ours_ms", "ours, ms", ".1f"),
            Column("ours_p95_ms", "p95", ".1f"),
            Column("diffusers_ms", "diffusers in 50 steps, ms", ".1f"),
            Column("ratio", "times faster", ".1f"),
            Column("flops_ratio", "operations alone", ".1f"),
            DIFFERS,
        ),
        "This engine with a student against diffusers' pipeline with the teacher, in 50 steps with guidance and the full decoder.",
    ),
    "stages": Layout(
        "Each stage against its floor",
        4,
        (
            Column("stage", "stage"),
            SIZE,
            BATCH,
            STEPS,
            Column("ms", "ms", ".2f"),
            Column("p95_ms", "p95", ".2f"),
            Column("gflop", "GFLOP", ".2f"),
            Column("megabytes", "MB moved", ".1f"),
            Column("gflops", "GFLOP/s", ".1f"),
            Column("of_peak", "of the GEMM peak", ".0%"),
            Column("floor_ms", "floor, ms", ".2f"),
            Column("of_floor", "of the roofline", ".0%"),
            Column("bound", "bound by"),
        ),
        "The whole batch. A floor is the longer of computing at the GEMM peak and moving bytes at the copy peak; weights that stay in a cache "
        "are read faster than that, and operations are counted the plain way: kernels that need fewer for the same can pass their peak.",
    ),
    "growth_size": Layout("How cost grows with size", 1, (Column("side", "px"), *_GROWTH)),
    "growth_batch": Layout(
        "How cost grows with the batch", 1, (Column("batch", "asked at once"), *_GROWTH), "The engine splits what is asked into batches of at most eight."
    ),
    "growth_steps": Layout("How cost grows with steps", 1, (STEPS, *_GROWTH)),
    "startup": Layout(
        "From the start of a process to a picture in a file",
        1,
        (
            Column("what", ""),
            Column("seconds", "s", ".2f"),
            Column("p95_seconds", "p95", ".2f"),
            Column("megabytes", "peak MB", ".0f"),
            Column("runs", "runs"),
        ),
        "A cold start finds empty caches of compiled artefacts, a warm one those that the cold one left. The files themselves may be in the "
        "system's memory in both.",
    ),
    "bars": Layout(
        "What must be reached",
        1,
        (Column("name", "figure"), Column("value", "value", ".3g"), Column("bar", "needed"), Column("verdict", "")),
    ),
}


def label(section: Section, row: Mapping[str, Any]) -> str:
    """What names a row, in words: "256 px, batch 1, steps 4, decoder full"."""
    layout = LAYOUTS[section.name]
    named = [(column.heading, column.cell(row)) for column in layout.columns[: layout.keys] if row.get(column.field) is not None]
    return ", ".join(
        f"{cell} {heading}" if heading == "px" else f"{heading} {cell}" if cell.isdigit() or heading == "decoder" else cell for heading, cell in named
    )


def cells(section: Section) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of text), without the columns that no row has a value for."""
    columns = [column for column in LAYOUTS[section.name].columns if any(row.get(column.field) is not None for row in section.rows)]
    return [column.heading for column in columns], [[column.cell(row) for column in columns] for row in section.rows]


def print_section(section: Section, stream: TextIO) -> None:
    """The table and its notes: rich's on a terminal; in a file or a pipe plain columns, nothing cut off."""
    title, notes = LAYOUTS[section.name].title, [f"note: {note}" for note in section.notes]
    if stream.isatty():
        _print_rich(section, title, notes, stream)
    else:
        print("\n".join([title, *_plain(section), *notes, ""]), file=stream, flush=True)


def _plain(section: Section) -> list[str]:
    if not section.rows:
        return []
    headings, rows = cells(section)
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [_is_number(column[1:]) for column in columns]
    lines = (headings, *rows)
    return ["  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip() for line in lines]


def _print_rich(section: Section, title: str, notes: list[str], stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, highlight=False, markup=False)
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    if section.rows:
        headings, rows = cells(section)
        for heading, column in zip(headings, zip(*rows, strict=True), strict=True):
            table.add_column(heading, justify="right" if _is_number(column) else "left")
        for row in rows:
            table.add_row(*row)
    console.print(table if section.rows else title)
    for note in notes:
        console.print(note)
    console.print()


def markdown(section: Section, level: int = 3) -> str:
    """The same table, with what it says, for a document: under a heading of this level."""
    layout = LAYOUTS[section.name]
    parts = [f"{'#' * level} {layout.title}", *([layout.about] if layout.about else [])]
    if section.rows:
        headings, rows = cells(section)
        rule = ["---:" if _is_number(column) else "---" for column in zip(*rows, strict=True)]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *rows)))
    if section.notes:
        parts.append("\n".join(f"- {note}" for note in section.notes))
    return "\n\n".join(parts)


def _is_number(column: Sequence[str]) -> bool:
    """Numbers stand at the right, and dashes among them."""
    return all(cell in ("–", "FAILED") or cell[:1].isdigit() for cell in column)
