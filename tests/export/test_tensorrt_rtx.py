"""NVIDIA's real ONNX parser and engine builder as the judge of TensorRT-bound graphs.

TensorRT-RTX parses and builds ahead of time without a GPU. The int8-cpu variant is not for
TensorRT, and that the judge refuses it shows that the judge looks.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from typing import Any

import numpy as np
import pytest

from edgeseg_export.graph import to_onnx
from edgeseg_export.int8 import quantise_for_cpu

CARRIER = "onnxruntime-ep-nv-tensorrt-rtx-cu13"  # the wheel with the libraries


@pytest.fixture(scope="module")
def trt() -> Any:
    try:
        files = importlib.metadata.files(CARRIER) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('TensorRT-RTX is not installed: pip install "edgeseg[tensorrt-rtx]"')
    for name in ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so"):
        (library,) = (file for file in files if file.name.startswith(name))
        ctypes.CDLL(str(library.locate()), mode=ctypes.RTLD_GLOBAL)
    return pytest.importorskip("tensorrt_rtx_bindings")


def build(trt: Any, model: bytes, profile_sizes: tuple[int, ...]) -> tuple[bytes | None, list[str]]:
    """Parse and build; return the engine's bytes (or None) and the parser's errors."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        return None, [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    smallest, typical, largest = (
        (n, size, size, 3) for n, size in zip((1, 1, 4), profile_sizes, strict=True)
    )
    profile.set_shape("images", smallest, typical, largest)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return (None if engine is None else bytes(engine)), []


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("upsample", ["transpose", "pixelshuffle"])
@pytest.mark.parametrize("output", ["classmap", "both"])
def test_every_architecture_parses_and_builds(
    trt: Any, make_network, activation: str, upsample: str, output: str
) -> None:
    network = make_network(activation=activation, upsample=upsample)
    model = to_onnx(network, 32, 32, output=output)
    engine, errors = build(trt, model, (32, 32, 32))
    assert errors == []
    assert engine is not None
    assert len(engine) > 1000


def test_padding_inside_the_graph_parses_and_builds(trt: Any, make_network) -> None:
    engine, errors = build(trt, to_onnx(make_network(), 30, 30), (30, 30, 30))
    assert errors == []
    assert engine is not None


def test_a_dynamic_size_parses_and_builds(trt: Any, make_network) -> None:
    model = to_onnx(make_network(), 32, 32, dynamic_size=True)
    engine, errors = build(trt, model, (16, 32, 64))
    assert errors == []
    assert engine is not None


def test_the_cpu_quantisation_is_refused(trt: Any, make_network) -> None:
    master = to_onnx(make_network(activation="relu", upsample="pixelshuffle"), 32, 32)
    images = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    engine, errors = build(trt, quantise_for_cpu(master, images), (32, 32, 32))
    assert engine is None
    assert errors
