"""Data sets, without torch: devices benchmark on them too.

    synthetic[:TRAIN+VAL]   procedural scenes with ADE20K ids, nothing to download
    folder:DIR              images/{train,val}, annotations/{train,val}, optional classes.tsv
    ade20k:DIR              the official ADEChallengeData2016 tree
    hf:[NAME[:CONFIG]]      Hugging Face `datasets`, from the hub or a local copy

A split gives names, pictures and masks one by one; masks come as class ids, 255 = ignore.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError, UsageError, show
from edgeseg.labels import IGNORE_INDEX, Labels
from edgeseg.preprocess import Preprocessing

SplitName = Literal["train", "val"]


class MaskIdError(InputError):
    """A mask holds ids that no class has: more likely a wrong class table than one bad file."""


class Split(Protocol):
    """An indexed set of pictures with their masks.

    It can be pickled, and read from several processes and threads at once. All methods raise
    ``InputError`` where the stored sample cannot be read.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """One unique name per sample."""

    def encoded(self, index: int) -> bytes:
        """Return the picture as an image file's bytes, as a device would receive it."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the picture, uint8 (H, W, 3) RGB."""

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the truth, uint8 (H, W), ids 0 .. C-1 or 255 = ignore, at the picture's size.

        Raises:
            MaskIdError: the mask holds an id that no class has.
        """

    def stamp(self, index: int) -> str:
        """Return what identifies the stored sample on this machine, without reading its content.

        It changes when the files change, or when ``mask`` would map their ids differently: a key
        for a cache of decoded samples.
        """

    def digest(self, index: int) -> str:
        """Return SHA-256 of the stored content, the same on every machine: 64 hex digits."""


@dataclass(frozen=True)
class DataSource:
    """A data set: how it was named, its classes and its two splits.

    Attributes:
        spec: the name on the command line.
        labels: the classes.
        splits: only those that the data set has.
        notes: what a person should know about how it was read, one line each.
    """

    spec: str
    labels: Labels
    splits: dict[SplitName, Split]
    notes: tuple[str, ...] = ()

    def split(self, name: SplitName) -> Split:
        """Return a split.

        Raises:
            UsageError: the data set has no such split.
        """
        if name not in self.splits:
            raise UsageError(f"data {show(self.spec)} has no {name} images")
        return self.splits[name]


def network_input(
    split: Split, index: int, fit: Preprocessing
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return what a network gets of a sample, byte for byte as on a device.

    Returns:
        uint8 (h, w, 3) at the network's size, and the (H, W) of the picture.
    """
    if fit.decode == "full":
        image = split.image(index)
        return fit.fit_image(image), image.shape[:2]
    image, whole = fit.read(split.encoded(index))
    return fit.fit_image(image, whole), whole


def drawn(total: int, count: int) -> list[int]:
    """Return up to ``count`` of the indices 0 .. total - 1, drawn once and for all, in order.

    Drawn and not evenly spaced, because data repeats with periods (videos, our scene kinds).
    """
    return sorted(np.random.RandomState(0).permutation(total)[:count].tolist())


def content_digest(*parts: bytes) -> str:
    """Return SHA-256 over the parts, each after its length: no two lists of parts are alike."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def open_source(
    spec: str, *, ignore_index: int | None = None, reduce_zero_label: bool = False
) -> DataSource:
    """Open a data set by its name on the command line.

    Args:
        spec: what to open, see the top of this module.
        ignore_index: an id in the mask files that is ignored, in addition to 255.
        reduce_zero_label: the id 0 in the mask files is ignored and id k is class k - 1 (as in
            mmsegmentation). A class table then describes the ids after this step: 0 .. C-1 and
            void rows alike. ``ignore_index`` is always the id in the file.

    Raises:
        UsageError: no such kind of data, or options for data whose ids have a fixed meaning.
        InputError: the folder, its pairs or its classes are not usable, or cannot be reached.
        DeviceError: ``hf:`` without the package ``datasets``.
    """
    from edgeseg_train.data import folder, hub, scenes
    from edgeseg_train.data.ids import StoredIds, refuse_options

    ids = StoredIds(ignore_index, reduce_zero_label)
    if ignore_index is not None and not 0 <= ignore_index <= IGNORE_INDEX:
        raise UsageError(f"ignore index {ignore_index} is no id of a mask file; expected 0..255")
    kind, _, rest = spec.partition(":")
    if kind == "folder" and rest:
        return folder.open_folder(spec, rest, ids)
    if kind == "hf":
        return hub.open_hub(spec, rest, ids)
    if kind == "ade20k" and rest:
        refuse_options(spec, ids)
        return folder.open_ade20k(spec, rest)
    if kind == "synthetic":
        refuse_options(spec, ids)
        return scenes.open_synthetic(spec, rest)
    raise UsageError(
        f"no data {show(spec)}; use synthetic, synthetic:TRAIN+VAL, folder:DIR, ade20k:DIR or "
        "hf:NAME[:CONFIG]"
    )
