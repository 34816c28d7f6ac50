"""The GPU through a double of the driver's library; a real one answers on machines that have it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from edgeseg.engines import device
from edgeseg.engines.device import Device, find_device, free_device_bytes, free_host_bytes


class FakeCuda:
    """The functions of libcuda that are used; each writes through its pointers and returns 0."""

    def __init__(self, *, count: int = 1, integrated: int = 0, failing: str = "") -> None:
        self.count, self.failing, self.held = count, failing, 0
        self.attributes = {18: integrated, 75: 8, 76: 7}

    def _status(self, name: str) -> int:
        return 100 if name == self.failing else 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._status("cuInit")

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDeviceGetName(self, name: Any, length: int, ordinal: int) -> int:  # noqa: N802
        name.value = b"Orin (nvgpu)"
        return 0

    def cuDeviceGetAttribute(self, value: Any, which: int, ordinal: int) -> int:  # noqa: N802
        value._obj.value = self.attributes[which]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 12060
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, ordinal: int) -> int:  # noqa: N802
        self.held += not self._status("cuDevicePrimaryCtxRetain")
        return self._status("cuDevicePrimaryCtxRetain")

    def cuCtxPushCurrent_v2(self, context: Any) -> int:  # noqa: N802
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = 3 * 2**30, 8 * 2**30
        return self._status("cuMemGetInfo_v2")

    def cuDevicePrimaryCtxRelease_v2(self, ordinal: int) -> int:  # noqa: N802
        self.held -= 1
        return 0


@pytest.fixture
def files(monkeypatch, tmp_path: Path) -> Path:
    """Stand-ins for what the kernel tells; none is there at first."""
    monkeypatch.setattr(device, "_RELEASE", tmp_path / "version")
    monkeypatch.setattr(device, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    return tmp_path


def test_a_gpu_has_a_name_a_capability_and_a_driver(files: Path) -> None:
    expected = Device(name="Orin (nvgpu)", compute_capability="8.7", driver="CUDA 12.6")
    assert find_device(FakeCuda()) == expected
    (files / "version").write_text("540.4.0\n")
    found = find_device(FakeCuda())
    assert found
    assert found.driver == "540.4.0 (CUDA 12.6)"


@pytest.mark.parametrize("cuda", [FakeCuda(count=0), FakeCuda(failing="cuInit")])
def test_a_driver_without_a_usable_gpu_counts_as_none(monkeypatch, cuda: FakeCuda) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: cuda)
    assert device.open_driver() is None


def test_a_driver_with_a_gpu_is_opened_and_one_that_is_missing_is_none(monkeypatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: cuda)
    assert device.open_driver() is cuda
    monkeypatch.undo()
    monkeypatch.setattr(device, "DRIVER", "libcuda.so.none")
    assert device.open_driver() is None
    assert find_device(None) is None


def test_free_device_memory_is_asked_in_a_context_that_is_given_back() -> None:
    cuda = FakeCuda()
    assert free_device_bytes(cuda) == 3 * 2**30
    assert cuda.held == 0


@pytest.mark.parametrize("failing", ["cuDevicePrimaryCtxRetain", "cuMemGetInfo_v2"])
def test_a_driver_that_does_not_say_is_no_answer(failing: str) -> None:
    cuda = FakeCuda(failing=failing)
    assert free_device_bytes(cuda) is None
    assert cuda.held == 0


def test_on_a_jetson_it_is_the_hosts_memory_that_counts() -> None:
    assert free_device_bytes(FakeCuda(integrated=1)) is None


def test_free_host_memory_is_the_smaller_of_system_and_container(files: Path) -> None:
    assert free_host_bytes() is None
    (files / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    2048 kB\n")
    assert free_host_bytes() == 2**21
    (files / "memory.max").write_text("max\n")
    (files / "memory.current").write_text("1000\n")
    assert free_host_bytes() == 2**21
    (files / "memory.max").write_text("5000\n")
    assert free_host_bytes() == 4000
    (files / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert free_host_bytes() == 4500


@pytest.mark.gpu
def test_a_real_driver_answers() -> None:
    import os
    import subprocess
    import sys

    code = (
        "from edgeseg.engines.device import *; cuda = open_driver(); "
        "print(find_device(cuda).compute_capability, free_device_bytes(cuda))"
    )
    visible = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=visible
    )
    capability, free = done.stdout.split()
    assert float(capability) >= 5
    assert free == "None" or int(free) > 0
