"""The promises of the packaging: what is in the wheel, what imports what, what loads when."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = {
    "runtime": "edgeseg",
    "train": "edgeseg_train",
    "export": "edgeseg_export",
    "benchmarks": "edgeseg_benchmarks",
}
MAY_IMPORT = {
    "edgeseg": set(),
    "edgeseg_train": {"edgeseg"},
    "edgeseg_export": {"edgeseg", "edgeseg_train"},
    "edgeseg_benchmarks": {"edgeseg", "edgeseg_train", "edgeseg_export"},
}


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(("root", "package"), ROOTS.items())
def test_stages_import_only_what_lies_before_them(root: str, package: str) -> None:
    files = list((ROOT / root / package).rglob("*.py"))
    assert files
    for path in files:
        ours = imported_packages(path) & set(ROOTS.values()) - {package}
        assert ours <= MAY_IMPORT[package], path


@pytest.mark.parametrize(("root", "package"), ROOTS.items())
def test_a_stage_directory_holds_its_package_and_no_loose_modules(root: str, package: str) -> None:
    assert (ROOT / root / package / "__init__.py").is_file()
    assert (ROOT / root / package / "py.typed").is_file()
    assert not list((ROOT / root).glob("*.py"))


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_contains_exactly_the_four_packages(wheel_names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOTS.values())


def test_the_wheel_contains_every_file_of_the_packages_and_nothing_else(
    wheel_names: list[str],
) -> None:
    tracked = {
        path.relative_to(ROOT / root).as_posix()
        for root, package in ROOTS.items()
        for path in (ROOT / root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel_names if ".dist-info/" not in name} == tracked


LIST_MODULES = "import sys; print('\\n'.join(sorted(m.partition('.')[0] for m in sys.modules)))"


@pytest.mark.parametrize(
    "module",
    [
        "edgeseg.segmenter",
        "edgeseg.verify",
        "edgeseg.doctor",
        "edgeseg.cli.run",
        "edgeseg.engines.cache",
        "edgeseg_export.cli.build",
        "edgeseg_export.cli.triton",
        "edgeseg_train.data",
        "edgeseg_train.data.scenes",
        "edgeseg_train.data.folder",
        "edgeseg_train.data.hub",
        "edgeseg_train.data.check",
        "edgeseg_train.samples.prepare",
    ],
)
def test_runtime_and_data_sets_import_without_torch(module: str) -> None:
    code = f"import {module}; {LIST_MODULES}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "edgeseg" in loaded
    assert not loaded & {
        "torch",
        "torchvision",
        "onnx",
        "lightning",
        "matplotlib",
        "datasets",
        "pandas",
    }


def test_the_export_stage_imports_without_lightning() -> None:
    code = f"import edgeseg_export.cli.export; {LIST_MODULES}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"lightning", "torchvision", "matplotlib"}


def test_the_benchmark_stage_runs_on_a_device_without_torch() -> None:
    code = f"import edgeseg_benchmarks.cli; {LIST_MODULES}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "edgeseg_benchmarks" in loaded
    assert not loaded & {"torch", "safetensors", "lightning", "matplotlib", "onnx"}
