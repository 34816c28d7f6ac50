"""What sessions have in common; those of ONNX Runtime and OpenVINO, all but loading and running.

A session belongs to the process that opened it, see ``edgeseg.sessions.owned``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, EdgeSegError, show
from edgeseg.manifest import Manifest, TensorSpec
from edgeseg.sessions.failures import DeviceLost, failure
from edgeseg.sessions.owned import Owned
from edgeseg.sessions.protocol import (
    check_input,
    class_map_from_logits,
    class_map_output,
    logits_output,
)


class AnsweringSession:
    """Class maps and logits from whatever output a subclass's ``_answer`` returns."""

    _bundle: Bundle

    def infer(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            InputError: the array does not fit the model's input.
            DeviceError: the session is closed or the device failed.
            ResourceError: memory ran out; the next call may work.
        """
        spec = class_map_output(self._bundle.manifest.outputs)
        output = self._answer(images_nhwc_u8, spec)
        if spec.dtype == "uint8":
            class_maps: NDArray[np.uint8] = output
            return class_maps
        return class_map_from_logits(output)

    def infer_logits(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits float32 (N, C, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            UsageError: the bundle was exported without logits.
            InputError, DeviceError, ResourceError: see ``infer``.
        """
        logits: NDArray[np.float32] = self._answer(images_nhwc_u8, logits_output(self._bundle))
        return logits

    def _answer(self, images: NDArray[np.uint8], spec: TensorSpec) -> NDArray[Any]:
        """Return the output ``spec`` for images uint8 (N, H, W, 3)."""
        raise NotImplementedError


class BundleSession(AnsweringSession):
    """A variant of a bundle in a runtime; subclasses load it and say how it runs.

    ``infer`` may be called from several threads. After an error the session works on, except when
    the device is lost: then every later call raises DeviceError at once. ``close`` waits for calls
    that are running.
    """

    def __init__(
        self, bundle: Bundle, backend: str, variant: str, native: Any, fallback: str | None = None
    ) -> None:
        """Take the loaded model ``native``, which ``_run`` will get."""
        self.backend, self.variant, self.fallback = backend, variant, fallback
        self._bundle = bundle
        self._owned = Owned(native)

    def close(self) -> None:
        """Wait for running calls, then free the model; calling it again does nothing."""
        self._owned.close()

    def _answer(self, images: NDArray[np.uint8], spec: TensorSpec) -> NDArray[Any]:
        images = np.asarray(images)
        check_input(images, self._bundle.manifest.input)
        with self._owned.use() as native:
            try:
                return self._run(native, np.ascontiguousarray(images), spec)
            except EdgeSegError:
                raise
            except Exception as error:  # the runtimes' exceptions share no useful base class
                found = failure(error, self.backend)
                if isinstance(found, DeviceLost):
                    self._owned.lose(str(found))
                raise found from error

    def _run(self, native: Any, images: NDArray[np.uint8], spec: TensorSpec) -> NDArray[Any]:
        """Return the output ``spec`` of the loaded model for C-contiguous images."""
        raise NotImplementedError


def check_tensors(found: Iterable[tuple[str, str, int]], manifest: Manifest, name: str) -> None:
    """Check that a graph has the tensors that the manifest describes.

    Args:
        found: name, dtype and rank of the graph's inputs and outputs.
        manifest: of the bundle.
        name: of the graph, for the message.

    Raises:
        ArtifactError: a tensor is missing or has another dtype or rank.
    """
    known = set(found)
    for spec in (manifest.input, *manifest.outputs):
        if (spec.name, spec.dtype, len(spec.shape)) not in known:
            raise ArtifactError(
                f"{show(name)} has no tensor {show(spec.name)} of {spec.dtype} {spec.shape}, which "
                "the manifest promises; export the bundle again"
            )
