"""Measure the memory of a long list: python bench/rows.py

Ten million rows of a CSV, or --rows, two of which mean the same as the first two. ``fewstep batch --dry-run`` plans them all; then the books
of a job of as many pictures, a results.jsonl in the order in which a killed job leaves it, are opened, asked for every picture and put in
order, as a start that goes on with such a job does. Each is a process of its own, whose memory is looked at every second, and the same with
1,000 rows is what it is compared to. Prints and writes, to bench/results/rows/KIND.json or where --json says, peak memory, processor time and
the bytes of the temporary files on disk. --quick proves only that the program works, and writes nothing unless told where. Exit code 1 if a
bar is missed: at most 64 MB more than for 1,000 rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from verdict import close

from fewstep.batch.results import NAME, Results
from fewstep.bench.machine import Others, bytes_of_maxrss, describe
from fewstep.bench.results import Bar

RESULTS = Path(__file__).parent / "results" / "rows"
ROWS, FEW = 10_000_000, 1_000
MOST_MORE = 64.0  # MB
TWICE = 2  # rows at the end that mean the same as the first ones
ANIMALS = ("fox", "owl", "cat", "whale", "penguin", "unicorn", "frog", "turtle")
COLOURS = ("red", "blue", "green", "pink", "yellow")
TEMPLATE = "a {animal} on a {colour} background"
OPEN = 512  # pictures that wait for others of their kind: so far from its place a line of the results may stand
TENTHS = 10


def write_manifest(path: Path, count: int) -> None:
    """A CSV of ``count`` rows, in 40 prompts, three shapes and four step counts."""
    with path.open("w", encoding="utf8") as stream:
        stream.write("animal,colour,seed,steps,aspect\n")
        for number in range(count):
            one = number if number < count - TWICE else number - (count - TWICE)
            words = f"{ANIMALS[one % len(ANIMALS)]},{COLOURS[one // len(ANIMALS) % len(COLOURS)]}"
            stream.write(f"{words},{one},{(1, 2, 4, 8)[one // 40 % 4]},{('1:1', '4:3', '9:16')[one // 160 % 3]}\n")


def write_results(path: Path, count: int) -> None:
    """As many lines as a job writes, each some hundred pictures from its place."""
    shuffle = random.Random(0).shuffle
    with path.open("wb") as stream:
        for first in range(0, count, OPEN):
            places = list(range(first, min(first + OPEN, count)))
            shuffle(places)
            for index in places:
                key = hashlib.sha256(b"%d" % index).hexdigest()
                line = {
                    "index": index,
                    "row": index + 1,
                    "line": index + 2,
                    "path": f"pictures/{(index + 1) // 1000:05d}/{index + 1:07d}-{index}-{key[:12]}.png",
                    "key": key,
                    "sha256": key[::-1],
                    "bytes": 40_000 + index % 10_000,
                    "prompt": "a fox on a red background",
                    "seed": index,
                    "steps": 4,
                    "width": 256,
                    "height": 256,
                    "model": "emoji",
                    "timings_ms": {"text": 0.5, "denoise": 81.25, "decode": 110.5},
                }
                stream.write(json.dumps(line).encode() + b"\n")


def go_on(folder: Path) -> None:
    """What the books of a job do when it is begun again, and at its end."""
    results = Results(folder / NAME)
    index = 0
    while (line := results.of(index)) is not None:
        if line["index"] != index:
            sys.exit(f"the books say {line['index']} of picture {index}")
        index += 1
    results.finish(folder)
    results.close()
    print(json.dumps({"pictures": index}))


def watched(command: Sequence[str], temporary: Path) -> tuple[dict[str, Any], str]:
    """(what ``command`` took, what it printed); its temporary files go to ``temporary``. Ends this program if it fails."""
    began, memory, disk = time.perf_counter(), list[float](), 0
    environment = os.environ | {"SQLITE_TMPDIR": str(temporary)}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=said)
        while True:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            memory.append(_resident(process.pid))
            disk = max(disk, _unlinked(process.pid, temporary))
            time.sleep(1)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read()
    if process.returncode not in (0, 1):  # 1: the rows that mean the same
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
    cuts = [one * len(memory) // TENTHS for one in range(TENTHS + 1)]
    tenths = [round(max(memory[first:last], default=0.0), 1) for first, last in zip(cuts, cuts[1:], strict=False)]
    took = {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(bytes_of_maxrss(usage.ru_maxrss) / 1e6, 1),
        "tenths_mb": tenths,  # the most in each tenth of the time
        "temporary_mb": round(disk / 1e6, 1),
    }
    return took, output


def _resident(pid: int) -> float:
    """MB of a process's memory."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0


