"""What a server counts: ``GET /metrics`` for Prometheus, and the statistics of Triton's protocol.

Each server has its own registry, so two in one process do not mix.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edgeseg import __version__

# From what a GPU needs for a stage to what a queue of pictures needs on a small CPU.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass
class Statistics:
    """Sums since the start, times in nanoseconds; ``last_ms`` is Unix time, 0 before the first."""

    images: int = 0
    calls: int = 0
    requests: int = 0
    failures: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    last_ms: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return them under the names of Triton's statistics extension."""
        total = self.queue_ns + self.compute_ns
        return {
            "last_inference": self.last_ms,
            "inference_count": self.images,
            "execution_count": self.calls,
            "inference_stats": {
                "success": {"count": self.requests, "ns": total},
                "fail": {"count": self.failures, "ns": 0},
                "queue": {"count": self.requests, "ns": self.queue_ns},
                "compute_infer": {"count": self.requests, "ns": self.compute_ns},
            },
        }


class Metrics:
    """Counters of one server; any thread may use them."""

    def __init__(self, model: str, backend: str, variant: str) -> None:
        """Start at zero; the names label ``edgeseg_info``."""
        self._registry = registry = CollectorRegistry()
        self._statistics = Statistics()
        self._lock = threading.Lock()
        self.waiting = Gauge(
            "edgeseg_queue_length", "Requests that wait for the network.", registry=registry
        )
        self.accepted = Gauge(
            "edgeseg_accepted_requests", "Requests accepted, not answered yet.", registry=registry
        )
        self._requests = Counter(
            "edgeseg_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self._latency = Histogram(
            "edgeseg_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "edgeseg_stage_seconds",
            "Time per stage; compute is one call of the network.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "edgeseg_batch_images", "Images per call.", buckets=_IMAGES, registry=registry
        )
        info = Gauge(
            "edgeseg_info",
            "What is served; always 1.",
            ["version", "model", "backend", "variant"],
            registry=registry,
        )
        info.labels(__version__, model, backend, variant).set(1)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request; status 499 is a client that went away."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def took(self, stage: str, seconds: float) -> None:
        """Note how long a stage took."""
        self._stages.labels(stage).observe(seconds)

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Note how long the body took."""
        start = perf_counter()
        yield
        self.took(stage, perf_counter() - start)

    def inferred(self, images: int, waits: Sequence[float], compute: float) -> None:
        """Note one call of the network: its images, its requests' waits and its time in seconds."""
        self._batches.observe(images)
        self.took("compute", compute)
        for wait in waits:
            self.took("queue", wait)
        with self._lock:
            self._statistics.images += images
            self._statistics.calls += 1
            self._statistics.requests += len(waits)
            self._statistics.queue_ns += int(sum(waits) * 1e9)
            self._statistics.compute_ns += int(compute * len(waits) * 1e9)
            self._statistics.last_ms = int(time() * 1000)

    def failed(self, requests: int) -> None:
        """Note a call of the network that failed."""
        with self._lock:
            self._statistics.failures += requests

    def statistics(self) -> dict[str, Any]:
        """Return the sums; see ``Statistics.to_dict``."""
        with self._lock:
            return self._statistics.to_dict()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
