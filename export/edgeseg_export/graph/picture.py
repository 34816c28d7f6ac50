"""The picture's own bytes as input of an 8-bit first convolution."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from edgeseg_export.graph.editor import Graph, attributes_of, make_node

PICTURE = "rgb1_scaled"


def fold_normalisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold ``(x / 255 - mean) / std`` into the first convolution, borders included.

    The convolution gets ``u = (x - centre) / 255``, where the integer centre is about the mean
    colour, and a fourth channel, constant inside the picture. Zero padding is the mean colour
    in the original; here it is zero in all four channels, so that what is left of the mean counts
    inside the picture only: ``w'[:, c] = w[:, c] / std[c]`` and
    ``w'[:, 3] = sum_c w'[:, c] (centre / 255 - mean[c]) / u[3]``.
    Equal up to rounding. It pays in 8 bits: the picture's bytes, with the zero point ``centre``,
    are the convolution's input (see ``picture_without_quantisation``), and ONNX Runtime's fast
    kernels take channels in fours.
    """
    graph = Graph(model)
    steps = _normalisation(graph)
    if steps is None:
        return graph.to_model()
    cast, _, _, subtract, divide = steps
    convolution = graph.only_consumer(divide.output[0])
    if convolution is None or not graph.has_own_constants(convolution):
        return graph.to_model()
    mean, std = (graph.constants[n.input[1]].astype(np.float64) for n in (subtract, divide))
    centre = int(np.clip(np.rint(255 * mean.mean()), 0, 127))
    weight = graph.constants[convolution.input[1]].astype(np.float64) / std
    rest = weight * (centre / 255 - mean) / ((255 - centre) / 255)
    weight = np.concatenate((weight, rest.sum(axis=1, keepdims=True)), axis=1)
    graph.constants |= {
        convolution.input[1]: weight.astype(np.float32),
        "fourth_channel": np.array([0, 0, 0, 0, 0, 0, 0, 1], dtype=np.int64),
        "white": np.array(255, dtype=np.uint8),
        "centre": np.array(centre, dtype=np.float32),
        "level": np.array(1 / 255, dtype=np.float32),
    }
    graph.replace(
        cast,
        make_node("Pad", [cast.input[0], "fourth_channel", "white"], "rgb1", "rgb1"),
        make_node("Transpose", ["rgb1"], "rgb1_nchw", "rgb1_nchw", perm=[0, 3, 1, 2]),
        make_node("Cast", ["rgb1_nchw"], "rgb1_float", "rgb1_float", to=TensorProto.FLOAT),
        make_node("Sub", ["rgb1_float", "centre"], "rgb1_centred", "rgb1_centred"),
        make_node("Mul", ["rgb1_centred", "level"], divide.output[0], PICTURE),
    )
    for step in steps[1:]:
        graph.replace(step)
    return graph.to_model()


def picture_without_quantisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the quantisation of the picture where it gives the picture's own bytes again.

    Behind ``fold_normalisation``, with the range of ``ranges_for_cpu``, the scale is 1 / 255 and
    the zero point the centre: ``round(((x - centre) / 255) * 255) + centre`` is x. Exact; other
    scales and zero points stay.
    """
    graph = Graph(model)
    for quantise in graph.of_type("QuantizeLinear"):
        product = graph.producer(quantise.input[0], "Mul")
        if product is None or product.name != PICTURE:
            continue
        scale, zero_point = (graph.constants[name] for name in quantise.input[1:])
        same_scale = np.allclose(scale, graph.constants["level"], rtol=1e-6, atol=0)
        if same_scale and zero_point.dtype == np.uint8 and zero_point == graph.constants["centre"]:
            graph.use_instead(quantise.output[0], "rgb1_nchw")
    return graph.to_model()


def _next_step(graph: Graph, steps: list[NodeProto]) -> NodeProto | None:
    if steps:
        return graph.only_consumer(steps[-1].output[0])
    return next(iter(graph.of_type("Cast")), None)


def _normalisation(graph: Graph) -> tuple[NodeProto, ...] | None:
    """Return Cast, Transpose, Div by 255, Sub mean, Div std if the graph begins with them."""
    steps: list[NodeProto] = []
    for op_type in ("Cast", "Transpose", "Div", "Sub", "Div"):
        node = _next_step(graph, steps)
        if node is None or node.op_type != op_type:
            return None
        steps.append(node)
    _, transpose, scale, subtract, divide = steps
    per_channel = [graph.constants.get(node.input[1]) for node in (subtract, divide)]
    largest = graph.constants.get(scale.input[1])
    fits = (
        largest is not None
        and largest == 255
        and attributes_of(transpose)["perm"] == [0, 3, 1, 2]
        and all(values is not None and values.shape == (1, 3, 1, 1) for values in per_channel)
    )
    return tuple(steps) if fits else None
