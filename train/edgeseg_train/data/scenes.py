"""``--data synthetic``: the embedded default, rendered on demand."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeseg.errors import UsageError, show
from edgeseg.labels import ade20k_labels
from edgeseg_train.data import DataSource, Split, SplitName, content_digest
from edgeseg_train.data.synthetic import SCENE_KINDS, render_scene

DEFAULT_COUNTS = (2000, 200)


# Picture and mask are asked for one by one, by as many threads as a large machine has.
_render = lru_cache(maxsize=64)(render_scene)


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

    def stamp(self, index: int) -> str:
        """Return the scene's name and the version of the code that draws it."""
        return f"{self.names[index]} {_code_version()}"

    def digest(self, index: int) -> str:
        """Return SHA-256 of the scene's name and of what the generator draws."""
        return content_digest(_revision().encode(), self.names[index].encode())


@lru_cache(maxsize=1)
def _code_version() -> str:
    """Hash the generator's modules: any change may concern any scene."""
    modules = resources.files("edgeseg_train.data.synthetic").iterdir()
    sources = {m.name: m.read_bytes() for m in modules if m.name.endswith(".py")}
    return content_digest(*(sources[name] for name in sorted(sources)))


@lru_cache(maxsize=1)
def _revision() -> str:
    """Hash a scene of each kind: what is drawn, however the code that draws it is written."""
    scenes = [render_scene(index, size=(96, 128)) for index in range(len(SCENE_KINDS))]
    return content_digest(*(array.tobytes() for scene in scenes for array in scene))


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
