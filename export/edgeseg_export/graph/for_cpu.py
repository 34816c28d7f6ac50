"""Rewrites of an exported graph so that 8-bit CPU kernels fit; standard ONNX operators only.

ONNX Runtime's 8-bit convolutions work in channels-last order. Whatever they cannot pass through
in 8 bits costs a dequantisation, two transpositions and four times the memory traffic. Each
rewrite removes one such obstacle and returns a new model; without its pattern, an equal one::

    rewritten = for_cpu(onnx.load("model.fp32.onnx"))  # then calibrate and insert Q/DQ nodes
    finished = after_quantisation(quantised)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
from onnx import numpy_helper

from edgeseg_export.graph.concatenation import concatenate_in_8_bits
from edgeseg_export.graph.gelu import QUICK_GELU_SLOPE, SLOPE, quick_gelu, slope_into_scale
from edgeseg_export.graph.head import crop_before_head, head_in_tiles
from edgeseg_export.graph.picture import PICTURE, fold_normalisation, picture_without_quantisation
from edgeseg_export.graph.upsampling import (
    BLOCKS,
    convolution_for_transposed,
    shuffle_in_channels_last,
)

_MOVES = ("Reshape", "Slice", "Split", "Transpose")


# Tensor name to its smallest and largest value.
Ranges = Mapping[str, tuple[float, float]]


def for_cpu(model: onnx.ModelProto, exact: Collection[str] = ()) -> onnx.ModelProto:
    """Apply the rewrites that come before quantisation.

    ``quick_gelu`` is an approximation, spared for the GELU nodes named ``exact``; all others keep
    the answers up to rounding.
    """
    model = shuffle_in_channels_last(convolution_for_transposed(model))
    model = fold_normalisation(quick_gelu(model, exact))
    return head_in_tiles(crop_before_head(model))


def after_quantisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """Apply the rewrites of a graph with Q/DQ nodes; they add no rounding, and remove some."""
    return concatenate_in_8_bits(picture_without_quantisation(slope_into_scale(model)))


def float_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that a quantiser shall leave alone after ``for_cpu``.

    They only scale by a constant, which ``after_quantisation`` moves into the scales beside them.
    """
    names = [node.name for node in model.graph.node if node.op_type == "Mul"]
    return [name for name in names if name == PICTURE or name.endswith(SLOPE)]


def ranges_for_cpu(model: onnx.ModelProto, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Return ranges of the tensors of a graph after ``for_cpu`` from those of the graph before.

    What is only moved keeps its range, a sigmoid lies in 0..1, and a picture has all 256 levels.
    """
    known = dict(ranges)
    for node in model.graph.node:
        x, y = node.input[0], node.output[0]
        if node.op_type == "Sigmoid":
            known[y] = (0.0, 1.0)
        elif node.name == PICTURE:
            centre = _constant(model, "centre")
            known[y] = (-centre / 255, (255 - centre) / 255)
        elif node.op_type == "Mul" and node.name.endswith(SLOPE):
            known[y] = (QUICK_GELU_SLOPE * known[x][0], QUICK_GELU_SLOPE * known[x][1])
        elif y.endswith(BLOCKS):
            known.setdefault(y, known[y.removesuffix(BLOCKS)])
        elif node.op_type in _MOVES and x in known:
            for name in node.output:
                known.setdefault(name, known[x])
    return known


def _constant(model: onnx.ModelProto, name: str) -> float:
    """Return a scalar constant."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return float(numpy_helper.to_array(tensor))
