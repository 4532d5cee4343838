"""Measure what Ray costs a job: python bench/ray_tasks.py

Three things, with tasks that do nothing, on a cluster of one node that is begun here: calls of actors as fast as they go; calls at a steady
pace, 1,000 a second unless --pace says otherwise, and how long each takes to come back; and groups through the stream that ``fewstep batch
--on ray`` uses, planner, pool and books, with nothing made. Prints and writes, to bench/results/ray/KIND.json or where --json says, tasks a
second and processor time of a task, the driver's own and that of all other processes of the cluster. Processor time is what to reckon
with: where a core is shared, as here between driver, scheduler and workers, the tasks a second say more of the machine than of Ray.
--quick proves only that the program works, and writes nothing unless told where.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import ray
from verdict import close

from fewstep.batch.local import Task
from fewstep.batch.ray import Finished, Load, streamed
from fewstep.bench.machine import Others, describe
from fewstep.engine.cluster import Pool, connected, frame_of
from fewstep.engine.where import RAY

RESULTS = Path(__file__).parent / "results" / "ray"
TICKS = os.sysconf("SC_CLK_TCK")
ACTORS, WINDOW = 2, 100  # calls that are on their way at once, as fast as they go


@ray.remote(num_cpus=0.1)
class Nothing:
    def call(self, number: int) -> int:
        return number


class NoEngine:
    """Stands where an engine would."""

    def __call__(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        return frame_of(*(Finished([]) for _ in frame["row"]))


def planned(count: int) -> Iterator[pandas.DataFrame]:
    for _ in range(count):
        yield frame_of(Load((Task(()),)))


def spent() -> tuple[float, float]:
    """(seconds of processor time of this process, of all its descendants and of those that they have waited for)."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid], seconds[pid] = int(fields[1]), sum(map(int, fields[11:15])) / TICKS
    ours, todo = set[int](), [os.getpid()]
    while todo:
        parent = todo.pop()
        found = [pid for pid, of in parents.items() if of == parent]
        ours |= set(found)
        todo += found
    return time.process_time(), sum(seconds[pid] for pid in ours)


def measured(work: Callable[[], int]) -> dict[str, float]:
    """What a task of ``work``, which returns how many there were, takes."""
    began, (own, others) = time.perf_counter(), spent()
    count = work()
    seconds, (own_after, others_after) = time.perf_counter() - began, spent()
    told = {"tasks": count, "seconds": seconds, "tasks_a_second": count / seconds}
    told |= {"driver_ms": 1e3 * (own_after - own) / count, "others_ms": 1e3 * (others_after - others) / count}
    return {name: round(value, 4) for name, value in told.items()}


def as_fast_as_they_go(actors: list[Any], count: int) -> int:
    pending = deque[Any]()
    for number in range(count):
        pending.append(actors[number % len(actors)].call.remote(number))
        if len(pending) > WINDOW:
            ray.get(pending.popleft())
    ray.get(list(pending))
    return count


def paced(actors: list[Any], count: int, pace: float, late: list[float]) -> int:
    """``count`` calls at ``pace`` a second; to ``late`` goes how many seconds after its moment each had come back."""
    began, pending = time.perf_counter(), deque[tuple[float, Any]]()
    for number in range(count):
        due = began + number / pace
        while (now := time.perf_counter()) < due or len(pending) > count:
            if pending and ray.wait([pending[0][1]], timeout=max(due - now, 0))[0]:
                late.append(time.perf_counter() - pending.popleft()[0])
        pending.append((due, actors[number % len(actors)].call.remote(number)))
    for due, call in pending:
        ray.get(call)
        late.append(time.perf_counter() - due)
    return count


def main(arguments: list[str]) -> int:
    """Run what was asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few tasks: to see that it works")
    parser.add_argument("--tasks", type=int, default=10_000, help="as fast as they go, and at a pace")
    parser.add_argument("--groups", type=int, default=1_000, help="through the stream of a job")
    parser.add_argument("--pace", type=float, default=1000, help="tasks a second")
    parser.add_argument("--json", type=Path, default=None, help="where the figures go")
    options = parser.parse_args(arguments)
    tasks, groups = (200, 20) if options.quick else (options.tasks, options.groups)
    others, late, rows = Others(), list[float](), dict[str, dict[str, float]]()
    began = time.perf_counter()
    with connected(RAY) as cluster:
        actors = [Nothing.remote() for _ in range(ACTORS)]
        as_fast_as_they_go(actors, 100)
        rows["as fast as they go"] = measured(lambda: as_fast_as_they_go(actors, tasks))
        rows[f"{options.pace:g} a second"] = measured(lambda: paced(actors, tasks, options.pace, late))
        for actor in actors:
            ray.kill(actor)
        stream = streamed(partial(planned, groups), NoEngine, (), Pool(1, 1, 1, 0), cluster)
        next(stream)  # the pool is there
        rows["groups of a job"] = measured(lambda: 1 + sum(1 for _ in stream))
        busy, ours = others.cores(), spent()[1]
    elsewhere = None if busy is None else max(0.0, busy - ours / (time.perf_counter() - began))  # the cluster's own processes are no others
    ordered = sorted(late)
    latency = {"median_ms": round(1e3 * statistics.median(ordered), 2), "p95_ms": round(1e3 * ordered[int(0.95 * len(ordered))], 2)}
    rows[f"{options.pace:g} a second"] |= latency
    for name, row in rows.items():
        print(f"{name}: " + ", ".join(f"{value:g} {what}" for what, value in row.items()))
    cores = len(os.sched_getaffinity(0))
    machine = describe("cpu", cores) | {"others": elsewhere}
    machine["versions"] |= {"ray": ray.__version__}
    settings = {"date": datetime.now(UTC).date().isoformat(), "quick": options.quick, "actors": ACTORS, "window": WINDOW}
    file = options.json or (None if options.quick else RESULTS / f"{machine['kind']}.json")
    return close({"format": 1, "machine": machine, "settings": settings, "rows": rows}, [], file, elsewhere)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
