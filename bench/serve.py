"""Measure the server against its bars: python bench/serve.py

Starts `fewstep serve` with the embedded model, puts it under load from this process, and prints each bar with what was measured. Writes
the figures as JSON to bench/results/serve/KIND.json, or where --json says. Takes about ten minutes; --quick takes one, proves only
that the program works, and writes nothing unless told where. --only typing,crowd,throughput,rough,stop chooses parts. Exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from load import TEXTS, Answer, Client, Typed, begun, hammer, numbers, post, type_live, vanish
from PIL import Image
from verdict import close

from fewstep import Engine, Request
from fewstep.bench.machine import Others, describe
from fewstep.bench.results import Bar

RESULTS = Path(__file__).parent / "results" / "serve"
STEADY = 16e6  # bytes by which memory may differ from one reading to the next
EXIT = 5.0  # seconds


@dataclass
class Report:
    """What was found, part by part."""

    quick: bool
    steps: int
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)

    def bar(self, name: str, value: float, needed: float, at_most: bool = True) -> None:
        """One thing that must hold."""
        self.bars.append(Bar(name, float(value), needed, at_most))
        print(f"  {'ok    ' if self.bars[-1].met else 'MISSED'} {name}: {value:.4g} ({'at most' if at_most else 'at least'} {needed:g})", flush=True)


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that is ready, and its address."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")))}
    command = [sys.executable, "-m", "fewstep", "serve", "--port", "0"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        while asyncio.run(Client(url).ask("/readyz")).status != 200:
            time.sleep(0.1)
        yield process, url
    finally:
        process.kill()
        process.wait()


async def typing(report: Report, url: str) -> None:
    """One person types."""
    typed = await type_live(url, 5 if report.quick else 30)
    waits = sorted(1000 * wait for wait in typed.waits)
    p50, p95 = waits[len(waits) // 2], waits[min(len(waits) - 1, int(0.95 * len(waits)))]
    again = await Client(url).ask("/v1/generate", {"prompt": typed.text, "seed": 1, "steps": 1})
    report.figures["typing"] = {"keys": len(waits), "frames": len(typed.frames), "p50_ms": p50, "p95_ms": p95, "longest_ms": waits[-1]}
    report.bar("typing, p50 from a key to a frame, ms", p50, 120)
    report.bar("typing, p95, ms", p95, 250)
    report.bar("typing, frames older than one shown before", typed.stale, 0)
    report.bar("typing, the last picture differs from the last text's, of 255", differs(typed.last, again.content) if typed.complete else 255, 4)
    report.bar("typing, errors", len(typed.errors), 0)


def differs(one: bytes, other: bytes) -> float:
    """The mean difference of two pictures: JPEG costs one or two."""
    a, b = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float32) for content in (one, other))
    return float(np.abs(a - b).mean())


async def crowd(report: Report, url: str) -> None:
    """Thirty-two people type."""
    seconds, people = (8, 32) if report.quick else (60, 32)
    watched: list[float] = []

    async def watch() -> None:
        while True:
            watched.append((await numbers(url))["process_resident_memory_bytes"])
            await asyncio.sleep(seconds / 12)

    watching = asyncio.create_task(watch())
    typed: list[Typed] = await asyncio.gather(*(type_live(url, seconds, seed=one, first=one) for one in range(people)))
    watching.cancel()
    frames = [one.share for one in typed]
    warm = statistics.median(watched[3:6] or watched)
    report.figures["crowd"] = {"sessions": people, "seconds": seconds, "frames": frames, "memory_bytes": watched, "refused": sum(one.refused for one in typed)}
    report.bar("crowd, the least share of a session, of the mean", min(frames) / max(statistics.mean(frames), 1), 0.8, at_most=False)
    report.bar("crowd, growth of memory, MB", (statistics.median(watched[-3:]) - warm) / 1e6, max(STEADY, 0.03 * warm) / 1e6)
    report.bar("crowd, errors other than 429", sum(len(one.errors) for one in typed), 0)
    report.bar("crowd, sessions without the last picture", sum(not one.complete for one in typed), 0)
    report.bar("crowd, frames older than one shown before", sum(one.stale for one in typed), 0)


async def throughput(report: Report, url: str) -> None:
    """The OpenAI endpoint against the engine alone, in turn: A B A B."""
    rounds, each = (2, 16) if report.quick else (10, 100)
    engine = Engine.load("emoji", steps=report.steps)
    requests = [Request(f"{TEXTS[number % len(TEXTS)]} {number}", seed=number, steps=report.steps) for number in range(each)]
    list(engine.generate_many(requests[:8]))
    served: list[float] = []
    alone: list[float] = []
    answers: list[Answer] = []
    for number in range(rounds):
        bodies = [{"prompt": request.prompt, "seed": each * number + index, "steps": report.steps} for index, request in enumerate(requests)]
        began = time.perf_counter()
        answers += await hammer(url, "/v1/images/generations", bodies, 16)
        served.append(each / (time.perf_counter() - began))
        began = time.perf_counter()
        list(engine.generate_many(requests[: max(16, each // 3)]))
        alone.append(max(16, each // 3) / (time.perf_counter() - began))
    ratio = statistics.median(one / other for one, other in zip(served, alone, strict=True))
    failed = sum(not whole(answer) for answer in answers)
    waits = sorted(1000 * answer.seconds for answer in answers)
    figures = {"requests": len(answers), "steps": report.steps, "served_a_second": statistics.median(served), "engine_a_second": statistics.median(alone)}
    report.figures["throughput"] = {**figures, "ratio": ratio, "p50_ms": waits[len(waits) // 2], "p95_ms": waits[int(0.95 * len(waits))]}
    report.bar("throughput, of the engine's own", ratio, 0.8, at_most=False)
    report.bar("throughput, failed requests", failed, 0)


def whole(answer: Answer) -> bool:
    """Whether it holds a whole picture."""
    return answer.status == 200 and base64.b64decode(json.loads(answer.content)["data"][0]["b64_json"]).endswith(b"IEND\xaeB`\x82")


async def rough(report: Report, url: str) -> None:
    """Those who vanish, hold back, do not read, send too much or nonsense, while one person goes on typing."""
    count = 20 if report.quick else 200
    body = b'{"prompt": "a red apple", "steps": 8}'
    await hammer(url, "/v1/generate", [json.loads(body)] * 4, 2)
    before = await numbers(url)
    person = asyncio.create_task(type_live(url, 4 if report.quick else 20))
    for number in range(count):
        connection = begun(url, post("/v1/generate", body[: len(body) - number % 3]))
        await asyncio.sleep(0.005 * (number % 4))
        vanish(connection)
    held = [begun(url, b"POST /v1/generate HTTP/1.1\r\nHost: loc") for _ in range(count // 2)]
    answers = [await Client(url).ask("/v1/models")]
    stream = b'{"prompt": "a red apple", "steps": 1, "count": 16, "stream": true, "previews": true}'
    held += [begun(url, post("/v1/generate", stream)) for _ in range(2)]
    oversized = [await one_answer(url, post(path, b"{", length)) for path in ("/v1/generate", "/v1/images/generations") for length in (10**8, 10**12)]
    nonsense = [b"{", b"\xff\xfe", b"[" * 30000, b'{"prompt": 3}', b'{"prompt": "x", "steps": 1e400}', b'{"prompt": "\\ud800"}', b""]
    malformed = [await one_answer(url, post("/v1/images/generations", content)) for content in nonsense]
    typed = await person
    for connection in held:
        vanish(connection)
    deadline = time.monotonic() + 10
    while (after := await numbers(url))["process_open_fds"] > before["process_open_fds"] and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    answers.append(await Client(url).ask("/v1/generate", {"prompt": "a red apple"}))
    grown = after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
    report.figures["rough"] = {
        "vanished": count,
        "held": len(held),
        "open_files": [before["process_open_fds"], after["process_open_fds"]],
        "grown_bytes": grown,
    }
    report.bar("rough, descriptors left open", after["process_open_fds"] - before["process_open_fds"], 0)
    report.bar("rough, growth of memory, MB", grown / 1e6, max(STEADY, 0.05 * before["process_resident_memory_bytes"]) / 1e6)
    report.bar("rough, oversized bodies not answered with 413", sum(status != 413 for status in oversized), 0)
    report.bar("rough, malformed bodies not answered with 400", sum(status != 400 for status in malformed), 0)
    report.bar("rough, good requests not answered", sum(answer.status != 200 for answer in answers), 0)
    report.bar("rough, errors of the person who types", len(typed.errors) + (not typed.complete), 0)


async def one_answer(url: str, content: bytes) -> int:
    """The status of what the server says to ``content``."""
    connection = begun(url, content)
    try:
        return int((await asyncio.to_thread(connection.recv, 4096)).split()[1])
    finally:
        connection.close()


async def stop(report: Report, process: subprocess.Popen[str], url: str) -> None:
    """SIGTERM in the middle of it all."""
    told = False
    seconds = 2 if report.quick else 5
    body = {"prompt": "a red apple", "steps": 8}
    loads = [
        hammer(url, "/v1/images/generations", [{**body, "seed": number} for number in range(4000)], 16, lambda: told),
        hammer(url, "/v1/generate", [{**body, "seed": number, "stream": True, "count": 2} for number in range(1000)], 8, lambda: told),
    ]
    tasks = [asyncio.create_task(load) for load in loads]
    people = [asyncio.create_task(type_live(url, 3600, first=one)) for one in range(4)]
    await asyncio.sleep(seconds)
    told, began = True, time.perf_counter()
    process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(process.wait, 60)
    took = time.perf_counter() - began
    single, streamed = await asyncio.gather(*tasks)
    for person in people:
        person.cancel()
    await asyncio.gather(*people, return_exceptions=True)
    half = sum(answer.status == -1 or (answer.status == 200 and not whole(answer)) for answer in single)
    half += sum(answer.status == -1 or (answer.status == 200 and not ended(answer)) for answer in streamed)
    statuses = [answer.status for answer in single + streamed]
    report.figures["stop"] = {"seconds": took, "answers": {str(status): statuses.count(status) for status in sorted(set(statuses))}}
    report.bar("stop, seconds to the exit", took, EXIT)
    report.bar("stop, exit code", code, 0)
    report.bar("stop, answers that broke off", half, 0)
    report.bar("stop, answers other than 200, 429 and 503", sum(status not in (200, 429, 503) for status in statuses), 0)


def ended(answer: Answer) -> bool:
    """Whether a stream came to its end, or says why not."""
    return answer.content.rstrip().split(b"\n\n")[-1].startswith((b"event: done", b"event: error"))


def main(arguments: list[str]) -> int:
    """Run what was asked for. Returns the exit code."""
    parts: dict[str, Callable[[Report, str], Awaitable[None]]] = {"typing": typing, "crowd": crowd, "throughput": throughput, "rough": rough}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: to see that it works")
    parser.add_argument("--only", default=",".join([*parts, "stop"]), help="of typing,crowd,throughput,rough,stop")
    parser.add_argument("--steps", type=int, default=1, help="of the pictures for the throughput")
    parser.add_argument("--json", type=Path, default=None, help="where the figures go")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    if unknown := set(chosen) - {*parts, "stop"}:
        parser.error(f"--only {','.join(unknown)}: give some of {','.join([*parts, 'stop'])}")
    report, others = Report(options.quick, options.steps), Others()
    with server() as (process, url):
        for name in chosen:
            print(name, flush=True)
            asyncio.run(parts[name](report, url) if name in parts else stop(report, process, url))
    machine = describe("cpu", os.cpu_count() or 1) | {"others": others.cores()}
    settings = {
        "date": datetime.now(UTC).date().isoformat(),
        "model": "emoji",
        "quick": options.quick,
        "parts": chosen,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    bars = [{"name": bar.name, "value": bar.value, "needed": bar.needed, "at_most": bar.at_most, "met": bar.met} for bar in report.bars]
    file = options.json or (None if options.quick else RESULTS / f"{machine['kind']}.json")
    content = {"format": 1, "machine": machine, "settings": settings, "figures": report.figures, "bars": bars}
    return close(content, report.bars, file, machine["others"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
