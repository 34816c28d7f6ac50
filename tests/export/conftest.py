"""Networks and helpers for the export tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from edgeseg.engines.document import Flags, Profile
from edgeseg.engines.library import Library, load
from edgeseg.errors import ArtifactError, DeviceError
from edgeseg.preprocess import IMAGENET_MEAN, IMAGENET_STD
from edgeseg_export.graph.torch_export import INPUT
from edgeseg_export.tensorrt.config import add_profiles, configure
from edgeseg_export.tensorrt.network import parse
from edgeseg_train.unet import SegmentationNetwork, UNet, UNetConfig

MakeNetwork = Callable[..., SegmentationNetwork]
BuildRtx = Callable[[bytes, tuple[int, int, int]], tuple[bytes | None, str]]


@pytest.fixture(scope="session")
def rtx() -> Library:
    """NVIDIA's TensorRT-RTX, which parses and builds without a GPU."""
    try:
        return load("tensorrt-rtx")
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture
def build_rtx(rtx: Library) -> BuildRtx:
    """Parse and build: ``engine, why_not = build_rtx(model, (least, typical, largest side))``."""

    def build(model: bytes, sides: tuple[int, int, int]) -> tuple[bytes | None, str]:
        try:
            parsed = parse(rtx, model, "the graph")
        except ArtifactError as error:
            return None, str(error)
        config = configure(rtx, parsed.builder, Flags())
        low, typical, high = ((n, side, side, 3) for n, side in zip((1, 1, 4), sides, strict=True))
        profile = Profile(min=low, opt=typical, max=high)
        add_profiles(rtx, parsed.builder, config, INPUT, [profile])
        engine = parsed.builder.build_serialized_network(parsed.network, config)
        return (None, "; ".join(rtx.log.errors)) if engine is None else (bytes(engine), "")

    return build


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
