"""What a server does with what it let in: pictures to class maps, tensors to tensors.

Decoding and encoding run in worker threads, the network in one of its own, so the event loop is
free to talk. Only a few pictures are decoded at a time; the others wait as they came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.errors import UsageError
from edgeseg.segmentation import Segmentation
from edgeseg.segmenter import Answer, Prepared, Segmenter, network_size
from edgeseg.serve.batching import Batcher, Inferred, Wanted
from edgeseg.serve.intake import Intake, check_pixels
from edgeseg.serve.limits import Limits
from edgeseg.serve.metrics import Metrics
from edgeseg.streams.pipeline import default_depth, default_workers

Result = TypeVar("Result")


class Service:
    """One bundle, served.

    Attributes:
        name: of the model, as clients call it.
        bundle, segmenter, limits, metrics, intake: what it is made of.
    """

    def __init__(self, name: str, bundle: Bundle, segmenter: Segmenter, limits: Limits) -> None:
        """Start the threads; ``close`` ends them and closes the segmenter."""
        session = segmenter.session
        self.name = name
        self.bundle = bundle
        self.segmenter = segmenter
        self.limits = limits
        self.metrics = Metrics(name, session.backend, session.variant)
        self.intake = Intake(limits, self.metrics)
        self._batcher = Batcher(segmenter, limits, self.metrics)
        workers = default_workers()
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="edgeseg-serve")
        self._room = asyncio.Semaphore(default_depth(limits.batch, workers))
        sizes = [*bundle.manifest.sizes, segmenter.preprocessing.size]
        self._largest = max(height * width for height, width in sizes)

    @property
    def works(self) -> bool:
        """Whether the network answered the last time it was asked."""
        return self._batcher.works

    async def segment(self, picture: bytes, encode: Callable[[Segmentation], Result]) -> Result:
        """Segment one encoded picture, and return what ``encode`` makes of the result.

        Raises:
            HTTPException: 413, see ``check_pixels``.
            InputError: it cannot be read.
            DeviceError, ResourceError, ArtifactError: see ``Segmenter.infer``.
        """
        async with self._room:
            prepared = await self.work(self._prepare, picture)
            inferred = await self._batcher.infer([prepared])
            return await self.work(self._finish, inferred.answers[0], encode)

    def _prepare(self, picture: bytes) -> Prepared:
        check_pixels(picture, self.limits.max_pixels)
        return self.segmenter.prepare(picture)

    def _finish(self, answer: Answer, encode: Callable[[Segmentation], Result]) -> Result:
        result = self.segmenter.finish(answer)
        for stage in ("decode", "pre", "post"):
            self.metrics.took(stage, result.timings_ms[stage] / 1000)
        with self.metrics.timing("encode"):
            return encode(result)

    async def infer(self, images: NDArray[np.uint8], wanted: Wanted) -> Inferred:
        """Run the network over images of its own size, uint8 (N, h, w, 3).

        Raises:
            UsageError: more images than ``Limits.batch``, or a size that the bundle does not run.
            DeviceError, ResourceError, ArtifactError: see ``Segmenter.infer``.
        """
        count, height, width, _ = images.shape
        if count > self.limits.batch:
            raise UsageError(f"{count} images at once; at most {self.limits.batch}, see --batch")
        if height * width > self._largest:
            raise UsageError(
                f"images of {height}x{width} have more pixels than any size that this server is "
                "for; see --size"
            )
        size = network_size(self.bundle, (height, width))
        preprocessing = self.segmenter.preprocessing.at(size)
        nothing = {"decode": 0.0, "pre": 0.0}
        prepared = [Prepared(image, size, image, preprocessing, nothing) for image in images]
        return await self._batcher.infer(prepared, wanted)

    async def work(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run a function in a worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, function, *arguments)

    def close(self) -> None:
        """Finish what was begun, end the threads, free the model."""
        self._workers.shutdown()
        self._batcher.close()
        self.segmenter.close()