def _unlinked(pid: int, folder: Path) -> int:
    """Bytes of the files in ``folder`` that a process has open and that have no name any more."""
    total = 0
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            if str(link.readlink()).startswith(str(folder)):
                total += link.stat().st_size
        except OSError:
            continue  # it was closed meanwhile
    return total


def planned(count: int, folder: Path) -> dict[str, Any]:
    """A dry run of ``count`` rows."""
    manifest, estimate = folder / "rows.csv", folder / "estimate.json"
    write_manifest(manifest, count)
    size = manifest.stat().st_size
    command = ["batch", str(manifest), "--out", str(folder / "job"), "--template", TEMPLATE, "--dry-run", "--json", str(estimate)]
    took, _ = watched([sys.executable, "-m", "fewstep", *command], folder)
    manifest.unlink()
    told = json.loads(estimate.read_text())
    if (told["pictures"], told["failed"]) != (count - TWICE, TWICE):
        sys.exit(f"{count} rows were found to be {told['pictures']} pictures and {told['failed']} that cannot be made")
    return {"rows": count, "manifest_mb": round(size / 1e6, 1), **took}


def kept(count: int, folder: Path) -> dict[str, Any]:
    """The books of ``count`` pictures."""
    write_results(folder / NAME, count)
    size = (folder / NAME).stat().st_size
    took, output = watched([sys.executable, __file__, "--go-on", str(folder)], folder)
    (folder / NAME).unlink()
    if (found := json.loads(output)["pictures"]) != count:
        sys.exit(f"the books have {found} of {count} pictures")
    return {"rows": count, "results_mb": round(size / 1e6, 1), **took}


def main(arguments: list[str]) -> int:
    """Run what was asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 rows: to see that it works")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--json", type=Path, default=None, help="where the figures go")
    parser.add_argument("--go-on", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.go_on:
        go_on(options.go_on)
        return 0
    count = 20_000 if options.quick else options.rows
    others, rows, bars = Others(), dict[str, dict[str, Any]](), list[Bar]()
    for name, work in (("books", kept), ("dry run", planned)):
        with tempfile.TemporaryDirectory(prefix="fewstep-rows-") as folder:
            few, many = (work(size, Path(folder)) for size in (FEW, count))
        more = many["peak_mb"] - few["peak_mb"]
        rows[name] = {**many, f"peak_mb_of_{FEW}_rows": few["peak_mb"], "more_mb": round(more, 1)}
        bars.append(Bar(f"{name}: MB more than for {FEW} rows", more, MOST_MORE, at_most=True))
        seconds = f"{many['processor_seconds']:.0f} s of processor time"
        print(f"{name}, {count} rows: {many['peak_mb']:.0f} MB at most, {more:.0f} more than for {FEW}; {seconds}", flush=True)
    machine = describe("cpu", 1) | {"others": others.cores()}
    settings = {"date": datetime.now(UTC).date().isoformat(), "quick": options.quick, "template": TEMPLATE}
    told = [{"name": bar.name, "value": round(bar.value, 1), "needed": bar.needed, "met": bar.met} for bar in bars]
    file = options.json or (None if options.quick else RESULTS / f"{machine['kind']}.json")
    return close({"format": 1, "machine": machine, "settings": settings, "rows": rows, "bars": told}, bars, file, machine["others"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
