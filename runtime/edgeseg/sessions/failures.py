"""What a runtime's error means: memory ran out, the GPU is lost, or this call failed.

ONNX Runtime and OpenVINO raise ``RuntimeError`` for all three, so their words decide. After a
sticky error of CUDA every call of the process fails; only a new process helps.
"""

from __future__ import annotations

import re

from edgeseg.errors import DeviceError, EdgeSegError, ResourceError, first_line

_CUDA_FAILURE = re.compile(r"CUDA failure (\d+)")
_NO_MEMORY = 2  # cudaErrorMemoryAllocation
# Of cudaError_t: those after which the process must be ended. 214 ECC, 220 NVLink, 700 illegal
# address, 702 timeout, 709 destroyed context, 710 assert, 714..719 faults of a kernel, 721 a
# contained fault, 999 unknown: seen when the GPU fell off the bus.
_STICKY = {214, 220, 700, 702, 709, 710, *range(714, 720), 721, 999}
_STICKY_WORDS = (
    "illegal memory access",
    "unspecified launch failure",
    "device-side assert",
    "gpu is lost",
    "uncorrectable ecc",
)
_MEMORY_WORDS = ("bad_alloc", "out of memory", "alloc_failed", "failed to allocate")


class DeviceLost(DeviceError):
    """The device is gone for this process."""


def failure(error: Exception, backend: str) -> EdgeSegError:
    """Return our error for what a runtime raised during inference."""
    # Behind " ; " ONNX Runtime names the host, the source file and the line.
    text = first_line(error).partition(" ; ")[0]
    words = str(error).lower()
    numbered = _CUDA_FAILURE.search(str(error))
    number = int(numbered[1]) if numbered else None
    if number in _STICKY or any(sign in words for sign in _STICKY_WORDS):
        return DeviceLost(f"the GPU is lost to this process ({text}); start it again")
    if (
        isinstance(error, MemoryError)
        or number == _NO_MEMORY
        or any(sign in words for sign in _MEMORY_WORDS)
    ):
        return ResourceError(
            f"out of memory during inference on {backend}: {text}; "
            "use a smaller batch or size, the session still works"
        )
    return DeviceError(f"inference failed on {backend}: {text}")
