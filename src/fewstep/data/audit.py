"""The account of a preparation: what was kept and what was dropped, by reason and with examples, as a table, as JSON and as one page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from fewstep.data.files import write_json, write_text
from fewstep.data.filters import REASONS
from fewstep.data.shards import AUDIT

PAGE, LIST = "audit.html", "dropped.jsonl"
EXAMPLES = 12  # of each fate on the page


@dataclass(frozen=True)
class Audit:
    """The account. What was seen was either kept or dropped for one reason."""

    seen: int
    buckets: Mapping[str, int]  # {"336x192": pictures kept}
    dropped: Mapping[str, int]  # by reason, in the order of REASONS
    examples: Mapping[str, Sequence[Mapping[str, str]]]  # "kept" or a reason: name, caption, detail, thumbnail (a JPEG in base64)

    @property
    def kept(self) -> int:
        """Pictures in all buckets."""
        return sum(self.buckets.values())

    def rows(self) -> list[tuple[str, int, str]]:
        """(what became of them, how many, what that means), the sum first."""
        kept = [(f"kept, {size}", count, "in this bucket") for size, count in self.buckets.items()]
        dropped = [(reason, count, REASONS[reason]) for reason, count in self.dropped.items()]
        return [("seen", self.seen, "in the source"), ("kept", self.kept, "in the shards"), *kept, *dropped]

    def table(self) -> list[str]:
        """The lines of a table for the terminal."""
        name, number = max(len(row[0]) for row in self.rows()), max(len(str(self.seen)), 8)
        return [f"{'':<{name}}  {'pictures':>{number}}   share"] + [
            f"{what:<{name}}  {count:>{number}}  {_share(count, self.seen):>6}  {meaning}{self._for_instance(what)}" for what, count, meaning in self.rows()
        ]

    def _for_instance(self, what: str) -> str:
        shown = self.examples.get(what, ()) if what in self.dropped else ()
        detail = f" ({shown[0]['detail']})" if shown and shown[0]["detail"] else ""
        return f": {shown[0]['name']}{detail}" if shown else ""


def audit_of(records: Iterable[Mapping[str, Any]]) -> Audit:
    """The account over the records of all parts."""
    seen, buckets, reasons = 0, Counter[str](), Counter[str]()
    examples: dict[str, list[Mapping[str, str]]] = {}
    for record in records:
        seen += record["seen"]
        buckets.update(record["kept"])
        reasons.update(reason for _, reason, _ in record["dropped"])
        for fate, shown in record["examples"].items():
            examples.setdefault(fate, []).extend(shown)
    dropped = {reason: reasons[reason] for reason in REASONS if reasons[reason]}
    return Audit(seen, dict(sorted(buckets.items())), dropped, {fate: shown[:EXAMPLES] for fate, shown in examples.items()})


def write_audit(out: Path, records: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Audit:
    """Write dropped.jsonl, audit.html and, last, audit.json, whose ``parts`` says that the set is whole. Returns the account."""
    audit = audit_of(records)
    lines = (dict(zip(("name", "reason", "detail"), drop, strict=True)) for record in records for drop in record["dropped"])
    write_text(out / LIST, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    write_text(out / PAGE, page(audit, settings))
    examples = {fate: [{key: one[key] for key in ("name", "caption", "detail")} for one in shown] for fate, shown in audit.examples.items()}
    totals = {"parts": len(records), "seen": audit.seen, "kept": audit.kept, "buckets": audit.buckets, "dropped": audit.dropped}
    write_json(out / AUDIT, {**totals, "settings": settings, "examples": examples})
    return audit


def page(audit: Audit, settings: Mapping[str, Any]) -> str:
    """One page of HTML that fetches nothing: every text is escaped, every picture is inside it."""
    rows = "".join(
        f"<tr><td>{escape(what)}</td><td>{count}</td><td>{_share(count, audit.seen)}</td>"
        f'<td><meter min="0" max="{audit.seen}" value="{count}"></meter></td><td>{escape(meaning)}</td></tr>'
        for what, count, meaning in audit.rows()
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "pictures", "share", "", "meaning"))
    body = [f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>']
    for fate, count in {"kept": audit.kept, **audit.dropped}.items():
        shown = audit.examples.get(fate, ())
        figures = "".join(map(_figure, shown))
        body.append(f'<h2>{escape(fate)} <small>{len(shown)} of {count}, the first of each part</small></h2>\n<div class="grid">{figures}</div>')
    rules = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings["rules"].items())
    about = f"Encoded for {settings['model']} ({settings['key']}). Rules: {rules}. Every picture that was dropped is in {LIST}."
    frame = (files("fewstep.data") / PAGE).read_text(encoding="utf8")
    return frame.replace("$TITLE", "What became of the pictures").replace("$ABOUT", escape(about)).replace("$BODY", "\n".join(body))


def _figure(one: Mapping[str, str]) -> str:
    picture = f'<img alt="" src="data:image/jpeg;base64,{escape(one["thumbnail"])}">' if one["thumbnail"] else ""
    said = " – ".join(escape(one[key]) for key in ("caption", "detail", "name") if one[key])
    return f"<figure>{picture}<figcaption>{said}</figcaption></figure>"


def _share(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else "–"
