"""Upsampling as an ordinary convolution and a shuffle that keeps channels last."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto

from edgeseg_export.graph.editor import (
    PLAIN,
    Graph,
    attributes_of,
    has_only,
    inferred_shapes,
    make_node,
)

BLOCKS = "_blocks"


def convolution_for_transposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn 2x2 transposed convolutions of stride 2 into 1x1 convolution and DepthToSpace.

    Their windows do not overlap: with weights W (in, out, 2, 2),
    ``y[o, 2h + i, 2w + j] = b[o] + sum_c W[c, o, i, j] x[c, h, w]``
    is a 1x1 convolution to channels ``4 o + 2 i + j``, which DepthToSpace (CRD) puts in place.
    Same products, summed over the same channels. It pays because ONNX Runtime has an 8-bit
    kernel for convolutions and none for transposed ones.
    """
    graph = Graph(model)
    for node in graph.of_type("ConvTranspose"):
        if not (_doubles_size(node) and graph.has_own_constants(node)):
            continue
        weight = graph.constants[node.input[1]]
        inputs = len(weight)
        graph.constants[node.input[1]] = weight.transpose(1, 2, 3, 0).reshape(-1, inputs, 1, 1)
        for bias in node.input[2:]:
            graph.constants[bias] = np.repeat(graph.constants[bias], 4)
        blocks = f"{node.output[0]}{BLOCKS}"
        graph.replace(
            node,
            make_node("Conv", node.input, blocks, node.name, kernel_shape=[1, 1]),
            make_node(
                "DepthToSpace",
                [blocks],
                node.output[0],
                f"{node.name}_shuffle",
                mode="CRD",
                blocksize=2,
            ),
        )
    return graph.to_model()


def shuffle_in_channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write DepthToSpace behind a convolution as a transposition in channels-last order.

    With the convolution's output channels in the order (i, j, o) instead of (o, i, j),
    (N, H, W, 2, 2 C) -> (N, H, 2, W, 2 C) is the shuffle, and moves 2 C neighbours at a time.
    Exact. It pays because the transpositions around it cancel with those that ONNX Runtime puts
    around 8-bit convolutions, while DepthToSpace demands NCHW. For static sizes.
    """
    graph = Graph(model)
    shapes = inferred_shapes(model)
    for node in graph.of_type("DepthToSpace"):
        convolution = graph.producer(node.input[0])
        _, channels, height, width = shapes.get(node.input[0], (None,) * 4)
        if (
            attributes_of(node) != {"mode": b"CRD", "blocksize": 2}
            or not (channels and height and width)
            or convolution is None
            or convolution.op_type != "Conv"
            or not graph.has_own_constants(convolution)
            or graph.only_consumer(node.input[0]) is None
        ):
            continue
        for name in convolution.input[1:]:
            values = graph.constants[name]
            blocks = values.reshape(channels // 4, 4, *values.shape[1:])
            graph.constants[name] = blocks.swapaxes(0, 1).reshape(values.shape)
        graph.replace(node, *_shuffle(graph, node, channels // 4, height, width))
    return graph.to_model()


def _doubles_size(transposed: NodeProto) -> bool:
    expected = {
        **PLAIN,
        "strides": [2, 2],
        "kernel_shape": [2, 2],
        "pads": [0, 0, 0, 0],
        "output_padding": [0, 0],
    }
    given = attributes_of(transposed)
    return has_only(transposed, expected) and {"strides", "kernel_shape"} <= set(given)


def _shuffle(
    graph: Graph, node: NodeProto, channels: int, height: int, width: int
) -> tuple[NodeProto, ...]:
    """Return the nodes (N, 4 C, H, W) -> (N, C, 2 H, 2 W) for channels in the order (i, j, c)."""
    y, name = node.output[0], node.name
    rows, joined = f"{y}_rows", f"{y}_joined"
    graph.constants[f"{rows}_shape"] = np.array([-1, height, width, 2, 2 * channels])
    graph.constants[f"{joined}_shape"] = np.array([-1, 2 * height, 2 * width, channels])
    return (
        make_node("Transpose", node.input, f"{y}_nhwc", f"{name}_nhwc", perm=[0, 2, 3, 1]),
        make_node("Reshape", [f"{y}_nhwc", f"{rows}_shape"], rows, f"{name}_rows"),
        make_node("Transpose", [rows], f"{y}_shuffled", name, perm=[0, 1, 3, 2, 4]),
        make_node("Reshape", [f"{y}_shuffled", f"{joined}_shape"], joined, f"{name}_joined"),
        make_node("Transpose", [joined], y, f"{name}_nchw", perm=[0, 3, 1, 2]),
    )
