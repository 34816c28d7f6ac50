"""Read, check and resize every sample of a split once, before training starts.

What is wrong with the data stops a training here, with the sample named, and not in its
third epoch. The resized samples stay on disk (``edgeseg_train.samples.store``), so that
epochs do not wait for JPEG decoding and all worker processes share one copy in memory:

    samples = prepare(split, (512, 512), 150, keep_truth=False, cache=default_cache())
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeseg.cpu import cpu_threads
from edgeseg.errors import InputError, first_line, show
from edgeseg.files import sha256_bytes
from edgeseg.labels import IGNORE_INDEX
from edgeseg.preprocess import resize_class_map, resize_image
from edgeseg_train.data import MaskIdError, Split
from edgeseg_train.samples.store import (
    Index,
    StoredSamples,
    Writer,
    cache_key,
    default_cache,
    locked,
    remove_leftovers,
)

__all__ = ["ClassCounts", "PreparedSplit", "Sample", "default_cache", "prepare"]

MAX_DISK_SHARE = 0.9  # of the free space; a full disk would hurt the training's own results
NAMED = 5  # so many bad samples are named in a message

Result = TypeVar("Result")


class Sample(NamedTuple):
    """One pair: image uint8 (H, W, 3), mask uint8 (H, W), truth uint8 (h, w) or None.

    Image and mask are at network size; ``truth`` is the mask at its own size, for evaluation.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


@dataclass(frozen=True)
class ClassCounts:
    """How often each class occurs in a split's masks at network size; int64 (C,) each.

    ``pixels``: its pixels. ``pixels_of_images_with``: the labelled pixels of all images in
    which it occurs, the denominator of median frequency balancing (Eigen and Fergus, 2015).
    """

    pixels: NDArray[np.int64]
    pixels_of_images_with: NDArray[np.int64]


