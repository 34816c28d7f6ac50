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
from dataclasses import asdict, dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from statistics import median_low
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from edgeseg.cli.output import Output, table
from edgeseg.cpu import cpu_threads
from edgeseg.errors import InputError, show
from edgeseg.labels import IGNORE_INDEX, Labels
from edgeseg.segmentation import palette_image, save_png
from edgeseg_train.data import DataSource, MaskIdError, Split, SplitName, drawn

Kind = Literal["unreadable", "ids", "size"]
Size = tuple[int, int]  # height, width
Result = TypeVar("Result")

NAMED = 10  # so many names stand in one line
LISTED = 40  # so many problems stand in the text; --json has all

PICTURE = "samples.png"
BOX_WIDTH, BOX_HEIGHT = 320, 240  # pixels, of each picture on the sheet
LEGEND_COLUMNS, LEGEND_WIDTH, LINE = 2, 190, 18
TITLE, GAP, FONT_SIZE = 22, 8, 13


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
        return [*parts, f"{samples} samples checked, {_count(len(self.problems), 'problem')}"]


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
    output.error(f"{_count(len(report.problems), 'problem')} in data {show(source.spec)}")
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
    # What hides a file from the digest has been said already.
    digest = _attempt(split.digest, index, [] if errors else errors)
    sample = split.names[index]
    problems = [Problem(name, sample, _kind(error), str(error)) for error in errors]
    if image is not None and mask is not None and image.shape[:2] != mask.shape:
        message = f"the image is {_by(image.shape)}, its mask {_by(mask.shape)} (height x width)"
        problems.append(Problem(name, sample, "size", f"sample {show(sample)}: {message}"))
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
        unlabelled=tuple(_chosen(unlabelled, names)),
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


def _warnings(report: CheckReport) -> Iterator[str]:
    names = report.labels.names
    if report.duplicates:
        pairs = [f"{val} = {train}" for train, val in report.duplicates]
        yield (
            f"{_count(len(pairs), 'val sample')} with the same content as train samples, so that "
            f"accuracy on val flatters: {_some(pairs)}"
        )
    for split, found in report.splits.items():
        if found.unlabelled:
            count = _count(len(found.unlabelled), f"{split} mask")
            yield f"{count} without any labelled pixel: {_some(found.unlabelled)}"
    never = np.all([found.images == 0 for found in report.splits.values()], axis=0)
    if never.any():
        unseen = _chosen(never, names)
        yield f"{len(unseen)} of {len(names)} classes never occur: {_some(unseen)}"
    for one, other in permutations(report.splits, 2):
        only = _chosen((report.splits[one].images > 0) & (report.splits[other].images == 0), names)
        if only:
            yield f"{_count(len(only), 'class', 'classes')} of {one} not in {other}: {_some(only)}"


def _chosen(where: NDArray[np.bool_], names: Sequence[str]) -> list[str]:
    return [name for name, chosen in zip(names, where, strict=True) if chosen]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number or 'no'} {one if number == 1 else many or one + 's'}"


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


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
        "never_seen": _chosen(report.images == 0, labels.names),
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
    commonest = f"{_by(sizes.commonest)} ({sizes.commonest_images})"
    return (_by(sizes.smallest), _by(sizes.median), _by(sizes.largest), commonest)


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


def write_check_picture(source: DataSource, folder: Path, per_split: int = 8) -> Path | None:
    """Draw samples as image | mask | overlay | legend into ``samples.png``; ignored is black.

    Args:
        source: the data.
        folder: where to write; it must exist.
        per_split: so many samples of each split are drawn; those with problems are left out.

    Returns:
        The file, or None when no sample could be read.
    """
    rows = [
        _row(f"{name}: {split.names[index]}", image, mask, source.labels)
        for name, split in source.splits.items()
        for index in drawn(len(split.names), per_split)
        for image, mask in _readable(split, index)
    ]
    if not rows:
        return None
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    save_png(sheet, folder / PICTURE)
    return folder / PICTURE


def _readable(split: Split, index: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield image and mask if they are good."""
    try:
        image, mask = split.image(index), split.mask(index)
    except InputError:  # the report says so
        return
    if image.shape[:2] == mask.shape:
        yield image, mask


def _row(
    title: str, image: NDArray[np.uint8], mask: NDArray[np.uint8], labels: Labels
) -> Image.Image:
    """Return one sample's part of the sheet."""
    shown = _pictures(image, mask, labels)
    legend = LEGEND_COLUMNS * LEGEND_WIDTH
    height = TITLE + max(BOX_HEIGHT // 2, shown[0].height) + GAP
    row = Image.new("RGB", (3 * (BOX_WIDTH + GAP) + legend, height), "white")
    draw = ImageDraw.Draw(row)
    text = f"{title} ({_by(image.shape)})"
    draw.text((2, 2), _fitting(text, row.width), fill="black", font_size=FONT_SIZE)
    for column, picture in enumerate(shown):
        row.paste(picture, (column * (BOX_WIDTH + GAP), TITLE))
    _draw_legend(draw, 3 * (BOX_WIDTH + GAP), height - TITLE - GAP, mask, labels)
    return row


def _pictures(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], labels: Labels
) -> tuple[Image.Image, ...]:
    scale = min(BOX_WIDTH / image.shape[1], BOX_HEIGHT / image.shape[0])
    size = (max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0])))
    colours = palette_image(mask, labels).convert("RGB")
    overlay = Image.blend(Image.fromarray(image), colours, 0.5)
    overlay.paste(Image.fromarray(image), mask=Image.fromarray(mask == IGNORE_INDEX))
    return (
        Image.fromarray(image).resize(size),
        colours.resize(size, Image.Resampling.NEAREST),
        overlay.resize(size),
    )


def _draw_legend(
    draw: ImageDraw.ImageDraw, left: int, height: int, mask: NDArray[np.uint8], labels: Labels
) -> None:
    """Write colour, name and share of the classes that occur, the largest first."""
    counts = np.bincount(mask.ravel(), minlength=256)
    present = sorted(np.flatnonzero(counts).tolist(), key=lambda i: -int(counts[i]))
    lines = height // LINE
    room = LEGEND_COLUMNS * lines
    shown = present if len(present) <= room else present[: room - 1]
    for place, class_id in enumerate(shown):
        x, y = left + place // lines * LEGEND_WIDTH, TITLE + place % lines * LINE
        ignored = class_id == IGNORE_INDEX
        colour = (0, 0, 0) if ignored else labels.palette[class_id]
        name = "(ignored)" if ignored else labels.names[class_id]
        draw.rectangle((x, y + 1, x + 12, y + 13), fill=colour, outline="gray")
        share = counts[class_id] / mask.size
        text = f"{share:.1%} {name}" if share >= 0.0005 else f"<0.1% {name}"
        draw.text((x + 18, y), _fitting(text, LEGEND_WIDTH - 22), "black", font_size=FONT_SIZE)
    if len(shown) < len(present):
        x, y = left + (LEGEND_COLUMNS - 1) * LEGEND_WIDTH, TITLE + (lines - 1) * LINE
        draw.text((x, y), f"and {len(present) - len(shown)} more", "black", font_size=FONT_SIZE)


def _fitting(text: str, width: int) -> str:
    """Return the text, cut where it would be wider than ``width`` pixels."""
    font = ImageFont.load_default(FONT_SIZE)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
