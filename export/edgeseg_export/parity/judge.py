"""Run a variant for its parity check, with the runtime's own session on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeseg.sessions.ort import PROVIDERS, create_session
from edgeseg.sessions.protocol import class_map_from_logits
from edgeseg_export.graph.torch_export import INPUT, LOGITS
from edgeseg_export.precision.half import emulate_bfloat16
from edgeseg_export.precision.variants import Kind


class OrtJudge:
    """A variant in ONNX Runtime on the CPU; bf16, which it has no kernels for, is emulated."""

    def __init__(self, kind: Kind, model: bytes) -> None:
        """Load the variant's file."""
        self.name = "ort:cpu"
        if kind.precision == "bf16":
            self.name += ", every tensor rounded to bf16"
            model = emulate_bfloat16(onnx.load_from_string(model)).SerializeToString()
        self._kind, self._model = kind, model
        self._session = self._open(model)
        self._logits_session: Any = None
        self._logits_names: list[str] = []

    def class_maps(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3)."""
        output = self._session.run(None, {INPUT: images})[0]
        result: NDArray[np.uint8] = (
            output if output.dtype == np.uint8 else class_map_from_logits(output)
        )
        return result

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits float32 (1, C, H, W) of one image: the same graph with more outputs."""
        if self._logits_session is None:
            model = onnx.load_from_string(self._model)
            self._logits_names = expose_logits(model)
            self._logits_session = self._open(model.SerializeToString())
        parts = self._logits_session.run(self._logits_names, {INPUT: images})
        return as_nchw(parts, images.shape[1:3])

    def _open(self, model: bytes) -> Any:
        return create_session(model, PROVIDERS["ort:cpu"], self._kind.name, self._kind.target)


def expose_logits(model: onnx.ModelProto) -> list[str]:
    """Make float32 logits outputs of the graph, unless they are; return the outputs' names.

    A head that works in tiles of rows has one output per tile, see ``as_nchw``.
    """
    graph = model.graph
    if LOGITS in {output.name for output in graph.output}:
        return [LOGITS]
    sources = [node.input[0] for node in graph.node if node.op_type == "ArgMax"]
    return [watch(model, source, f"{LOGITS}{i}") for i, source in enumerate(sources)]


def watch(model: onnx.ModelProto, tensor: str, output: str) -> str:
    """Make a tensor a float32 output of the graph; return the output's name."""
    cast = helper.make_node("Cast", [tensor], [output], output, to=TensorProto.FLOAT)
    model.graph.node.append(cast)
    model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return output


def as_nchw(parts: Sequence[NDArray[np.float32]], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Put together what a layer gave for one image of ``size``: one (1, C, h, w), or tiles.

    Tiles hold (pixels, C), row after row.
    """
    if parts[0].ndim == 4:
        return parts[0]
    pixels = np.concatenate(parts).reshape(1, *size, -1)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
