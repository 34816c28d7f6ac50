"""The last convolution and its argmax: cropped before, and in tiles that stay in the cache."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import NodeProto, helper

from edgeseg_export.graph.editor import Graph, attributes_of, inferred_shapes, make_node

# Logits of one tile of the head: small enough to stay in the caches, few enough tiles.
TILE_BYTES = 4 * 2**20


_ARGMAX = {"axis": 1, "keepdims": 0, "select_last_index": 0}


def crop_before_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """Crop before the last 1x1 convolution instead of behind it: exact, and less to compute.

    Sizes that are no multiples of ``2 ** depth`` are padded, and cropped, inside the graph.
    """
    graph = Graph(model)
    head = graph.head()
    crop = graph.only_consumer(head.output[0]) if head else None
    if head and crop and crop.op_type == "Slice" and _keeps_channels(graph, crop):
        cropped = f"{head.input[0]}_cropped"
        before = make_node("Slice", [head.input[0], *crop.input[1:]], cropped, crop.name)
        after = helper.make_node("Conv", [cropped, *head.input[1:]], crop.output, head.name)
        after.attribute.extend(head.attribute)
        graph.replace(head, before, after)
        graph.replace(crop)
    return graph.to_model()


def head_in_tiles(model: onnx.ModelProto, tile_bytes: int = TILE_BYTES) -> onnx.ModelProto:
    """Compute the last 1x1 convolution and its argmax in tiles of rows, in channels-last order.

    Per pixel the head is a matrix product, ``logits = x W + b``, whose 8-bit kernel returns
    floats, so that logits do not tie; the argmax then runs over neighbouring values. Equal up to
    the order of summation. It pays because the logits, the largest tensor of all, never leave
    the cache. For static sizes, and graphs that return the class map alone.
    """
    graph = Graph(model)
    head = graph.head()
    argmax = graph.only_consumer(head.output[0]) if head else None
    if not (head and argmax and argmax.op_type == "ArgMax" and _is_over_classes(argmax)):
        return graph.to_model()
    _, channels, height, width = inferred_shapes(model).get(head.input[0], (None,) * 4)
    if not (channels and height and width and graph.has_own_constants(head)):
        return graph.to_model()
    weight = graph.constants[head.input[1]]
    graph.constants[head.input[1]] = weight[:, :, 0, 0].T
    count = math.ceil(height * width * len(weight) * 4 / tile_bytes)
    rows = [len(part) for part in np.array_split(range(height), min(count, height))]
    graph.replace(head, *_tiles(graph, head, argmax.output[0], rows, channels, width))
    graph.replace(argmax)
    return graph.to_model()


def _is_over_classes(argmax: NodeProto) -> bool:
    return {"select_last_index": 0, **attributes_of(argmax)} == _ARGMAX


def _keeps_channels(graph: Graph, crop: NodeProto) -> bool:
    axes = graph.constants.get(crop.input[3]) if len(crop.input) > 3 else None
    return axes is not None and bool(np.isin(axes, (2, 3)).all())


def _tiles(
    graph: Graph, head: NodeProto, y: str, rows: list[int], channels: int, width: int
) -> list[NodeProto]:
    """Return the head on tiles of so many rows: (N, C, H, W) -> class indices (N, H, W)."""
    x, name = head.input[0], head.name
    parts = [f"{y}_tile{i}" for i in range(len(rows))]
    graph.constants["tile_rows"] = np.array(rows)
    graph.constants["pixels"] = np.array([-1, channels])
    nodes = [
        make_node("Transpose", [x], f"{x}_nhwc", f"{name}_nhwc", perm=[0, 2, 3, 1]),
        helper.make_node(
            "Split", [f"{x}_nhwc", "tile_rows"], [f"{p}_in" for p in parts], f"{name}_split", axis=1
        ),
    ]
    for part, count in zip(parts, rows, strict=True):
        shape = f"tile_of_{count}_rows"
        graph.constants[shape] = np.array([-1, count, width])
        nodes += [
            make_node("Reshape", [f"{part}_in", "pixels"], f"{part}_pixels", f"{part}_pixels"),
            make_node(
                "Gemm", [f"{part}_pixels", *head.input[1:]], f"{part}_logits", f"{part}_logits"
            ),
            make_node("ArgMax", [f"{part}_logits"], f"{part}_argmax", f"{part}_argmax", **_ARGMAX),
            make_node("Reshape", [f"{part}_argmax", shape], part, part),
        ]
    return [*nodes, make_node("Concat", parts, y, f"{name}_joined", axis=1)]
