"""Accuracy as deployed: against torchmetrics, and against training's own validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from edgeseg.bundle import Bundle
from edgeseg.segmenter import Segmenter
from edgeseg.sessions import open_session
from edgeseg_benchmarks.accuracy import measure_accuracy
from edgeseg_benchmarks.torch_session import TorchSession
from edgeseg_train.data import open_source
from edgeseg_train.run_folder import read_config


@pytest.fixture
def segmenters(tiny_run: Path, tiny_export: Path) -> list[Segmenter]:
    bundle = Bundle.open(tiny_export)
    sessions = [
        TorchSession(tiny_run, bundle),
        open_session(bundle, "ort:cpu", "fp32"),
        open_session(bundle, "ort:cpu", "int8-cpu"),
    ]
    manifest = bundle.manifest
    return [Segmenter(s, manifest.labels, manifest.preprocessing) for s in sessions]


def test_torch_through_the_runtime_path_gives_trainings_validation_miou(
    tiny_run: Path, segmenters: list[Segmenter]
) -> None:
    config = read_config(tiny_run)
    split = open_source(config.data.spec).split("val")
    (found,) = measure_accuracy(segmenters[:1], split, range(len(split.names)))
    assert found.miou == pytest.approx(config.result.val_miou, abs=1e-3)
    assert found.pixel_accuracy == pytest.approx(config.result.val_pixel_accuracy, abs=1e-3)
    assert found.classes_present == config.result.classes_present
    assert (found.agreement, found.miou_drop) == (1, 0)


def test_agreement_and_miou_equal_an_independent_count(segmenters: list[Segmenter]) -> None:
    split = open_source("synthetic:1+3").split("val")
    found = measure_accuracy(segmenters, split, [0, 2])
    maps = [[s(split.image(i)).class_map.ravel() for i in (0, 2)] for s in segmenters]
    truth = np.concatenate([split.mask(i).ravel() for i in (0, 2)])
    metric = MulticlassJaccardIndex(150, average="none")
    reference = np.concatenate(maps[0])
    for accuracy, own in zip(found, map(np.concatenate, maps), strict=True):
        assert accuracy.images == 2
        assert accuracy.agreement == pytest.approx(np.mean(own == reference))
        per_class = metric(torch.tensor(own), torch.tensor(truth)).numpy()
        present = np.union1d(own, truth)
        assert accuracy.miou == pytest.approx(per_class[present].mean(), abs=1e-5)
    assert found[1].agreement >= 0.999
    assert found[2].miou_drop == pytest.approx(found[0].miou - found[2].miou)


def test_torch_session_checks_its_weights_and_closes(
    tiny_run: Path, tiny_export: Path, segmenters: list[Segmenter]
) -> None:
    from edgeseg.errors import ArtifactError, DeviceError

    other = Bundle.open(Path(__file__).parents[1] / "data" / "tiny_bundle")
    config = read_config(tiny_run)
    assert other.manifest.model.config == config.model.model_dump(mode="json")
    with pytest.raises(ArtifactError, match="other weights"):  # same architecture, other run
        TorchSession(tiny_run, other)
    segmenters[0].close()
    segmenters[0].close()
    with pytest.raises(DeviceError, match="closed"):
        segmenters[0](np.zeros((4, 4, 3), dtype=np.uint8))
