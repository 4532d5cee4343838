"""The table: its rows and columns, and the bars that its figures must reach."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RENDERS, RECONSTRUCTION, TEACHER = "renders", "reconstruction", "teacher"  # rows by name; students go by their steps


@dataclass(frozen=True)
class Result:
    """One row of the table. Shares lie in [0, 1]; None where a column does not apply."""

    name: str
    pictures: int
    top1: float
    top5: float
    repainted: float | None  # top1 of the pictures whose prompt names a colour for the subject
    background: float
    background_judge: float  # by the judge alone
    background_pixels: float | None  # by the border's pixels alone, over the flat colours
    frechet: float
    patch_frechet: float
    gradient: float  # mean gradient energy
    sharpness: float
    distinct: float | None
    diversity: float | None
    precision: float | None
    distance: float | None
    psnr: float | None
    milliseconds: float


@dataclass(frozen=True)
class Column:
    """How a figure of a Result is shown."""

    field: str
    heading: str
    format: str
    note: str

    def cell(self, result: Result) -> str:
        """The figure as text; a dash where the column does not apply."""
        return self.written(getattr(result, self.field))

    def written(self, value: float | None) -> str:
        """A value as text."""
        return "–" if value is None else format(value, self.format)


COLUMNS = (
    Column("top1", "top-1", ".1%", "share of pictures whose subject the judge recognises first"),
    Column("top5", "top-5", ".1%", "share with the subject among the judge's first five"),
    Column("repainted", "repainted", ".1%", "top-1 of the prompts that name a colour for the subject, such as a purple fox"),
    Column("background", "background", ".1%", "right by the judge and, for flat colours, by the border's median pixel too"),
    Column("frechet", "Fréchet", ".3f", "distance to another draw of the renders, in the judge's features; lower is better"),
    Column("distinct", "distinct", ".2f", "different right subjects among the pictures of an ambiguous prompt"),
    Column("diversity", "diversity", ".0%", "distinct, as a share of the teacher's"),
    Column("precision", "precision", ".1%", "share of those pictures whose subject has the keyword"),
    Column("sharpness", "sharpness", ".0%", "gradient energy at native size, as a share of the renders'"),
    Column("patch_frechet", "patch-Fréchet", ".3f", "the same distance for 64-pixel patches at native size; lower is better"),
    Column("distance", "to teacher", ".1f", "rms difference to the teacher's picture of the same seed, in 255ths"),
    Column("psnr", "PSNR dB", ".1f", "peak signal-to-noise ratio of the reconstructions"),
    Column("milliseconds", "ms a picture", ".0f", "median over batches, text encoding and decoding included"),
)


def markdown(rows: Sequence[Mapping[str, Any]], fields: Collection[str]) -> str:
    """A table in Markdown of rows of a report's JSON. Raises KeyError on a row that lacks one of ``fields``, TypeError on what is no figure."""
    columns = [column for column in COLUMNS if column.field in fields]
    lines = [["", *(column.heading for column in columns)], ["---"] * (len(columns) + 1)]
    lines += [[called(row["name"]), *(column.written(row[column.field]) for column in columns)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Bar:
    """Something the figures must reach."""

    name: str
    value: float
    needed: float

    @property
    def met(self) -> bool:
        """Whether they do."""
        return self.value >= self.needed


def bars(results: Sequence[Result]) -> list[Bar]:
    """The bars that apply to the rows there are."""
    rows = {result.name: result for result in results}
    found = []
    shares = (
        (RECONSTRUCTION, RENDERS, 0.97),
        (TEACHER, RENDERS, 0.85),
        *((name, TEACHER, share) for name, share in STUDENT_SHARES.items()),
    )
    for name, of, needed in shares:
        if name in rows and of in rows and rows[of].top1:
            found.append(Bar(f"{called(name)}: top-1 as a share of {of}'" + "s" * (not of.endswith("s")), rows[name].top1 / rows[of].top1, needed))
    found += [Bar(f"{called(name)}: background right", rows[name].background, 0.95) for name in STUDENT_SHARES if name in rows]
    kept = rows["4"].diversity if "4" in rows else None
    fidelity = rows[RECONSTRUCTION].psnr if RECONSTRUCTION in rows else None
    found += [Bar("4 steps: diversity as a share of the teacher's", kept, 0.80)] if kept is not None else []
    found += [Bar("reconstruction: PSNR in dB", fidelity, 28.0)] if fidelity is not None else []
    return found


STUDENT_SHARES = {"8": 0.95, "4": 0.95, "2": 0.90, "1": 0.80}  # of the teacher's top-1


def student_of(steps: int) -> str:
    """Under which the hash of the student for so many steps stands in what a report is about."""
    return f"student {steps}"


def called(name: str) -> str:
    """A row's name for people: "4" is "4 steps", "4 tiny" is "4 steps, tiny decoder"."""
    steps, _, decoder = name.partition(" ")
    if not steps.isdigit():
        return name
    return f"{steps} step{'s' * (steps != '1')}" + f", {decoder} decoder" * bool(decoder)
