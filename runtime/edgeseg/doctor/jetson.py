"""Which Jetson this is: board, L4T, JetPack, its TensorRT and its power mode.

All of it is in files: the device tree, ``/etc/nv_tegra_release``, dpkg's list of packages and
``nvpmodel``'s settings. A container often has only some of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeseg.doctor.machine import Machine

JETPACKS = {35: "5", 36: "6", 38: "7", 39: "7"}  # by L4T's major version


@dataclass(frozen=True)
class SystemTensorRT:
    """JetPack's TensorRT for Python: where its module is, and the Python it was built for."""

    version: str
    folder: str
    python: tuple[int, int] | None


@dataclass(frozen=True)
class PowerMode:
    """A mode of ``nvpmodel``: its number for ``nvpmodel -m`` and its name."""

    number: int
    name: str


@dataclass(frozen=True)
class Jetson:
    """A Jetson.

    Attributes:
        board: what the device tree calls it; None in a container that has none.
        l4t: Jetson Linux, as (36, 4, 3); None if unknown.
        jetpack: ``6.2.1`` where the nvidia-jetpack package says so, else ``6`` after L4T.
        libnvinfer: version of the TensorRT library that dpkg has, None if it has none.
        tensorrt: TensorRT's Python module of the system, None if it is not installed.
        power_modes: what ``nvpmodel`` offers.
        power_mode: the present one, None if unknown.
    """

    board: str | None
    l4t: tuple[int, ...] | None
    jetpack: str | None
    libnvinfer: str | None
    tensorrt: SystemTensorRT | None
    power_modes: tuple[PowerMode, ...]
    power_mode: PowerMode | None

    @property
    def fastest_mode(self) -> PowerMode | None:
        """The mode without limits, which is not always number 0; None if there is none."""
        unlimited = [mode for mode in self.power_modes if mode.name.startswith("MAXN")]
        return max(unlimited, key=lambda mode: mode.name, default=None)  # MAXN_SUPER beats MAXN


def find_jetson(machine: Machine) -> Jetson | None:
    """Return what is known of the Jetson, or None if this is none."""
    board = machine.read("proc/device-tree/model") or None
    compatible = machine.read("proc/device-tree/compatible")
    release = machine.read("etc/nv_tegra_release")
    if not release and "nvidia,tegra" not in compatible and "Jetson" not in (board or ""):
        return None
    l4t, packages = _l4t(release), machine.read("var/lib/dpkg/status")
    modes, mode = _power(machine)
    return Jetson(
        board=board,
        l4t=l4t,
        jetpack=_jetpack(packages, l4t),
        libnvinfer=_dpkg_version(packages, r"libnvinfer\d+"),
        tensorrt=_system_tensorrt(machine, packages),
        power_modes=modes,
        power_mode=mode,
    )


def _l4t(release: str) -> tuple[int, ...] | None:
    found = re.search(r"# R(\d+) .*REVISION: ([\d.]+)", release)
    return tuple(int(part) for part in f"{found[1]}.{found[2]}".split(".")) if found else None


def _jetpack(packages: str, l4t: tuple[int, ...] | None) -> str | None:
    version = _dpkg_version(packages, "nvidia-jetpack")
    return version.partition("+")[0] if version else JETPACKS.get(l4t[0]) if l4t else None


def _dpkg_version(packages: str, name: str) -> str | None:
    """Return the version of an installed package; ``name`` is a pattern."""
    installed = r"\nStatus: install ok installed\n(?:.+\n)*?Version: (\S+)"
    found = re.search(rf"^Package: {name}{installed}", packages, re.MULTILINE)
    return found[1] if found else None


def _system_tensorrt(machine: Machine, packages: str) -> SystemTensorRT | None:
    for folder in sorted((machine.root / "usr/lib").glob("python3*/dist-packages/tensorrt")):
        version = _dpkg_version(packages, "python3-libnvinfer") or "of unknown version"
        return SystemTensorRT(version, str(folder), _built_for(folder, machine))
    return None


def _built_for(folder: Path, machine: Machine) -> tuple[int, int] | None:
    """Return the Python of ``python3.10/dist-packages``; of ``python3`` what the system's is."""
    name = folder.parents[1].name
    if name == "python3":
        name = (machine.root / "usr/bin/python3").resolve().name
    found = re.fullmatch(r"python(\d+)\.(\d+)", name)
    return (int(found[1]), int(found[2])) if found else None


def _power(machine: Machine) -> tuple[tuple[PowerMode, ...], PowerMode | None]:
    """Return all power modes, and the present one: as set last, or else the default."""
    settings = machine.read("etc/nvpmodel.conf")
    listed = re.findall(r"^< *POWER_MODEL +ID=(\d+) +NAME=(\S+) *>", settings, re.MULTILINE)
    modes = tuple(PowerMode(int(number), name) for number, name in listed)
    present = re.search(r"pmode:(\d+)", machine.read("var/lib/nvpmodel/status"))
    present = present or re.search(r"PM_CONFIG +DEFAULT=(\d+)", settings)
    number = int(present[1]) if present else None
    return modes, next((mode for mode in modes if mode.number == number), None)
