"""Devices, processes and precision, through Lightning Fabric."""

from __future__ import annotations

import atexit
import contextlib
import logging
import warnings
from typing import Any, Literal

import torch
from lightning.fabric import Fabric

from edgeseg.cpu import cpu_threads
from edgeseg.errors import DeviceError, UsageError
from edgeseg_train.recipe.config import Precision
from edgeseg_train.run.job import Resources, launched_processes

FabricPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]


def make_fabric(resources: Resources, precision: Precision, loggers: list[Any]) -> Fabric:
    """Return a Fabric that is not launched yet.

    Under torchrun or srun their numbers of devices and nodes hold.

    Raises:
        DeviceError: more devices than there are.
        UsageError: torchrun or srun started another number of processes, or no such precision.
    """
    _silence_lightning()
    devices, nodes = _processes(resources)
    cuda = torch.cuda.is_available()
    available = torch.cuda.device_count() if cuda else cpu_threads()
    if devices > available:
        have = f"this machine has {available} GPUs" if cuda else f"no GPU here, {available} cores"
        raise DeviceError(f"--devices {devices}: {have}")
    return Fabric(
        accelerator="gpu" if cuda else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=fabric_precision(precision),
        loggers=loggers,
    )


def launch(fabric: Fabric) -> None:
    """Start the other processes, if they are ours to start; they end when this one ends."""
    fabric.launch()
    atexit.register(_end_helpers, fabric)


def _end_helpers(fabric: Fabric) -> None:
    for process in getattr(fabric.strategy.launcher, "procs", ()):
        with contextlib.suppress(OSError):
            process.kill()  # it may be waiting for a message that never comes


def _processes(resources: Resources) -> tuple[int, int]:
    asked = (resources.devices or 1, resources.nodes)
    started = launched_processes()
    if started is None:
        return asked
    if resources.devices not in (None, started[0]) or resources.nodes not in (1, started[1]):
        raise UsageError(
            f"--devices {asked[0]} --nodes {asked[1]}, but the launcher started {started[0]} "
            f"processes on each of {started[1]} nodes"
        )
    return started


def fabric_precision(precision: Precision) -> FabricPrecision:
    """Return Fabric's name for a precision of forward and backward passes.

    Raises:
        UsageError: fp16 without a GPU.
    """
    if precision == "auto":
        if not torch.cuda.is_available():
            return "32-true"
        # bfloat16 has FP32's range: no block without a norm at its end can overflow.
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    if precision == "fp16":
        if not torch.cuda.is_available():
            raise UsageError("--precision fp16 needs a GPU; CPUs have fp32 and bf16")
        return "16-mixed"
    return "bf16-mixed" if precision == "bf16" else "32-true"


def _silence_lightning() -> None:
    """Leave out what Lightning tells its own developers' audience; warnings of ours remain."""
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", module=r"torchmetrics\..*")
