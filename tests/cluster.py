"""A Ray cluster for the tests: its nodes are processes of this machine, each with a raylet and an object store of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MEMORY = 100 << 20  # bytes of a node's object store
PATIENCE = 480  # seconds


@contextmanager
def begun(cpus: int) -> Iterator[Any]:
    """A head that computes nothing, and one node with ``cpus`` processors that does."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_worker_niceness", "0")  # or they would wait for whatever else a machine does
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False})
        cluster.add_node(num_cpus=cpus, object_store_memory=MEMORY)
        yield cluster
        cluster.shutdown()


def until(holds: Callable[[], bool], driver: subprocess.Popen[str] | None = None) -> None:
    """Return when it ``holds``; fail if it does not, or once a ``driver`` that it hangs on has ended."""
    end = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < end and (driver is None or driver.poll() is None):
        time.sleep(0.02)
    assert holds(), driver.stderr.read() if driver and driver.poll() is not None and driver.stderr else "it took too long"


def actors(cluster: Any) -> list[int]:
    """The processes of the actors of a stream: children of the nodes' raylets."""
    raylets = {process.process.pid for node in cluster.list_all_nodes() for process in node.all_processes.get("raylet", [])}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and b"Worker(MapBatches" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found
