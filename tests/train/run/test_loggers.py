"""TensorBoard and Weights & Biases get the rows of ``metrics.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edgeseg.errors import DeviceError
from edgeseg.preprocess import Preprocessing
from edgeseg_train.data import open_source
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.run.job import Job, Resources
from edgeseg_train.run.loggers import make_loggers
from edgeseg_train.run.training import train
from edgeseg_train.unet import UNetConfig


def trained(out: Path, logger: str) -> list[dict[str, str]]:
    job = Job(
        open_source("synthetic:8+2"),
        UNetConfig(features=(2,), norm="both", activation="relu", upsample="pixelshuffle"),
        Preprocessing(height=16, width=16),
        TrainingConfig(epochs=2, batch_size=4, lr=1e-2, schedule="constant"),
    )
    train(job, out, resources=Resources(loggers=(logger,)))
    return list(csv.DictReader((out / "metrics.csv").open()))


def test_tensorboard_reads_the_numbers_of_the_csv_file(tmp_path: Path) -> None:
    rows = trained(tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"val/miou", "train/loss", "lr", "images_per_second"} <= set(events.Tags()["scalars"])
    for tag, column in (("val/miou", "val_miou"), ("train/loss", "train_loss")):
        logged = [(event.step, event.value) for event in events.Scalars(tag)]
        expected = [(int(row["step"]), float(row[column])) for row in rows]
        for (step, value), (expected_step, expected_value) in zip(logged, expected, strict=True):
            assert step == expected_step
            assert value == pytest.approx(expected_value, rel=1e-4)


def test_wandb_writes_a_run_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    rows = trained(tmp_path / "run", "wandb")
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = log.read_bytes()
    assert b"val/miou" in content
    assert len(rows) == 2


def test_a_logger_that_is_not_installed_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(DeviceError, match=r'pip install "edgeseg\[wandb\]"'):
        make_loggers(("wandb",), tmp_path, "run")
