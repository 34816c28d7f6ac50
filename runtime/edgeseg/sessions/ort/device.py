"""Running with input and output in the GPU's memory, and the whole network as one CUDA graph.

A copy to the GPU, one launch, a copy back: ONNX Runtime by itself would allocate both ends anew
at every call, and launch each kernel from the CPU.

The memory on the host's side is not pinned: ONNX Runtime's Python interface pins memory only for
providers that are registered as plugins.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.manifest import TensorSpec

SHAPES = 4  # that keep their memory; each graph holds the network's intermediate results, too
_NO_GRAPH = "-1"


@dataclass(frozen=True)
class Lane:
    """Fixed memory for inputs of one shape and one output, and the options that name its graph."""

    input: Any
    binding: Any
    options: Any


class DeviceRunner:
    """Runs a session of the CUDA or TensorRT provider, one thread at a time.

    A CUDA graph repeats what it saw: the same addresses, the same shape. So each shape has memory
    and a graph of its own. ONNX Runtime captures it in the first run, after warming up by itself.
    """

    def __init__(self, onnxruntime: Any, session: Any, input_name: str, *, graphs: bool) -> None:
        """Use ``session``; ``graphs``: its provider was told to capture CUDA graphs."""
        self._onnxruntime, self._session = onnxruntime, session
        self._input_name, self._graphs = input_name, graphs
        self._lanes: dict[tuple[str, tuple[int, ...]], Lane] = {}
        self._numbers = itertools.count()
        self._turn = threading.Lock()

    def run(self, images: NDArray[np.uint8], output: TensorSpec) -> NDArray[Any]:
        """Return one output for images uint8 (N, H, W, 3), as a new array on the host."""
        key = (output.name, images.shape)
        with self._turn:
            lane = self._lanes.get(key) or self._new_lane(images.shape, output)
            lane.input.update_inplace(images)
            self._session.run_with_iobinding(lane.binding, lane.options)
            found: NDArray[Any] = lane.binding.copy_outputs_to_cpu()[0]
            # Kept only now: a run that failed may have left half a graph behind.
            if len(self._lanes) < SHAPES:
                self._lanes.setdefault(key, lane)
        return found

    def _new_lane(self, shape: tuple[int, ...], output: TensorSpec) -> Lane:
        value = self._onnxruntime.OrtValue.ortvalue_from_shape_and_type
        images = value(list(shape), np.uint8, "cuda", 0)
        answer = value(list(output_shape(output, shape)), np.dtype(output.dtype).type, "cuda", 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input_name, images)
        binding.bind_ortvalue_output(output.name, answer)
        return Lane(images, binding, self._options())

    def _options(self) -> Any:
        if not self._graphs:
            return None
        full = len(self._lanes) == SHAPES
        options = self._onnxruntime.RunOptions()
        number = _NO_GRAPH if full else str(next(self._numbers))
        options.add_run_config_entry("gpu_graph_id", number)
        return options


def output_shape(output: TensorSpec, images: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a class map (N, H, W) or of logits (N, C, H, W) for (N, H, W, 3)."""
    number, height, width, _ = images
    if len(output.shape) == 3:
        return number, height, width
    return number, int(output.shape[1]), height, width
