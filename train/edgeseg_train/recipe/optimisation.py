"""Optimiser, learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from edgeseg_train.recipe.config import TrainingConfig

POLY_POWER = 0.9  # as in DeepLab, arXiv:1606.00915
ONECYCLE_RISE = 0.2  # share of the steps

Tensors: TypeAlias = "tuple[Tensor, ...] | list[Tensor]"


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: TrainingConfig
) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, total_steps: int
) -> lr_scheduler.LRScheduler:
    """Return the schedule, to be stepped after each of ``total_steps`` optimiser steps.

    One-cycle is that of arXiv:1708.07120, cosine that of arXiv:1608.03983 without restarts.
    """
    if config.schedule == "onecycle":
        return lr_scheduler.OneCycleLR(
            optimizer, config.lr, total_steps=max(total_steps, 2), pct_start=ONECYCLE_RISE
        )
    warmup = round(config.warmup * total_steps)
    rest = max(total_steps - warmup, 1)
    main: lr_scheduler.LRScheduler
    if config.schedule == "poly":
        main = lr_scheduler.PolynomialLR(optimizer, rest, POLY_POWER)
    elif config.schedule == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, rest)
    else:
        main = lr_scheduler.ConstantLR(optimizer, 1.0)
    if not warmup:
        return main
    rise = lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), 1.0, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], [warmup])


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of weights and batch-norm statistics.

    The decay starts low and rises to ``decay``, so that the random initial weights are soon
    forgotten in short trainings too: min(decay, (1 + n) / (10 + n)) after n updates.
    """

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        now = min(decay, (1 + int(updates)) / (10 + int(updates)))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - now)
            else:
                old.copy_(new)  # batch norm's count of batches

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
