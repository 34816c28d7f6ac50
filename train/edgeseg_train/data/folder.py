"""``--data folder:DIR`` and ``--data ade20k:DIR``: pictures and masks on disk.

Also here, for all data with stored masks: what an id in a file means. A lookup table, int16
(256,), turns each stored id into a class id, 255 (ignore) or UNKNOWN.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError, UsageError, show
from edgeseg.images import IMAGE_SUFFIXES, read_image, read_mask
from edgeseg.labels import (
    IGNORE_INDEX,
    MAX_CLASSES,
    Labels,
    ade20k_labels,
    numbered_labels,
    read_class_table,
)
from edgeseg_train.data import DataSource, MaskIdError, SplitName, content_digest

MASK_SUFFIXES = (".bmp", ".png", ".tif", ".tiff")
CLASS_TABLE = "classes.tsv"
UNKNOWN = -1  # in a lookup table: an id that the class table does not name
NAMED_IDS = 10  # so many ids are named in a message
FORGOTTEN_IDS = 5  # a class table may lack so many; beyond that the mask is suspicious
MANY_IDS = 100  # in one mask: no scene shows so many classes, a smoothed mask easily does

Lookup = NDArray[np.int16]
Stored = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class StoredIds:
    """What the user says about the ids in the mask files; see ``open_source``."""

    ignore_index: int | None = None
    reduce_zero_label: bool = False

    @property
    def ignored(self) -> frozenset[int]:
        """Stored ids that are no class."""
        zero = {0} if self.reduce_zero_label else set()
        extra = set() if self.ignore_index is None else {self.ignore_index}
        return frozenset({IGNORE_INDEX} | zero | extra)

    @property
    def first(self) -> int:
        """The stored id of class 0."""
        return int(self.reduce_zero_label)


AS_STORED = StoredIds()


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
        return hashlib.sha256(json.dumps([*files, self._meaning]).encode()).hexdigest()

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


def refuse_options(spec: str, ids: StoredIds) -> None:
    """Check that nothing is said about ids whose meaning is fixed.

    Raises:
        UsageError: ``ids`` is not the default.
    """
    if ids != AS_STORED:
        raise UsageError(
            f"the mask ids of data {show(spec)} have a fixed meaning; --ignore-index and "
            "--reduce-zero-label are for folder: and for other hf: data"
        )


def ade20k_classes() -> tuple[Labels, Lookup]:
    """Return the 150 classes and the meaning of ids as ADE20K stores them."""
    labels = ade20k_labels()
    return labels, id_lookup(labels.num_classes, frozenset(), StoredIds(reduce_zero_label=True))


def described_classes(
    table: Path | None, masks: Iterable[tuple[str, Callable[[], Stored]]], ids: StoredIds
) -> tuple[Labels, Lookup]:
    """Return the classes and the meaning of stored ids, from a class table or else from all masks.

    Args:
        table: where a class table may be.
        masks: name and reader of each mask; they are called only without a table.
        ids: what the user says about the stored ids.

    Raises:
        InputError: the table is faulty, or the masks hold nothing that can be classes.
    """
    if table is not None and table.exists():
        labels, void = read_class_table(table)
    else:
        labels, void = _counted_labels(masks, ids), frozenset()
    return labels, id_lookup(labels.num_classes, void, ids)


def id_lookup(num_classes: int, void: frozenset[int], ids: StoredIds) -> Lookup:
    """Return the table of 256 stored ids; ``void`` and 0 .. C-1 are ids after the reduction.

    Raises:
        InputError: a void id that no mask can hold.
    """
    table = np.full(256, UNKNOWN, dtype=np.int16)
    table[ids.first : ids.first + num_classes] = np.arange(num_classes)
    for void_id in void - {IGNORE_INDEX}:
        if not 0 <= void_id + ids.first < len(table):
            raise InputError(f"class table names id {void_id}; masks hold 0..255")
        table[void_id + ids.first] = IGNORE_INDEX
    table[sorted(ids.ignored)] = IGNORE_INDEX
    return table


def class_ids(stored: Stored, lookup: Lookup, name: str) -> NDArray[np.uint8]:
    """Map stored ids (H, W) to class ids, uint8 (H, W); messages call the mask ``name``.

    Raises:
        MaskIdError: an id that is no class.
    """
    low, high = int(stored.min()), int(stored.max())
    if low < 0 or high >= len(lookup):
        raise MaskIdError(f"mask {name} has ids {low}..{high}; expected {_known(lookup)}")
    classes = lookup[stored]
    if (classes == UNKNOWN).any():
        unknown = np.unique(stored[classes == UNKNOWN]).tolist()
        raise MaskIdError(
            f"mask {name} has ids that are no class: {_listed(unknown)}; "
            f"expected {_known(lookup)}{_hint(len(unknown))}"
        )
    mask: NDArray[np.uint8] = classes.astype(np.uint8)
    return mask


def _known(lookup: Lookup) -> str:
    """Return the stored ids that have a meaning as ranges: ``0..11, 255``."""
    ids = np.flatnonzero(lookup != UNKNOWN)
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(f"{r[0]}..{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def _listed(ids: list[int]) -> str:
    more = f" and {len(ids) - NAMED_IDS} more" if len(ids) > NAMED_IDS else ""
    return f"{ids[:NAMED_IDS]}{more}"


def _hint(unknown: int) -> str:
    return "; so many: it looks like a colour or resized mask" if unknown > FORGOTTEN_IDS else ""


def _counted_labels(masks: Iterable[tuple[str, Callable[[], Stored]]], ids: StoredIds) -> Labels:
    """Number the classes up to the highest id; a mask that is no good is left to its reader."""
    highest, first_error = -1, None
    for name, read in masks:
        try:
            highest = max(highest, _highest_class(read(), ids, name))
        except InputError as error:
            first_error = first_error or error
    if highest >= 0:
        return numbered_labels(highest + 1)
    raise first_error or InputError("the masks hold no class at all: every pixel is ignored")


def _highest_class(stored: Stored, ids: StoredIds, name: str) -> int:
    """Return the highest class id of one mask, -1 without any.

    Raises:
        MaskIdError: ids that cannot be classes, or too many of them.
    """
    found = sorted(set(np.unique(stored).tolist()) - ids.ignored)
    classes = [stored_id - ids.first for stored_id in found]
    if classes and not 0 <= classes[0] <= classes[-1] < MAX_CLASSES:
        raise MaskIdError(
            f"mask {name} has ids {found[0]}..{found[-1]}; expected 0..{MAX_CLASSES - 1} and, "
            f"where there is no class, {IGNORE_INDEX}"
        )
    if len(classes) > MANY_IDS:
        raise MaskIdError(
            f"mask {name} has ids of {len(classes)} classes: it looks like a colour or resized "
            f"mask; if it is none, name the classes in {CLASS_TABLE}"
        )
    return classes[-1] if classes else -1


Pairs = dict[SplitName, tuple[tuple[Path, Path], ...]]


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
