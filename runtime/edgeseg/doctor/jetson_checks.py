"""What can be wrong on a Jetson, each with its fix.

Most of it is a package that was made for servers: its wheel says aarch64, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edgeseg.doctor.checks import Finding
from edgeseg.doctor.jetson import Jetson, SystemTensorRT
from edgeseg.doctor.machine import Machine
from edgeseg.doctor.packages import Package

OLDEST_L4T = (36, 4)  # JetPack 6.1: the first with TensorRT 10.3
_PIP_TENSORRT = re.compile(r"tensorrt(-cu\d+)?(-libs|-bindings)?")

_NO_GPU_WHEEL = (
    "onnxruntime-gpu has no wheel for a Jetson in the public index; use the backend tensorrt, and "
    "ort:cpu for parity (a wheel made for your JetPack works, too)"
)
_NO_RTX = "TensorRT-RTX is for GeForce and RTX cards, not for Jetsons; use the backend tensorrt"
# What to say on a Jetson instead of a fix for servers and desktops.
NO_WHEELS = {
    "ort:cuda": _NO_GPU_WHEEL,
    "ort:tensorrt": _NO_GPU_WHEEL,
    "ort:tensorrt-rtx": _NO_RTX,
    "tensorrt-rtx": _NO_RTX,
}


def find_jetson_problems(
    machine: Machine, jetson: Jetson, packages: dict[str, Package]
) -> Iterator[Finding]:
    """Yield what is wrong on this Jetson."""
    yield from _jetpack_problems(jetson)
    yield from _tensorrt_problems(machine, jetson)
    yield from _package_problems(machine, jetson, packages)
    mode, fastest = jetson.power_mode, jetson.fastest_mode
    if mode and fastest and mode != fastest:
        yield Finding(
            f"power mode is {mode.name}: slower than this board can be",
            f"where power and cooling allow it: sudo nvpmodel -m {fastest.number} "
            f"({fastest.name}), then sudo jetson_clocks",
        )


def _jetpack_problems(jetson: Jetson) -> Iterator[Finding]:
    if jetson.l4t and jetson.l4t < OLDEST_L4T:
        yield Finding(
            f"L4T {_dotted(jetson.l4t)} (JetPack {jetson.jetpack}) has a TensorRT older than 10.3",
            "flash JetPack 6.1 or newer; until then only ort:cpu works",
        )


def _tensorrt_problems(machine: Machine, jetson: Jetson) -> Iterator[Finding]:
    system = jetson.tensorrt
    if system is None:
        yield Finding(
            "JetPack's TensorRT for Python is not installed"
            + (f" (its library is: libnvinfer {jetson.libnvinfer})" if jetson.libnvinfer else ""),
            "sudo apt install python3-libnvinfer (in a container: use an image with TensorRT)",
        )
    elif system.python and system.python != machine.python:
        yield Finding(
            f"JetPack's TensorRT is for Python {_dotted(system.python)}, this is "
            f"{_dotted(machine.python)}",
            f"/usr/bin/python{_dotted(system.python)} -m venv --system-site-packages venv, "
            "and install edgeseg there",
        )
    elif not any((folder / "tensorrt").is_dir() for folder in machine.search):
        yield _hidden(machine.prefix / "pyvenv.cfg", system)


def _hidden(settings: Path, system: SystemTensorRT) -> Finding:
    closed = r"^include-system-site-packages *= *false"
    if settings.is_file() and re.search(closed, settings.read_text(), re.MULTILINE):
        return Finding(
            f"this virtual environment hides JetPack's TensorRT ({system.folder})",
            f"set include-system-site-packages = true in {settings}, or make it again with "
            "--system-site-packages",
        )
    return Finding(
        f"this Python does not look where JetPack's TensorRT is ({system.folder})",
        "use the system's: /usr/bin/python3 -m venv --system-site-packages venv",
    )


def _package_problems(
    machine: Machine, jetson: Jetson, packages: dict[str, Package]
) -> Iterator[Finding]:
    if jetson.l4t is None or jetson.l4t[0] != 36:
        return  # JetPack 7 runs what is made for Arm servers with CUDA 13
    if servers := [name for name, one in packages.items() if _is_for_servers(one, machine)]:
        yield Finding(
            f"{', '.join(sorted(servers))} from pip: made for Arm servers, cannot use this GPU",
            f"pip uninstall -y {' '.join(sorted(servers))}; TensorRT is JetPack's, and the "
            "runtime needs no torch",
        )
    numpy, older = packages.get("numpy"), list(_built_for_numpy_1(machine, packages))
    if numpy and numpy.major >= 2 and older:
        yield Finding(
            f"{' and '.join(older)} for JetPack 6 is built for numpy 1, this is {numpy.version}",
            'pip install "numpy>=1.26,<2"',
        )
    cuda = packages.get("cuda-bindings")
    if cuda and cuda.major != 12:
        yield Finding(
            f"cuda-bindings {cuda.version} is for CUDA {cuda.major}, JetPack 6 has CUDA 12",
            'pip install "cuda-bindings>=12.9,<13"',
        )


def _built_for_numpy_1(machine: Machine, packages: dict[str, Package]) -> Iterator[str]:
    if gpu := packages.get("onnxruntime-gpu"):
        yield f"onnxruntime-gpu {gpu.version}"
    opencv = next((folder for folder in machine.search if (folder / "cv2").is_dir()), None)
    if opencv and machine.root / "usr/lib" in opencv.parents:
        yield "apt's OpenCV"  # which CSI cameras need


def _is_for_servers(package: Package, machine: Machine) -> bool:
    """Tell whether pip brought a GPU package whose wheel is not for a Jetson.

    NVIDIA's wheels for JetPack are tagged ``linux_aarch64``, those of the public index manylinux.
    """
    if machine.root / "usr/lib" in package.folder.parents:
        return False  # apt's
    if package.name in ("torch", "torchvision"):
        return any("manylinux" in tag for tag in package.tags)
    return bool(_PIP_TENSORRT.fullmatch(package.name))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
