"""``--data hf:[NAME[:CONFIG]]``: data sets of the Hugging Face hub, or local copies of them.

    hf:                                        zhoubolei/scene_parse_150, config scene_parsing
    hf:zhoubolei/scene_parse_150:instance_segmentation
    hf:OWNER/NAME                              columns image and annotation (or label, mask ...)
    hf:DIR[:CONFIG]                            what save_to_disk wrote, or parquet or arrow files:
                                               DIR/[CONFIG/]{train,validation}/*.parquet

scene_parse_150 has ADE20K's 150 classes: stored id 0 is ignored, id k is class k - 1. Its config
``instance_segmentation`` stores RGB: red is one of 100 kinds of object, numbered on their own
(CSAILVision/placeschallenge, instancesegmentation), and here becomes the class of the 150; what
is no single object, such as sky, is ignored there.

``edgeseg_train.data.fetch`` finds and loads them; here is what columns, splits and ids mean.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeseg.errors import InputError, first_line, show
from edgeseg.files import sha256_bytes
from edgeseg.images import MASK_FORMATS, read_image, read_mask
from edgeseg_train.data import DataSource, Split, SplitName, content_digest
from edgeseg_train.data.fetch import library, load, parse
from edgeseg_train.data.ids import (
    AS_STORED,
    CLASS_TABLE,
    UNKNOWN,
    Lookup,
    Stored,
    StoredIds,
    ade20k_classes,
    ade20k_instance_lookup,
    class_ids,
    described_classes,
    refuse_options,
)

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_COLUMNS = ("image", "pixel_values")
MASK_COLUMNS = ("annotation", "label", "mask", "segmentation_mask")
SPLITS: dict[SplitName, tuple[str, ...]] = {  # in order of preference
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev", "test"),
}


@dataclass(frozen=True)
class HubSplit:
    """Rows of a data set with encoded images in two columns.

    Attributes:
        split: the name of the split in the data set, for messages.
        rows: two columns, ``image`` and ``mask``, each ``{"bytes": ..., "path": ...}``.
        lookup: int16 (256,), the meaning of stored ids, see ``edgeseg_train.data.ids``.
        red: masks are RGB with the id in the red channel.
    """

    split: str
    rows: Dataset
    lookup: Lookup
    red: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``train-00000`` ...: rows have no names of their own that are sure to be unique."""
        return tuple(f"{self.split}-{i:05d}" for i in range(len(self.rows)))

    def encoded(self, index: int) -> bytes:
        """Return the image file's bytes."""
        return _content(self.rows[index]["image"], self._where(index, "image"))

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode the picture, uint8 (H, W, 3)."""
        with _named(self._where(index, "image")):
            return read_image(self.encoded(index))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode the mask and map its ids, uint8 (H, W).

        Raises:
            MaskIdError: an id that is no class.
            InputError: no mask, unreadable, or a colour picture.
        """
        return class_ids(self.stored(index), self.lookup, self._where(index, "mask"))

    def stored(self, index: int) -> Stored:
        """Return the mask's ids as stored, integer (H, W)."""
        where = self._where(index, "mask")
        data = _content(self.rows[index]["mask"], where)
        with _named(where):
            return read_image(data)[..., 0] if self.red else read_mask(data)

    def stored_masks(self) -> Iterator[tuple[str, Callable[[], Stored]]]:
        """Yield name and reader of each mask."""
        for index, name in enumerate(self.names):
            yield name, partial(self.stored, index)

    def stamp(self, index: int) -> str:
        """Return a hash of the library's fingerprint, the index and the meaning of the ids."""
        parts = [self.rows._fingerprint, index, self.red, self.lookup.tolist()]
        return sha256_bytes(json.dumps(parts).encode())

    def digest(self, index: int) -> str:
        """Return SHA-256 of both files' bytes; the same as for these files in a folder."""
        row = self.rows[index]
        columns = ("image", "mask")
        return content_digest(*(_content(row[c], self._where(index, c)) for c in columns))

    def _where(self, index: int, column: str) -> str:
        return f"{self.names[index]} ({column})"


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _content(cell: Mapping[str, Any] | None, where: str) -> bytes:
    """Return the bytes of a cell; some data sets hold paths of files instead."""
    if cell and cell["bytes"] is not None:
        return bytes(cell["bytes"])
    if not cell or not cell["path"]:
        raise InputError(f"{where} is empty; expected an image file's bytes")
    try:
        return Path(cell["path"]).read_bytes()
    except OSError as error:
        raise InputError(f"{where}: cannot read {show(cell['path'])}: {error.strerror}") from error


