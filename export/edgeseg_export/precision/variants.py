"""The variants of a bundle: which there are, for which devices, and how each is made."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import onnx
from onnx import TensorProto

from edgeseg.errors import UsageError, show
from edgeseg.manifest import Precision
from edgeseg_export.graph.for_cpu import after_quantisation, for_cpu, ranges_for_cpu
from edgeseg_export.graph.torch_export import checked_bytes, layer_name
from edgeseg_export.graph.upsampling import convolution_for_transposed
from edgeseg_export.precision import quantise
from edgeseg_export.precision.calibration import Ranges
from edgeseg_export.precision.half import to_half
from edgeseg_export.precision.quantise import CPU, TENSORRT, Recipe, int8_to_fp8

Target = Literal["cpu", "tensorrt", "all"]
TARGETS: tuple[Target, ...] = get_args(Target)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Kind:
    """A variant: its precision, the devices it is for, and the Q/DQ rules of quantised ones."""

    name: str
    precision: Precision
    target: Literal["any", "cpu", "tensorrt"]
    recipe: Recipe | None = None

    @property
    def file(self) -> str:
        """The name of its ONNX file in the bundle."""
        return f"model.{self.name}.onnx"


KINDS = (
    Kind("fp32", "fp32", "any"),
    Kind("fp16", "fp16", "any"),
    Kind("bf16", "bf16", "tensorrt"),
    Kind("int8-cpu", "int8", "cpu", CPU),
    Kind("int8-trt", "int8", "tensorrt", TENSORRT),
    Kind("fp8-trt", "fp8", "tensorrt", TENSORRT),
)
_DEFAULTS: dict[Target, tuple[Precision, ...]] = {
    "cpu": ("fp32", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
    "all": ("fp32", "fp16", "int8"),
}


def selected(precisions: Collection[Precision], target: Target) -> list[Kind]:
    """Return the variants to make; fp32 is always one of them, because the others derive from it.

    Args:
        precisions: what was asked for; empty takes the target's usual ones.
        target: which devices the quantised variants are for.

    Raises:
        UsageError: a precision that the target has no kernels for.
    """
    wanted = {"fp32", *(precisions or _DEFAULTS[target])}
    chosen = [
        kind
        for kind in KINDS
        if kind.precision in wanted and (target == "all" or kind.target in ("any", target))
    ]
    if missing := sorted(wanted - {kind.precision for kind in chosen}):
        raise UsageError(
            f"precision {show(missing[0])} is for TensorRT; add --target tensorrt (or all)"
        )
    return chosen


def make(kind: Kind, master: bytes, ranges: Ranges, float_layers: Collection[str] = ()) -> bytes:
    """Derive a variant from the fp32 master.

    Args:
        kind: which.
        master: what ``to_onnx`` returned.
        ranges: of the master's tensors; used by quantised variants only.
        float_layers: layers of a quantised variant to leave in floating point.

    Raises:
        ArtifactError: a weight does not fit the precision.
    """
    if kind.precision == "fp32":
        return master
    model = onnx.load_from_string(master)
    if kind.precision == "bf16":
        # TensorRT-RTX 1.7 cannot build transposed convolutions of bf16.
        model = convolution_for_transposed(model)
        return checked_bytes(to_half(model, TensorProto.BFLOAT16))
    if kind.recipe is None:
        return checked_bytes(to_half(model, TensorProto.FLOAT16))
    if kind.target == "cpu":
        suited = _suited(kind, model, float_layers)
        known = ranges_for_cpu(suited, ranges)
        quantised = quantise.quantise(_bytes(suited), known, kind.recipe, float_layers)
        return checked_bytes(after_quantisation(quantised))
    quantised = quantise.quantise(master, ranges, kind.recipe, float_layers)
    if kind.precision == "fp8":
        quantised = int8_to_fp8(quantised, model)
    return checked_bytes(to_half(quantised, TensorProto.FLOAT16))


def quantised_layers(kind: Kind, master: bytes) -> list[str]:
    """Return the layers that a quantised variant has in 8 bits unless they are put back."""
    assert kind.recipe is not None, "only quantised variants have such layers"
    suited = _suited(kind, onnx.load_from_string(master), ())
    return quantise.quantisable(_bytes(suited), kind.recipe)


def _suited(kind: Kind, model: onnx.ModelProto, float_layers: Collection[str]) -> onnx.ModelProto:
    """Rewrite the graph for the target's 8-bit kernels; float layers keep their exact GELU."""
    if kind.target != "cpu":
        return model
    in_float = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Conv" and layer_name(node) in float_layers
    }
    exact = {node.name for node in model.graph.node if node.input[0] in in_float}
    return for_cpu(model, exact)


def _bytes(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data
