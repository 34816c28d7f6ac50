"""Packages from the names of folders, and extras from edgeseg's own metadata."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from edgeseg.doctor.machine import Machine
from edgeseg.doctor.packages import extras, installed_packages, normalised


def dist_info(site: Path, *names: str) -> None:
    for name in names:
        (site / f"{name}.dist-info").mkdir(parents=True)


def test_it_finds_what_importlib_finds() -> None:
    here = installed_packages(Machine.here().search)
    for name in ("numpy", "pillow", "pydantic-core", "pytest", "typing-extensions"):
        assert here[name].version == metadata.version(name)


def test_names_are_normalised_and_eggs_count(tmp_path: Path) -> None:
    dist_info(tmp_path, "typing_extensions-4.16.0", "Foo.Bar-1.0rc1")
    (tmp_path / "old-2.1-py3.10.egg-info").mkdir()
    (tmp_path / "nonsense-info").mkdir()
    found = installed_packages([tmp_path, tmp_path / "missing"])
    assert {name: one.version for name, one in found.items()} == {
        "typing-extensions": "4.16.0",
        "foo-bar": "1.0rc1",
        "old": "2.1",
    }
    assert normalised("A_.b--c") == "a-b-c"


def test_the_package_that_is_imported_counts(tmp_path: Path) -> None:
    dist_info(tmp_path / "venv", "numpy-1.26.4")
    dist_info(tmp_path / "system", "numpy-2.2.6")
    found = installed_packages([tmp_path / "venv", tmp_path / "system"])
    assert found["numpy"].version == "1.26.4"
    assert found["numpy"].major == 1


def edgeseg_with(site: Path, *requirements: str) -> None:
    folder = site / "edgeseg-0.1.0.dist-info"
    folder.mkdir(parents=True)
    lines = [f"Requires-Dist: {requirement}\n" for requirement in requirements]
    (folder / "METADATA").write_text(f"Name: edgeseg\n{''.join(lines)}\nRequires-Dist: body\n")


def test_an_extra_lacks_what_its_markers_ask_for_here(pc: Machine) -> None:
    site = pc.search[0]
    edgeseg_with(
        site,
        "numpy>=1.26",
        "onnxruntime>=1.28; (python_version >= '3.11') and extra == 'cpu'",
        "onnxruntime>=1.23; (python_version < '3.11') and extra == 'cpu'",
        "onnxruntime-gpu[cuda,cudnn]>=1.28; extra == 'gpu'",
        "rtx; (platform_machine == 'x86_64' and python_version >= '3.11') and extra == 'rtx'",
        "edgeseg[cpu,gpu]; extra == 'all'",
        "tomli>=2; (python_version < \"3.11\") and extra == 'train'",
        "torch>=2.11; extra == 'train'",
    )
    dist_info(site, "onnxruntime-1.32.0", "torch-2.15.0")
    packages = installed_packages(pc.search)
    on_pc = {"cpu": [], "gpu": ["onnxruntime-gpu"], "rtx": ["rtx"], "train": []}
    assert extras(packages, replace(pc, python=(3, 11))) == on_pc
    old = extras(packages, replace(pc, python=(3, 9), architecture="aarch64"))
    assert old == {**on_pc, "rtx": [], "train": ["tomli"]}


def test_our_own_extras_are_read_as_pip_reads_them() -> None:
    """``packaging`` evaluates the same markers independently, in full."""
    markers = pytest.importorskip("packaging.markers", reason="needs packaging as a judge")
    from packaging.requirements import Requirement

    here = Machine.here()
    packages = installed_packages(here.search)
    if "edgeseg" not in packages:
        pytest.skip("edgeseg is not installed, it runs from a folder")
    expected: dict[str, set[str]] = {}
    environment = {**markers.default_environment(), "extra": ""}
    for line in metadata.requires("edgeseg") or []:
        needed = Requirement(line)
        name = normalised(needed.name)
        for extra in metadata.metadata("edgeseg").get_all("Provides-Extra"):
            asks = needed.marker and needed.marker.evaluate({**environment, "extra": extra})
            plain = needed.marker is None or needed.marker.evaluate(environment)
            if asks and not plain and name != "edgeseg" and name not in packages:
                expected.setdefault(extra, set()).add(name)
    found = {extra: set(lacks) for extra, lacks in extras(packages, here).items() if lacks}
    assert found == expected


def test_this_platform_is_compared(pc: Machine) -> None:
    site = pc.search[0]
    edgeseg_with(
        site,
        f"here; (sys_platform == '{sys.platform}') and extra == 'x'",
        f"there; (sys_platform != '{sys.platform}') and extra == 'x'",
    )
    assert extras(installed_packages(pc.search), pc) == {"x": ["here"]}
