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

A local path wins over a name on the hub, and a path that exists over one with a configuration
after its last colon. A local copy is read without the network.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeseg.errors import EdgeSegError, InputError, first_line, needs_extra, show
from edgeseg.images import MASK_FORMATS, read_image, read_mask
from edgeseg.labels import IGNORE_INDEX
from edgeseg_train.data import DataSource, Split, SplitName, content_digest
from edgeseg_train.data.folder import (
    AS_STORED,
    CLASS_TABLE,
    UNKNOWN,
    Lookup,
    Stored,
    StoredIds,
    ade20k_classes,
    class_ids,
    described_classes,
    refuse_options,
)

if TYPE_CHECKING:
    from datasets import Dataset

SCENE_PARSE_150 = "scene_parse_150"
DEFAULT_NAME = f"zhoubolei/{SCENE_PARSE_150}"
SCENE_PARSING, INSTANCES = "scene_parsing", "instance_segmentation"
CONVERSION = "refs/convert/parquet"  # the hub's own conversion of what needed a script
NETWORK = ("httpx", "httpcore", "huggingface_hub")  # packages whose errors mean: not reachable
SCRIPT_ERROR = "Dataset scripts are no longer supported"

IMAGE_COLUMNS = ("image", "pixel_values")
MASK_COLUMNS = ("annotation", "label", "mask", "segmentation_mask")
SPLITS: dict[SplitName, tuple[str, ...]] = {  # in order of preference
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev", "test"),
}

# ADE20K ids of stuff (walls, sky, water ...). The instance challenge's ids 1..100 are the other
# 100 of the 150, in the same order.
_STUFF = """
    1 2 3 4 5 6 7 10 12 14 17 18 22 26 27 29 30 35 41 47 49 52 53 55 60 61 62 64 69 78 80 85 92 95
    97 100 101 102 106 107 110 114 115 118 123 129 132 141 142 146
"""


