"""Machines as folders: two Jetsons, a PC, and a container on a Jetson without a device tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg.doctor.machine import Machine

MIB = 2**20

# Files as these systems have them.
JETPACK_6 = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
    "etc/nv_tegra_release": (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n"
    ),
    "etc/nvpmodel.conf": (
        "# comment with ID=9 NAME=NONE\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n\n"
        "< POWER_MODEL ID=1 NAME=25W >\n\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n\n"
        "< POWER_MODEL ID=3 NAME=7W >\n\n< PM_CONFIG DEFAULT=1 >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0002",
    "var/lib/dpkg/status": (
        "Package: adduser\nStatus: install ok installed\nVersion: 3.118ubuntu5\n\n"
        "Package: libnvinfer10\nStatus: install ok installed\nPriority: optional\n"
        "Architecture: arm64\nVersion: 10.3.0.30-1+cuda12.5\nDepends: libcudart12\n\n"
        "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n\n"
        "Package: python3-libnvinfer\nStatus: install ok installed\n"
        "Version: 10.3.0.30-1+cuda12.5\n"
    ),
    "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
    "usr/lib/python3.10/dist-packages/tensorrt-10.3.0.dist-info/METADATA": "",
}
JETPACK_7 = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3971-0089+p3834-0008\0nvidia,tegra264\0",
    "etc/nv_tegra_release": (
        "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, "
        "DATE: Fri Aug 22 00:55:42 UTC 2025\n# KERNEL_VARIANT: oot\nINSTALL_TYPE=\n"
    ),
    "etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n< PM_CONFIG DEFAULT=1 >\n"
    ),
    "var/lib/dpkg/status": (
        "Package: libnvinfer10\nStatus: install ok installed\nVersion: 10.13.3.9-1+cuda13.0\n\n"
        "Package: nvidia-jetpack\nStatus: deinstall ok config-files\nVersion: 7.0-b1\n\n"
        "Package: python3-libnvinfer\nStatus: install ok installed\n"
        "Version: 10.13.3.9-1+cuda13.0\n"
    ),
    "usr/lib/python3/dist-packages/tensorrt/__init__.py": "",
}
SITE = "home/user/venv/lib/python3.{minor}/site-packages"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def with_venv(root: Path, minor: int, system_folder: str, *, open_to_system: bool) -> Machine:
    """Return the machine at ``root``, seen from a virtual environment in it."""
    venv = root / "home/user/venv"
    shown = "true" if open_to_system else "false"
    write(venv, {"pyvenv.cfg": f"home = /usr/bin\ninclude-system-site-packages = {shown}\n"})
    site = root / SITE.format(minor=minor)
    site.mkdir(parents=True)
    system = (root / system_folder,) if open_to_system else ()
    cache = root / "home/user/.cache/edgeseg/engines"
    return Machine(root, "aarch64", (3, minor), venv, (site, *system), cache, 4096 * MIB)


Build = Callable[..., Machine]


@pytest.fixture
def orin(tmp_path: Path) -> Build:
    """JetPack 6.2 on an Orin Nano, in an environment that sees the system's packages or not."""

    def build(*, open_to_system: bool = True, **changed: str) -> Machine:
        write(tmp_path, {**JETPACK_6, **changed})
        folder = "usr/lib/python3.10/dist-packages"
        return with_venv(tmp_path, 10, folder, open_to_system=open_to_system)

    return build


@pytest.fixture
def thor(tmp_path: Path) -> Machine:
    """JetPack 7.0 on a Thor, all in order."""
    write(tmp_path, JETPACK_7)
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/python3").symlink_to("python3.12")
    return with_venv(tmp_path, 12, "usr/lib/python3/dist-packages", open_to_system=True)


@pytest.fixture
def container(tmp_path: Path) -> Machine:
    """A container on an Orin: no device tree, no dpkg entries of NVIDIA's, no power settings."""
    write(tmp_path, {"etc/nv_tegra_release": JETPACK_6["etc/nv_tegra_release"]})
    return with_venv(tmp_path, 10, "usr/lib/python3/dist-packages", open_to_system=False)


@pytest.fixture
def pc(tmp_path: Path) -> Machine:
    """A PC with nothing of NVIDIA's."""
    write(tmp_path, {"var/lib/dpkg/status": "Package: dpkg\nStatus: install ok installed\n"})
    machine = with_venv(tmp_path, 11, "usr/lib/python3/dist-packages", open_to_system=False)
    return replace(machine, architecture="x86_64")


@pytest.fixture
def add_package() -> Callable[..., None]:
    """Put a package into a machine's environment, as pip does."""

    def add(machine: Machine, name: str, version: str, tag: str = "") -> None:
        folder = machine.search[0] / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        (folder / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n" if tag else "")

    return add
