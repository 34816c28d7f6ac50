"""Read, check and resize every sample of a split once, before training starts.

What is wrong with the data stops a training here, with the sample named, and not in its
third epoch. The resized samples stay on disk (``edgeseg_train.samples.store``), so that
epochs do not wait for JPEG decoding and all worker processes share one copy in memory:

    fit = Preprocessing(height=512, width=512)
    samples = prepare(split, fit, 150, keep_truth=False, cache=default_cache())
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from edgeseg.errors import InputError, first_line, show
from edgeseg.preprocess import Preprocessing
from edgeseg_train.data import Split
from edgeseg_train.samples.index import ClassCounts, Index, Tally
from edgeseg_train.samples.reading import DecodedSamples, Sample, SampleReader
from edgeseg_train.samples.store import (
    StoredSamples,
    Writer,
    default_cache,
    locked,
    remove_leftovers,
)

__all__ = ["ClassCounts", "PreparedSplit", "default_cache", "prepare"]

MAX_DISK_SHARE = 0.9  # of the free space; a full disk would hurt the training's own results
NAMED = 5  # so many bad samples are named in a message


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
    samples: StoredSamples | DecodedSamples

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
    preprocessing: Preprocessing,
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
        preprocessing: how a picture becomes the network's input.
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
    reader = SampleReader(split, preprocessing, num_classes, keep_truth)
    task = _Task(reader, skip_bad, progress, note)
    if cache is None:
        return _without_cache(task)
    folder = cache / reader.key()
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

    reader: SampleReader
    skip_bad: int
    progress: Callable[[int], None]
    note: Callable[[str], None]

    def needed_bytes(self) -> int:
        """Return the size of the arrays, estimated: the first truth stands for all."""
        split, (height, width) = self.reader.split, self.reader.preprocessing.size
        each = 4 * height * width
        if self.reader.keep_truth:
            with suppress(InputError):  # reading will say so
                each += split.mask(0).size
        return each * len(split.names)


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
    with Writer(folder, keep_truth=task.reader.keep_truth) as writer:
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
    indices = [i for i, name in enumerate(task.reader.split.names) if name in skipped]
    attempts = (task.reader.attempt(i, with_image=True) for i in indices)
    # Rights and network drives can come back without a trace in the stamps.
    if not all(isinstance(attempt, InputError) for attempt in attempts):
        complain(f"samples left out of {show(folder)} can be read now; preparing all again")
        return None
    _check_skipped(task, skipped)
    task.note(f"prepared samples are reused from {show(folder)}")
    return _prepared(task, samples.index, folder, samples)


def _decoded(task: _Task, index: Index) -> PreparedSplit:
    kept = (i for i, name in enumerate(task.reader.split.names) if name not in index.skipped)
    return _prepared(task, index, None, DecodedSamples(task.reader, tuple(kept)))


def _prepared(
    task: _Task, index: Index, cache: Path | None, samples: StoredSamples | DecodedSamples
) -> PreparedSplit:
    for name, reason in list(index.skipped.items())[:NAMED]:
        task.note(f"left out sample {show(name)}: {reason}")
    if len(index.skipped) > NAMED:
        task.note(f"left out {len(index.skipped) - NAMED} more samples")
    return PreparedSplit(
        names=tuple(index.names),
        skipped=tuple(index.skipped),
        fingerprint=index.fingerprint,
        counts=index.counts(),
        size=task.reader.preprocessing.size,
        cache=cache,
        samples=samples,
    )


def _read_all(task: _Task, writer: Writer | None, *, with_image: bool) -> Index:
    names, tally = task.reader.split.names, Tally(task.reader.num_classes)
    with closing(task.reader.attempts(with_image=with_image)) as attempts:  # ends the threads
        for name, read in zip(names, attempts, strict=True):
            if isinstance(read, InputError):
                if task.skip_bad == 0:
                    raise read
                tally.skipped[name] = str(read)
            else:
                truth = read.sample.truth if read.sample is not None else None
                tally.add(name, read.digest, read.histogram, truth)
                if writer is not None and read.sample is not None:
                    writer.add(*(array for array in read.sample if array is not None))
            task.progress(1)
    _check_skipped(task, tally.skipped)
    return tally.index(task.reader.preprocessing.size)


def _check_skipped(task: _Task, skipped: dict[str, str]) -> None:
    """Raise InputError when more samples are bad than may be left out, or none is good."""
    total = len(task.reader.split.names)
    allowed = min(task.skip_bad, total - 1)
    if len(skipped) > allowed:
        if task.skip_bad == 0:
            raise InputError(next(iter(skipped.values())))
        named = (f"{show(name)} ({reason})" for name, reason in list(skipped.items())[:NAMED])
        raise InputError(
            f"{len(skipped)} of {total} samples cannot be used; at most {allowed} may be "
            f"left out: {', '.join(named)}"
        )
