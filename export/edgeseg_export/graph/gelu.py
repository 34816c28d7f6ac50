"""GELU in 8 bits: an approximation made of operators that have 8-bit kernels."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from edgeseg_export.graph.editor import Graph, make_node

# Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv:1606.08415, section 2.
QUICK_GELU_SLOPE = 1.702


SLOPE = "_slope"


def quick_gelu(model: onnx.ModelProto, exact: Collection[str] = ()) -> onnx.ModelProto:
    """Approximate GELU by ``x sigmoid(1.702 x)``; the largest error is about 0.02, near |x| = 2.2.

    NOT exact, and meant for 8-bit graphs only, where neighbouring values lie as far apart; nodes
    named ``exact`` stay. It
    pays because both factors stay in 8 bits, the sigmoid as a table of 256 entries, while GELU
    is computed in floats between a dequantisation and a quantisation.
    """
    graph = Graph(model)
    slope = "quick_gelu_slope"
    for node in [gelu for gelu in graph.of_type("Gelu") if gelu.name not in exact]:
        graph.constants[slope] = np.array(QUICK_GELU_SLOPE, dtype=np.float32)
        x, y = node.input[0], node.output[0]
        graph.replace(
            node,
            make_node("Mul", [x, slope], f"{y}_scaled", f"{node.name}{SLOPE}"),
            make_node("Sigmoid", [f"{y}_scaled"], f"{y}_gate", f"{node.name}_sigmoid"),
            make_node("Mul", [x, f"{y}_gate"], y, node.name),
        )
    return graph.to_model()


def slope_into_scale(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a sigmoid's dequantisation multiply by the slope: its scale is ``1.702 s``.

    A quantiser turns ``quick_gelu`` into dequantise, multiply, quantise, dequantise, sigmoid;
    one dequantisation in place of the first four saves a kernel and a rounding to 8 bits.
    """
    graph = Graph(model)
    for sigmoid in graph.of_type("Sigmoid"):
        product = graph.producer(sigmoid.input[0])
        if product and product.op_type == "DequantizeLinear":
            product = graph.producer(product.input[0], "QuantizeLinear")
            product = graph.producer(product.input[0]) if product else None
        source = graph.producer(product.input[0], "DequantizeLinear") if product else None
        if not (product and source and product.op_type == "Mul"):
            continue
        scale, slope = graph.constants[source.input[1]], graph.constants.get(product.input[1])
        if slope is None or slope.ndim:
            continue
        scaled = f"{sigmoid.output[0]}_input"
        graph.constants[f"{scaled}_scale"] = (scale * slope).astype(np.float32)
        inputs = [source.input[0], f"{scaled}_scale", *source.input[2:]]
        graph.replace(
            sigmoid,
            make_node("DequantizeLinear", inputs, scaled, scaled),
            make_node("Sigmoid", [scaled], sigmoid.output[0], sigmoid.name),
        )
    return graph.to_model()
