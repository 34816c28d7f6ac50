"""Tiled segmentation on the device against a plain sliding window in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeseg import Segmenter
from edgeseg.tiling import TiledSegmenter
from edgeseg_export.exporting import export
from edgeseg_export.options import Options
from edgeseg_train.data import open_source
from edgeseg_train.run_folder import load_network, read_config

Network = Callable[[torch.Tensor], torch.Tensor]

TILE = (16, 24)


@pytest.fixture(scope="module")
def with_logits(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "logits"
    low = {"min_agreement": 0.5, "max_miou_drop": 0.5, "calibration_images": 8}
    export(tiny_run, out, Options(precisions=("fp32",), output="both", dynamic_size=True, **low))
    return out


def picture() -> NDArray[np.uint8]:
    return open_source("synthetic:1+3").split("val").image(1)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where windows begin: as few as overlap enough, spread evenly."""
    windows = 1
    while windows * tile - (windows - 1) * overlap < length:
        windows += 1
    return [i * (length - tile) // max(windows - 1, 1) for i in range(windows)]


def sliding_window(
    network: Network, image: NDArray[np.uint8], overlap: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean logits and vote shares per class, both float64 (C, H, W)."""
    height, width = image.shape[:2]
    rows = torch.minimum(torch.arange(1, TILE[0] + 1), torch.arange(TILE[0], 0, -1))
    columns = torch.minimum(torch.arange(1, TILE[1] + 1), torch.arange(TILE[1], 0, -1))
    weight = (rows[:, None] * columns).double()
    logits, votes, total = 0.0, 0.0, torch.zeros(height, width, dtype=torch.float64)
    for top in starts(height, TILE[0], overlap):
        for left in starts(width, TILE[1], overlap):
            window = ..., slice(top, top + TILE[0]), slice(left, left + TILE[1])
            with torch.inference_mode():
                answer = network(torch.tensor(image[window[1:]][None]))[0].double()
            if not total.any():
                logits = torch.zeros(len(answer), height, width, dtype=torch.float64)
                votes = torch.zeros_like(logits)
            hot = torch.nn.functional.one_hot(answer.argmax(0), len(answer)).permute(2, 0, 1)
            logits[window] += answer * weight
            votes[window] += hot * weight
            total[window] += weight
    return logits / total, votes / total


@pytest.mark.parametrize("overlap", [0, 4, 9])
def test_blended_logits_agree_with_pytorch(tiny_run: Path, with_logits: Path, overlap: int) -> None:
    network = load_network(tiny_run, read_config(tiny_run)).eval()
    image = picture()[:61, :85]
    logits = sliding_window(network, image, overlap)[0]
    best, second = logits.topk(2, dim=0).values
    expected = logits.argmax(0).numpy()
    segmenter = Segmenter.load(with_logits, "ort:cpu", "fp32", TILE)
    tiled = TiledSegmenter(segmenter, overlap)
    assert tiled.has_logits
    found = tiled(image).class_map
    assert len(np.unique(expected)) > 1
    assert np.mean(found == expected) > 0.999
    decided = (best - second > 1e-4).numpy()  # so the blended logits differ by less than that
    assert np.array_equal(found[decided], expected[decided])


@pytest.mark.parametrize("overlap", [0, 4])
def test_votes_agree_with_pytorch(tiny_run: Path, tmp_path: Path, overlap: int) -> None:
    low = {"min_agreement": 0.5, "max_miou_drop": 0.5, "calibration_images": 8}
    export(tiny_run, tmp_path / "b", Options(precisions=("fp32",), sizes=(TILE,), **low))
    network = load_network(tiny_run, read_config(tiny_run)).eval()
    image = picture()[:61, :85]
    votes = sliding_window(network, image, overlap)[1]
    tiled = TiledSegmenter(Segmenter.load(tmp_path / "b", "ort:cpu", "fp32"), overlap)
    assert not tiled.has_logits
    found = tiled(image).class_map
    best, second = votes.topk(2, dim=0).values
    decided = (best - second > 1e-6).numpy()  # float32 may see a near tie otherwise
    assert np.mean(found[decided] == votes.argmax(0).numpy()[decided]) > 0.999
    assert decided.mean() > 0.9
