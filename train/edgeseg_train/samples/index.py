"""What is known of all prepared samples of a split together: the index and how it is counted.

The index is ``index.json`` in a folder of prepared samples (``edgeseg_train.samples.store``).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import first_line
from edgeseg.files import sha256_bytes

# Raise it when the layout changes, or how edgeseg decodes or resizes: older caches are not used.
FORMAT = 1
INDEX = "index.json"


@dataclass(frozen=True)
class ClassCounts:
    """How often each class occurs in a split's masks at network size; int64 (C,) each.

    ``pixels``: its pixels. ``pixels_of_images_with``: the labelled pixels of all images in
    which it occurs, the denominator of median frequency balancing (Eigen and Fergus, 2015).
    """

    pixels: NDArray[np.int64]
    pixels_of_images_with: NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """What ``index.json`` holds; lists, because that is what JSON gives back."""

    size: list[int]  # height, width
    names: list[str]
    skipped: dict[str, str]  # name: reason
    fingerprint: str
    pixels: list[int]
    pixels_of_images_with: list[int]
    truth_shapes: list[list[int]]  # empty when the masks' own sizes are not kept

    def counts(self) -> ClassCounts:
        """Return how often each class occurs."""
        return ClassCounts(
            np.array(self.pixels, dtype=np.int64),
            np.array(self.pixels_of_images_with, dtype=np.int64),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return each array's file name and shape."""
        masks = (len(self.names), *self.size)
        shapes: dict[str, tuple[int, ...]] = {"images.npy": (*masks, 3), "masks.npy": masks}
        if self.truth_shapes:
            shapes["truths.npy"] = (sum(map(math.prod, self.truth_shapes)),)
        return shapes

    def to_json(self) -> bytes:
        """Return the document with its checksum; non-ASCII and undecodable names are escaped."""
        content = asdict(self) | {"format": FORMAT}
        return json.dumps({"sha256": _checksum(content), "index": content}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Index:
        """Return the index in ``data``.

        Raises:
            ValueError: it is not what ``to_json`` wrote.
        """
        try:
            document = json.loads(data)
            content = document["index"]
            if document["sha256"] != _checksum(content) or content.pop("format") != FORMAT:
                raise ValueError("its checksum or format does not match")
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{INDEX} is damaged: {first_line(error)}") from error


class Tally:
    """Adds up an index, sample by sample in the order of the split."""

    def __init__(self, num_classes: int) -> None:
        self.skipped: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._pixels = np.zeros(num_classes, dtype=np.int64)
        self._pixels_of_images_with = np.zeros(num_classes, dtype=np.int64)
        self._truth_shapes: list[list[int]] = []

    def add(
        self,
        name: str,
        digest: str,
        histogram: NDArray[np.int64],
        truth: NDArray[np.uint8] | None,
    ) -> None:
        """Add a good sample.

        Args:
            name: its name.
            digest: its content's.
            histogram: int64 (256,), of its mask at network size.
            truth: uint8 (h, w), its mask at its own size where that is kept.
        """
        self._digests[name] = digest
        pixels = histogram[: len(self._pixels)]
        self._pixels += pixels
        self._pixels_of_images_with[pixels > 0] += pixels.sum()
        if truth is not None:
            self._truth_shapes.append(list(truth.shape))

    def index(self, size: tuple[int, int]) -> Index:
        """Return the index of what was added; ``size`` is the network's (height, width)."""
        return Index(
            size=list(size),
            names=list(self._digests),
            skipped=self.skipped,
            fingerprint=sha256_bytes(json.dumps(list(self._digests.items())).encode()),
            pixels=self._pixels.tolist(),
            pixels_of_images_with=self._pixels_of_images_with.tolist(),
            truth_shapes=self._truth_shapes,
        )


def _checksum(content: object) -> str:
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())
