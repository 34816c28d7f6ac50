"""Rewrites of an exported graph so that 8-bit CPU kernels fit; standard ONNX operators only.

ONNX Runtime's 8-bit convolutions work in channels-last order. Whatever they cannot pass through
in 8 bits costs a dequantisation, two transpositions and four times the memory traffic. Each
rewrite removes one such obstacle and returns a new model; without its pattern, an equal one::

    rewritten = for_cpu(onnx.load("model.fp32.onnx"))  # then calibrate and insert Q/DQ nodes
    finished = after_quantisation(quantised)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

# Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv:1606.08415, section 2.
QUICK_GELU_SLOPE = 1.702
# Logits of one tile of the head: small enough to stay in the caches, few enough tiles.
TILE_BYTES = 4 * 2**20

_PICTURE = "rgb1_scaled"
_SLOPE = "_slope"
_BLOCKS = "_blocks"
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
    return [name for name in names if name == _PICTURE or name.endswith(_SLOPE)]


def ranges_for_cpu(model: onnx.ModelProto, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Return ranges of the tensors of a graph after ``for_cpu`` from those of the graph before.

    What is only moved keeps its range, a sigmoid lies in 0..1, and a picture has all 256 levels.
    """
    known = dict(ranges)
    for node in model.graph.node:
        x, y = node.input[0], node.output[0]
        if node.op_type == "Sigmoid":
            known[y] = (0.0, 1.0)
        elif node.name == _PICTURE:
            centre = _constant(model, "centre")
            known[y] = (-centre / 255, (255 - centre) / 255)
        elif node.op_type == "Mul" and node.name.endswith(_SLOPE):
            known[y] = (QUICK_GELU_SLOPE * known[x][0], QUICK_GELU_SLOPE * known[x][1])
        elif y.endswith(_BLOCKS):
            known.setdefault(y, known[y.removesuffix(_BLOCKS)])
        elif node.op_type in _MOVES and x in known:
            for name in node.output:
                known.setdefault(name, known[x])
    return known


