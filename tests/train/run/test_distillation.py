"""``--teacher``: learning from a trained run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseg.errors import ArtifactError
from edgeseg.preprocess import Preprocessing
from edgeseg_train.data import open_source
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.run import loop
from edgeseg_train.run.job import Job
from edgeseg_train.run.loop import Step
from edgeseg_train.run.report import Reporter
from edgeseg_train.run.training import train
from edgeseg_train.run_folder import read_config, weights_sha256
from edgeseg_train.unet import UNetConfig


class Losses(Reporter):
    def __init__(self) -> None:
        self.values: list[float] = []

    def step(self, step: Step) -> None:
        self.values.append(step.loss)


def job(teacher: Path | None, **settings: float) -> Job:
    recipe = {"epochs": 1, "batch_size": 4, "lr": 1e-2, "schedule": "constant"}
    if teacher is not None:
        named = {"run": str(teacher), "weights_sha256": weights_sha256(teacher)}
        recipe["teacher"] = {**named, **settings}
    return Job(
        open_source("synthetic:12+4"),
        UNetConfig(features=(2,), norm="both", activation="relu", upsample="pixelshuffle"),
        Preprocessing(height=32, width=48),
        TrainingConfig.model_validate(recipe),
    )


def test_the_loss_is_the_weighted_mean_of_both_and_the_teacher_is_recorded(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def seven(student, teacher, masks, temperature, mean_over_devices):  # type: ignore[no-untyped-def]
        seen.append((teacher, temperature, teacher.requires_grad))
        return torch.tensor(7.0)

    monkeypatch.setattr(loop, "distillation_loss", seven)
    alone, taught = Losses(), Losses()
    train(job(None), tmp_path / "alone", report=alone)
    config = train(job(tiny_run, weight=0.25, temperature=3), tmp_path / "taught", report=taught)
    assert taught.values[0] == pytest.approx(0.75 * alone.values[0] + 0.25 * 7)
    logits, temperature, requires_grad = seen[0]
    assert (logits.shape, temperature, requires_grad) == ((4, 150, 32, 48), 3, False)
    assert config.training.teacher is not None
    assert config.training.teacher.weights_sha256 == weights_sha256(tiny_run)


def test_a_student_of_nothing_but_its_teacher_comes_to_answer_like_it(
    tmp_path: Path, tiny_run: Path
) -> None:
    recipe = job(tiny_run, weight=1.0).training
    longer = recipe.model_copy(update={"epochs": 12})
    report = Losses()
    train(dataclasses.replace(job(None), training=longer), tmp_path / "run", report=report)
    assert np.mean(report.values[-3:]) < 0.5 * np.mean(report.values[:3])


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path, tiny_run: Path) -> None:
    for split in ("train", "val"):
        for folder, mode in (("images", "RGB"), ("annotations", "L")):
            for i in range(4):
                path = tmp_path / "data" / folder / split / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, (32, 32)).save(path)
    other = dataclasses.replace(job(tiny_run), source=open_source(f"folder:{tmp_path / 'data'}"))
    with pytest.raises(ArtifactError, match="150 other classes than the data's 1"):
        train(other, tmp_path / "run")


def test_a_teacher_that_was_trained_anew_is_refused(tmp_path: Path, tiny_run: Path) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "teacher"))
    stale = job(copy)
    config = read_config(copy)
    train(
        Job(
            open_source("synthetic:12+4"),
            config.model,
            config.preprocessing,
            stale.training.model_copy(update={"teacher": None}),
        ),
        copy,
        force=True,
    )
    with pytest.raises(ArtifactError, match="is not the one that this training began with"):
        train(stale, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]
