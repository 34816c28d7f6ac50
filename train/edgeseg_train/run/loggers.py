"""``--tensorboard`` and ``--wandb``: the rows of ``metrics.csv``, for those who watch there."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeseg.errors import needs_extra
from edgeseg_train.run.history import Epoch

LOGGERS = ("tensorboard", "wandb")


def make_loggers(names: tuple[str, ...], folder: Path, run: str) -> list[Any]:
    """Return Lightning loggers.

    Args:
        names: of ``LOGGERS``.
        folder: where TensorBoard's files go (below ``tensorboard``) and W&B's (``wandb``).
        run: the run's name.

    Raises:
        DeviceError: the package of a logger is not installed.
    """
    return [_make(name, folder, run) for name in names]


def _make(name: str, folder: Path, run: str) -> Any:
    with needs_extra(name):
        if name == "tensorboard":
            import tensorboard  # noqa: F401 - Lightning would take tensorboardX as well
            from lightning.fabric.loggers.tensorboard import TensorBoardLogger

            return TensorBoardLogger(folder, name="", version="tensorboard")
        import wandb  # noqa: F401 - Lightning's own message is long
        from lightning.pytorch.loggers.wandb import WandbLogger

        return WandbLogger(name=run, save_dir=folder, project="edgeseg")


def finish(loggers: list[Any], *, success: bool) -> None:
    """Write what the loggers still hold."""
    for logger in loggers:
        logger.finalize("success" if success else "failed")
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:  # Lightning leaves it open
        wandb.finish(exit_code=0 if success else 1)


def scalars(epoch: Epoch) -> dict[str, float]:
    """Return an epoch's finite numbers, by names that group in the web pages: ``val/miou``."""
    return {
        _grouped(name): float(value)
        for name, value in asdict(epoch).items()
        if name != "step" and math.isfinite(value)
    }


def _grouped(name: str) -> str:
    for split in ("train", "val"):
        if name.startswith(f"{split}_"):
            return f"{split}/{name.removeprefix(f'{split}_')}"
    return name