def convolution_for_transposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn 2x2 transposed convolutions of stride 2 into 1x1 convolution and DepthToSpace.

    Their windows do not overlap: with weights W (in, out, 2, 2),
    ``y[o, 2h + i, 2w + j] = b[o] + sum_c W[c, o, i, j] x[c, h, w]``
    is a 1x1 convolution to channels ``4 o + 2 i + j``, which DepthToSpace (CRD) puts in place.
    Same products, summed over the same channels. It pays because ONNX Runtime has an 8-bit
    kernel for convolutions and none for transposed ones.
    """
    graph = _Graph(model)
    for node in graph.of_type("ConvTranspose"):
        if not (_doubles_size(node) and graph.has_own_constants(node)):
            continue
        weight = graph.constants[node.input[1]]
        inputs = len(weight)
        graph.constants[node.input[1]] = weight.transpose(1, 2, 3, 0).reshape(-1, inputs, 1, 1)
        for bias in node.input[2:]:
            graph.constants[bias] = np.repeat(graph.constants[bias], 4)
        blocks = f"{node.output[0]}{_BLOCKS}"
        graph.replace(
            node,
            _node("Conv", node.input, blocks, node.name, kernel_shape=[1, 1]),
            _node(
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
    graph = _Graph(model)
    shapes = _shapes(model)
    for node in graph.of_type("DepthToSpace"):
        convolution = graph.producer(node.input[0])
        _, channels, height, width = shapes.get(node.input[0], (None,) * 4)
        if (
            _attributes(node) != {"mode": b"CRD", "blocksize": 2}
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


def quick_gelu(model: onnx.ModelProto, exact: Collection[str] = ()) -> onnx.ModelProto:
    """Approximate GELU by ``x sigmoid(1.702 x)``; the largest error is about 0.02, near |x| = 2.2.

    NOT exact, and meant for 8-bit graphs only, where neighbouring values lie as far apart; nodes
    named ``exact`` stay. It
    pays because both factors stay in 8 bits, the sigmoid as a table of 256 entries, while GELU
    is computed in floats between a dequantisation and a quantisation.
    """
    graph = _Graph(model)
    slope = "quick_gelu_slope"
    for node in [gelu for gelu in graph.of_type("Gelu") if gelu.name not in exact]:
        graph.constants[slope] = np.array(QUICK_GELU_SLOPE, dtype=np.float32)
        x, y = node.input[0], node.output[0]
        graph.replace(
            node,
            _node("Mul", [x, slope], f"{y}_scaled", f"{node.name}{_SLOPE}"),
            _node("Sigmoid", [f"{y}_scaled"], f"{y}_gate", f"{node.name}_sigmoid"),
            _node("Mul", [x, f"{y}_gate"], y, node.name),
        )
    return graph.to_model()


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
    graph = _Graph(model)
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
        _node("Pad", [cast.input[0], "fourth_channel", "white"], "rgb1", "rgb1"),
        _node("Transpose", ["rgb1"], "rgb1_nchw", "rgb1_nchw", perm=[0, 3, 1, 2]),
        _node("Cast", ["rgb1_nchw"], "rgb1_float", "rgb1_float", to=TensorProto.FLOAT),
        _node("Sub", ["rgb1_float", "centre"], "rgb1_centred", "rgb1_centred"),
        _node("Mul", ["rgb1_centred", "level"], divide.output[0], _PICTURE),
    )
    for step in steps[1:]:
        graph.replace(step)
    return graph.to_model()


def crop_before_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """Crop before the last 1x1 convolution instead of behind it: exact, and less to compute.

    Sizes that are no multiples of ``2 ** depth`` are padded, and cropped, inside the graph.
    """
    graph = _Graph(model)
    head = graph.head()
    crop = graph.only_consumer(head.output[0]) if head else None
    if head and crop and crop.op_type == "Slice" and _keeps_channels(graph, crop):
        cropped = f"{head.input[0]}_cropped"
        before = _node("Slice", [head.input[0], *crop.input[1:]], cropped, crop.name)
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
    graph = _Graph(model)
    head = graph.head()
    argmax = graph.only_consumer(head.output[0]) if head else None
    if not (head and argmax and argmax.op_type == "ArgMax" and _is_over_classes(argmax)):
        return graph.to_model()
    _, channels, height, width = _shapes(model).get(head.input[0], (None,) * 4)
    if not (channels and height and width and graph.has_own_constants(head)):
        return graph.to_model()
    weight = graph.constants[head.input[1]]
    graph.constants[head.input[1]] = weight[:, :, 0, 0].T
    count = math.ceil(height * width * len(weight) * 4 / tile_bytes)
    rows = [len(part) for part in np.array_split(range(height), min(count, height))]
    graph.replace(head, *_tiles(graph, head, argmax.output[0], rows, channels, width))
    graph.replace(argmax)
    return graph.to_model()


def slope_into_scale(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a sigmoid's dequantisation multiply by the slope: its scale is ``1.702 s``.

    A quantiser turns ``quick_gelu`` into dequantise, multiply, quantise, dequantise, sigmoid;
    one dequantisation in place of the first four saves a kernel and a rounding to 8 bits.
    """
    graph = _Graph(model)
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
            _node("DequantizeLinear", inputs, scaled, scaled),
            _node("Sigmoid", [scaled], sigmoid.output[0], sigmoid.name),
        )
    return graph.to_model()


def picture_without_quantisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the quantisation of the picture where it gives the picture's own bytes again.

    Behind ``fold_normalisation``, with the range of ``ranges_for_cpu``, the scale is 1 / 255 and
    the zero point the centre: ``round(((x - centre) / 255) * 255) + centre`` is x. Exact; other
    scales and zero points stay.
    """
    graph = _Graph(model)
    for quantise in graph.of_type("QuantizeLinear"):
        product = graph.producer(quantise.input[0], "Mul")
        if product is None or product.name != _PICTURE:
            continue
        scale, zero_point = (graph.constants[name] for name in quantise.input[1:])
        same_scale = np.allclose(scale, graph.constants["level"], rtol=1e-6, atol=0)
        if same_scale and zero_point.dtype == np.uint8 and zero_point == graph.constants["centre"]:
            graph.use_instead(quantise.output[0], "rgb1_nchw")
    return graph.to_model()


def concatenate_in_8_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Concatenate 8-bit tensors as they are where all have the scale of the result.

    Exact: equal scales and zero points need no conversion. It pays because ONNX Runtime's
    Concat runs on all cores and its quantised one does not.
    """
    graph = _Graph(model)
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


