"""Run a variant for its parity check, with the runtime's own session on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeseg.sessions.ort import PROVIDERS, class_map_from_logits, create_session
from edgeseg_export.graph import INPUT, LOGITS
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

    def class_maps(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3)."""
        output = self._session.run(None, {INPUT: images})[0]
        result: NDArray[np.uint8] = (
            output if output.dtype == np.uint8 else class_map_from_logits(output)
        )
        return result

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits float32 (N, C, H, W): the same graph with one output more."""
        if self._logits_session is None:
            with_logits = expose_logits(onnx.load_from_string(self._model))
            self._logits_session = self._open(with_logits.SerializeToString())
        result: NDArray[np.float32] = self._logits_session.run([LOGITS], {INPUT: images})[0]
        return result

    def _open(self, model: bytes) -> Any:
        return create_session(model, PROVIDERS["ort:cpu"], self._kind.name, self._kind.target)


def expose_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with float32 logits among its outputs; unchanged when they are there."""
    graph = model.graph
    if LOGITS in {output.name for output in graph.output}:
        return model
    (source,) = (node.input[0] for node in graph.node if node.op_type == "ArgMax")
    graph.node.append(helper.make_node("Cast", [source], [LOGITS], LOGITS, to=TensorProto.FLOAT))
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [None] * 4))
    return model
