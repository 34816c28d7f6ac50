"""``--data synthetic``: the embedded default, rendered on demand."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeseg.errors import UsageError, show
from edgeseg.labels import ade20k_labels
from edgeseg_train.data import DataSource, Split, SplitName
from edgeseg_train.data.synthetic import render_scene

DEFAULT_COUNTS = (2000, 200)


_render = lru_cache(maxsize=2)(render_scene)  # picture and mask are asked for one by one


@dataclass(frozen=True)
class SyntheticSplit:
    """``count`` scenes; the same index gives the same bytes on every machine."""

    name: SplitName
    count: int

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``train-00000`` ..."""
        return tuple(f"{self.name}-{i:05d}" for i in range(self.count))

    def encoded(self, index: int) -> bytes:
        """Return the scene as a PNG file's bytes."""
        buffer = io.BytesIO()
        Image.fromarray(self.image(index)).save(buffer, format="PNG")
        return buffer.getvalue()

    def image(self, index: int) -> NDArray[np.uint8]:
        """Render the picture, uint8 (H, W, 3)."""
        return _render(index, self.name)[0]

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Render the truth, uint8 (H, W), zero-based ADE20K ids."""
        return _render(index, self.name)[1]


def open_synthetic(spec: str, counts: str) -> DataSource:
    """Open ``synthetic`` or ``synthetic:TRAIN+VAL``, for example ``synthetic:400+60``.

    Raises:
        UsageError: the counts are not two positive numbers.
    """
    train, val = DEFAULT_COUNTS
    if ":" in spec:
        match = re.fullmatch(r"([1-9]\d{0,7})\+([1-9]\d{0,7})", counts, re.ASCII)
        if match is None:
            raise UsageError(f"data {show(spec)}: expected synthetic:TRAIN+VAL, e.g. 400+60")
        train, val = int(match[1]), int(match[2])
    splits: dict[SplitName, Split] = {
        "train": SyntheticSplit("train", train),
        "val": SyntheticSplit("val", val),
    }
    return DataSource(spec, ade20k_labels(), splits)
