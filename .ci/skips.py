"""Fails unless every skipped test in a JUnit report is one that may be skipped: python skips.py REPORT.xml [REGEX …]"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree


def main(report: str, *allowed: str) -> int:
    """Prints every skip that no pattern allows; 1 if there is one, or if no test ran at all."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = [(case, node) for case in cases for node in case.iter("skipped")]
    if len(cases) == len(skipped):
        print("no test ran")
        return 1
    names = [f"{_place(case.get('classname') or '', case.get('name') or '')}: {node.get('message')}" for case, node in skipped]
    wrong = [name for name in names if not any(re.search(pattern, name) for pattern in allowed)]
    for name in wrong:
        print(f"skipped, but should have run: {name}")
    print(f"{len(cases) - len(skipped)} tests ran, {len(skipped)} were skipped, {len(wrong)} of them without leave")
    return 1 if wrong else 0


def _place(module: str, name: str) -> str:
    """The file and test that a report means; a module skipped as a whole stands there as a name alone."""
    return f"{module.replace('.', '/')}.py::{name}" if module else f"{name.replace('.', '/')}.py"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
