"""One network for many requests: those that wait are run together.

    batcher = Batcher(segmenter, limits, metrics)
    inferred = await batcher.infer([segmenter.prepare("photo.jpg")])

One thread runs the network. While it is busy requests gather, and the next call takes as many as
``Limits.batch`` allows, oldest first. An idle network waits ``Limits.wait_ms`` for a batch to fill.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DeviceError
from edgeseg.segmenter import Answer, Prepared, Segmenter
from edgeseg.serve.limits import Limits
from edgeseg.serve.metrics import Metrics


@dataclass(frozen=True)
class Wanted:
    """Which outputs of the network a request needs."""

    class_maps: bool = True
    logits: bool = False


CLASS_MAPS = Wanted()


@dataclass(frozen=True)
class Inferred:
    """What the network said of a request's images.

    Attributes:
        answers: one per image; empty if class maps were not wanted.
        logits: float32 (N, C, h, w) if they were wanted.
    """

    answers: list[Answer]
    logits: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)  # a job equals only itself
class _Job:
    prepared: Sequence[Prepared]
    wanted: Wanted
    future: Future[Inferred] = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)

    def goes_with(self, other: _Job) -> bool:
        """Whether one call of the network can serve both."""
        shapes = self.prepared[0].pixels.shape, other.prepared[0].pixels.shape
        return shapes[0] == shapes[1] and self.wanted == other.wanted


class Batcher:
    """The thread that runs the network.

    ``works`` is False from a failure of the device until a call succeeds.
    """

    def __init__(self, segmenter: Segmenter, limits: Limits, metrics: Metrics) -> None:
        """Start the thread; ``close`` ends it."""
        self.works = True
        self._segmenter = segmenter
        self._limits = limits
        self._metrics = metrics
        self._waiting: list[_Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="edgeseg-infer", daemon=True)
        self._thread.start()

    async def infer(self, prepared: Sequence[Prepared], wanted: Wanted = CLASS_MAPS) -> Inferred:
        """Run the network over 1 to ``Limits.batch`` images of one size.

        Whoever stops waiting for the answer takes the request back, unless it is running already.

        Raises:
            DeviceError, ResourceError, ArtifactError: see ``Segmenter.infer``; or it is closed.
        """
        job = _Job(prepared, wanted)
        with self._changed:
            if self._closed:
                raise DeviceError("the server is stopping")
            self._waiting.append(job)
            self._metrics.waiting.set(len(self._waiting))
            self._changed.notify()
        return await asyncio.wrap_future(job.future)

    def close(self) -> None:
        """Finish what waits, then end; calling it again does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (jobs := self._next()) is not None:
            if jobs:
                self._infer(jobs)

    def _next(self) -> list[_Job] | None:
        """Wait for work and return a batch of it, None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            patience = self._waiting[0].arrived + self._limits.wait_ms / 1000 - time.perf_counter()
            self._changed.wait_for(self._is_full, timeout=max(0.0, patience))
            batch = self._batch()
            self._waiting = [job for job in self._waiting if job not in batch]
            self._metrics.waiting.set(len(self._waiting))
        return [job for job in batch if job.future.set_running_or_notify_cancel()]

    def _is_full(self) -> bool:
        images = sum(len(job.prepared) for job in self._batch())
        return self._closed or images >= self._limits.batch

    def _batch(self) -> list[_Job]:
        """Return the oldest job and those after it that fit into the same call."""
        first = self._waiting[0]
        batch: list[_Job] = []
        room = self._limits.batch
        for job in self._waiting:
            if not job.goes_with(first):
                continue
            if len(job.prepared) > room:
                break  # younger and smaller ones must not overtake it for ever
            batch.append(job)
            room -= len(job.prepared)
        return batch

    def _infer(self, jobs: list[_Job]) -> None:
        started = time.perf_counter()
        try:
            inferred = self._call([one for job in jobs for one in job.prepared], jobs[0].wanted)
        except Exception as error:  # whatever it is, the requests get it and the thread goes on
            self.works = self.works and not isinstance(error, DeviceError)
            self._metrics.failed(len(jobs))
            for job in jobs:
                job.future.set_exception(error)
            return
        self.works = True
        waits = [started - job.arrived for job in jobs]
        images = sum(len(job.prepared) for job in jobs)
        self._metrics.inferred(images, waits, time.perf_counter() - started)
        self._hand_out(jobs, inferred)

    def _call(self, prepared: list[Prepared], wanted: Wanted) -> Inferred:
        # Two calls where both are wanted: the graph's own class map, not one of our making.
        answers = self._segmenter.infer(prepared) if wanted.class_maps else []
        if not wanted.logits:
            return Inferred(answers, None)
        stacked = np.stack([one.pixels for one in prepared])
        return Inferred(answers, self._segmenter.session.infer_logits(stacked))

    @staticmethod
    def _hand_out(jobs: list[_Job], inferred: Inferred) -> None:
        start = 0
        for job in jobs:
            part = slice(start, start + len(job.prepared))
            logits = None if inferred.logits is None else inferred.logits[part]
            job.future.set_result(Inferred(inferred.answers[part], logits))
            start = part.stop