class _Graph:
    """A copy of a model's graph to work on; ``replace`` keeps the nodes' topological order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._nodes = list(self._model.graph.node)
        self._outputs = {value.name for value in model.graph.output}
        self.constants: dict[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self._before = dict(self.constants)

    def of_type(self, op_type: str) -> list[NodeProto]:
        return [node for node in self._nodes if node.op_type == op_type]

    def producer(self, name: str, op_type: str | None = None) -> NodeProto | None:
        """Return the node that makes a tensor, if it is of the type."""
        node = next((node for node in self._nodes if name in node.output), None)
        return node if node is None or op_type in (None, node.op_type) else None

    def only_consumer(self, name: str) -> NodeProto | None:
        """Return the node that alone uses a tensor."""
        found = [node for node in self._nodes for used in node.input if used == name]
        return found[0] if len(found) == 1 and name not in self._outputs else None

    def has_own_constants(self, node: NodeProto) -> bool:
        """Return whether weight and bias are constants that no other node uses."""
        return all(name in self.constants and self.only_consumer(name) for name in node.input[1:])

    def head(self) -> NodeProto | None:
        """Return the last convolution, if it is a plain 1x1 one with a bias."""
        last = next(iter(reversed(self.of_type("Conv"))), None)
        if last is None or len(last.input) != 3 or last.input[1] not in self.constants:
            return None
        plain = self.constants[last.input[1]].shape[2:] == (1, 1) and _is_plain(last)
        return last if plain else None

    def same_scale(self, one: NodeProto, other: NodeProto) -> bool:
        """Return whether two Q/DQ nodes have equal scales and zero points."""
        pairs = zip(one.input[1:], other.input[1:], strict=True)
        return all(np.array_equal(self.constants[a], self.constants[b]) for a, b in pairs)

    def replace(self, old: NodeProto, *new: NodeProto) -> None:
        position = next(i for i, node in enumerate(self._nodes) if node is old)
        self._nodes[position : position + 1] = new

    def use_instead(self, old: str, new: str) -> None:
        for node in self._nodes:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new

    def to_model(self) -> onnx.ModelProto:
        """Return the model without nodes and constants that nothing uses any more."""
        graph = self._model.graph
        nodes = self._alive()
        used = {name for node in nodes for name in node.input}
        untouched = {
            tensor.name: tensor
            for tensor in graph.initializer
            if self.constants[tensor.name] is self._before[tensor.name]
        }
        tensors = [
            untouched.get(name) or numpy_helper.from_array(np.asarray(values, order="C"), name)
            for name, values in self.constants.items()
            if name in used
        ]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(tensors)
        return self._model

    def _alive(self) -> list[NodeProto]:
        needed, alive = set(self._outputs), []
        for node in reversed(self._nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                alive.append(node)
        return alive[::-1]


_ARGMAX = {"axis": 1, "keepdims": 0, "select_last_index": 0}
_PLAIN = {"group": 1, "auto_pad": b"NOTSET", "dilations": [1, 1], "strides": [1, 1]}


def _node(
    op_type: str, inputs: Iterable[str], output: str, name: str, **attributes: Any
) -> NodeProto:
    return helper.make_node(op_type, list(inputs), [output], name, **attributes)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _constant(model: onnx.ModelProto, name: str) -> float:
    """Return a scalar constant."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return float(numpy_helper.to_array(tensor))


def _has(node: NodeProto, expected: dict[str, Any], *others: str) -> bool:
    """Return whether a node has no attributes but ``others`` and expected values."""
    found = {name: value for name, value in _attributes(node).items() if name not in others}
    return all(name in expected and expected[name] == value for name, value in found.items())


def _is_plain(convolution: NodeProto) -> bool:
    return _has(convolution, {**_PLAIN, "pads": [0, 0, 0, 0]}, "kernel_shape")


