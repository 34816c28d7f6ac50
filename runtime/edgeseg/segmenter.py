"""The runtime API: load a bundle once, segment pictures of any size.

segmenter = Segmenter.load("bundles/street")
result = segmenter("photo.jpg")
result.overlay().show()
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, UsageError
from edgeseg.images import ImageSource, read_image
from edgeseg.labels import Labels
from edgeseg.preprocess import resize_class_map, resize_image
from edgeseg.segmentation import Segmentation
from edgeseg.sessions import AUTO, Session, open_session


class Segmenter:
    """Picture in, class map at the picture's own size out.

    Any session serves: decoding, resizing and timing are the same for all of them, which
    is what makes benchmarks of different backends comparable.
    """

    def __init__(self, session: Session, labels: Labels, size: tuple[int, int]) -> None:
        """Use an open session; ``size`` is the network's (height, width)."""
        self.session = session
        self.labels = labels
        self.size = size

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        backend: str = AUTO,
        variant: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> Segmenter:
        """Open a bundle on a backend.

        Args:
            bundle: the folder that ``edgeseg export`` wrote, or an opened ``Bundle``.
            backend: ``auto`` or one of ``edgeseg.sessions.BACKENDS``.
            variant: a variant's name; None takes the best for the backend.
            size: (height, width) to run at: one of the bundle's, or any where it was exported with
                ``--dynamic size``.

        Raises:
            ArtifactError, DeviceError, UsageError: see ``Bundle.open`` and ``open_session``.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        checked = network_size(opened, size)
        session = open_session(opened, backend, variant)
        return cls(session, opened.manifest.labels, checked)

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
        if not images:
            return []
        clock = _Clock()
        decoded, inputs, decode_ms, pre_ms = [], [], [], []
        for source in images:
            decoded.append(read_image(source))
            decode_ms.append(clock.lap())
            inputs.append(resize_image(decoded[-1], *self.size))
            pre_ms.append(clock.lap())
        stacked = np.stack(inputs)
        stack_ms = clock.lap() / len(images)
        class_maps = self.session.infer(stacked)
        compute_ms = clock.lap() / len(images)
        if (highest := int(class_maps.max())) >= self.labels.num_classes:
            raise ArtifactError(
                f"the model answered class {highest}, but its bundle names only "
                f"{self.labels.num_classes} classes; export the bundle again"
            )
        results = []
        for i, image in enumerate(decoded):
            class_map = resize_class_map(class_maps[i], *image.shape[:2])
            timings = {
                "decode": decode_ms[i],
                "pre": pre_ms[i] + stack_ms,
                "compute": compute_ms,
                "post": clock.lap(),
            }
            results.append(Segmentation(class_map, self.labels, image, timings))
        return results

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
