"""Exported networks for the precision tests, each exported once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from edgeseg_export.graph.torch_export import to_onnx
from edgeseg_export.precision.calibration import Ranges, observe
from edgeseg_train.unet import SegmentationNetwork


@dataclass(frozen=True)
class Exported:
    """A network, its fp32 graph, calibration images uint8 (N, H, W, 3) and the ranges on them."""

    network: SegmentationNetwork
    master: bytes
    images: np.ndarray
    ranges: Ranges


Exports = Callable[..., Exported]


@pytest.fixture(scope="session")
def _known() -> dict[str, Exported]:
    return {}


@pytest.fixture
def exported(make_network, _known: dict[str, Exported]) -> Exports:
    """Return a maker: ``exported(side, output=..., dynamic_size=..., activation=..., ...)``."""

    def make(
        side: int = 32, output: str = "both", dynamic_size: bool = False, **config: object
    ) -> Exported:
        key = repr((side, output, dynamic_size, sorted(config.items())))
        if key not in _known:
            network = make_network(**config)
            master = to_onnx(network, side, side, output=output, dynamic_size=dynamic_size)
            random = np.random.default_rng(0)
            images = random.integers(0, 256, (8, side, side, 3), dtype=np.uint8)
            _known[key] = Exported(network, master, images, observe(master, images, "minmax"))
        return _known[key]

    return make


@pytest.fixture(params=[("gelu", "transpose"), ("relu", "pixelshuffle")], ids="-".join)
def both(request: pytest.FixtureRequest, exported: Exports) -> Exported:
    """Return each of the two architectures that have nothing in common, 32x32, both outputs."""
    activation, upsample = request.param
    return exported(activation=activation, upsample=upsample)