def open_hub(spec: str, rest: str, ids: StoredIds = AS_STORED) -> DataSource:
    """Open ``hf:REST``; see the top of this module.

    Raises:
        UsageError: options for data whose ids have a fixed meaning.
        InputError: not found, not reachable, or without splits or columns to train on.
        DeviceError: the package ``datasets`` is not installed.
    """
    name, config = parse(rest)
    with library(name):
        loaded = load(name, config)
        splits = _splits(loaded.tables, name)
    red = False
    if loaded.is_scene_parsing:
        refuse_options(spec, ids)
        labels, lookup = ade20k_classes()
        red = _is_rgb(next(iter(splits.values())))
        lookup = ade20k_instance_lookup() if red else lookup
    else:
        masks = [mask for split in splits.values() for mask in split.stored_masks()]
        table = Path(name) / CLASS_TABLE if Path(name).is_dir() else None
        labels, lookup = described_classes(table, masks, ids)
    mapped: dict[SplitName, Split] = {
        ours: replace(split, lookup=lookup, red=red) for ours, split in splits.items()
    }
    return DataSource(spec, labels, mapped, loaded.notes + _renamed(splits))


def _splits(tables: dict[str, Dataset], name: str) -> dict[SplitName, HubSplit]:
    """Return train and val, as far as there are any with masks; their ids mean nothing yet."""
    meaningless = np.full(256, UNKNOWN, dtype=np.int16)
    splits: dict[SplitName, HubSplit] = {}
    for ours, candidates in SPLITS.items():
        usable = [c for c in candidates if c in tables and _is_labelled(tables[c])]
        if usable:
            rows = _two_columns(tables[usable[0]], name)
            splits[ours] = HubSplit(usable[0], rows, meaningless)
    if not splits:
        raise InputError(
            f"data {show(name)} has the splits {sorted(tables)}; expected train or validation, "
            "with masks"
        )
    return splits


def _renamed(splits: dict[SplitName, HubSplit]) -> tuple[str, ...]:
    """Say which stored split was taken where its name leaves that open."""
    usual = ("train", "val", "validation")
    return tuple(
        f"{ours} is the data set's split {show(split.split)}"
        for ours, split in splits.items()
        if split.split not in usual
    )


def _is_labelled(table: Dataset) -> bool:
    """Say whether the first row has a mask; the rows of a benchmark's test split have none."""
    column = _column(table, MASK_COLUMNS)
    return len(table) > 0 and table.with_format("arrow")[:1].column(column)[0].is_valid


def _two_columns(table: Dataset, name: str) -> Dataset:
    """Return the rows with the columns ``image`` and ``mask`` as encoded files."""
    import datasets

    image, mask = _column(table, IMAGE_COLUMNS), _column(table, MASK_COLUMNS)
    table = table.select_columns([image, mask]).rename_columns({image: "image", mask: "mask"})
    for column, stored in (("image", image), ("mask", mask)):
        try:
            table = table.cast_column(column, datasets.Image(decode=False))
        except (NotImplementedError, TypeError, ValueError) as error:  # pyarrow's are among these
            raise InputError(
                f"column {stored} of data {show(name)} holds no images: {first_line(error)}"
            ) from error
    return table


def _column(table: Dataset, candidates: tuple[str, ...]) -> str:
    for column in candidates:
        if column in table.column_names:
            return column
    raise InputError(
        f"the data has the columns {table.column_names}; expected one of {', '.join(candidates)}"
    )


def _is_rgb(split: HubSplit) -> bool:
    """Say whether the first mask is a colour picture; a damaged one says so when it is read."""
    try:
        data = _content(split.rows[0]["mask"], split.names[0])
        with Image.open(io.BytesIO(data), formats=MASK_FORMATS) as image:
            return image.mode == "RGB"
    except (InputError, OSError, ValueError, SyntaxError):
        return False
