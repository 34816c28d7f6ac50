"""Insert Q/DQ nodes: ONNX Runtime's quantiser, with the rules of each target.

CPUs (ONNX Runtime, OpenVINO) want uint8 activations with a zero point and int32 biases, and
stay 8-bit from one convolution to the next. TensorRT wants int8 activations around zero, float
biases, Q/DQ on the inputs of convolutions, and equal scales where tensors are concatenated, so
that no kernel has to rescale.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod as OrtMethod
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from edgeseg_export.graph.for_cpu import float_nodes
from edgeseg_export.graph.torch_export import layer_name, quiet
from edgeseg_export.precision.calibration import Ranges

_FP8_LARGEST = 448.0  # of float8 e4m3fn
_INT8_LARGEST = 127.0
_SMALLEST_NORMAL_FP16 = 2.0**-14
_LEAST_RANGE = _SMALLEST_NORMAL_FP16 * (_INT8_LARGEST + 1)


@dataclass(frozen=True)
class Recipe:
    """How a target wants its Q/DQ nodes.

    Attributes:
        op_types: which nodes get Q/DQ on their inputs.
        symmetric: int8 activations around zero; otherwise uint8 with a zero point.
        outputs: whether the results of convolutions are quantised as well.
        tie: nodes around which all tensors share a scale, so that nothing has to be rescaled.
        first_in_float: whether the first convolution stays float.

    The logits always come in floats, because the class map compares them and 8-bit logits tie: a
    last convolution stays float, a last matrix product only reads 8 bits.
    """

    op_types: tuple[str, ...]
    symmetric: bool
    outputs: bool
    tie: tuple[str, ...]
    first_in_float: bool


# They only move values, in 8 bits as well as in floats.
_MOVES = (
    "Concat",
    "DepthToSpace",
    "MaxPool",
    "Reshape",
    "Slice",
    "Split",
    "Transpose",
)
_WEIGHTED = ("Conv", "Gemm")

CPU = Recipe(
    op_types=("Conv", "Gemm", "Mul", "Relu", "Sigmoid", *_MOVES),
    symmetric=False,
    outputs=True,
    tie=_MOVES,
    first_in_float=False,
)
TENSORRT = Recipe(
    op_types=("Concat", "Conv", "MaxPool"),
    symmetric=True,
    outputs=False,
    tie=("Concat", "MaxPool"),
    first_in_float=True,
)


def quantisable(master: bytes, recipe: Recipe) -> list[str]:
    """Return the layers that a recipe quantises, in the order of the graph."""
    model = onnx.load_from_string(master)
    weighted = [node for node in model.graph.node if node.op_type in _WEIGHTED]
    layers = list(dict.fromkeys(layer_name(node) for node in weighted))
    last = -1 if weighted[-1].op_type == "Conv" else None
    return layers[1 if recipe.first_in_float else 0 : last]


def quantise(
    master: bytes, ranges: Ranges, recipe: Recipe, float_layers: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a Q/DQ copy of an fp32 graph.

    Args:
        master: the graph, as the target likes it.
        ranges: of its tensors, see ``edgeseg_export.precision.calibration.observe``.
        recipe: the target's rules.
        float_layers: layers to leave in floating point besides those of the recipe.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(master)
        model = load_model_with_shape_infer(source)
        allowed = set(quantisable(master, recipe)) - set(float_layers)
        excluded = [*_excluded(model, allowed), *float_nodes(model)]
        known = _tied(model, ranges, recipe)
        arrays = {
            name: tuple(np.array(bound, dtype=np.float32) for bound in _usable(bounds))
            for name, bounds in known.items()
        }
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if recipe.symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(OrtMethod.MinMax, arrays),
            nodes_to_quantize=[],
            nodes_to_exclude=excluded,
            op_types_to_quantize=list(recipe.op_types),
            extra_options=_options(recipe),
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(target, False)
        return onnx.load(target)


def _excluded(model: onnx.ModelProto, allowed: Collection[str]) -> list[str]:
    """Return the nodes that stay float: all other layers, and what only they read from.

    Otherwise the 8-bit pooling and concatenation in front of a float layer would still hurt it.
    """
    read: set[str] = set()
    excluded = []
    for node in reversed(model.graph.node):
        if node.op_type in _WEIGHTED:
            quantised = layer_name(node) in allowed
        elif node.op_type in _MOVES:
            quantised = not read.isdisjoint(node.output)
        else:
            continue
        if quantised:
            read.update(node.input)
        else:
            excluded.append(node.name)
    return excluded


def _options(recipe: Recipe) -> dict[str, Any]:
    options: dict[str, Any] = {
        "ActivationSymmetric": recipe.symmetric,
        "OpTypesToExcludeOutputQuantization": ["Gemm"],
    }
    if not recipe.outputs:
        options |= {
            # A channel of tiny weights, as a folded batch norm leaves, needs a normal scale, too.
            "MinimumRealRange": 2 * _LEAST_RANGE,
            "OpTypesToExcludeOutputQuantization": ["Conv"],
            "QuantizeBias": False,
            "QDQDisableWeightAdjustForInt32Bias": True,
            "ForceQuantizeNoInputCheck": True,
            # The activation behind a convolution must stay: nothing else clips in its place.
            "QDQKeepRemovableActivations": True,
        }
    return options


def _usable(bounds: tuple[float, float]) -> tuple[float, float]:
    """Widen a range so that its scale is a normal fp16 number: 8 bits of next to nothing."""
    low, high = bounds
    return (low, high) if max(-low, high) >= _LEAST_RANGE else (min(low, 0.0), _LEAST_RANGE)


def _tied(model: onnx.ModelProto, ranges: Ranges, recipe: Recipe) -> Ranges:
    """Give tensors that are concatenated, and what only moves them, one common range."""
    groups: dict[str, set[str]] = {}
    for node in model.graph.node:
        if node.op_type not in recipe.tie:
            continue
        names = [name for name in (*node.input, *node.output) if name in ranges]
        merged = set(names).union(*(groups.get(name, set()) for name in names))
        for name in merged:
            groups[name] = merged
    concatenated = {n.output[0] for n in model.graph.node if n.op_type == "Concat"}
    clipped = {n.output[0] for n in model.graph.node if n.op_type == "Relu"}
    tied = dict(ranges)
    for name, group in groups.items():
        # With a zero point, a range that begins at 0 is what clips: wider, it would not.
        if not recipe.symmetric and (group & clipped or not group & concatenated):
            continue
        bounds = [ranges[member] for member in group]
        tied[name] = (min(low for low, _ in bounds), max(high for _, high in bounds))
    return tied


def int8_to_fp8(quantised: onnx.ModelProto, master: onnx.ModelProto) -> onnx.ModelProto:
    """Turn symmetric int8 Q/DQ nodes into float8 e4m3fn ones with the same represented range.

    An int8 scale s represents up to 127 s; the fp8 scale is 127 s / 448. Weights are rounded
    from the master, not from their int8 values.
    """
    model = onnx.ModelProto()
    model.CopyFrom(quantised)
    del model.graph.value_info[:]
    weights = {tensor.name: tensor for tensor in master.graph.initializer}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    done: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        source, scale_name, zero_point = node.input
        if scale_name not in done:
            scale = numpy_helper.to_array(tensors[scale_name])
            _set(tensors[scale_name], _fp8_scale(scale))
            done.add(scale_name)
        if zero_point not in done:
            shape = tuple(tensors[zero_point].dims)
            _set_fp8(tensors[zero_point], np.zeros(shape, dtype=np.float32))
            done.add(zero_point)
        if source in tensors and source not in done:
            values = numpy_helper.to_array(weights[source.removesuffix("_quantized")])
            new_scale = numpy_helper.to_array(tensors[scale_name])
            per_channel = new_scale.reshape(-1, *[1] * (values.ndim - 1))
            _set_fp8(tensors[source], values / per_channel)
            done.add(source)
    return model


def _fp8_scale(int8_scale: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = int8_scale * np.float32(_INT8_LARGEST / _FP8_LARGEST)
    return np.asarray(np.maximum(scale, np.float32(_SMALLEST_NORMAL_FP16)), dtype=np.float32)


def _set(tensor: TensorProto, values: NDArray[np.float32]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _set_fp8(tensor: TensorProto, values: NDArray[np.float32]) -> None:
    clipped = np.clip(values, -_FP8_LARGEST, _FP8_LARGEST).astype(ml_dtypes.float8_e4m3fn)
    tensor.CopyFrom(
        helper.make_tensor(
            tensor.name, TensorProto.FLOAT8E4M3FN, values.shape, clipped.tobytes(), raw=True
        )
    )
