"""What GET /metrics tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fewstep.engine.request import MOST_BATCH
from fewstep.serve.scheduler import Batch, Scheduler

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ENDS = ("done", "cancelled", "replaced", "rejected", "failed")


class Metrics(Collector):
    """A registry of its own, so that several servers in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.scheduler: Scheduler | None = None
        self.sessions = 0
        self.answers = Counter("fewstep_requests", "Requests by route and status.", ["route", "status"], registry=self.registry)
        self.waits = Histogram("fewstep_wait_seconds", "Time a picture was in the queue.", buckets=SECONDS, registry=self.registry)
        self.stages = Histogram("fewstep_stage_seconds", "Time a picture took, by stage.", ["stage"], buckets=SECONDS, registry=self.registry)
        sizes = range(1, MOST_BATCH + 1)
        self.sizes = Histogram("fewstep_batch_size", "Pictures made together.", buckets=list(sizes), registry=self.registry)
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def batch(self, batch: Batch) -> None:
        """Count a batch."""
        self.sizes.observe(len(batch.waits))
        for wait in batch.waits:
            self.waits.observe(wait)
            for stage, milliseconds in batch.timings.items():
                self.stages.labels(stage).observe(milliseconds / 1000)

    def collect(self) -> Iterator[Metric]:
        """What is read off when it is asked for."""
        if self.scheduler is None:
            return
        pictures = CounterMetricFamily("fewstep_pictures", "Pictures asked for, by how that ended.", labels=["end"])
        for end in ENDS:
            pictures.add_metric([end], getattr(self.scheduler.counts, end))
        yield pictures
        yield GaugeMetricFamily("fewstep_queue_depth", "Pictures that wait.", self.scheduler.queued)
        yield GaugeMetricFamily("fewstep_running", "Pictures that are being made.", self.scheduler.running)
        yield GaugeMetricFamily("fewstep_sessions", "Live sessions.", self.sessions)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)
