"""Another program, run to its end: how long it took, and how much memory at most."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fewstep.bench.machine import bytes_of_maxrss

# A process inherits the high-water mark of the one that forks it. This one is small, and forks instead of the benchmark.
LAUNCHER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([seconds, peak, done.returncode, done.stdout[-4000:], done.stderr[-4000:]]))
"""
LONGEST = 1800  # seconds


class ChildError(RuntimeError):
    """A program that was to be timed and failed; the message has its last line."""


@dataclass(frozen=True)
class Child:
    """A program that ended well."""

    seconds: float  # from its start to its end
    peak: int  # bytes of memory
    output: str


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> Child:
    """Run ``command`` and measure it. Raises ChildError if it fails."""
    launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
    done = subprocess.run(launch, env=dict(environment), capture_output=True, text=True, timeout=LONGEST, check=True)
    seconds, peak, code, output, errors = json.loads(done.stdout)
    if code:
        last = (errors.strip() or output.strip() or "it said nothing").splitlines()[-1]
        raise ChildError(f"{command[0]} ended with exit code {code}: {last}")
    return Child(seconds, bytes_of_maxrss(peak), output)
