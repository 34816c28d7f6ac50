"""Bundles on TensorRT itself, without ONNX Runtime in between.

    edgeseg build bundles/street --backend tensorrt --variant fp16
    edgeseg run bundles/street photo.jpg --backend tensorrt

The engine comes from this machine's cache, never from a bundle: loading an engine runs what is in
it. A session belongs to the process that opened it; CUDA does not survive a fork, so start
workers with ``spawn``.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.engines.library import Library
from edgeseg.errors import DeviceError, InputError
from edgeseg.manifest import TensorSpec
from edgeseg.sessions.base import AnsweringSession
from edgeseg.sessions.protocol import check_input
from edgeseg.sessions.tensorrt.context import Context
from edgeseg.sessions.tensorrt.cuda import Cuda
from edgeseg.sessions.tensorrt.engine import LoadedEngine
from edgeseg.sessions.tensorrt.lookup import Found
from edgeseg.sessions.tensorrt.pool import ContextPool

# One computes while another one's pictures are copied; more would only take memory.
CONTEXTS = 2


class TensorRTSession(AnsweringSession):
    """One engine on the GPU.

    ``infer`` may be called from several threads: two run at a time, others wait. Out of memory is
    an error of one call. A GPU that is lost to the process ends the session: every later call
    raises DeviceError at once.
    """

    def __init__(self, found: Found, library: Library, cuda: Cuda) -> None:
        """Load the engine.

        Raises:
            ArtifactError, DeviceError, ResourceError: see ``LoadedEngine`` and ``Context``.
        """
        self._wanted, self._bundle = found.wanted, found.wanted.bundle
        self.backend, self.variant = found.wanted.backend, found.wanted.variant
        self.fallback: str | None = None
        self._cuda = cuda
        self._process = os.getpid()
        self._dead: str | None = None
        self._closing = threading.Lock()
        self._engine = LoadedEngine(found, library)
        self._pool = ContextPool(lambda: Context(self._engine, cuda), CONTEXTS)

    def close(self) -> None:
        """Wait for running calls, then free the engine; calling it again does nothing."""
        if os.getpid() != self._process:
            return
        with self._closing:
            self._pool.close()
            self._engine.close()

    def _answer(self, images: NDArray[np.uint8], spec: TensorSpec) -> NDArray[Any]:
        check_input(images, self._engine.input)
        self._check_alive()
        full = self._filled_up(images)
        try:
            with self._pool.lend() as context:
                return context.run(full, spec.name)[: len(images)]
        except Exception:
            self._dead = self._dead or self._cuda.broken()
            raise

    def _check_alive(self) -> None:
        if os.getpid() != self._process:
            raise DeviceError(
                "this session was opened before the process forked, and CUDA does not survive "
                "that; start workers with multiprocessing's 'spawn', or open a session in each"
            )
        if self._dead:
            raise DeviceError(f"the GPU is lost to this process ({self._dead}); start it again")

    def _filled_up(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the images, with black ones added if the engine takes only more at a time.

        Raises:
            InputError: no profile of the engine takes this size, or so many.
        """
        number, *size = images.shape
        profiles = self._engine.key.profiles
        smallest = min(
            (p.min[0] for p in profiles if self._engine.profile_of((p.min[0], *size)) is not None),
            default=number,
        )
        missing = max(0, smallest - number)
        if self._engine.profile_of((number + missing, *size)) is None:
            taken = "; ".join(f"{p.min} to {p.max}" for p in profiles)
            raise InputError(
                f"the engine takes input shapes {taken}, got {images.shape}; for other sizes or "
                f"more pictures at once build one more: {self._wanted.build_command}"
            )
        if not missing:
            return images
        return np.concatenate([images, np.zeros((missing, *size), np.uint8)])