@dataclass(frozen=True)
class PreparedSplit:
    """The usable samples of a split, checked; a data set in the sense of ``torch.utils.data``.

    Attributes:
        names: one per sample, without the skipped ones.
        skipped: names of the samples that were left out.
        fingerprint: SHA-256 over the names and the content's digests of all samples, in order.
        counts: how often each class occurs.
        size: the network's (height, width).
        cache: the folder with the arrays; None when samples are decoded each time.
    """

    names: tuple[str, ...]
    skipped: tuple[str, ...]
    fingerprint: str
    counts: ClassCounts
    size: tuple[int, int]
    cache: Path | None
    samples: StoredSamples | _DecodedSamples

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; its arrays may be read-only.

        Raises:
            IndexError: no such sample.
            InputError: without a cache: unreadable, or image and mask differ in size.
            ResourceError: the cache was removed before this process opened it.
        """
        return Sample(*self.samples[index])


def _nothing(_: object) -> None:
    """Show neither progress nor notes."""


def prepare(
    split: Split,
    size: tuple[int, int],
    num_classes: int,
    *,
    keep_truth: bool,
    cache: Path | None,
    skip_bad: int = 0,
    progress: Callable[[int], None] = _nothing,
    note: Callable[[str], None] = _nothing,
) -> PreparedSplit:
    """Read and check all samples of ``split``, or reuse what an earlier call stored.

    Without a cache the images are only read here when ``skip_bad`` allows to leave some out;
    a cache that cannot be written (rights, space) is noted and done without.

    Args:
        split: the samples.
        size: the network's (height, width).
        num_classes: C; masks hold 0 .. C-1 and 255.
        keep_truth: keep the masks at their own sizes too, for evaluation.
        cache: the folder for the arrays of all splits and sizes, or None.
        skip_bad: up to so many samples may be left out because their files are not readable
            or differ in size. Ids that are no class always stop: then the class table is wrong.
        progress: called with 1 per sample that was read.
        note: called with one line for the user: where the samples are, what was left out.

    Raises:
        MaskIdError: a mask holds ids that are no class.
        InputError: no samples, or more bad ones than ``skip_bad``; with ``skip_bad=0`` it is
            the error of the first bad sample.
    """
    if not split.names:
        raise InputError("the split has no samples; expected at least one")
    task = _Task(split, size, num_classes, keep_truth, skip_bad, progress, note)
    if cache is None:
        return _without_cache(task)
    folder = cache / task.key()
    prepared = _reused(task, folder, _nothing)  # what is whole needs no lock
    if prepared is not None:
        return prepared
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, note))
        except OSError as error:
            _note_uncached(task, f"cannot write {show(cache)}: {error.strerror}")
            return _without_cache(task)
        return _reused(task, folder, note) or _built(task, folder)


@dataclass(frozen=True)
class _Task:
    """What ``prepare`` was asked for."""

    split: Split
    size: tuple[int, int]
    num_classes: int
    keep_truth: bool
    skip_bad: int
    progress: Callable[[int], None]
    note: Callable[[str], None]

    def key(self) -> str:
        stamps = [self._stamp(index) for index in range(len(self.split.names))]
        return cache_key(
            self.size, self.num_classes, self.split.names, stamps, keep_truth=self.keep_truth
        )

    def _stamp(self, index: int) -> str:
        try:
            return self.split.stamp(index)
        except InputError as error:  # a missing file; reading it will say so
            return f"no stamp: {error}"

    def needed_bytes(self) -> int:
        """Return the size of the arrays, estimated: the first truth stands for all."""
        each = 4 * self.size[0] * self.size[1]
        if self.keep_truth:
            with suppress(InputError):  # reading will say so
                each += self.split.mask(0).size
        return each * len(self.split.names)


def _without_cache(task: _Task) -> PreparedSplit:
    return _decoded(task, _read_all(task, None, with_image=task.skip_bad > 0))


def _note_uncached(task: _Task, problem: str) -> None:
    task.note(f"samples are decoded again in every epoch, not stored: {problem}")


def _built(task: _Task, folder: Path) -> PreparedSplit:
    """Read all samples into ``folder``, whose lock is held; without space, only check them."""
    remove_leftovers(folder)
    needed, free = task.needed_bytes(), shutil.disk_usage(folder.parent).free
    if needed > MAX_DISK_SHARE * free:
        _note_uncached(
            task,
            f"they need {needed / 1e6:.0f} MB, and {show(folder.parent)} "
            f"has {free / 1e6:.0f} MB free",
        )
        return _without_cache(task)
    task.note(f"samples are prepared once, in {show(folder)} ({needed / 1e6:.0f} MB)")
    with Writer(folder, keep_truth=task.keep_truth) as writer:
        index = _read_all(task, writer, with_image=True)
        writer.commit(index)
    if writer.failure is not None:
        _note_uncached(task, f"writing {show(folder)} failed: {writer.failure.strerror}")
        return _decoded(task, index)
    return _prepared(task, index, folder, StoredSamples(folder))


def _reused(task: _Task, folder: Path, complain: Callable[[str], None]) -> PreparedSplit | None:
    """Return the samples in ``folder``, or None where they are missing or not to be trusted."""
    try:
        if not folder.exists():
            return None
        samples = StoredSamples(folder)
    except (OSError, ValueError) as error:
        complain(f"{show(folder)} is damaged ({first_line(error)}); preparing the samples again")
        return None
    skipped = samples.index.skipped
    indices = [i for i, name in enumerate(task.split.names) if name in skipped]
    # Rights and network drives can come back without a trace in the stamps.
    if not all(isinstance(_attempt(task, i, with_image=True), InputError) for i in indices):
        complain(f"samples left out of {show(folder)} can be read now; preparing all again")
        return None
    _check_skipped(task, skipped)
    task.note(f"prepared samples are reused from {show(folder)}")
    return _prepared(task, samples.index, folder, samples)


def _decoded(task: _Task, index: Index) -> PreparedSplit:
    kept = (i for i, name in enumerate(task.split.names) if name not in index.skipped)
    samples = _DecodedSamples(task.split, tuple(kept), task.size, task.keep_truth)
    return _prepared(task, index, None, samples)


def _prepared(
    task: _Task, index: Index, cache: Path | None, samples: StoredSamples | _DecodedSamples
) -> PreparedSplit:
    for name, reason in list(index.skipped.items())[:NAMED]:
        task.note(f"left out sample {show(name)}: {reason}")
    if len(index.skipped) > NAMED:
        task.note(f"left out {len(index.skipped) - NAMED} more samples")
    counts = ClassCounts(
        np.array(index.pixels, dtype=np.int64),
        np.array(index.pixels_of_images_with, dtype=np.int64),
    )
    names, skipped = tuple(index.names), tuple(index.skipped)
    return PreparedSplit(names, skipped, index.fingerprint, counts, task.size, cache, samples)


@dataclass(frozen=True)
class _DecodedSamples:
    """Samples that are decoded and resized whenever they are asked for."""

    split: Split
    kept: tuple[int, ...]  # indices into ``split``
    size: tuple[int, int]
    keep_truth: bool

    def __getitem__(self, index: int) -> Sample:
        chosen = self.kept[index]
        image, truth = self.split.image(chosen), self.split.mask(chosen)
        return _resized(self.split.names[chosen], image, truth, self.size, self.keep_truth)


def _resized(
    name: str,
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    size: tuple[int, int],
    keep_truth: bool,
) -> Sample:
    if image.shape[:2] != truth.shape:
        raise InputError(
            f"sample {show(name)}: the image is {image.shape[:2]}, "
            f"its mask {truth.shape} (height, width)"
        )
    kept = truth if keep_truth else None
    return Sample(resize_image(image, *size), resize_class_map(truth, *size), kept)


class _Read(NamedTuple):
    """What reading one sample gave; ``histogram`` int64 (256,) of the mask at network size."""

    sample: Sample | None  # None when only the mask was wanted
    histogram: NDArray[np.int64]
    digest: str


def _read(task: _Task, index: int, *, with_image: bool) -> _Read:
    split, name = task.split, task.split.names[index]
    truth = split.mask(index)
    _check_ids(name, truth, task.num_classes)
    sample = None
    if with_image:
        sample = _resized(name, split.image(index), truth, task.size, task.keep_truth)
    mask = resize_class_map(truth, *task.size) if sample is None else sample.mask
    histogram = np.bincount(mask.ravel(), minlength=256).astype(np.int64, copy=False)
    return _Read(sample, histogram, split.digest(index))


def _check_ids(name: str, mask: NDArray[np.uint8], num_classes: int) -> None:
    unknown = np.unique(mask[(mask >= num_classes) & (mask != IGNORE_INDEX)])
    if unknown.size:
        raise MaskIdError(
            f"the mask of sample {show(name)} has ids that are no class: "
            f"{unknown.tolist()[:NAMED]}; expected 0..{num_classes - 1} or {IGNORE_INDEX}"
        )


def _attempt(task: _Task, index: int, *, with_image: bool) -> _Read | InputError:
    """Return the sample, or what is wrong with it; raise what no ``skip_bad`` may hide."""
    try:
        return _read(task, index, with_image=with_image)
    except MaskIdError:
        raise
    except InputError as error:
        return error


class _Tally:
    """Adds up what was read, in the order of the split."""

    def __init__(self, num_classes: int) -> None:
        self.skipped: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._pixels = np.zeros(num_classes, dtype=np.int64)
        self._pixels_of_images_with = np.zeros(num_classes, dtype=np.int64)
        self._truth_shapes: list[list[int]] = []

    def add(self, name: str, read: _Read) -> None:
        self._digests[name] = read.digest
        pixels = read.histogram[: len(self._pixels)]
        self._pixels += pixels
        self._pixels_of_images_with[pixels > 0] += pixels.sum()
        if read.sample is not None and read.sample.truth is not None:
            self._truth_shapes.append(list(read.sample.truth.shape))

    def index(self, size: tuple[int, int]) -> Index:
        return Index(
            size=list(size),
            names=list(self._digests),
            skipped=self.skipped,
            fingerprint=sha256_bytes(json.dumps(list(self._digests.items())).encode()),
            pixels=self._pixels.tolist(),
            pixels_of_images_with=self._pixels_of_images_with.tolist(),
            truth_shapes=self._truth_shapes,
        )


def _read_all(task: _Task, writer: Writer | None, *, with_image: bool) -> Index:
    names, tally = task.split.names, _Tally(task.num_classes)
    results = _in_order(partial(_attempt, task, with_image=with_image), len(names))
    with closing(results):  # an error here stops the threads
        for name, read in zip(names, results, strict=True):
            if isinstance(read, InputError):
                if task.skip_bad == 0:
                    raise read
                tally.skipped[name] = str(read)
            else:
                tally.add(name, read)
                if writer is not None and read.sample is not None:
                    writer.add(*(array for array in read.sample if array is not None))
            task.progress(1)
    _check_skipped(task, tally.skipped)
    return tally.index(task.size)


def _in_order(function: Callable[[int], Result], count: int) -> Generator[Result, None, None]:
    """Yield ``function(0)``, ``function(1)`` ...; threads are a few calls ahead, never many."""
    threads = cpu_threads()  # decoding, resizing and hashing need no GIL
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[Result]] = deque()
    try:
        for index in range(count):
            pending.append(pool.submit(function, index))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_skipped(task: _Task, skipped: dict[str, str]) -> None:
    """Raise InputError when more samples are bad than may be left out, or none is good."""
    total = len(task.split.names)
    allowed = min(task.skip_bad, total - 1)
    if len(skipped) > allowed:
        if task.skip_bad == 0:
            raise InputError(next(iter(skipped.values())))
        named = (f"{show(name)} ({reason})" for name, reason in list(skipped.items())[:NAMED])
        raise InputError(
            f"{len(skipped)} of {total} samples cannot be used; at most {allowed} may be "
            f"left out: {', '.join(named)}"
        )
