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
from PIL import Image

from edgeseg.files import atomic_write
from edgeseg.labels import IGNORE_INDEX, Labels
from edgeseg.segmentation import palette_image, save_png
from edgeseg_train.history import Epoch

matplotlib.use("Agg")  # no display is needed to write files

CURVES = "curves.png"
SAMPLES = "samples.png"

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
        axis.plot(steps, points, style, marker="o", markersize=3, label=split)
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
    gap = 6
    strips = [_strip(row, labels, height, gap) for row in rows]
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, len(strips) * (height + gap) - gap), "white")
    for i, strip in enumerate(strips):
        sheet.paste(strip, (0, i * (height + gap)))
    save_png(sheet, folder / SAMPLES)


def _strip(row: Row, labels: Labels, height: int, gap: int) -> Image.Image:
    image, truth, prediction = row
    width = round(height * image.shape[1] / image.shape[0])
    shown_truth = palette_image(truth, labels).convert("RGB")
    shown_truth.paste((0, 0, 0), mask=Image.fromarray(truth == IGNORE_INDEX))
    pictures = (
        Image.fromarray(image).resize((width, height)),
        shown_truth.resize((width, height), Image.Resampling.NEAREST),
        palette_image(prediction, labels)
        .convert("RGB")
        .resize((width, height), Image.Resampling.NEAREST),
    )
    strip = Image.new("RGB", (3 * width + 2 * gap, height), "white")
    for i, picture in enumerate(pictures):
        strip.paste(picture, (i * (width + gap), 0))
    return strip
