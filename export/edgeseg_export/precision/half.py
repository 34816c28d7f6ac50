"""Lower an fp32 or Q/DQ graph to fp16 or bf16, with uint8 pictures in and the outputs unchanged.

The normalisation stays in fp32: it is exact there, costs next to nothing, and nothing in it can
overflow. Everything from the first convolution to the logits is lowered; a cast brings logits
that are an output back to float32. One function serves fp16 and bf16, of ORT's converter there
is only the former, and strongly typed TensorRT builds take the types exactly as they stand here.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg.errors import ArtifactError
from edgeseg_export.graph.torch_export import INPUT

BF16_OPSET = 22  # the first in which Conv, ConvTranspose and MaxPool take bfloat16
_NUMPY: dict[int, Any] = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
_LARGEST: dict[int, float] = {TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: float("inf")}
_SMALLEST_SCALE = 2.0**-14  # the smallest normal fp16; smaller scales would lose bits or vanish


def to_half(model: onnx.ModelProto, half: int) -> onnx.ModelProto:
    """Return a lowered copy.

    Args:
        model: an exported graph, plain or with Q/DQ nodes.
        half: ``TensorProto.FLOAT16`` or ``TensorProto.BFLOAT16``.

    Raises:
        ArtifactError: a weight does not fit the type.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    graph = lowered.graph
    del graph.value_info[:]
    kept = _normalisation(graph)
    region = [node for node in graph.node if node.name not in kept]
    _lower_initializers(graph, region, half)
    made_by_kept = {name for node in graph.node if node.name in kept for name in node.output}
    _cast_in(graph, region, made_by_kept & _float_tensors(model), half)
    _cast_out(graph, half)
    if half == TensorProto.BFLOAT16:
        for entry in lowered.opset_import:
            if entry.domain == "":
                entry.version = max(entry.version, BF16_OPSET)
    return lowered


def emulate_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an fp32 graph that rounds as a bf16 graph does, for runtimes without bf16 kernels.

    Weights hold their bf16 values and every tensor of the bf16 region is rounded to bf16 where
    it is made; sums are accumulated in fp32, as tensor cores do.
    """
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    graph = emulated.graph
    bf16 = _tensors_of(model, TensorProto.BFLOAT16)
    for i, tensor in enumerate(graph.initializer):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            graph.initializer[i].CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                    attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in bf16:
                node.output[i] = f"{name}_unrounded"
                rounded = f"{name}_bf16"
                nodes += [
                    helper.make_node(
                        "Cast", [node.output[i]], [rounded], f"{rounded}_round", to=16
                    ),
                    helper.make_node("Cast", [rounded], [name], f"{name}_widen", to=1),
                ]
    del graph.node[:]
    graph.node.extend(nodes)
    return emulated


def _normalisation(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes between the picture and the first padding or convolution."""
    kept: set[str] = set()
    reached = {INPUT}
    for node in graph.node:
        weighty = node.op_type in ("Conv", "ConvTranspose", "Pad", "QuantizeLinear")
        if weighty or not reached & set(node.input):
            continue
        kept.add(node.name)
        reached |= set(node.output)
    return kept


def _lower_initializers(graph: onnx.GraphProto, region: list[onnx.NodeProto], half: int) -> None:
    used = {name for node in region for name in node.input}
    scales = {
        node.input[1] for node in region if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    for tensor in graph.initializer:
        if tensor.name not in used or tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if tensor.name in scales and values.min() < _SMALLEST_SCALE:
            raise ArtifactError(
                f"scale {tensor.name} is {values.min():.3g}, too small for fp16; the quantiser "
                "must not make such a scale"
            )
        if float(np.abs(values).max(initial=0)) > _LARGEST[half]:
            raise ArtifactError(
                f"weight {tensor.name} reaches {float(np.abs(values).max()):.3g}, beyond fp16's "
                "65504; export bf16 or fp32 instead"
            )
        tensor.CopyFrom(numpy_helper.from_array(values.astype(_NUMPY[half]), tensor.name))


def _cast_in(
    graph: onnx.GraphProto, region: list[onnx.NodeProto], boundary: set[str], half: int
) -> None:
    """Insert a cast behind each float tensor that enters the region."""
    entering = [name for name in sorted(boundary) if any(name in node.input for node in region)]
    for name in entering:
        lowered = f"{name}_half"
        for node in region:
            for i, source in enumerate(node.input):
                if source == name:
                    node.input[i] = lowered
        position = 1 + next(i for i, node in enumerate(graph.node) if name in node.output)
        graph.node.insert(position, helper.make_node("Cast", [name], [lowered], lowered, to=half))


def _cast_out(graph: onnx.GraphProto, half: int) -> None:
    """Bring float outputs of the graph back to float32."""
    for output in graph.output:
        if output.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        name, lowered = output.name, f"{output.name}_half"
        for node in graph.node:
            for names in (node.input, node.output):
                for i, found in enumerate(names):
                    if found == name:
                        names[i] = lowered
        graph.node.append(helper.make_node("Cast", [lowered], [name], f"{name}_float", to=1))


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    return _tensors_of(model, TensorProto.FLOAT)


def _tensors_of(model: onnx.ModelProto, data_type: int) -> set[str]:
    """Return the names of the tensors of a type that nodes make, by shape inference."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.value_info, *graph.output]
    return {value.name for value in values if value.type.tensor_type.elem_type == data_type}
