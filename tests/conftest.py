"""Fixtures for the stages that need torch: a tiny run and a tiny bundle, made once."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# The numbers that tests expect are the CPU's, also on a machine with a GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# Trainings keep decoded samples for the next one; those of tests go away with them.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="edgeseg-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

DATA = "synthetic:12+4"
SIZE = (32, 48)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not _has_cuda_driver():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(
                    pytest.mark.skip(reason="needs an NVIDIA GPU: no libcuda.so.1 here")
                )
    if config.getoption("--run-slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --run-slow"))


def _has_cuda_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder: 2 epochs of a U-Net with features (4, 8) on 12 synthetic scenes."""
    from edgeseg.preprocess import Preprocessing
    from edgeseg_train.data import open_source
    from edgeseg_train.recipe.config import TrainingConfig
    from edgeseg_train.run.job import Job
    from edgeseg_train.run.training import train
    from edgeseg_train.unet import UNetConfig

    out = tmp_path_factory.mktemp("runs") / "tiny"
    source = open_source(DATA)
    model = UNetConfig(features=(4, 8), norm="both", activation="relu", upsample="pixelshuffle")
    recipe = TrainingConfig(epochs=2, batch_size=4, lr=1e-2, schedule="onecycle")
    train(Job(source, model, Preprocessing(height=SIZE[0], width=SIZE[1]), recipe), out)
    return out


@pytest.fixture(scope="session")
def tiny_export(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of ``tiny_run`` with all variants; its gates are low: it knows nothing."""
    from edgeseg_export.exporting import export
    from edgeseg_export.options import Options

    out = tmp_path_factory.mktemp("bundles") / "tiny"
    export(tiny_run, out, Options(min_agreement=0.5, max_miou_drop=0.5, calibration_images=8))
    return out
