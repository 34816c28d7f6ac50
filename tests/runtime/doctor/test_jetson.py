"""A Jetson is recognised by its files, and what is wrong on one is named with its fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from edgeseg import doctor
from edgeseg.doctor.checks import Finding
from edgeseg.doctor.jetson import Jetson, PowerMode, find_jetson
from edgeseg.doctor.jetson_checks import NO_WHEELS, find_jetson_problems
from edgeseg.doctor.machine import Machine
from edgeseg.doctor.packages import installed_packages
from edgeseg.sessions import BACKENDS

Build = Callable[..., Machine]
Add = Callable[..., None]
MANYLINUX = "cp310-cp310-manylinux_2_28_aarch64"
JETSON_WHEEL = "cp310-cp310-linux_aarch64"


def jetson_of(machine: Machine) -> Jetson:
    found = find_jetson(machine)
    assert found is not None
    return found


def findings(machine: Machine) -> list[Finding]:
    packages = installed_packages(machine.search)
    return list(find_jetson_problems(machine, jetson_of(machine), packages))


# --- what it is


def test_an_orin_with_jetpack_6(orin: Build) -> None:
    machine = orin()
    found = jetson_of(machine)
    assert found.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (found.l4t, found.jetpack) == ((36, 4, 3), "6.2")
    assert found.libnvinfer == "10.3.0.30-1+cuda12.5"
    assert found.tensorrt is not None
    assert found.tensorrt.version == "10.3.0.30-1+cuda12.5"
    assert found.tensorrt.folder.endswith("usr/lib/python3.10/dist-packages/tensorrt")
    assert found.tensorrt.python == (3, 10)
    assert found.power_mode == found.fastest_mode == PowerMode(2, "MAXN_SUPER")
    assert [mode.number for mode in found.power_modes] == [0, 1, 2, 3]
    assert findings(machine) == []


def test_a_thor_with_jetpack_7_whose_meta_package_was_removed(thor: Machine) -> None:
    found = jetson_of(thor)
    assert found.board == "NVIDIA Jetson AGX Thor Developer Kit"
    assert (found.l4t, found.jetpack) == ((38, 2, 0), "7")
    assert found.tensorrt is not None
    assert found.tensorrt.python == (3, 12)
    assert found.fastest_mode == PowerMode(0, "MAXN")
    assert found.power_mode == PowerMode(1, "120W")  # the default: nothing was ever set


def test_a_container_without_a_device_tree(container: Machine) -> None:
    found = jetson_of(container)
    assert found == Jetson(None, (36, 4, 3), "6", None, None, (), None)
    (finding,) = findings(container)
    assert "not installed" in finding.what
    assert "sudo apt install python3-libnvinfer" in finding.fix


def test_a_pc_is_none(pc: Machine) -> None:
    assert find_jetson(pc) is None


def test_another_board_is_none(pc: Machine) -> None:
    (pc.root / "proc/device-tree").mkdir(parents=True)
    (pc.root / "proc/device-tree/model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    (pc.root / "proc/device-tree/compatible").write_bytes(b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert find_jetson(pc) is None


def test_a_carrier_board_of_another_maker_is_one(pc: Machine) -> None:
    (pc.root / "proc/device-tree").mkdir(parents=True)
    (pc.root / "proc/device-tree/model").write_bytes(b"Box 8000\0")
    (pc.root / "proc/device-tree/compatible").write_bytes(b"maker,box\0nvidia,tegra234\0")
    found = jetson_of(pc)
    assert (found.board, found.l4t, found.jetpack) == ("Box 8000", None, None)


@pytest.mark.parametrize("release", ["", "nonsense", "# R (release)", "\0\xff" * 50])
def test_a_damaged_release_file_is_no_error(orin: Build, release: str) -> None:
    machine = orin(**{"etc/nv_tegra_release": release})
    found = jetson_of(machine)
    assert (found.l4t, found.jetpack) == (None, "6.2")
    assert findings(machine) == []


def test_it_survives_json(orin: Build) -> None:
    found = asdict(jetson_of(orin()))
    assert json.loads(json.dumps(found))["l4t"] == [36, 4, 3]


# --- what is wrong


def test_a_virtual_environment_that_hides_tensorrt(orin: Build) -> None:
    machine = orin(open_to_system=False)
    (found,) = findings(machine)
    assert "hides JetPack's TensorRT" in found.what
    assert f"include-system-site-packages = true in {machine.prefix / 'pyvenv.cfg'}" in found.fix


def test_a_link_to_the_systems_tensorrt_is_enough(orin: Build) -> None:
    machine = orin(open_to_system=False)
    system = machine.root / "usr/lib/python3.10/dist-packages/tensorrt"
    (machine.search[0] / "tensorrt").symlink_to(system)
    assert findings(machine) == []


def test_a_python_that_is_not_the_systems(orin: Build) -> None:
    (found,) = findings(replace(orin(), python=(3, 12)))
    assert found.what == "JetPack's TensorRT is for Python 3.10, this is 3.12"
    assert "/usr/bin/python3.10 -m venv --system-site-packages" in found.fix


def test_a_python_of_the_same_version_from_elsewhere(orin: Build) -> None:
    machine = orin()
    (found,) = findings(replace(machine, search=machine.search[:1]))
    assert "does not look where" in found.what
    assert "/usr/bin/python3 -m venv --system-site-packages" in found.fix


def test_tensorrt_of_which_only_the_library_is_there(orin: Build) -> None:
    machine = orin()
    folder = machine.root / "usr/lib/python3.10/dist-packages/tensorrt"
    (folder / "__init__.py").unlink()
    folder.rmdir()
    (found,) = findings(machine)
    assert "libnvinfer 10.3.0.30" in found.what
    assert "python3-libnvinfer" in found.fix


def test_a_jetpack_that_is_too_old(orin: Build) -> None:
    release = "# R36 (release), REVISION: 3.0, GCID: 36923193, BOARD: generic, EABI: aarch64\n"
    (found,) = findings(orin(**{"etc/nv_tegra_release": release}))
    assert found.what.startswith("L4T 36.3.0")
    assert "JetPack 6.1 or newer" in found.fix


def test_wheels_for_servers_on_jetpack_6_are_named_together(orin: Build, add_package: Add) -> None:
    machine = orin()
    for name in ("tensorrt", "tensorrt_cu13", "tensorrt_cu13_libs", "torch", "torchvision"):
        add_package(machine, name, "11.4.0", MANYLINUX)
    (found,) = findings(machine)
    names = "tensorrt tensorrt-cu13 tensorrt-cu13-libs torch torchvision"
    assert found.fix.startswith(f"pip uninstall -y {names};")


def test_nvidias_own_torch_for_jetpack_and_apts_tensorrt_are_right(
    orin: Build, add_package: Add
) -> None:
    machine = orin()
    assert "tensorrt" in installed_packages(machine.search)  # in dist-packages
    add_package(machine, "torch", "2.8.0", JETSON_WHEEL)
    assert findings(machine) == []


def test_wheels_for_servers_are_right_on_jetpack_7(thor: Machine, add_package: Add) -> None:
    add_package(thor, "torch", "2.11.0", MANYLINUX)
    (power,) = findings(thor)
    assert "power mode is 120W" in power.what


def test_an_onnxruntime_for_numpy_1_with_numpy_2(orin: Build, add_package: Add) -> None:
    machine = orin()
    add_package(machine, "onnxruntime_gpu", "1.23.0", JETSON_WHEEL)
    assert findings(machine) == []
    add_package(machine, "numpy", "2.2.6")
    (found,) = findings(machine)
    assert "built for numpy 1, this is 2.2.6" in found.what
    assert 'pip install "numpy>=1.26,<2"' in found.fix


def test_apts_opencv_with_numpy_2(orin: Build, add_package: Add) -> None:
    machine = orin()
    (machine.search[1] / "cv2").mkdir()
    add_package(machine, "numpy", "2.2.6")
    (found,) = findings(machine)
    assert found.what == "apt's OpenCV for JetPack 6 is built for numpy 1, this is 2.2.6"
    (machine.search[0] / "cv2").mkdir()  # pip's is the one that is imported
    assert findings(machine) == []


def test_onnxruntime_for_the_cpu_is_right_with_numpy_2(orin: Build, add_package: Add) -> None:
    machine = orin()
    add_package(machine, "onnxruntime", "1.23.2", MANYLINUX)
    add_package(machine, "numpy", "2.2.6")
    assert findings(machine) == []


@pytest.mark.parametrize(("version", "wrong"), [("12.9.10", False), ("13.4.4", True)])
def test_cuda_bindings_must_be_of_jetpacks_cuda(
    orin: Build, version: str, wrong: bool, add_package: Add
) -> None:
    machine = orin()
    add_package(machine, "cuda_bindings", version)
    assert len(findings(machine)) == wrong


def test_a_slower_power_mode_is_named_with_the_number_of_the_fastest(orin: Build) -> None:
    (found,) = findings(orin(**{"var/lib/nvpmodel/status": "pmode:0000\n"}))
    assert "15W" in found.what
    assert "sudo nvpmodel -m 2 (MAXN_SUPER)" in found.fix


@pytest.mark.parametrize("status", ["pmode:0009", "", "nonsense"])
def test_a_power_mode_that_is_not_known(orin: Build, status: str) -> None:
    machine = orin(**{"var/lib/nvpmodel/status": status})
    expected = None if status.endswith("9") else PowerMode(1, "25W")  # else the default
    assert jetson_of(machine).power_mode == expected


def test_no_fix_for_servers_is_shown_on_a_jetson(
    orin: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = orin()
    monkeypatch.setattr(doctor, "problem", lambda _: 'pip install "edgeseg[gpu]"')
    found = doctor.diagnose(machine).backends
    assert {name: found[name] for name in NO_WHEELS if name in found} == {
        name: text for name, text in NO_WHEELS.items() if name in BACKENDS
    }
    monkeypatch.setattr(doctor, "_builder_problem", lambda _: 'pip install "edgeseg[gpu]"')
    builders = doctor.diagnose(machine).builders
    assert builders["tensorrt-rtx"] == NO_WHEELS["tensorrt-rtx"]
    monkeypatch.setattr(doctor, "problem", lambda _: None)
    assert set(doctor.diagnose(machine).backends.values()) == {None}
