"""The images of an export: training images calibrate, validation images judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import InputError, show
from edgeseg.preprocess import Preprocessing
from edgeseg_export.options import Options
from edgeseg_export.parity.evaluation import Evaluation, evaluate_torch
from edgeseg_export.precision.calibration import CalibrationImages
from edgeseg_train.data import DataSource, drawn, network_input, open_source
from edgeseg_train.run_folder import RunConfig
from edgeseg_train.unet import SegmentationNetwork


def open_data(config: RunConfig, options: Options) -> DataSource:
    """Open the data set of the run, or another one of the same classes.

    Raises:
        InputError: it cannot be used.
    """
    spec = options.calibration or config.data.spec
    try:
        source = open_source(spec)
    except InputError as error:
        hint = "" if options.calibration else "; give the data set with --calibration"
        raise InputError(f"{error}{hint}") from error
    if source.labels.names != config.labels.names:
        raise InputError(f"data {show(spec)} has other classes than the run was trained on")
    return source


def calibration_images(
    source: DataSource, options: Options, fits: Sequence[Preprocessing]
) -> CalibrationImages:
    """Return preprocessed training images; with several sizes they take turns."""
    split = source.split("train")
    indices = drawn(len(split.names), options.calibration_images)
    return CalibrationImages(
        public_name(source.spec),
        tuple(split.names[i] for i in indices),
        tuple(
            network_input(split, index, fits[position % len(fits)])[0]
            for position, index in enumerate(indices)
        ),
    )


def evaluation_images(source: DataSource, count: int, fit: Preprocessing) -> NDArray[np.uint8]:
    """Return up to ``count`` preprocessed validation images, uint8 (N, H, W, 3)."""
    split = source.split("val")
    chosen = drawn(len(split.names), count)
    return np.stack([network_input(split, i, fit)[0] for i in chosen])


def evaluate(
    network: SegmentationNetwork,
    source: DataSource,
    images: NDArray[np.uint8],
    fit: Preprocessing,
) -> Evaluation:
    """Return PyTorch's answers on ``evaluation_images``, with the truth."""
    split = source.split("val")
    chosen = drawn(len(split.names), len(images))
    return evaluate_torch(network, images, [split.mask(i) for i in chosen], fit)


def public_name(spec: str) -> str:
    """Return a data set's name without the folders above it: bundles travel."""
    kind, separator, rest = spec.partition(":")
    return f"{kind}{separator}{Path(rest).name}" if separator else kind
