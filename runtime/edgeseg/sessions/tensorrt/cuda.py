"""Streams, events, memory and graphs of the GPU: every status checked, everything freed once.

cuda = Cuda(open_cudart())
stream = cuda.stream()
memory = cuda.device_memory(1024)
...
memory.close()

Addresses and handles are plain integers here, as TensorRT takes them. All is on the device that
CUDA calls 0; ``CUDA_VISIBLE_DEVICES`` chooses it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

from edgeseg.errors import DeviceError, EdgeSegError, ResourceError
from edgeseg.sessions.tensorrt.cudart import Cudart

# The runtime's numbers, the same in CUDA 12 and 13.
_NO_MEMORY = 2  # cudaErrorMemoryAllocation
_NON_BLOCKING = 1  # cudaStreamNonBlocking: TensorRT synchronises the device on the default stream
_BLOCKING_SYNC, _NO_TIMING = 1, 2  # cudaEventBlockingSync, cudaEventDisableTiming
_MAPPED = 2  # cudaHostAllocMapped
_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal: other threads may allocate meanwhile
_INTEGRATED = 18  # cudaDevAttrIntegrated
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost


class CudaError(DeviceError):
    """A function of the CUDA runtime failed; the message has its name, the number and the text."""


class Handle:
    """Something of CUDA's that is freed once: by ``close``, or when nobody holds it any more."""

    def __init__(self, cuda: Cuda, value: int, free: str) -> None:
        """Hold ``value``; ``free`` is the name of the function that frees it."""
        self.value = value
        self._free = weakref.finalize(self, cuda.quietly, free, value)

    def close(self) -> None:
        """Free it; calling it again does nothing."""
        self._free()


class Cuda:
    """The CUDA runtime with errors as exceptions."""

    def __init__(self, cudart: Cudart) -> None:
        self._cudart = cudart
        self._process = os.getpid()

    def call(self, name: str, *arguments: int) -> Any:
        """Call a function of ``cudart.FUNCTIONS`` and return what it gives.

        Raises:
            ResourceError: the GPU's memory or pinnable memory ran out.
            CudaError: anything else.
        """
        status, value = self._cudart.call(name, *arguments)
        if status:
            raise self._error(name, status)
        return value

    def quietly(self, name: str, *arguments: int) -> Any:
        """Call a function whose failure cannot be helped: freeing on a GPU that has failed.

        In a forked process it does nothing: what is to be freed is the parent's.
        """
        if os.getpid() != self._process:
            return None
        status, value = self._cudart.call(name, *arguments)
        if status:
            self._forget_error()
        return value

    def _error(self, name: str, status: int) -> EdgeSegError:
        self._forget_error()
        code = self._cudart.call("cudaGetErrorName", status)[1]
        text = self._cudart.call("cudaGetErrorString", status)[1]
        if status == _NO_MEMORY:
            return ResourceError(
                f"the GPU ran out of memory ({name}: {text}); close what else uses it, or take a "
                "smaller batch or size"
            )
        return CudaError(f"CUDA failed: {name}: {code} ({status}): {text}")

    def _forget_error(self) -> None:
        """Clear the thread's last error; TensorRT would take it for one of its own."""
        self._cudart.call("cudaGetLastError")

    def broken(self) -> str | None:
        """Return why the GPU is lost to this process, or None if it still works.

        After some errors (an illegal address, a GPU that fell off the bus) every later call fails.
        """
        try:
            self.stream().close()
        except CudaError as error:
            return str(error)
        except ResourceError:  # full, but alive
            return None
        return None

    @property
    def integrated(self) -> bool:
        """Whether the GPU uses the host's memory, as on a Jetson."""
        return bool(self.call("cudaDeviceGetAttribute", _INTEGRATED, 0))

    def stream(self) -> Handle:
        """Return a new stream that does not wait for the default one."""
        stream = self.call("cudaStreamCreateWithFlags", _NON_BLOCKING)
        return Handle(self, stream, "cudaStreamDestroy")

    def event(self) -> Handle:
        """Return a new event; whoever waits for it sleeps and leaves the CPU to others."""
        event = self.call("cudaEventCreateWithFlags", _BLOCKING_SYNC | _NO_TIMING)
        return Handle(self, event, "cudaEventDestroy")

    def device_memory(self, nbytes: int) -> Handle:
        """Return new memory of the GPU."""
        return Handle(self, self.call("cudaMalloc", nbytes), "cudaFree")

    def pinned_memory(self, nbytes: int, *, mapped: bool) -> Handle:
        """Return new page-locked memory of the host; ``mapped``: the GPU sees it, too."""
        address = self.call("cudaHostAlloc", nbytes, _MAPPED if mapped else 0)
        return Handle(self, address, "cudaFreeHost")

    def device_address(self, mapped: Handle) -> int:
        """Return where the GPU sees mapped memory."""
        return int(self.call("cudaHostGetDevicePointer", mapped.value, 0))

    def copy(self, target: int, source: int, nbytes: int, kind: int, stream: Handle) -> None:
        """Enqueue a copy; ``kind`` is TO_DEVICE or TO_HOST."""
        self.call("cudaMemcpyAsync", target, source, nbytes, kind, stream.value)

    def wait(self, event: Handle, stream: Handle) -> None:
        """Wait until all that is enqueued on the stream is done."""
        self.call("cudaEventRecord", event.value, stream.value)
        self.call("cudaEventSynchronize", event.value)

    def capture(self, stream: Handle, enqueue: Callable[[], None]) -> Handle:
        """Return a graph of what ``enqueue`` puts on the stream; nothing of it runs yet.

        Raises:
            EdgeSegError: it cannot be captured; the stream is as before.
        """
        self.call("cudaStreamBeginCapture", stream.value, _THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            if graph := self.quietly("cudaStreamEndCapture", stream.value):
                self.quietly("cudaGraphDestroy", graph)
            raise
        graph = self.call("cudaStreamEndCapture", stream.value)
        try:
            executable = self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.quietly("cudaGraphDestroy", graph)
        return Handle(self, executable, "cudaGraphExecDestroy")

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Enqueue a captured graph."""
        self.call("cudaGraphLaunch", graph.value, stream.value)
