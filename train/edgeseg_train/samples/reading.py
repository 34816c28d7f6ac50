"""Read one sample after the other: check it and bring it to the network's size.

Preparing reads each sample once with ``SampleReader.attempts``; where the result cannot be
stored, ``DecodedSamples`` reads them again in every epoch.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from edgeseg.cpu import cpu_threads
from edgeseg.errors import InputError, show
from edgeseg.files import sha256_bytes
from edgeseg.labels import IGNORE_INDEX
from edgeseg.preprocess import Preprocessing
from edgeseg_train.data import MaskIdError, Split, network_input
from edgeseg_train.samples.index import FORMAT

NAMED_IDS = 5  # so many unknown ids are named in a message


class Sample(NamedTuple):
    """One pair: image uint8 (H, W, 3), mask uint8 (H, W), truth uint8 (h, w) or None.

    Image and mask are at network size; ``truth`` is the mask at its own size, for evaluation.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


class Read(NamedTuple):
    """What reading one sample gave; ``histogram`` int64 (256,) of the mask at network size."""

    sample: Sample | None  # None when only the mask was wanted
    histogram: NDArray[np.int64]
    digest: str


@dataclass(frozen=True)
class SampleReader:
    """Reads the samples of a split.

    Attributes:
        split: the samples.
        preprocessing: how a picture becomes the network's input.
        num_classes: C; masks hold 0 .. C-1 and 255.
        keep_truth: samples keep their masks at their own sizes too.
    """

    split: Split
    preprocessing: Preprocessing
    num_classes: int
    keep_truth: bool

    def key(self) -> str:
        """Return 32 hexadecimal digits that follow from all that decides what is read."""
        names = list(self.split.names)
        stamps = [self._stamp(index) for index in range(len(names))]
        # Pillow's version, because its decoders and its resize may change.
        parts = [FORMAT, PIL.__version__, self._fitting(), self.num_classes, self.keep_truth]
        return sha256_bytes(json.dumps([*parts, names, stamps]).encode())[:32]

    def _fitting(self) -> dict[str, object]:
        """What of the preprocessing decides the pixels; normalising happens in the network."""
        return self.preprocessing.model_dump(mode="json", exclude={"std"})

    def sample(self, index: int) -> Sample:
        """Return a sample; its ids are not checked again.

        Raises:
            InputError: unreadable, or image and mask differ in size.
        """
        return self._fitted(index, self.split.mask(index))

    def attempt(self, index: int, *, with_image: bool) -> Read | InputError:
        """Return a sample that is read and checked, or what is wrong with it.

        Raises:
            MaskIdError: the mask holds ids that are no class; this is no single bad file.
        """
        try:
            return self._read(index, with_image=with_image)
        except MaskIdError:
            raise
        except InputError as error:
            return error

    def attempts(self, *, with_image: bool) -> Generator[Read | InputError, None, None]:
        """Yield ``attempt`` of all samples in order; threads are a few ahead, never many.

        Raises:
            MaskIdError: see ``attempt``.
        """
        attempt = partial(self.attempt, with_image=with_image)
        threads = cpu_threads()  # decoding, resizing and hashing need no GIL
        pool = ThreadPoolExecutor(threads)
        pending: deque[Future[Read | InputError]] = deque()
        try:
            for index in range(len(self.split.names)):
                pending.append(pool.submit(attempt, index))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _stamp(self, index: int) -> str:
        try:
            return self.split.stamp(index)
        except InputError as error:  # a missing file; reading it will say so
            return f"no stamp: {error}"

    def _read(self, index: int, *, with_image: bool) -> Read:
        truth = self.split.mask(index)
        self._check_ids(index, truth)
        sample = self._fitted(index, truth) if with_image else None
        mask = self.preprocessing.fit_class_map(truth) if sample is None else sample.mask
        histogram = np.bincount(mask.ravel(), minlength=256).astype(np.int64, copy=False)
        return Read(sample, histogram, self.split.digest(index))

    def _check_ids(self, index: int, mask: NDArray[np.uint8]) -> None:
        unknown = np.unique(mask[(mask >= self.num_classes) & (mask != IGNORE_INDEX)])
        if unknown.size:
            raise MaskIdError(
                f"the mask of sample {show(self.split.names[index])} has ids that are no class: "
                f"{unknown.tolist()[:NAMED_IDS]}; "
                f"expected 0..{self.num_classes - 1} or {IGNORE_INDEX}"
            )

    def _fitted(self, index: int, truth: NDArray[np.uint8]) -> Sample:
        image, whole = network_input(self.split, index, self.preprocessing)
        if whole != truth.shape:
            raise InputError(
                f"sample {show(self.split.names[index])}: the image is {whole}, "
                f"its mask {truth.shape} (height, width)"
            )
        kept = truth if self.keep_truth else None
        return Sample(image, self.preprocessing.fit_class_map(truth), kept)


@dataclass(frozen=True)
class DecodedSamples:
    """Samples that are decoded and resized whenever they are asked for."""

    reader: SampleReader
    kept: tuple[int, ...]  # indices into the split

    def __getitem__(self, index: int) -> Sample:
        return self.reader.sample(self.kept[index])
