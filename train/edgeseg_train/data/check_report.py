"""What ``edgeseg train --check`` found: as values, as a JSON document, as tables and lines.

Problems keep a sample from being used; warnings are worth knowing and keep no one from training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import compress, permutations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from edgeseg.cli.output import table
from edgeseg.labels import Labels
from edgeseg_train.data import SplitName

Kind = Literal["unreadable", "ids", "size"]
Size = tuple[int, int]  # height, width

NAMED = 10  # so many names stand in one line
LISTED = 40  # so many problems stand in the text; --json has all


@dataclass(frozen=True)
class Problem:
    """One thing that keeps one sample from being used."""

    split: SplitName
    sample: str
    kind: Kind
    message: str


@dataclass(frozen=True)
class Sizes:
    """The pictures' sizes, (height, width): by area, except the median of each side."""

    smallest: Size
    median: Size
    largest: Size
    commonest: Size
    commonest_images: int
    different: int


@dataclass(frozen=True)
class SplitReport:
    """What one split holds.

    Attributes:
        samples: how many there are.
        sizes: of the readable pictures; None without any.
        pixels: int64 (C,), pixels per class in all readable masks.
        images: int64 (C,), masks in which the class occurs.
        ignored: pixels with the ignore index.
        unlabelled: names of the samples whose masks are ignored everywhere.
        problems: what is wrong, in the order of the samples.
    """

    samples: int
    sizes: Sizes | None
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    ignored: int
    unlabelled: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each class in the labelled pixels, float64 (C,), 0..1."""
        return np.asarray(self.pixels / max(1, int(self.pixels.sum())))

    @property
    def ignored_share(self) -> float:
        """Share of the ignored pixels in all pixels, 0..1."""
        return self.ignored / max(1, int(self.pixels.sum()) + self.ignored)


@dataclass(frozen=True)
class CheckReport:
    """What the data holds and what is wrong with it.

    Attributes:
        spec: the data's name.
        labels: its classes.
        splits: a report per split.
        duplicates: (train sample, val sample) with the same stored content.
        notes: how the data was read.
    """

    spec: str
    labels: Labels
    splits: dict[SplitName, SplitReport]
    duplicates: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems; data without any can be trained on."""
        return tuple(problem for report in self.splits.values() for problem in report.problems)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not keep anyone from training, but is worth knowing; one line each."""
        return tuple(_warnings(self))

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for ``--json``."""
        return {
            "data": self.spec,
            "passed": not self.problems,
            "splits": {name: _document(split, self.labels) for name, split in self.splits.items()},
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": list(self.warnings),
            "duplicates": [{"train": train, "val": val} for train, val in self.duplicates],
            "notes": list(self.notes),
        }

    def text(self) -> list[str | Table]:
        """Return tables and lines for people."""
        parts: list[str | Table] = [*self.notes, _split_table(self), "", _class_table(self)]
        if self.problems:
            parts += ["", _problem_table(self.problems)]
        if len(self.problems) > LISTED:
            parts += [f"and {len(self.problems) - LISTED} more problems; --json lists all"]
        parts += ["", *(f"warning: {warning}" for warning in self.warnings)]
        samples = sum(split.samples for split in self.splits.values())
        return [*parts, f"{samples} samples checked, {counted(len(self.problems), 'problem')}"]


def counted(number: int, one: str, many: str = "") -> str:
    """Return ``no samples``, ``1 sample``, ``2 samples`` ..."""
    return f"{number or 'no'} {one if number == 1 else many or one + 's'}"


def dimensions(shape: Sequence[int]) -> str:
    """Return ``HEIGHTxWIDTH``."""
    return f"{shape[0]}x{shape[1]}"


def _warnings(report: CheckReport) -> Iterator[str]:
    names = report.labels.names
    if report.duplicates:
        pairs = [f"{val} = {train}" for train, val in report.duplicates]
        yield (
            f"{counted(len(pairs), 'val sample')} with the same content as train samples, so that "
            f"accuracy on val flatters: {_some(pairs)}"
        )
    for split, found in report.splits.items():
        if found.unlabelled:
            count = counted(len(found.unlabelled), f"{split} mask")
            yield f"{count} without any labelled pixel: {_some(found.unlabelled)}"
    never = np.all([found.images == 0 for found in report.splits.values()], axis=0)
    unseen = list(compress(names, never))
    if unseen:
        yield f"{len(unseen)} of {len(names)} classes never occur: {_some(unseen)}"
    for one, other in permutations(report.splits, 2):
        here, there = report.splits[one].images > 0, report.splits[other].images > 0
        only = list(compress(names, here & ~there))
        if only:
            yield f"{counted(len(only), 'class', 'classes')} of {one} not in {other}: {_some(only)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _document(report: SplitReport, labels: Labels) -> dict[str, Any]:
    classes = zip(labels.names, report.pixels, report.shares, report.images, strict=True)
    return {
        "samples": report.samples,
        "sizes": None if report.sizes is None else asdict(report.sizes),
        "ignored_share": report.ignored_share,
        "classes": [
            {"id": i, "name": name, "pixels": int(pixels), "share": float(share), "images": int(n)}
            for i, (name, pixels, share, n) in enumerate(classes)
        ],
        "never_seen": list(compress(labels.names, report.images == 0)),
        "unlabelled": list(report.unlabelled),
    }


def _split_table(report: CheckReport) -> Table:
    columns = ("split", ">samples", ">smallest", ">median", ">largest", ">commonest", ">ignored")
    rows = [
        (name, split.samples, *_size_cells(split.sizes), f"{split.ignored_share:.2%}")
        for name, split in report.splits.items()
    ]
    return table(columns, rows, f"{report.spec}: sizes are height x width")


def _size_cells(sizes: Sizes | None) -> tuple[str, ...]:
    if sizes is None:
        return ("-",) * 4
    commonest = f"{dimensions(sizes.commonest)} ({sizes.commonest_images})"
    return (*map(dimensions, (sizes.smallest, sizes.median, sizes.largest)), commonest)


def _class_table(report: CheckReport) -> Table:
    """Return pixels' share and number of images per class and split, of the classes that occur."""
    splits = report.splits.items()
    columns = [column for name, _ in splits for column in (f">{name} share", f">{name} images")]
    rows = [
        (i, name, *(cell for _, s in splits for cell in (f"{s.shares[i]:.3%}", s.images[i])))
        for i, name in enumerate(report.labels.names)
        if any(split.images[i] for _, split in splits)
    ]
    return table((">id", "class", *columns), rows, "Classes, share of the labelled pixels")


def _problem_table(problems: Sequence[Problem]) -> Table:
    rows = [(problem.split, problem.kind, problem.message) for problem in problems[:LISTED]]
    return table(("split", "kind", "problem"), rows, "Problems")
