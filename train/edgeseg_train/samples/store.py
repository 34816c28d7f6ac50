"""Prepared samples on disk: uint8 arrays that all processes of a machine map into memory.

One folder per ``SampleReader.key``; ``edgeseg_train.samples.prepare`` decides what goes in:

    images.npy   (N, H, W, 3)   masks.npy   (N, H, W)
    truths.npy   flat, the masks at their own sizes one behind the other; only for evaluation
    index.json   names, skipped samples, fingerprint, counts, sizes: ``samples.index``

A folder is written beside its place and renamed when it is whole, under a lock that the
kernel drops when its holder dies. What is read is checked first: mapping a file that is
too short would end the process with SIGBUS instead of an error.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import ResourceError, first_line, show
from edgeseg_train.samples.index import INDEX, Index

HEADER_BYTES = 128

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8] | None]


def default_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/edgeseg/samples``, by default ``~/.cache/edgeseg/samples``."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is to be ignored.
    return (root if root.is_absolute() else Path.home() / ".cache") / "edgeseg" / "samples"


class StoredSamples:
    """The samples of a folder, mapped read-only; pickled as a path and mapped again."""

    def __init__(self, folder: Path) -> None:
        """Open and check ``folder``.

        Raises:
            OSError: a file is missing or not readable.
            ValueError: a file is damaged.
        """
        self.folder = folder
        self.index = Index.from_json((folder / INDEX).read_bytes())
        self._ends = np.cumsum([math.prod(shape) for shape in self.index.truth_shapes])
        _ = self._arrays  # mapped now, and thereby checked

    def __getitem__(self, index: int) -> Arrays:
        """Return image (H, W, 3), mask (H, W), truth (h, w) or None: read-only views.

        Raises:
            IndexError: no such sample.
            ResourceError: the folder was removed or damaged before this process opened it.
        """
        try:
            images, masks, *truths = self._arrays
        except (OSError, ValueError) as error:
            raise ResourceError(
                f"prepared samples in {show(self.folder)} are gone or damaged "
                f"({first_line(error)}); start again to prepare them anew"
            ) from error
        truth = None
        if truths:
            height, width = self.index.truth_shapes[index]
            end = int(self._ends[index])
            truth = truths[0][end - height * width : end].reshape(height, width)
        return images[index], masks[index], truth

    @cached_property
    def _arrays(self) -> list[NDArray[np.uint8]]:
        return [_map(self.folder / name, shape) for name, shape in self.index.shapes().items()]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_arrays"}


class Writer:
    """Writes a folder of samples; a disk that fails ends the writing, not the training.

    Leaving the context before ``commit`` succeeded removes what was written. Whoever writes
    holds the folder's lock, so the staging folder has a fixed name and no other owner.
    """

    def __init__(self, folder: Path, *, keep_truth: bool) -> None:
        """Write to ``folder``, which ``commit`` creates."""
        self.failure: OSError | None = None
        self._folder, self._staging = folder, _staging(folder)
        self._names = ("images.npy", "masks.npy", *(("truths.npy",) if keep_truth else ()))
        self._files: list[BinaryIO] = []
        self._open_files = ExitStack()

    def __enter__(self) -> Writer:
        with self._failing():
            self._staging.mkdir()
            for name in self._names:
                file = self._open_files.enter_context((self._staging / name).open("wb"))
                file.write(bytes(HEADER_BYTES))  # the number of samples is known at the end
                self._files.append(file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()

    def add(self, *arrays: NDArray[np.uint8]) -> None:
        """Append image (H, W, 3), mask (H, W) and, where it is kept, truth (h, w)."""
        if self.failure is None:
            with self._failing():
                for file, array in zip(self._files, arrays, strict=True):
                    file.write(np.ascontiguousarray(array).data)

    def commit(self, index: Index) -> None:
        """Put the folder in its place, unless writing failed: then ``failure`` says why."""
        if self.failure is None:
            with self._failing():
                for file, shape in zip(self._files, index.shapes().values(), strict=True):
                    file.seek(0)
                    file.write(_header(shape))
                    _sync(file)
                with (self._staging / INDEX).open("wb") as file:
                    file.write(index.to_json())
                    _sync(file)
                self._staging.replace(self._folder)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            self._discard()  # at once: a full disk is in the way of everybody

    def _discard(self) -> None:
        with suppress(OSError):  # closing writes what is still buffered, and may fail again
            self._open_files.close()
        shutil.rmtree(self._staging, ignore_errors=True)


@contextmanager
def locked(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of ``folder`` while the body runs; ``note`` that another process holds it.

    Raises:
        OSError: the lock file cannot be written, or its file system knows no locks.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(folder).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("waiting for another process that prepares the same samples")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if somebody forked meanwhile


def remove_leftovers(folder: Path) -> None:
    """Remove a damaged ``folder``, whose lock is held, and what dead processes left half written.

    Who has a damaged folder mapped keeps it: the files' content lives on until then.
    """
    for ours in (folder, _staging(folder)):
        shutil.rmtree(ours, ignore_errors=True)
    for staging in folder.parent.glob(".*.partial"):
        other = folder.with_name(staging.name[1:].removesuffix(".partial"))
        with suppress(OSError), _lock_file(other).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its owner lives
            shutil.rmtree(staging, ignore_errors=True)


def _staging(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _header(shape: tuple[int, ...]) -> bytes:
    # NumPy's format 1.0, written here because its length must not depend on the shape.
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape})
    text = text.ljust(HEADER_BYTES - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("ascii")


def _map(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        found, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
    if found != _header(shape) or size != HEADER_BYTES + math.prod(shape):
        raise ValueError(f"{path.name} is not a whole uint8 array of shape {shape}")
    return np.asarray(np.memmap(path, np.uint8, "r", HEADER_BYTES, shape))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
