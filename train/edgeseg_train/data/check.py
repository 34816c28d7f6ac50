"""``edgeseg train --data DATA --check``: read all data once and list everything wrong with it.

Training stops at the first sample that it cannot use; this goes on and reports all of them,
with the numbers that decide a recipe (sizes, classes, how rare they are), and with ``--out DIR``
a sheet of samples to look at:

    edgeseg train --data folder:DIR --check --out DIR
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from statistics import median_low
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeseg.cli.output import Output
from edgeseg.cpu import cpu_threads
from edgeseg.errors import InputError, show
from edgeseg.files import sha256_bytes
from edgeseg.labels import IGNORE_INDEX
from edgeseg_train.data import DataSource, MaskIdError, Split, SplitName
from edgeseg_train.data.check_picture import write_check_picture
from edgeseg_train.data.check_report import (
    CheckReport,
    Kind,
    Problem,
    Size,
    Sizes,
    SplitReport,
    counted,
    dimensions,
)

Result = TypeVar("Result")


def run_check(source: DataSource, folder: Path | None, output: Output) -> int:
    """Check the data, print the report and, with a folder, draw ``samples.png`` there.

    Returns:
        The exit status: 0, or 3 (input) when there are problems.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    total = sum(len(split.names) for split in source.splits.values())
    with output.progress("checking", total) as advance:
        report = check_source(source, advance)
    picture = None if folder is None else write_check_picture(source, folder)
    document = report.document() | {"picture": None if picture is None else str(picture)}
    output.result(document, report.text() + ([f"samples drawn in {picture}"] if picture else []))
    if not report.problems:
        return 0
    output.error(f"{counted(len(report.problems), 'problem')} in data {show(source.spec)}")
    return InputError.exit_code


def check_source(source: DataSource, progress: Callable[[int], None]) -> CheckReport:
    """Read every picture and mask once.

    Args:
        source: the data.
        progress: called with 1 per sample that was read.
    """
    splits: dict[SplitName, SplitReport] = {}
    digests: dict[SplitName, dict[str, str]] = {}
    for name, split in source.splits.items():
        samples = list(_examined(name, split, progress))
        splits[name] = _summary(split.names, samples, source.labels.num_classes)
        found = zip(samples, split.names, strict=True)
        digests[name] = {sample.digest: n for sample, n in found if sample.digest}
    train, val = digests.get("train", {}), digests.get("val", {})
    duplicates = tuple((train[digest], name) for digest, name in val.items() if digest in train)
    return CheckReport(source.spec, source.labels, splits, duplicates, source.notes)


@dataclass(frozen=True)
class _Sample:
    """What one sample gave; ``histogram`` int64 (256,) of the mask."""

    size: Size | None
    histogram: NDArray[np.int64] | None
    digest: str | None
    problems: tuple[Problem, ...]


def _examined(name: SplitName, split: Split, progress: Callable[[int], None]) -> Iterator[_Sample]:
    with ThreadPoolExecutor(cpu_threads()) as pool:  # decoding leaves Python's lock
        try:
            for sample in pool.map(partial(_examine, name, split), range(len(split.names))):
                progress(1)
                yield sample
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for all others


def _examine(name: SplitName, split: Split, index: int) -> _Sample:
    errors: list[InputError] = []
    image, mask = _attempt(split.image, index, errors), _attempt(split.mask, index, errors)
    # Of the picture's pixels alone: with another mask, or encoded anew, it is the same picture.
    digest = None if image is None else sha256_bytes(image.tobytes())
    sample = split.names[index]
    problems = [Problem(name, sample, _kind(error), str(error)) for error in errors]
    if image is not None and mask is not None and image.shape[:2] != mask.shape:
        message = (
            f"sample {show(sample)}: the image is {dimensions(image.shape)}, "
            f"its mask {dimensions(mask.shape)} (height x width)"
        )
        problems.append(Problem(name, sample, "size", message))
    size = None if image is None else (image.shape[0], image.shape[1])
    histogram = None if mask is None else np.bincount(mask.ravel(), minlength=256)
    return _Sample(size, histogram, digest, tuple(problems))


def _attempt(read: Callable[[int], Result], index: int, errors: list[InputError]) -> Result | None:
    try:
        return read(index)
    except InputError as error:
        errors.append(error)
        return None


def _kind(error: InputError) -> Kind:
    return "ids" if isinstance(error, MaskIdError) else "unreadable"


def _summary(names: Sequence[str], samples: Sequence[_Sample], num_classes: int) -> SplitReport:
    histograms = np.zeros((len(samples), 256), dtype=np.int64)
    for i, sample in enumerate(samples):
        if sample.histogram is not None:
            histograms[i] = sample.histogram
    classes, ignored = histograms[:, :num_classes], histograms[:, IGNORE_INDEX]
    unlabelled = (ignored > 0) & (classes.sum(axis=1) == 0)
    return SplitReport(
        samples=len(samples),
        sizes=_sizes([sample.size for sample in samples if sample.size]),
        pixels=classes.sum(axis=0),
        images=(classes > 0).sum(axis=0),
        ignored=int(ignored.sum()),
        unlabelled=tuple(compress(names, unlabelled)),
        problems=tuple(problem for sample in samples for problem in sample.problems),
    )


def _sizes(sizes: list[Size]) -> Sizes | None:
    if not sizes:
        return None
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    counts = Counter(by_area)
    commonest, images = counts.most_common(1)[0]
    median = (median_low(h for h, _ in sizes), median_low(w for _, w in sizes))
    return Sizes(by_area[0], median, by_area[-1], commonest, images, len(counts))
