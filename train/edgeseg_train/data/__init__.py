"""Data sets, without torch: devices benchmark on them too.

    synthetic[:TRAIN+VAL]   procedural scenes with ADE20K ids, nothing to download
    folder:DIR              images/{train,val}, annotations/{train,val}, optional classes.tsv
    ade20k:DIR              the official ADEChallengeData2016 tree

A split gives names, pictures and masks one by one; masks come as class ids, 255 = ignore.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import UsageError, show
from edgeseg.labels import Labels

SplitName = Literal["train", "val"]


class Split(Protocol):
    """An indexed set of pictures with their masks."""

    @property
    def names(self) -> tuple[str, ...]:
        """One unique name per sample."""

    def encoded(self, index: int) -> bytes:
        """Return the picture as an image file's bytes, as a device would receive it."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the picture, uint8 (H, W, 3) RGB."""

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the truth, uint8 (H, W), ids 0 .. C-1 or 255 = ignore, at the picture's size."""


@dataclass(frozen=True)
class DataSource:
    """A data set: how it was named, its classes and its two splits (None where it has none)."""

    spec: str
    labels: Labels
    splits: dict[SplitName, Split]

    def split(self, name: SplitName) -> Split:
        """Return a split.

        Raises:
            UsageError: the data set has no such split.
        """
        if name not in self.splits:
            raise UsageError(f"data {show(self.spec)} has no {name} images")
        return self.splits[name]


def drawn(total: int, count: int) -> list[int]:
    """Return up to ``count`` of the indices 0 .. total - 1, drawn once and for all, in order.

    Drawn and not evenly spaced, because data repeats with periods (videos, our scene kinds).
    """
    return sorted(np.random.RandomState(0).permutation(total)[:count].tolist())


def open_source(spec: str) -> DataSource:
    """Open a data set by its name on the command line.

    Raises:
        UsageError: no such kind of data.
        InputError: the folder, its pairs or its classes are not usable.
    """
    from edgeseg_train.data import folder, scenes

    kind, _, rest = spec.partition(":")
    if kind == "synthetic":
        return scenes.open_synthetic(spec, rest)
    if kind == "folder" and rest:
        return folder.open_folder(spec, rest)
    if kind == "ade20k" and rest:
        return folder.open_ade20k(spec, rest)
    raise UsageError(
        f"no data {show(spec)}; use synthetic, synthetic:TRAIN+VAL, folder:DIR or ade20k:DIR"
    )
