"""What an id in a mask file means, for all data with stored masks.

A lookup table, int16 (256,), turns each stored id into a class id, 255 (ignore) or UNKNOWN. It
follows from a class table, or else from the ids in all masks, and from what the user says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError, UsageError, show
from edgeseg.labels import (
    IGNORE_INDEX,
    MAX_CLASSES,
    Labels,
    ade20k_labels,
    numbered_labels,
    read_class_table,
)
from edgeseg_train.data import MaskIdError

CLASS_TABLE = "classes.tsv"
UNKNOWN = -1  # in a lookup table: an id that the class table does not name
NAMED_IDS = 10  # so many ids are named in a message
FORGOTTEN_IDS = 5  # a class table may lack so many; beyond that the mask is suspicious
MANY_IDS = 100  # in one mask: no scene shows so many classes, a smoothed mask easily does

# ADE20K ids of stuff (walls, sky, water ...). The instance challenge's ids 1..100 are the other
# 100 of the 150, in the same order.
_STUFF = """
    1 2 3 4 5 6 7 10 12 14 17 18 22 26 27 29 30 35 41 47 49 52 53 55 60 61 62 64 69 78 80 85 92 95
    97 100 101 102 106 107 110 114 115 118 123 129 132 141 142 146
"""

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


def ade20k_instance_lookup() -> Lookup:
    """Return the instance challenge's ids: 0 is nothing, id k the k-th class that is no stuff."""
    lookup = np.full(256, UNKNOWN, dtype=np.int16)
    stuff = {int(number) for number in _STUFF.split()}
    things = [i - 1 for i in range(1, 151) if i not in stuff]
    lookup[1 : 1 + len(things)] = things
    lookup[[0, IGNORE_INDEX]] = IGNORE_INDEX
    return lookup


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