def _is_over_classes(argmax: NodeProto) -> bool:
    return {"select_last_index": 0, **_attributes(argmax)} == _ARGMAX


def _doubles_size(transposed: NodeProto) -> bool:
    expected = {
        **_PLAIN,
        "strides": [2, 2],
        "kernel_shape": [2, 2],
        "pads": [0, 0, 0, 0],
        "output_padding": [0, 0],
    }
    given = _attributes(transposed)
    return _has(transposed, expected) and {"strides", "kernel_shape"} <= set(given)


def _next_step(graph: _Graph, steps: list[NodeProto]) -> NodeProto | None:
    if steps:
        return graph.only_consumer(steps[-1].output[0])
    return next(iter(graph.of_type("Cast")), None)


def _normalisation(graph: _Graph) -> tuple[NodeProto, ...] | None:
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
        and _attributes(transpose)["perm"] == [0, 3, 1, 2]
        and all(values is not None and values.shape == (1, 3, 1, 1) for values in per_channel)
    )
    return tuple(steps) if fits else None


def _keeps_channels(graph: _Graph, crop: NodeProto) -> bool:
    axes = graph.constants.get(crop.input[3]) if len(crop.input) > 3 else None
    return axes is not None and bool(np.isin(axes, (2, 3)).all())


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the inferred shapes; free dimensions are None."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
    }


def _shuffle(
    graph: _Graph, node: NodeProto, channels: int, height: int, width: int
) -> tuple[NodeProto, ...]:
    """Return the nodes (N, 4 C, H, W) -> (N, C, 2 H, 2 W) for channels in the order (i, j, c)."""
    y, name = node.output[0], node.name
    rows, joined = f"{y}_rows", f"{y}_joined"
    graph.constants[f"{rows}_shape"] = np.array([-1, height, width, 2, 2 * channels])
    graph.constants[f"{joined}_shape"] = np.array([-1, 2 * height, 2 * width, channels])
    return (
        _node("Transpose", node.input, f"{y}_nhwc", f"{name}_nhwc", perm=[0, 2, 3, 1]),
        _node("Reshape", [f"{y}_nhwc", f"{rows}_shape"], rows, f"{name}_rows"),
        _node("Transpose", [rows], f"{y}_shuffled", name, perm=[0, 1, 3, 2, 4]),
        _node("Reshape", [f"{y}_shuffled", f"{joined}_shape"], joined, f"{name}_joined"),
        _node("Transpose", [joined], y, f"{name}_nchw", perm=[0, 3, 1, 2]),
    )


def _tiles(
    graph: _Graph, head: NodeProto, y: str, rows: list[int], channels: int, width: int
) -> list[NodeProto]:
    """Return the head on tiles of so many rows: (N, C, H, W) -> class indices (N, H, W)."""
    x, name = head.input[0], head.name
    parts = [f"{y}_tile{i}" for i in range(len(rows))]
    graph.constants["tile_rows"] = np.array(rows)
    graph.constants["pixels"] = np.array([-1, channels])
    nodes = [
        _node("Transpose", [x], f"{x}_nhwc", f"{name}_nhwc", perm=[0, 2, 3, 1]),
        helper.make_node(
            "Split", [f"{x}_nhwc", "tile_rows"], [f"{p}_in" for p in parts], f"{name}_split", axis=1
        ),
    ]
    for part, count in zip(parts, rows, strict=True):
        shape = f"tile_of_{count}_rows"
        graph.constants[shape] = np.array([-1, count, width])
        nodes += [
            _node("Reshape", [f"{part}_in", "pixels"], f"{part}_pixels", f"{part}_pixels"),
            _node("Gemm", [f"{part}_pixels", *head.input[1:]], f"{part}_logits", f"{part}_logits"),
            _node("ArgMax", [f"{part}_logits"], f"{part}_argmax", f"{part}_argmax", **_ARGMAX),
            _node("Reshape", [f"{part}_argmax", shape], part, part),
        ]
    return [*nodes, _node("Concat", parts, y, f"{name}_joined", axis=1)]
