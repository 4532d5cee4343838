"""The report as one page of HTML: the table, the bars and the pictures, with nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from fewstep.evals.table import COLUMNS, Bar, Result, called

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #62676d; --paper: #fbfbfa; --line: #dddcd8; --bad: #b3261e; --good: #1f7a3d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e3; --soft: #a09c96; --paper: #17181a; --line: #34363a; --bad: #ff8a80; --good: #7bd695; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 2rem 1rem; }
body { max-width: 90rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.1rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
dl { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; color: var(--soft); }
dl div { display: flex; gap: .4rem; }
dd { margin: 0; color: var(--ink); overflow-wrap: anywhere; }
.met { color: var(--good); }
.missed { color: var(--bad); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(var(--cell, 8rem), 100%), 1fr)); gap: .8rem; }
figure { margin: 0; }
img { width: 100%; height: auto; display: block; border-radius: 6px; }
figcaption { font-size: .75rem; line-height: 1.3; margin-top: .25rem; color: var(--soft); }
"""

FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{heading}</h1>
<dl>{about}</dl>
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class Sample:
    """A picture for the page, and what the judge took it for."""

    picture: np.ndarray  # uint8 [H, W, 3]
    text: str
    recognised: str
    right: bool


def page(results: Sequence[Result], bars: Sequence[Bar], about: Mapping[str, str], samples: Mapping[str, Sequence[Sample]]) -> str:
    """The whole page. Every text is escaped, every picture is a JPEG inside the file, and light or dark follows the reader's setting."""
    figures = [[called(result.name), *(column.cell(result) for column in COLUMNS)] for result in results]
    verdicts = [[bar.name, f"{bar.value:.3f}", f"{bar.needed:.2f}", "met" if bar.met else "not met"] for bar in bars]
    body = [
        table(["row", *(column.heading for column in COLUMNS)], figures),
        f"<h2>Bars</h2>\n{table(['bar', 'value', 'needed', 'verdict'], verdicts, {'met': 'met', 'not met': 'missed'})}",
        *(f'<h2>{escape(called(name))}</h2>\n<div class="grid">{"".join(map(_figure, of))}</div>' for name, of in samples.items()),
        f"<h2>What the columns say</h2>\n<ul>{''.join(f'<li><b>{escape(c.heading)}</b>: {escape(c.note)}</li>' for c in COLUMNS)}</ul>",
    ]
    return document("fewstep: quality", "Quality, measured by the project itself", about, "\n".join(body))


def document(title: str, heading: str, about: Mapping[str, str], body: str) -> str:
    """A page with a list of facts under its heading; every text but ``body``, which is HTML, is escaped."""
    facts = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in about.items())
    return FRAME.format(style=STYLE, title=escape(title), heading=escape(heading), about=facts, body=body)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], classes: Mapping[str, str] | None = None) -> str:
    """A table of texts, which are escaped; cells that are a key of ``classes`` get that class."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    marks = {cell: f' class="{name}"' for cell, name in (classes or {}).items()}
    body = "".join(f"<tr>{''.join(f'<td{marks.get(cell, str())}>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(sample: Sample) -> str:
    file = io.BytesIO()
    Image.fromarray(sample.picture).save(file, "JPEG", quality=88)
    source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    verdict = "" if sample.right else f' <span class="missed">seen as {escape(sample.recognised)}</span>'
    return f'<figure><img alt="{escape(sample.text)}" src="{source}"><figcaption>{escape(sample.text)}{verdict}</figcaption></figure>'
