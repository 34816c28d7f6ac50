"""The run folder's pictures: learning curves, and samples as image | truth | prediction."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edgeseg.files import atomic_write
from edgeseg.labels import IGNORE_INDEX, Labels
from edgeseg.segmentation import palette_image, save_png
from edgeseg_train.run.history import Epoch

matplotlib.use("Agg")  # no display is needed to write files

CURVES = "curves.png"
SAMPLES = "samples.png"
GAP = 6
HEADING = 22  # pixels

Row = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


def write_curves(epochs: Sequence[Epoch], folder: Path) -> None:
    """Draw loss, pixel accuracy and mIoU per epoch, train and val, into ``curves.png``."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, value, title in zip(
        axes, ("loss", "pixel_accuracy", "miou"), ("loss", "pixel accuracy", "mIoU"), strict=True
    ):
        _curve(axis, epochs, value, title)
    axes[0].legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    atomic_write(folder / CURVES, buffer.getvalue())


def _curve(axis: Axes, epochs: Sequence[Epoch], value: str, title: str) -> None:
    steps = [epoch.step for epoch in epochs]
    for split, style in (("train", "--"), ("val", "-")):
        points = [getattr(epoch, f"{split}_{value}") for epoch in epochs]
        what = {"train": "the recipe's", "val": "cross-entropy"}[split]
        label = f"{split} ({what})" if value == "loss" else split
        axis.plot(steps, points, style, marker="o", markersize=3, label=label)
    axis.set_title(title)
    axis.set_xlabel("optimiser step")
    axis.grid(alpha=0.3)
    if value != "loss":
        axis.set_ylim(0, 1)


def write_samples(rows: Sequence[Row], labels: Labels, folder: Path, height: int = 160) -> None:
    """Draw rows of image | truth | prediction into ``samples.png``; ignored pixels are black.

    Args:
        rows: per sample image uint8 (H, W, 3), truth and prediction uint8 (H, W).
        labels: the classes' colours.
        folder: where to write.
        height: of each picture in pixels.
    """
    pictures = [_pictures(row, labels, height) for row in rows]
    cell = max(picture.width for row in pictures for picture in row) + GAP
    sheet = Image.new("RGB", (3 * cell - GAP, HEADING + len(rows) * (height + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("image", "truth", "prediction")):
        draw.text((column * cell + 2, 2), title, fill="black", font_size=HEADING - 8)
        for i, row in enumerate(pictures):
            sheet.paste(row[column], (column * cell, HEADING + i * (height + GAP)))
    save_png(sheet, folder / SAMPLES)


def _pictures(row: Row, labels: Labels, height: int) -> tuple[Image.Image, ...]:
    image, truth, prediction = row
    size = (max(1, round(height * image.shape[1] / image.shape[0])), height)
    shown_truth = palette_image(truth, labels).convert("RGB")
    shown_truth.paste((0, 0, 0), mask=Image.fromarray(truth == IGNORE_INDEX))
    shown_prediction = palette_image(prediction, labels).convert("RGB")
    return (
        Image.fromarray(image).resize(size),
        shown_truth.resize(size, Image.Resampling.NEAREST),
        shown_prediction.resize(size, Image.Resampling.NEAREST),
    )
