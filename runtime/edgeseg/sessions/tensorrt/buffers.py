"""The memory of one tensor: pinned on the host, and where the GPU reads or writes it.

On a GPU with memory of its own there are two buffers and copies between them. A Jetson's GPU uses
the host's memory: there one mapped buffer serves both, and nothing is copied.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.sessions.tensorrt.cuda import TO_DEVICE, TO_HOST, Cuda, Handle


class Pinned:
    """Page-locked memory of the host; arrays made from it keep it alive."""

    def __init__(self, cuda: Cuda, nbytes: int, *, mapped: bool) -> None:
        """Allocate; see ``Cuda.pinned_memory``."""
        self.handle = cuda.pinned_memory(nbytes, mapped=mapped)
        self.__array_interface__ = {
            "data": (self.handle.value, False),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array on the first bytes of this memory; its base is this object."""
        nbytes = math.prod(shape) * dtype.itemsize
        return np.asarray(self)[:nbytes].view(dtype).reshape(shape)


class TensorMemory:
    """The memory of one tensor, of a shape that may change; it grows and never shrinks."""

    def __init__(self, cuda: Cuda, dtype: str, *, integrated: bool) -> None:
        """Allocate nothing yet; ``integrated``: the GPU uses the host's memory."""
        self._cuda, self._integrated = cuda, integrated
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._shape: tuple[int, ...] = ()
        self._capacity = 0
        self._host: Pinned | None = None
        self._device: Handle | None = None

    def resize(self, shape: tuple[int, ...]) -> int:
        """Make room for ``shape`` and return the address for the GPU.

        Raises:
            ResourceError: memory ran out; the old memory is gone, too.
        """
        self._shape = shape
        if self._nbytes > self._capacity:
            self.close()
            if not self._integrated:
                self._device = self._cuda.device_memory(self._nbytes)
            self._capacity = self._nbytes
        if self._device:
            return self._device.value
        return self._cuda.device_address(self._pinned().handle)

    @property
    def _nbytes(self) -> int:
        return math.prod(self._shape) * self._dtype.itemsize

    def _pinned(self) -> Pinned:
        # On demand: logits that nobody asks for are never copied to the host.
        if self._host is None:
            self._host = Pinned(self._cuda, self._capacity, mapped=self._integrated)
        return self._host

    def upload(self, array: NDArray[Any], stream: Handle) -> None:
        """Write ``array``, of the present shape, and enqueue its copy to the GPU."""
        host = self._pinned()
        np.copyto(host.view(self._shape, self._dtype), array)
        if self._device:
            device, address = self._device.value, host.handle.value
            self._cuda.copy(device, address, self._nbytes, TO_DEVICE, stream)

    def download(self, stream: Handle) -> None:
        """Enqueue the copy from the GPU; ``read`` after the stream is done."""
        host = self._pinned()
        if self._device:
            address, device = host.handle.value, self._device.value
            self._cuda.copy(address, device, self._nbytes, TO_HOST, stream)

    def read(self) -> NDArray[Any]:
        """Return a copy of what was downloaded."""
        return self._pinned().view(self._shape, self._dtype).copy()

    def close(self) -> None:
        """Free the memory; nothing may be running on it."""
        for memory in (self._device, self._host and self._host.handle):
            if memory:
                memory.close()
        self._device = self._host = None
        self._capacity = 0
