"""``--data folder:DIR`` and ``--data ade20k:DIR``: pictures and masks on disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError, show
from edgeseg.images import IMAGE_SUFFIXES, read_image, read_mask
from edgeseg.labels import (
    IGNORE_INDEX,
    MAX_CLASSES,
    Labels,
    ade20k_labels,
    numbered_labels,
    read_class_table,
)
from edgeseg_train.data import DataSource, SplitName

MASK_SUFFIXES = (".bmp", ".png", ".tif", ".tiff")
UNKNOWN = -1  # in a lookup table: an id that the class table does not name


@dataclass(frozen=True)
class FolderSplit:
    """Pairs of files; ``lookup`` int16 (256,) turns a stored id into a class id, 255 or UNKNOWN."""

    pairs: tuple[tuple[Path, Path], ...]
    lookup: NDArray[np.int16]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """File names without their endings."""
        return tuple(image.stem for image, _ in self.pairs)

    def encoded(self, index: int) -> bytes:
        """Return the image file's bytes."""
        path = self.pairs[index][0]
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {show(path)}: {error.strerror}") from error

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode the picture, uint8 (H, W, 3)."""
        return read_image(self.pairs[index][0])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode the mask and map its ids, uint8 (H, W).

        Raises:
            InputError: unreadable, or an id that the classes do not name.
        """
        path = self.pairs[index][1]
        stored = read_mask(path)
        low, high = int(stored.min()), int(stored.max())
        if low < 0 or high >= len(self.lookup):
            raise InputError(f"mask {show(path)} has ids {low}..{high}; expected 0..255")
        classes = self.lookup[stored]
        if (classes == UNKNOWN).any():
            unknown = np.unique(stored[classes == UNKNOWN]).tolist()
            raise InputError(f"mask {show(path)} has ids that are no class: {unknown[:5]}")
        mask: NDArray[np.uint8] = classes.astype(np.uint8)
        return mask


def open_folder(spec: str, directory: str) -> DataSource:
    """Open a folder in the layout images/{train,val}, annotations/{train,val}.

    Without ``classes.tsv`` the masks are read once to count the classes.

    Raises:
        InputError: the folder, its pairs or its classes are not usable.
    """
    root = Path(directory)
    pairs = _all_pairs(root, {"train": "train", "val": "val"})
    table = root / "classes.tsv"
    if table.exists():
        labels, void = read_class_table(table)
    else:
        labels, void = _labels_from_masks(pairs), frozenset()
    lookup = _lookup({i: i for i in range(labels.num_classes)} | dict.fromkeys(void, IGNORE_INDEX))
    return _source(spec, labels, pairs, lookup)


def open_ade20k(spec: str, directory: str) -> DataSource:
    """Open ADEChallengeData2016: stored id 0 is "other" (ignored), id k is class k - 1.

    Raises:
        InputError: the folder or its pairs are not usable.
    """
    labels = ade20k_labels()
    pairs = _all_pairs(Path(directory), {"train": "training", "val": "validation"})
    lookup = _lookup({0: IGNORE_INDEX} | {i + 1: i for i in range(labels.num_classes)})
    return _source(spec, labels, pairs, lookup)


Pairs = dict[SplitName, tuple[tuple[Path, Path], ...]]


def _source(spec: str, labels: Labels, pairs: Pairs, lookup: NDArray[np.int16]) -> DataSource:
    return DataSource(spec, labels, {name: FolderSplit(p, lookup) for name, p in pairs.items()})


def _lookup(mapping: dict[int, int]) -> NDArray[np.int16]:
    table = np.full(256, UNKNOWN, dtype=np.int16)
    table[IGNORE_INDEX] = IGNORE_INDEX
    for stored, class_id in mapping.items():
        if not 0 <= stored < len(table):
            raise InputError(f"class table names id {stored}; masks hold 0..255")
        table[stored] = class_id
    return table


def _all_pairs(root: Path, folders: dict[SplitName, str]) -> Pairs:
    if not root.is_dir():
        raise InputError(f"data folder {show(root)} does not exist")
    pairs: Pairs = {
        split: _pairs(root / "images" / name, root / "annotations" / name)
        for split, name in folders.items()
        if (root / "images" / name).is_dir()
    }
    if not pairs:
        wanted = " or ".join(f"images/{name}" for name in folders.values())
        raise InputError(f"data folder {show(root)} has no {wanted}")
    return pairs


def _pairs(images: Path, masks: Path) -> tuple[tuple[Path, Path], ...]:
    by_stem = {path.stem: path for path in _files(masks, MASK_SUFFIXES)}
    found = _files(images, IMAGE_SUFFIXES)
    if not found:
        raise InputError(f"no images in {show(images)}; expected {', '.join(IMAGE_SUFFIXES)}")
    without = [path.name for path in found if path.stem not in by_stem]
    if without:
        raise InputError(
            f"{len(without)} of {len(found)} images in {show(images)} have no mask in "
            f"{show(masks)}: {', '.join(without[:5])}"
        )
    unused = sorted(set(by_stem) - {path.stem for path in found})
    if unused:
        raise InputError(
            f"{len(unused)} masks in {show(masks)} have no image: {', '.join(unused[:5])}"
        )
    return tuple((path, by_stem[path.stem]) for path in found)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"data folder {show(folder)} does not exist")
    files = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != "."]
    stems = [p.stem for p in files]
    if len(set(stems)) != len(stems):
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        raise InputError(f"{show(folder)} has several files named {', '.join(twice[:5])}")
    return sorted(files)


def _labels_from_masks(pairs: Pairs) -> Labels:
    highest = -1
    for _, mask in (pair for split in pairs.values() for pair in split):
        ids = np.unique(read_mask(mask))
        highest = max([highest, *ids[ids != IGNORE_INDEX].tolist()])
    if not 0 <= highest < MAX_CLASSES:
        raise InputError(f"masks have ids up to {highest}; expected 0..{MAX_CLASSES - 1}")
    return numbered_labels(highest + 1)
