"""edgeseg: run an exported U-Net on a device, without torch.

This package is the base install. It holds what every stage must agree on (the
bundle, preprocessing, labels, metrics, errors) and the runtime itself::

    from edgeseg import Segmenter

    segmenter = Segmenter.load("bundles/street")
    segmenter("photo.jpg").save("mask.png")

Names load on first use, so that ``edgeseg --help`` needs neither numpy nor a
backend.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# From 1.32 ONNX Runtime's wheels for Linux report usage over the network, write a database below
# ~/.cache and start a thread for it, which makes a forked child hang at its end. Only this variable
# stops all three, and only before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edgeseg.bundle import Bundle
    from edgeseg.errors import (
        ArtifactError,
        DeviceError,
        EdgeSegError,
        GateFailed,
        InputError,
        MeasurementInvalid,
        ResourceError,
        UsageError,
    )
    from edgeseg.manifest import Manifest
    from edgeseg.segmentation import Segmentation
    from edgeseg.segmenter import Segmenter

_HOME = {
    "ArtifactError": "edgeseg.errors",
    "Bundle": "edgeseg.bundle",
    "DeviceError": "edgeseg.errors",
    "EdgeSegError": "edgeseg.errors",
    "GateFailed": "edgeseg.errors",
    "InputError": "edgeseg.errors",
    "Manifest": "edgeseg.manifest",
    "MeasurementInvalid": "edgeseg.errors",
    "ResourceError": "edgeseg.errors",
    "Segmentation": "edgeseg.segmentation",
    "Segmenter": "edgeseg.segmenter",
    "UsageError": "edgeseg.errors",
}

__all__ = [
    "ArtifactError",
    "Bundle",
    "DeviceError",
    "EdgeSegError",
    "GateFailed",
    "InputError",
    "Manifest",
    "MeasurementInvalid",
    "ResourceError",
    "Segmentation",
    "Segmenter",
    "UsageError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'edgeseg' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
