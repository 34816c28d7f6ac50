"""Which GPU is here, through the driver's own library, and how much memory is free.

``libcuda`` comes with every driver, on servers and on Jetsons, and its functions are the same
for all CUDA versions; so naming the GPU needs no package that must match the driver.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

DRIVER = "libcuda.so.1"
# CU_DEVICE_ATTRIBUTE_INTEGRATED, _COMPUTE_CAPABILITY_MAJOR and _MINOR
_INTEGRATED, _MAJOR, _MINOR = 18, 75, 76
_RELEASE = Path("/sys/module/nvidia/version")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
MIB = 2**20


class Device(BaseModel):
    """A GPU and its driver; an engine built on it fits others of the same kind only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    compute_capability: str
    driver: str


def open_driver() -> Any | None:
    """Return the CUDA driver's library after ``cuInit``, or None where there is no usable GPU."""
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    return cuda


def find_device(cuda: Any | None) -> Device | None:
    """Return the first visible GPU (``CUDA_VISIBLE_DEVICES`` chooses), or None without a driver."""
    if cuda is None:
        return None
    major, minor = (_attribute(cuda, which) for which in (_MAJOR, _MINOR))
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), 0)
    return Device(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        driver=_driver_version(cuda),
    )


def free_device_bytes(cuda: Any) -> int | None:
    """Return the free memory of the first GPU, or None if the driver does not say.

    A Jetson's GPU uses the host's memory, so there it is ``free_host_bytes`` that counts.
    """
    if _attribute(cuda, _INTEGRATED):
        return None
    context = ctypes.c_void_p()
    if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0):
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        failed = cuda.cuCtxPushCurrent_v2(context)
        failed = failed or cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(0)
    return None if failed else free.value


def free_host_bytes() -> int | None:
    """Return what a process may still use: the system's free memory or the container's rest."""
    found = [_available(), _container_rest()]
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _attribute(cuda: Any, which: int) -> int:
    value = ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(value), which, 0)
    return value.value


def _driver_version(cuda: Any) -> str:
    """Return the driver's release where the kernel tells it, and the CUDA version it speaks."""
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    speaks = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    release = _read(_RELEASE)
    return f"{release.strip()} ({speaks})" if release else speaks


def _available() -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(_MEMINFO) or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _container_rest() -> int | None:
    limit, used = (_read(_CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None or not limit.strip().isdigit():
        return None  # no container, or one without a limit ("max")
    # Pages of files are counted as used, although the kernel drops them when memory is needed.
    cached = re.search(r"^inactive_file (\d+)$", _read(_CGROUP / "memory.stat") or "", re.MULTILINE)
    return max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
