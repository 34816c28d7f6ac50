"""The runtime API: load a bundle once, segment pictures of any size.

segmenter = Segmenter.load("bundles/street")
result = segmenter("photo.jpg")
result.overlay().show()

Three stages, which pipelines run in different threads: ``prepare`` decodes a picture and fits it
into the network, ``infer`` runs the network, ``finish`` brings its answer back to the picture's
own size. Calling the segmenter runs all three.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgeseg.answer import Answer, Prepared
from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, UsageError, show
from edgeseg.images import ImageSource
from edgeseg.labels import Labels
from edgeseg.preprocess import MAX_SIDE, Preprocessing
from edgeseg.restore import Ranked, rank
from edgeseg.segmentation import Segmentation
from edgeseg.sessions import AUTO, Session, Settings, open_session
from edgeseg.sessions.protocol import logits_output

__all__ = ["Answer", "Prepared", "Segmenter", "network_size"]


class Segmenter:
    """Picture in, class map at the picture's own size out.

    Any session serves: decoding, resizing and timing are the same for all of them, which
    is what makes benchmarks of different backends comparable.
    """

    def __init__(
        self,
        session: Session,
        labels: Labels,
        preprocessing: Preprocessing,
        *,
        smooth: bool = False,
        confidence: bool = False,
    ) -> None:
        """Use an open session; ``preprocessing`` is for the size that the network will run at.

        With ``smooth`` or ``confidence`` the session must have logits; see ``load``.
        """
        self.session = session
        self.labels = labels
        self.preprocessing = preprocessing
        self.smooth = smooth
        self.confidence = confidence

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        backend: str = AUTO,
        variant: str | None = None,
        size: tuple[int, int] | None = None,
        *,
        batch: int = 1,
        threads: int | None = None,
        allow_fallback: bool = False,
        smooth: bool = False,
        confidence: bool = False,
    ) -> Segmenter:
        """Open a bundle on a backend.

        Args:
            bundle: the folder that ``edgeseg export`` wrote, or an opened ``Bundle``.
            backend: ``auto`` or one of ``edgeseg.sessions.BACKENDS``.
            variant: a variant's name; None takes the best for the backend.
            size: (height, width) to run at: one of the bundle's, or any where it was exported with
                ``--dynamic size``.
            batch: the most pictures that will be given at once.
            threads: of the CPU; None takes as many as this process may use.
            allow_fallback: let what the backend cannot run run on the CPU; the session's
                ``fallback`` then says what.
            smooth: bring the logits to the picture's size (bilinear) and take the best class after
                that; else the class map is brought there (nearest).
            confidence: also say how far the best class is ahead: ``Segmentation.confidence``.

        Raises:
            UsageError: smooth or confidence, and the bundle has no logits.
            ArtifactError, DeviceError, UsageError: see ``Bundle.open`` and ``open_session``.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        if smooth or confidence:
            logits_output(opened)
        checked = network_size(opened, size)
        settings = Settings(checked, batch, threads, allow_fallback)
        session = open_session(opened, backend, variant, settings)
        manifest = opened.manifest
        preprocessing = manifest.preprocessing.at(checked)
        return cls(session, manifest.labels, preprocessing, smooth=smooth, confidence=confidence)

    def __call__(self, image: ImageSource) -> Segmentation:
        """Segment one picture: a path, bytes, a PIL image or a uint8 (H, W, 3) RGB array.

        Raises:
            InputError: the picture cannot be read; see ``edgeseg.images.read_image``.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[ImageSource]) -> list[Segmentation]:
        """Segment several pictures in one call of the network; sizes may differ.

        Raises:
            InputError: one of the pictures cannot be read.
        """
        prepared = [self.prepare(image) for image in images]
        return [self.finish(answer) for answer in self.infer(prepared)]

    def prepare(self, source: ImageSource) -> Prepared:
        """Decode a picture and fit it into the network; any thread may do this.

        Raises:
            InputError: the picture cannot be read, or must not be resized and does not fit.
        """
        clock = _Clock()
        image, size = self.preprocessing.read(source)
        decode_ms = clock.lap()
        pixels = self.preprocessing.fit_image(image, size)
        timings = {"decode": decode_ms, "pre": clock.lap()}
        original = image if image.shape[:2] == size else source
        name = Path(source).name if isinstance(source, str | Path) else ""
        return Prepared(original, size, pixels, self.preprocessing, timings, name)

    def infer(self, prepared: Sequence[Prepared]) -> list[Answer]:
        """Run the network once over pictures of one network size.

        Raises:
            DeviceError, ResourceError: the session failed.
            ArtifactError: the network answered a class that the bundle does not name.
        """
        if not prepared:
            return []
        clock = _Clock()
        stacked = np.stack([one.pixels for one in prepared])
        stack_ms = clock.lap() / len(prepared)
        ranked, logits = self._run(stacked)
        compute_ms = clock.lap() / len(prepared)
        return [
            Answer(
                one,
                found.class_map,
                {
                    "decode": one.timings_ms["decode"],
                    "pre": one.timings_ms["pre"] + stack_ms,
                    "compute": compute_ms,
                },
                found.margin,
                logits[i] if logits is not None and self.smooth else None,
            )
            for i, (one, found) in enumerate(zip(prepared, ranked, strict=True))
        ]

    def _run(self, images: NDArray[np.uint8]) -> tuple[list[Ranked], NDArray[np.float32] | None]:
        """Return what won in each image, and the logits where they were needed."""
        if not (self.smooth or self.confidence):
            class_maps = self.session.infer(images)
            self._check_classes(int(class_maps.max()) + 1)
            return [Ranked(class_map) for class_map in class_maps], None
        logits = self.session.infer_logits(images)
        self._check_classes(logits.shape[1])
        return [rank(one, margin=self.confidence) for one in logits], logits

    def _check_classes(self, count: int) -> None:
        if count > self.labels.num_classes:
            raise ArtifactError(
                f"the model answered class {count - 1}, but its bundle names only "
                f"{self.labels.num_classes} classes; export the bundle again"
            )

    def finish(self, answer: Answer) -> Segmentation:
        """Bring an answer back to its picture's size; any thread may do this."""
        clock = _Clock()
        prepared = answer.prepared
        restored = answer.restored()
        timings = {**answer.timings_ms, "post": clock.lap()}
        return Segmentation(
            restored.class_map,
            self.labels,
            prepared.original,
            timings,
            restored.margin,
            prepared.name,
        )

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self.session.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def network_size(bundle: Bundle, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the (height, width) to run at: ``size`` where the bundle allows it, else its own.

    Raises:
        UsageError: the bundle does not run at this size.
    """
    sizes = bundle.manifest.sizes
    if size is not None and not (len(size) == 2 and all(1 <= side <= MAX_SIDE for side in size)):
        raise UsageError(f"size {show(size)} is not (height, width) within 1 .. {MAX_SIDE}")
    if size is None or size in sizes:
        return size or sizes[0]
    if not bundle.manifest.dynamic_size:
        known = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise UsageError(
            f"this bundle runs at {known} only; "
            "export it with --sizes or --dynamic size to run at other sizes"
        )
    multiple = bundle.manifest.model.size_multiple
    if size[0] % multiple or size[1] % multiple:
        raise UsageError(f"size {size[0]}x{size[1]} is not a multiple of {multiple} on both sides")
    return size


class _Clock:
    """A stop watch: ``lap`` returns the milliseconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter_ns()

    def lap(self) -> float:
        now = time.perf_counter_ns()
        elapsed, self._last = now - self._last, now
        return elapsed / 1e6
