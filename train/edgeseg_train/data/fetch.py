"""Find and load what ``hf:REST`` names: a local copy, or a data set of the Hugging Face hub.

A local path wins over a name on the hub, and a path that exists over one with a configuration
after its last colon. A local copy is read without the network, and so is what was fetched
before where the hub cannot be reached. The library no longer runs the scripts that some data sets
are; of these the hub keeps a conversion to parquet, which is read instead.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import EdgeSegError, InputError, first_line, needs_extra, show

if TYPE_CHECKING:
    from datasets import Dataset

SCENE_PARSE_150 = "scene_parse_150"
DEFAULT_NAME = f"zhoubolei/{SCENE_PARSE_150}"
SCENE_PARSING, INSTANCES = "scene_parsing", "instance_segmentation"
CONVERSION = "refs/convert/parquet"  # the hub's own conversion of what needed a script
NETWORK = ("httpx", "httpcore", "huggingface_hub")  # packages whose errors mean: not reachable
SCRIPT_ERROR = "Dataset scripts are no longer supported"


def parse(rest: str) -> tuple[str, str | None]:
    """Split ``NAME[:CONFIG]`` into name and configuration; an existing path may contain colons."""
    if not rest:
        return DEFAULT_NAME, SCENE_PARSING
    if Path(rest).exists():
        return rest, None
    name, _, config = rest.rpartition(":") if ":" in rest else (rest, "", "")
    is_default = name.rpartition("/")[2] == SCENE_PARSE_150 and not Path(name).exists()
    return name, config or (SCENE_PARSING if is_default else None)


@dataclass(frozen=True)
class Loaded:
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


def load(name: str, config: str | None) -> Loaded:
    """Load all splits; to be called inside ``library``.

    Raises:
        InputError: no such folder, name or configuration.
    """
    if Path(name).exists():
        return _load_local(Path(name), config)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name, re.ASCII):
        raise InputError(f"data {show(name)} is no folder here and no name on the hub")
    return _load_remote(name, config)


def _load_remote(name: str, config: str | None) -> Loaded:
    """Load what the hub has as data; of what it has as a script, its own conversion."""
    from datasets import load_dataset

    try:
        return Loaded(dict(load_dataset(name, config)), {name.rpartition("/")[2]})
    except ConnectionError as error:
        with suppress(FileNotFoundError):  # an earlier visit may have left the conversion here
            return _load_conversion(name, config, only_cached=True)
        raise error
    except (RuntimeError, ValueError) as error:
        # The second message hides the first where another configuration was loaded before.
        if SCRIPT_ERROR not in str(error) and "Couldn't find cache" not in str(error):
            raise
        return _load_conversion(name, config)


def _load_conversion(name: str, config: str | None, *, only_cached: bool = False) -> Loaded:
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


def _load_local(path: Path, config: str | None) -> Loaded:
    from datasets import load_dataset, load_from_disk

    if not path.is_dir():
        raise InputError(f"data {show(path)} is a file; give the folder that holds the splits")
    base = _configured(path, config)
    markers = {path.name, base.name, config or ""}
    if (base / "dataset_dict.json").exists():
        return Loaded(dict(load_from_disk(str(base))), markers)
    if (base / "state.json").exists():
        single = load_from_disk(str(base))
        return Loaded({str(single.split or "train"): single}, markers)
    name = config if base == path else None  # else a configuration of the folder's README
    return Loaded(dict(load_dataset(str(base.resolve()), name)), markers)


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


@contextmanager
def library(name: str) -> Iterator[None]:
    """Use ``datasets`` in the body on the data called ``name``: quietly, with errors of one line.

    Raises:
        DeviceError: the library is not installed.
        InputError: not reachable, or not loadable.
        OSError: a full disk and the like.
    """
    with needs_extra("train"), _quiet(), _one_line_errors(name):
        yield


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
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
