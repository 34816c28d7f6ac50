"""``--data folder:DIR`` and ``--data ade20k:DIR``: pictures and masks on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError, show
from edgeseg.files import sha256_bytes
from edgeseg.images import IMAGE_SUFFIXES, read_image, read_mask
from edgeseg.labels import Labels
from edgeseg_train.data import DataSource, SplitName, content_digest
from edgeseg_train.data.ids import (
    AS_STORED,
    CLASS_TABLE,
    Lookup,
    StoredIds,
    ade20k_classes,
    class_ids,
    described_classes,
)

MASK_SUFFIXES = (".bmp", ".png", ".tif", ".tiff")

Pairs = dict[SplitName, tuple[tuple[Path, Path], ...]]


@dataclass(frozen=True)
class FolderSplit:
    """Pairs of files; ``lookup`` int16 (256,) turns a stored id into a class id, 255 or UNKNOWN."""

    pairs: tuple[tuple[Path, Path], ...]
    lookup: Lookup

    @cached_property
    def names(self) -> tuple[str, ...]:
        """File names without their endings."""
        return tuple(image.stem for image, _ in self.pairs)

    def encoded(self, index: int) -> bytes:
        """Return the image file's bytes."""
        return _read_bytes(self.pairs[index][0])

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode the picture, uint8 (H, W, 3)."""
        return read_image(self.pairs[index][0])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode the mask and map its ids, uint8 (H, W).

        Raises:
            MaskIdError: an id that the classes do not name.
            InputError: unreadable, or a colour picture.
        """
        path = self.pairs[index][1]
        return class_ids(read_mask(path), self.lookup, show(path))

    def stamp(self, index: int) -> str:
        """Return a hash of paths, sizes, times of change and the meaning of the ids."""
        files = [_file_stamp(path) for path in self.pairs[index]]
        return sha256_bytes(json.dumps([*files, self._meaning]).encode())

    @cached_property
    def _meaning(self) -> list[int]:
        meaning: list[int] = self.lookup.tolist()
        return meaning

    def digest(self, index: int) -> str:
        """Return SHA-256 of the bytes of both files."""
        image, mask = self.pairs[index]
        return content_digest(_read_bytes(image), _read_bytes(mask))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {show(path)}: {error.strerror}") from error


def _file_stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {show(path)}: {error.strerror}") from error
    # The whole path: two unpacked archives may agree in names, sizes and times.
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def open_folder(spec: str, directory: str, ids: StoredIds = AS_STORED) -> DataSource:
    """Open a folder in the layout images/{train,val}, annotations/{train,val}.

    Without ``classes.tsv`` the masks are read once to count the classes.

    Raises:
        InputError: the folder, its pairs or its classes are not usable.
    """
    root = Path(directory)
    pairs = _all_pairs(root, {"train": "train", "val": "val"})
    masks = [(show(path), partial(read_mask, path)) for s in pairs.values() for _, path in s]
    labels, lookup = described_classes(root / CLASS_TABLE, masks, ids)
    return _source(spec, labels, pairs, lookup)


def open_ade20k(spec: str, directory: str) -> DataSource:
    """Open ADEChallengeData2016: stored id 0 is "other" (ignored), id k is class k - 1.

    Raises:
        InputError: the folder or its pairs are not usable.
    """
    pairs = _all_pairs(Path(directory), {"train": "training", "val": "validation"})
    labels, lookup = ade20k_classes()
    return _source(spec, labels, pairs, lookup)


def _source(spec: str, labels: Labels, pairs: Pairs, lookup: Lookup) -> DataSource:
    return DataSource(spec, labels, {name: FolderSplit(p, lookup) for name, p in pairs.items()})


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
