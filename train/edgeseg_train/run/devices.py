"""Devices and precision, through Lightning Fabric."""

from __future__ import annotations

import logging
import warnings
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

from edgeseg.cpu import cpu_threads
from edgeseg.errors import DeviceError, UsageError
from edgeseg_train.recipe.config import Precision
from edgeseg_train.run.job import Resources
from edgeseg_train.run.processes import World, is_helper_process, started_by_launcher

FabricPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]


def choose_world(resources: Resources) -> World:
    """Return the processes of a training; under torchrun or srun theirs hold.

    Raises:
        DeviceError: more devices than there are.
        UsageError: the launcher started another number of processes.
    """
    asked, started = World(resources.devices or 1, resources.nodes), started_by_launcher()
    if started and (resources.devices or resources.nodes > 1) and asked != started:
        raise UsageError(
            f"--devices {asked.devices} --nodes {asked.nodes}, but the launcher started "
            f"{started.devices} processes on each of {started.nodes} machines"
        )
    world = started or asked
    cuda = torch.cuda.is_available()
    available = torch.cuda.device_count() if cuda else cpu_threads()
    if world.devices > available:
        have = f"this machine has {available} GPUs" if cuda else f"no GPU here, {available} cores"
        raise DeviceError(f"--devices {world.devices}: {have}")
    return world


def make_fabric(
    world: World, environment: ClusterEnvironment, precision: Precision, loggers: list[Any]
) -> Fabric:
    """Return a Fabric that is not launched yet.

    Raises:
        UsageError: no such precision here.
    """
    _silence_lightning()
    cuda = torch.cuda.is_available()
    torch.backends.cudnn.benchmark = cuda  # sizes do not change
    return Fabric(
        accelerator="gpu" if cuda else "cpu",
        devices=world.devices,
        num_nodes=world.nodes,
        strategy="ddp" if world.size > 1 else "auto",
        precision=fabric_precision(precision),
        plugins=[environment] if world.size > 1 else None,
        loggers=loggers,
    )


def launch(fabric: Fabric, world: World) -> None:
    """Meet the other processes.

    Raises:
        DeviceError: they are not those that were asked for.
    """
    fabric.launch()
    if fabric.world_size != world.size or is_helper_process() != (fabric.global_rank > 0):
        raise DeviceError(
            f"asked for {world.size} processes, but this is number {fabric.global_rank} of "
            f"{fabric.world_size}; check the launcher's environment variables"
        )


def fabric_precision(precision: Precision) -> FabricPrecision:
    """Return Fabric's name for a precision of forward and backward passes.

    Raises:
        UsageError: fp16 without a GPU.
    """
    if precision == "auto":
        if not torch.cuda.is_available():
            return "32-true"
        # bfloat16 has FP32's range: no block without a norm at its end can overflow.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
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
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")  # a bad step