@dataclass(frozen=True)
class HubSplit:
    """Rows of a data set with encoded images in two columns.

    Attributes:
        split: the name of the split in the data set, for messages.
        rows: two columns, ``image`` and ``mask``, each ``{"bytes": ..., "path": ...}``.
        lookup: int16 (256,), the meaning of stored ids, see ``edgeseg_train.data.folder``.
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
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

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
    name, config = _parse(rest)
    with needs_extra("train"), _quiet(), _readable(name):
        loaded = _load(name, config)
        splits = _splits(loaded.tables, name)
    red = False
    if loaded.is_scene_parsing:
        refuse_options(spec, ids)
        labels, lookup = ade20k_classes()
        red = _is_rgb(next(iter(splits.values())))
        lookup = _instance_lookup() if red else lookup
    else:
        masks = [mask for split in splits.values() for mask in split.stored_masks()]
        table = Path(name) / CLASS_TABLE if Path(name).is_dir() else None
        labels, lookup = described_classes(table, masks, ids)
    mapped: dict[SplitName, Split] = {
        ours: replace(split, lookup=lookup, red=red) for ours, split in splits.items()
    }
    return DataSource(spec, labels, mapped, loaded.notes + _renamed(splits))


def _parse(rest: str) -> tuple[str, str | None]:
    """Split ``NAME[:CONFIG]``; what exists as a path may contain colons."""
    if not rest:
        return DEFAULT_NAME, SCENE_PARSING
    if Path(rest).exists():
        return rest, None
    name, _, config = rest.rpartition(":") if ":" in rest else (rest, "", "")
    is_default = name.rpartition("/")[2] == SCENE_PARSE_150 and not Path(name).exists()
    return name, config or (SCENE_PARSING if is_default else None)


@dataclass(frozen=True)
class _Loaded:
    """Splits by their stored names, the words that say what data this is, and remarks."""

    tables: dict[str, Dataset]
    markers: set[str]
    notes: tuple[str, ...] = ()

    @property
    def is_scene_parsing(self) -> bool:
        """Whether this is scene_parse_150, by name or by what a local copy still knows of it."""
        table = next(iter(self.tables.values()))
        about = self.markers | {table.info.dataset_name, table.info.config_name}
        named = bool(about & {SCENE_PARSE_150, SCENE_PARSING, INSTANCES})
        return "annotation" in table.column_names and (
            named or "scene_category" in table.column_names
        )


def _load(name: str, config: str | None) -> _Loaded:
    if Path(name).exists():
        return _load_local(Path(name), config)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name, re.ASCII):
        raise InputError(f"data {show(name)} is no folder here and no name on the hub")
    return _load_remote(name, config)


def _load_remote(name: str, config: str | None) -> _Loaded:
    """Load what the hub has as data; of what it has as a script, its own conversion."""
    from datasets import load_dataset

    try:
        return _Loaded(dict(load_dataset(name, config)), {name.rpartition("/")[2]})
    except ConnectionError as error:
        with suppress(FileNotFoundError):  # an earlier visit may have left the conversion here
            return _load_conversion(name, config, only_cached=True)
        raise error
    except (RuntimeError, ValueError) as error:
        # The second message hides the first where another configuration was loaded before.
        if SCRIPT_ERROR not in str(error) and "Couldn't find cache" not in str(error):
            raise
        return _load_conversion(name, config)


def _load_conversion(name: str, config: str | None, *, only_cached: bool = False) -> _Loaded:
    """Load from the revision where configurations are folders, which `datasets` does not know.

    Raises:
        FileNotFoundError: not reachable and never fetched.
        InputError: no such configuration.
    """
    from huggingface_hub import snapshot_download

    config = config or "default"
    folder = snapshot_download(
        name,
        repo_type="dataset",
        revision=CONVERSION,
        allow_patterns=f"{config}/*",
        local_files_only=only_cached,
    )
    if not (Path(folder) / config).is_dir():
        if only_cached:
            raise FileNotFoundError(config)
        raise InputError(f"data {show(name)} has no configuration {show(config)} on the hub")
    loaded = _load_local(Path(folder), config)
    notes = []
    if only_cached:
        notes += [f"the hub cannot be reached; reading what was fetched into {show(folder)}"]
    if any((Path(folder) / config).glob("partial-*")):  # the hub stops after some gigabytes
        notes += [f"the hub holds only a part of data {show(name)}, {config}"]
    markers = loaded.markers | {name.rpartition("/")[2]}
    return replace(loaded, markers=markers, notes=tuple(notes))


def _load_local(path: Path, config: str | None) -> _Loaded:
    from datasets import load_dataset, load_from_disk

    if not path.is_dir():
        raise InputError(f"data {show(path)} is a file; give the folder that holds the splits")
    base = _configured(path, config)
    markers = {path.name, base.name, config or ""}
    if (base / "dataset_dict.json").exists():
        return _Loaded(dict(load_from_disk(str(base))), markers)
    if (base / "state.json").exists():
        single = load_from_disk(str(base))
        return _Loaded({str(single.split or "train"): single}, markers)
    name = config if base == path else None  # else a configuration of the folder's README
    return _Loaded(dict(load_dataset(str(base.resolve()), name)), markers)


def _configured(path: Path, config: str | None) -> Path:
    """Return the folder of a configuration: the one asked for, or the only one, or the default."""
    if config:
        return path / config if (path / config).is_dir() else path
    files = [file for kind in ("parquet", "arrow") for file in path.glob(f"*/*/*.{kind}")]
    found = sorted({file.parent.parent.name for file in files})
    if len(found) > 1 and SCENE_PARSING not in found:
        raise InputError(
            f"data {show(path)} has the configurations {', '.join(found)}; "
            f"add one: hf:{path}:{found[0]}"
        )
    return path / (SCENE_PARSING if SCENE_PARSING in found else found[0]) if found else path


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


def _instance_lookup() -> Lookup:
    """Return the meaning of the red channel: 0 is nothing, id k the k-th class that is no stuff."""
    lookup = np.full(256, UNKNOWN, dtype=np.int16)
    stuff = {int(number) for number in _STUFF.split()}
    things = [i - 1 for i in range(1, 151) if i not in stuff]
    lookup[1 : 1 + len(things)] = things
    lookup[[0, IGNORE_INDEX]] = IGNORE_INDEX
    return lookup


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn what the library raises into one line; a full disk and the like stay what they are."""
    try:
        yield
    except (EdgeSegError, MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        if isinstance(error, ConnectionError) or type(error).__module__.startswith(NETWORK):
            raise InputError(
                f"data {show(name)} is no folder here and cannot be fetched from the Hugging Face "
                f"hub: {first_line(error)}; go online once, or give a local copy: hf:DIR"
            ) from error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise cause from error
        raise InputError(
            f"cannot load data {show(name)}: {type(error).__name__}: {first_line(error)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings and, unless a person watches, progress bars off stderr."""
    import datasets
    from huggingface_hub import utils as hub_utils

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a request per load, to count them
    datasets.logging.set_verbosity_error()
    hub_utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
            hub_utils.disable_progress_bars()  # type: ignore[attr-defined]
        yield
