"""The server as a process, with the embedded model: somebody types, somebody waits, and the machine is told to stop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

SOURCE = Path(__file__).parents[3] / "src"
COMMAND = [sys.executable, "-m", "fewstep", "serve"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE)}
TYPED = "a red apple on green"
BETWEEN = 0.125  # seconds: eight keys a second
EXIT = 5.0  # seconds that the server has to leave in


@contextmanager
def server(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that is ready, and its address."""
    process = subprocess.Popen([*COMMAND, "--port", "0", *options], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        while httpx2.get(f"{url}/readyz").status_code != 200:
            time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.wait()


def pending(url: str) -> int:
    """Pictures that wait or are being made."""
    return int(sum(float(number) for number in re.findall(r"^fewstep_(?:running|queue_depth) (\S+)$", httpx2.get(f"{url}/metrics").text, re.MULTILINE)))


def type_live(url: str, record: list[tuple[float, dict[str, Any]]], sent: list[float], done: threading.Event) -> None:
    """Type TYPED, one character a key, and keep what comes until the full picture of all of it."""
    with connect(f"{url.replace('http', 'ws')}/v1/live") as live:

        def type_all() -> None:
            for end in range(1, len(TYPED) + 1):
                sent.append(time.perf_counter())
                live.send(json.dumps({"prompt": TYPED[:end], "seed": 1, "steps": 1, "generation": end}))
                time.sleep(BETWEEN)

        typist = threading.Thread(target=type_all)
        typist.start()
        while not done.is_set():
            frame = live.recv(timeout=60)
            assert isinstance(frame, bytes)
            (length,) = struct.unpack(">I", frame[:4])
            header = json.loads(frame[4 : 4 + length])
            assert frame[4 + length :].startswith(b"\xff\xd8\xff")
            record.append((time.perf_counter(), header))
            if header["final"] and header["generation"] == len(TYPED):
                done.set()
        typist.join()


@pytest.mark.slow
def test_somebody_types_and_the_server_leaves_in_good_order() -> None:
    record: list[tuple[float, dict[str, Any]]] = []
    sent: list[float] = []
    with server() as (process, url):
        type_live(url, record, sent, threading.Event())
        generations = [header["generation"] for _, header in record]
        assert generations == sorted(generations)
        assert (generations[-1], record[-1][1]["decoder"]) == (len(TYPED), "full")
        assert len(set(generations)) + record[-1][1]["replaced"] == len(TYPED)
        waits = sorted(min(at for at, header in record if header["generation"] >= n) - start for n, start in enumerate(sent, start=1))
        print(f"from a key to a frame: p50 {1000 * waits[len(waits) // 2]:.0f} ms, p95 {1000 * waits[-2]:.0f} ms")

        def ask(seed: int) -> httpx2.Response:
            return httpx2.post(f"{url}/v1/generate", json={"prompt": "pizza", "seed": seed, "steps": 8}, timeout=60)

        with ThreadPoolExecutor(8) as clients, connect(f"{url.replace('http', 'ws')}/v1/live"):
            answers = [clients.submit(ask, seed) for seed in range(8)]
            while pending(url) + sum(answer.done() for answer in answers) < len(answers):
                time.sleep(0.01)
            told = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            assert time.perf_counter() - told < EXIT
            finished = [answer.result() for answer in answers]
        assert {answer.status_code for answer in finished} <= {200, 503}
        assert 503 in {answer.status_code for answer in finished}
        assert all(answer.content.startswith(b"\x89PNG") and answer.content.endswith(b"IEND\xaeB`\x82") for answer in finished if answer.status_code == 200)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_on_the_heels_of_the_ready_line_ends_the_server(number: signal.Signals) -> None:
    process = subprocess.Popen([*COMMAND, "--port", "0"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=2 * EXIT) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in: give --api-key, or --no-auth if everybody may"),
        (["--model", "nowhere"], "nowhere"),
        (["--host", "256.0.0.1", "--no-auth"], "cannot be had"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(options: list[str], said: str) -> None:
    done = subprocess.run([*COMMAND, "--port", "0", *options], env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_said_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([*COMMAND, "--port", str(port)], env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (
        2,
        f"fewstep: port {port} of 127.0.0.1 cannot be had (Address already in use): give another with --port, or another --host\n",
    )
