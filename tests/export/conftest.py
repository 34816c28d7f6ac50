"""Networks and helpers for the export tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from edgeseg.preprocess import IMAGENET_MEAN, IMAGENET_STD
from edgeseg_train.unet import SegmentationNetwork, UNet, UNetConfig

MakeNetwork = Callable[..., SegmentationNetwork]


@pytest.fixture
def make_network() -> MakeNetwork:
    """Return a maker of untrained networks whose batch norms have statistics that matter."""

    def make(**config: object) -> SegmentationNetwork:
        torch.manual_seed(0)
        defaults = {"num_classes": 7, "features": (4, 8), "norm": "both"}
        unet = UNet(UNetConfig.model_validate({**defaults, **config}))
        for name, tensor in unet.state_dict().items():
            if "running_mean" in name:
                tensor.normal_()
            elif "running_var" in name:
                tensor.uniform_(0.5, 2)
        return SegmentationNetwork(unet, IMAGENET_MEAN, IMAGENET_STD).eval()

    return make
