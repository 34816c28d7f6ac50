"""NVIDIA's real ONNX parser and engine builder as the judge of TensorRT-bound graphs.

TensorRT-RTX parses and builds ahead of time without a GPU. The int8-cpu variant is not for
TensorRT, and that the judge refuses it shows that the judge looks.
"""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg_export.graph.torch_export import to_onnx
from edgeseg_export.precision.calibration import observe
from edgeseg_export.precision.variants import KINDS, make


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("upsample", ["transpose", "pixelshuffle"])
@pytest.mark.parametrize("output", ["classmap", "both"])
def test_every_architecture_parses_and_builds(
    make_network, build_rtx, activation: str, upsample: str, output: str
) -> None:
    network = make_network(activation=activation, upsample=upsample)
    model = to_onnx(network, 32, 32, output=output)
    engine, why_not = build_rtx(model, (32, 32, 32))
    assert why_not == ""
    assert engine is not None
    assert len(engine) > 1000


def test_padding_inside_the_graph_parses_and_builds(make_network, build_rtx) -> None:
    engine, why_not = build_rtx(to_onnx(make_network(), 30, 30), (30, 30, 30))
    assert why_not == ""
    assert engine is not None


def test_a_dynamic_size_parses_and_builds(make_network, build_rtx) -> None:
    model = to_onnx(make_network(), 32, 32, dynamic_size=True)
    engine, why_not = build_rtx(model, (16, 32, 64))
    assert why_not == ""
    assert engine is not None


def test_the_cpu_quantisation_is_refused(make_network, build_rtx) -> None:
    master = to_onnx(make_network(activation="relu", upsample="pixelshuffle"), 32, 32)
    images = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    (kind,) = (kind for kind in KINDS if kind.target == "cpu")
    model = make(kind, master, observe(master, images, "minmax"))
    engine, why_not = build_rtx(model, (32, 32, 32))
    assert engine is None
    assert "DequantizeLinear" in why_not
