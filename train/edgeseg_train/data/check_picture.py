"""The sheet of samples that ``edgeseg train --check --out DIR`` draws: does a mask fit its picture?

Each sample is a row: image | mask | overlay | legend. Ignored pixels are black.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeseg.errors import InputError
from edgeseg.labels import IGNORE_INDEX, Labels
from edgeseg.segmentation import palette_image, save_png
from edgeseg_train.data import DataSource, Split, drawn
from edgeseg_train.data.check_report import dimensions

PICTURE = "samples.png"
BOX_WIDTH, BOX_HEIGHT = 320, 240  # pixels, of each picture on the sheet
LEGEND_COLUMNS, LEGEND_WIDTH, LINE = 2, 190, 18
TITLE, GAP, FONT_SIZE = 22, 8, 13


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
    text = f"{title} ({dimensions(image.shape)})"
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
