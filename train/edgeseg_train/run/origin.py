"""Where a run was made: versions, commit, device; recorded in ``config.json``."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch
from lightning.fabric import Fabric

import edgeseg
from edgeseg_train.run_folder import Origin

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "pillow")


def origin(fabric: Fabric) -> Origin:
    """Describe this process and the devices of ``fabric``."""
    cuda = fabric.device.type == "cuda"
    return Origin(
        versions={
            "edgeseg": edgeseg.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        commit=commit(),
        device=torch.cuda.get_device_name(fabric.device) if cuda else f"cpu {platform.machine()}",
        devices=fabric.world_size,
        precision=str(fabric.strategy.precision.precision),
    )


def commit() -> str | None:
    """Return the commit of edgeseg's source, ``+changes`` added if it is not that; else None."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name],
            cwd=folder,
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or installed from a wheel
    return described.stdout.strip() if tracked.returncode == 0 else None
