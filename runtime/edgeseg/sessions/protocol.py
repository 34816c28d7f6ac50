"""What a session is: a loaded model that turns network inputs into class maps or logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.errors import InputError, UsageError, show
from edgeseg.manifest import TensorSpec
from edgeseg.restore import rank

LOGITS = "float32"  # the dtype by which a bundle's logits are told from its class map


@dataclass(frozen=True)
class Settings:
    """How a session is opened.

    Attributes:
        size: (height, width) that the network will run at; None: the bundle's own.
        batch: the most images per call.
        threads: of the CPU, None: as many as this process may use.
        allow_fallback: run what the device cannot on another, and say so in ``fallback``.
    """

    size: tuple[int, int] | None = None
    batch: int = 1
    threads: int | None = None
    allow_fallback: bool = False


class Session(Protocol):
    """A loaded model. ``backend`` and ``variant`` name what runs.

    ``fallback`` says in words what does not run on the backend that was asked for; it is None
    unless the settings allow a fallback and there is one.

    ``infer`` and ``infer_logits`` may be called from several threads. After an error a session
    either works on or raises DeviceError at every later call.
    """

    backend: str
    variant: str
    fallback: str | None

    def infer(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            InputError: the array does not fit the model's input.
            DeviceError: the session is closed or the device failed.
            ResourceError: memory ran out.
        """

    def infer_logits(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits float32 (N, C, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            UsageError: the bundle was exported without logits.
            InputError, DeviceError, ResourceError: see ``infer``.
        """

    def close(self) -> None:
        """Free the model; calling it again does nothing."""


def class_map_from_logits(logits_nchw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the most likely class per pixel, uint8 (N, H, W), of float logits (N, C, H, W)."""
    return np.stack([rank(logits_chw).class_map for logits_chw in logits_nchw])


def class_map_output(outputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the output that class maps are read from: the class map itself, else the logits."""
    return next((spec for spec in outputs if spec.dtype == "uint8"), outputs[0])


def logits_output(bundle: Bundle) -> TensorSpec:
    """Return the output that holds logits.

    Raises:
        UsageError: the bundle was exported without logits.
    """
    for spec in bundle.manifest.outputs:
        if spec.dtype == LOGITS:
            return spec
    raise UsageError(
        f"bundle {show(bundle.path)} holds class maps only; for logits export it with --output both"
    )


def check_input(images: NDArray[Any], spec: TensorSpec) -> None:
    """Check an input array against the manifest.

    Raises:
        InputError: dtype, rank or a fixed dimension differs, or a dimension is 0.
    """
    if images.dtype != np.uint8 or not spec.fits(images.shape) or images.size == 0:
        raise InputError(
            f"model input {show(spec.name)} got shape {images.shape} and dtype {images.dtype}; "
            f"expected uint8 {spec.shape}"
        )
