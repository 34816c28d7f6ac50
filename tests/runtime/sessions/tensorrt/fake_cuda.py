"""A double of the CUDA runtime that really moves bytes, in the host's memory.

Streams are queues: what is enqueued happens when somebody waits for it, so an answer that is read
too early is garbage. Memory that the host may touch and memory that kernels may touch are told
apart; mapped memory has another address for the GPU. After ``lost`` is set every call fails, as
after an illegal address on a real GPU.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

GARBAGE = 0xCD
ON_GPU = 1 << 52  # added to an address of the host: where the GPU sees it
ILLEGAL_ADDRESS, INVALID_HANDLE, UNCAPTURED, INVALIDATED = 700, 400, 900, 901
INSUFFICIENT_DRIVER = 35
TEXTS = {2: "out of memory", 700: "an illegal memory access was encountered"}

Operation = Callable[[], None]


class FakeCudart:
    """The functions of ``edgeseg.sessions.tensorrt.cudart.FUNCTIONS``, for one GPU."""

    def __init__(self, *, integrated: bool = False, count: int = 1) -> None:
        self.integrated, self.count = integrated, count
        self.calls: list[str] = []
        self.failing: dict[str, list[int]] = {}  # statuses that the next calls of a name return
        self.lost = 0  # the status of every call from now on
        self.last_error = 0
        self.faults: list[str] = []  # what CUDA allows, and what must not happen here
        self.blocks: dict[int, tuple[Any, str]] = {}  # by address: buffer and kind
        self.streams: dict[int, list[Operation]] = {}
        self.captures: dict[int, list[Operation] | None] = {}  # None: invalidated
        self.events: dict[int, int] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self.executables: dict[int, list[Operation]] = {}
        self._numbers = itertools.count(1000)
        self._lock = threading.Lock()

    @property
    def alive(self) -> int:
        """How many things nobody has freed yet."""
        held = (self.blocks, self.streams, self.events, self.graphs, self.executables)
        return sum(len(things) for things in held)

    def call(self, name: str, *arguments: int) -> tuple[int, Any]:
        # Whoever waits holds no lock: others go on meanwhile, as they do beside the real ones.
        with nullcontext() if name.endswith("Synchronize") else self._lock:
            if name == "cudaGetLastError":
                status, self.last_error = self.lost or self.last_error, 0
                return status, None
            if name.startswith("cudaGetError"):
                return 0, TEXTS.get(arguments[0], "some error")
            self.calls.append(name)
            status, value = self._planned(name), None
            if not status:
                try:
                    value = getattr(self, f"_{name}")(*arguments)
                except CudaFailure as failure:
                    status = failure.status
            self.last_error = status or self.last_error
            return status, value

    def _planned(self, name: str) -> int:
        if self.lost:
            return self.lost
        planned = self.failing.get(name)
        return planned.pop(0) if planned else 0

    # --- memory

    def memory(self, address: int, nbytes: int, *, for_gpu: bool) -> Any:
        """Return a buffer on existing memory of the right side, or lose the GPU."""
        place = address & ~ON_GPU
        for start, (buffer, kind) in list(self.blocks.items()):
            if start <= place and place + nbytes <= start + len(buffer):
                seen_by_gpu = bool(address & ON_GPU) and kind in ("device", "mapped")
                seen_by_host = not address & ON_GPU and kind in ("pinned", "mapped")
                if seen_by_gpu if for_gpu else seen_by_host:
                    return (ctypes.c_ubyte * nbytes).from_buffer(buffer, place - start)
        self.lost = ILLEGAL_ADDRESS
        raise CudaFailure(ILLEGAL_ADDRESS)

    def _new_block(self, nbytes: int, kind: str) -> int:
        buffer = (ctypes.c_ubyte * nbytes)()
        ctypes.memset(buffer, GARBAGE, nbytes)
        address = ctypes.addressof(buffer)
        self.blocks[address] = (buffer, kind)
        return address

    def _cudaMalloc(self, size: int) -> int:  # noqa: N802 - CUDA's names, here and below
        return self._new_block(size, "device") | ON_GPU

    def _cudaHostAlloc(self, size: int, flags: int) -> int:  # noqa: N802
        return self._new_block(size, "mapped" if flags & 2 else "pinned")

    def _cudaHostGetDevicePointer(self, address: int, flags: int) -> int:  # noqa: N802
        self.memory(address, 1, for_gpu=False)
        return address | ON_GPU

    def _cudaFree(self, address: int) -> None:  # noqa: N802
        self._free(address, ("device",))

    def _cudaFreeHost(self, address: int) -> None:  # noqa: N802
        self._free(address, ("pinned", "mapped"))

    def _free(self, address: int, kinds: tuple[str, ...]) -> None:
        assert self.blocks[address & ~ON_GPU][1] in kinds
        # What still uses the memory after this finds GARBAGE, not the memory of somebody else.
        buffer, _ = self.blocks.pop(address & ~ON_GPU)
        ctypes.memset(buffer, GARBAGE, len(buffer))
        _GRAVEYARD.append(buffer)

    def _cudaMemcpyAsync(self, target: int, source: int, n: int, kind: int, stream: int) -> None:  # noqa: N802
        assert kind in (1, 2), "neither to the device nor to the host"

        def copy() -> None:
            written = self.memory(target, n, for_gpu=kind == 1)
            ctypes.memmove(written, self.memory(source, n, for_gpu=kind == 2), n)

        self.enqueue(stream, copy)

    # --- streams, events, graphs

    def enqueue(self, stream: int, operation: Operation) -> None:
        """Put an operation on a stream, or into the graph that is captured from it."""
        if stream not in self.streams:
            raise CudaFailure(INVALID_HANDLE)
        if stream not in self.captures:
            self.streams[stream].append(operation)
        elif (captured := self.captures[stream]) is not None:
            captured.append(operation)

    def is_capturing(self, stream: int) -> bool:
        return stream in self.captures

    def invalidate_capture(self, stream: int) -> None:
        self.captures[stream] = None

    def _cudaGetDeviceCount(self) -> int:  # noqa: N802
        return self.count

    def _cudaDeviceGetAttribute(self, attribute: int, device: int) -> int:  # noqa: N802
        assert (attribute, device) == (18, 0)
        return int(self.integrated)

    def _cudaStreamCreateWithFlags(self, flags: int) -> int:  # noqa: N802
        assert flags == 1, "it would wait for the default stream"
        stream = next(self._numbers)
        self.streams[stream] = []
        return stream

    def _cudaStreamDestroy(self, stream: int) -> None:  # noqa: N802
        if self.streams.pop(stream) and not self.lost:
            self.faults.append("a stream was destroyed with work on it")

    def _cudaStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        queue = self.streams[stream]
        while queue:
            queue.pop(0)()

    def _cudaEventCreateWithFlags(self, flags: int) -> int:  # noqa: N802
        event = next(self._numbers)
        self.events[event] = 0
        return event

    def _cudaEventDestroy(self, event: int) -> None:  # noqa: N802
        del self.events[event]

    def _cudaEventRecord(self, event: int, stream: int) -> None:  # noqa: N802
        self.events[event] = stream

    def _cudaEventSynchronize(self, event: int) -> None:  # noqa: N802
        self._cudaStreamSynchronize(self.events[event])

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> None:  # noqa: N802
        assert mode == 1, "other threads could not allocate meanwhile"
        self.captures[stream] = []

    def _cudaStreamEndCapture(self, stream: int) -> int:  # noqa: N802
        captured = self.captures.pop(stream)
        if captured is None:
            raise CudaFailure(INVALIDATED)
        graph = next(self._numbers)
        self.graphs[graph] = captured
        return graph

    def _cudaGraphInstantiate(self, graph: int, flags: int) -> int:  # noqa: N802
        executable = next(self._numbers)
        self.executables[executable] = list(self.graphs[graph])
        return executable

    def _cudaGraphLaunch(self, executable: int, stream: int) -> None:  # noqa: N802
        for operation in self.executables[executable]:
            self.enqueue(stream, operation)

    def _cudaGraphDestroy(self, graph: int) -> None:  # noqa: N802
        del self.graphs[graph]

    def _cudaGraphExecDestroy(self, executable: int) -> None:  # noqa: N802
        del self.executables[executable]


class CudaFailure(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


_GRAVEYARD: list[Any] = []
