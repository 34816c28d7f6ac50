"""One execution context with its stream, its memory and its CUDA graph: for one thread at a time.

The order is trtexec's: set the shapes, run once plainly (which does what must not be captured),
then capture what TensorRT enqueues and launch that from then on. A graph is for one shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgeSegError, InputError, first_line
from edgeseg.sessions.tensorrt.buffers import TensorMemory
from edgeseg.sessions.tensorrt.cuda import Cuda, Handle
from edgeseg.sessions.tensorrt.engine import LoadedEngine


class Context:
    """Runs images through an engine.

    Attributes:
        uncapturable: why there is no CUDA graph although there could be, or None.
    """

    def __init__(self, engine: LoadedEngine, cuda: Cuda) -> None:
        """Make the context; its memory comes with the first shape.

        Raises:
            ResourceError, DeviceError: memory ran out, or the GPU failed.
        """
        self.uncapturable: str | None = None
        self._engine, self._cuda = engine, cuda
        self._context = engine.new_context()
        self._stream, self._done = cuda.stream(), cuda.event()
        integrated = cuda.integrated
        self._memory = {
            spec.name: TensorMemory(cuda, spec.dtype, integrated=integrated)
            for spec in (engine.input, *engine.outputs)
        }
        self._profile = 0
        self._shape: tuple[int, ...] | None = None
        self._ran_plainly = False
        self._graph: Handle | None = None

    def run(self, images: NDArray[np.uint8], output: str) -> NDArray[Any]:
        """Return the tensor ``output`` for images uint8 (N, H, W, 3) of a shape the engine takes.

        Raises:
            InputError: the engine does not take this shape.
            ResourceError, DeviceError: memory ran out, or the GPU failed; close this context.
        """
        self._set_shape(images.shape)
        self._memory[self._engine.input.name].upload(images, self._stream)
        self._compute()
        self._memory[output].download(self._stream)
        self._cuda.wait(self._done, self._stream)
        return self._memory[output].read()

    def close(self) -> None:
        """Wait for what is running and free everything; calling it again does nothing."""
        if self._context is None:
            return
        self._cuda.quietly("cudaStreamSynchronize", self._stream.value)
        self._forget_graph()
        self._context = None
        for memory in self._memory.values():
            memory.close()
        self._done.close()
        self._stream.close()

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        if shape == self._shape:
            return
        profile = self._engine.profile_of(shape)
        if profile is None:
            raise InputError(f"the engine takes no input of shape {shape}")
        self._forget_graph()
        self._shape, self._ran_plainly = None, False
        self._engine.library.log.clear()
        if profile != self._profile:
            stream = self._stream.value
            self._check("set_optimization_profile_async", profile, stream)
            self._profile = profile
        self._check("set_input_shape", self._engine.input.name, shape)
        if unknown := self._context.infer_shapes():
            raise self._engine.refusal(f"does not know the shapes of {unknown}")
        for name, memory in self._memory.items():
            address = memory.resize(tuple(self._context.get_tensor_shape(name)))
            self._check("set_tensor_address", name, address)
        self._shape = shape

    def _compute(self) -> None:
        if self._ran_plainly and self._graph is None and self._may_capture:
            self._capture()
        if self._graph:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
            self._ran_plainly = True

    @property
    def _may_capture(self) -> bool:
        return not self._engine.captures_itself and self.uncapturable is None

    def _capture(self) -> None:
        try:
            self._graph = self._cuda.capture(self._stream, self._enqueue)
        except EdgeSegError as error:  # plain runs give the same answers, only later
            self.uncapturable = first_line(error)

    def _enqueue(self) -> None:
        self._engine.library.log.clear()
        self._check("execute_async_v3", self._stream.value)

    def _check(self, method: str, *arguments: Any) -> None:
        """Call a method of TensorRT's context, which answers False where it fails."""
        if not getattr(self._context, method)(*arguments):
            raise self._engine.refusal(f"failed in {method}{arguments}")

    def _forget_graph(self) -> None:
        if self._graph:
            self._graph.close()
        self._graph = None
