"""Backends: which exist, which work here, and opening one.

A session runs one variant of a bundle on one backend. A backend that was asked for
and is not there is an error that says how to get it, never a silent fallback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, DeviceError, UsageError, show
from edgeseg.sessions import ort

BACKENDS = tuple(ort.PROVIDERS)
AUTO = "auto"
CPU_BACKENDS = ("ort:cpu",)
_AUTO_ORDER = ("ort:tensorrt", "ort:cuda", "ort:cpu")


class Session(Protocol):
    """A loaded model. ``backend`` and ``variant`` name what runs."""

    backend: str
    variant: str

    def infer(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            InputError: the array does not fit the model's input.
        """

    def close(self) -> None:
        """Free the model; calling it again does nothing."""


@dataclass(frozen=True)
class Choice:
    """What will run, and the reason in words."""

    backend: str
    variant: str
    why: str


def choose(bundle: Bundle, backend: str = AUTO, variant: str | None = None) -> Choice:
    """Settle backend and variant; ``auto`` takes the first of TensorRT, CUDA, CPU that works.

    Without a variant, CPUs get ``int8-cpu`` where the bundle has it (it passed its accuracy
    gate at export) and everything else gets ``fp32``.

    Raises:
        UsageError: unknown names, or a CPU variant on another backend.
        ArtifactError: the bundle did not pass its gates at export.
    """
    if backend == AUTO:
        working = [name for name in _AUTO_ORDER if ort.problem(name) is None]
        if not working:
            raise DeviceError(f"no backend works here: {ort.problem('ort:cpu')}")
        chosen = working[0]
        why = f"auto: first of {', '.join(_AUTO_ORDER)} that works here"
    else:
        chosen, why = check_backend(backend), "as asked"
    on_cpu = chosen in CPU_BACKENDS
    if variant is None:
        variant = "int8-cpu" if on_cpu and "int8-cpu" in bundle.manifest.variants else "fp32"
        why += f"; variant {variant} is the default there"
    entry = bundle.variant(variant)
    if entry.target == "cpu" and not on_cpu:
        raise UsageError(f"variant {show(variant)} is for CPUs and does not run on {chosen}")
    if entry.precision == "bf16" and on_cpu:
        raise UsageError(f"variant {show(variant)} has no kernels on {chosen}; use another variant")
    if failures := bundle.manifest.failures:
        raise ArtifactError(
            f"bundle {show(bundle.path)} was rejected at export: {'; '.join(failures)}"
        )
    return Choice(chosen, variant, why)


def variants_for(bundle: Bundle, backend: str) -> list[str]:
    """Return the bundle's variants that are meant for a backend; errors as ``choose``.

    CPUs run the variants for TensorRT, too, but only as a check: 8-bit there is emulated.
    """
    on_cpu = choose(bundle, backend, "fp32").backend in CPU_BACKENDS
    foreign = "tensorrt" if on_cpu else "cpu"
    variants = bundle.manifest.variants
    return [name for name, entry in variants.items() if entry.target != foreign]


def check_backend(name: str) -> str:
    """Return ``name`` if it is a backend.

    Raises:
        UsageError: there is no such backend.
    """
    if name not in BACKENDS:
        raise UsageError(f"no backend {show(name)}; choose from {AUTO}, {', '.join(BACKENDS)}")
    return name


def open_session(bundle: Bundle, backend: str = AUTO, variant: str | None = None) -> Session:
    """Load a variant of a bundle on a backend.

    Raises:
        UsageError, ArtifactError: see ``choose``.
        ArtifactError: the model file is corrupt or the backend cannot load it.
        DeviceError: the backend does not work here.
    """
    choice = choose(bundle, backend, variant)
    return ort.OrtSession(bundle, choice.backend, choice.variant)
