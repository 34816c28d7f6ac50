"""Concatenation without leaving 8 bits."""

from __future__ import annotations

import onnx
from onnx import helper

from edgeseg_export.graph.editor import Graph


def concatenate_in_8_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Concatenate 8-bit tensors as they are where all have the scale of the result.

    Exact: equal scales and zero points need no conversion. It pays because ONNX Runtime's
    Concat runs on all cores and its quantised one does not.
    """
    graph = Graph(model)
    for node in graph.of_type("Concat"):
        sources = [graph.producer(name, "DequantizeLinear") for name in node.input]
        quantise = graph.only_consumer(node.output[0])
        if quantise is None or quantise.op_type != "QuantizeLinear":
            continue
        found = [source for source in sources if source and graph.same_scale(source, quantise)]
        if len(found) == len(sources):
            inputs = [source.input[0] for source in found]
            joined = helper.make_node("Concat", inputs, quantise.output, node.name)
            joined.attribute.extend(node.attribute)
            graph.replace(node, joined)
            graph.replace(quantise)
    return graph.to_model()
