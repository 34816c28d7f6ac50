"""What a training needs before its first step: network, criterion, teacher, facts of the data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edgeseg.errors import ArtifactError, InputError, show
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.recipe.losses import (
    SegmentationLoss,
    inverse_log_weights,
    median_frequency_weights,
)
from edgeseg_train.run.job import Job
from edgeseg_train.run_folder import DataInfo, load_network, read_config, weights_sha256
from edgeseg_train.samples.prepare import ClassCounts, PreparedSplit
from edgeseg_train.unet import SegmentationNetwork, UNet


def make_network(job: Job) -> SegmentationNetwork:
    """Return the network with random weights; seed first."""
    unet = UNet(job.model)
    initialise(unet)
    return SegmentationNetwork(unet, job.preprocessing.mean, job.preprocessing.std)


def initialise(unet: UNet) -> None:
    """Draw convolution weights as He et al. (arXiv:1502.01852, fan-out); biases start at 0."""
    for layer in unet.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def make_criterion(config: TrainingConfig, counts: ClassCounts) -> SegmentationLoss:
    """Return the loss, with the class weights that the training masks give."""
    return SegmentationLoss(
        config.loss,
        class_weights=_class_weights(config, counts),
        label_smoothing=config.label_smoothing,
        hardest=config.hardest,
    )


def _class_weights(config: TrainingConfig, counts: ClassCounts) -> torch.Tensor | None:
    if config.class_weights == "none":
        return None
    if config.class_weights == "median-frequency":
        weights = median_frequency_weights(counts.pixels, counts.pixels_of_images_with)
    else:
        weights = inverse_log_weights(counts.pixels)
    return torch.tensor(weights)


def check_batch_norm(job: Job) -> None:
    """Refuse what batch norm cannot normalise: one value per channel.

    Raises:
        InputError: batches of one image that has one pixel at the lowest level.
    """
    multiple = job.model.size_multiple
    lowest = [-(-side // multiple) for side in job.size]
    if job.training.batch_size == 1 and lowest == [1, 1]:
        raise InputError(
            f"at {job.size[0]}x{job.size[1]} the lowest level has one pixel, and with batches of 1 "
            "batch norm has nothing to average; use a larger --size or --batch-size"
        )


def check_labelled(split: PreparedSplit, name: str) -> None:
    """Refuse a split in which there is nothing to learn or to measure."""
    if not split.counts.pixels.any():
        raise InputError(f"the {name} images have no labelled pixel")


def load_teacher(job: Job) -> SegmentationNetwork | None:
    """Load the run to learn from.

    Raises:
        ArtifactError: not usable, not the run that the job names, or with other classes.
    """
    settings = job.training.teacher
    if settings is None:
        return None
    run = Path(settings.run)
    config = read_config(run)
    if config.labels.names != job.source.labels.names:
        raise ArtifactError(
            f"teacher {show(run)} knows {config.labels.num_classes} other classes than the data's "
            f"{job.source.labels.num_classes}"
        )
    network = load_network(run, config)
    if weights_sha256(run) != settings.weights_sha256:
        raise ArtifactError(f"teacher {show(run)} is not the one that this training began with")
    return network


def data_info(job: Job, train: PreparedSplit, val: PreparedSplit) -> DataInfo:
    """Return what is recorded of the data."""
    return DataInfo(
        spec=job.source.spec,
        ignore_index=job.options.ignore_index,
        reduce_zero_label=job.options.reduce_zero_label,
        train_images=len(train),
        val_images=len(val),
        train_fingerprint=train.fingerprint,
        val_fingerprint=val.fingerprint,
        skipped=(*train.skipped, *val.skipped),
    )
