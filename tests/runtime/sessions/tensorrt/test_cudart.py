"""Both ways to the CUDA runtime, against NVIDIA's module, its header and a compiled double."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseg.errors import DeviceError
from edgeseg.sessions.tensorrt import cudart
from edgeseg.sessions.tensorrt.cudart import (
    FUNCTIONS,
    BoundCudart,
    LoadedCudart,
    open_cudart,
)

# An address that does not fit into 32 bits.
BIG = 0x7F0123456789ABC
SOURCE = Path(__file__).with_name("fake_cudart.c")


# --- cuda-bindings


@pytest.fixture
def bindings() -> Any:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    import cuda.bindings.runtime

    return cuda.bindings.runtime


@pytest.mark.parametrize("name", FUNCTIONS)
def test_cuda_bindings_have_every_function_with_these_parameters(bindings: Any, name: str) -> None:
    signature = getattr(bindings, name).__doc__.splitlines()[0]
    parameters = [part.strip() for part in re.search(r"\((.*)\)", signature)[1].split(",") if part]
    takes = FUNCTIONS[name].takes
    assert len(parameters) == len(takes), signature
    for parameter, kind in zip(parameters, takes, strict=True):
        if kind.startswith("cuda"):
            assert parameter.endswith(f": {kind}"), signature  # an enum, or it is a TypeError
        elif kind != "void*":
            assert parameter.startswith(f"{kind} "), signature


def test_cuda_bindings_know_the_enum_members_that_are_used_by_number(bindings: Any) -> None:
    numbers = {
        "cudaErrorMemoryAllocation": ("cudaError_t", 2),
        "cudaDevAttrIntegrated": ("cudaDeviceAttr", 18),
        "cudaMemcpyHostToDevice": ("cudaMemcpyKind", 1),
        "cudaMemcpyDeviceToHost": ("cudaMemcpyKind", 2),
        "cudaStreamCaptureModeThreadLocal": ("cudaStreamCaptureMode", 1),
    }
    for member, (enum, number) in numbers.items():
        assert int(getattr(getattr(bindings, enum), member)) == number
    flags = {
        "cudaStreamNonBlocking": 1,
        "cudaEventBlockingSync": 1,
        "cudaEventDisableTiming": 2,
        "cudaHostAllocMapped": 2,
    }
    assert {name: int(getattr(bindings, name)) for name in flags} == flags


def test_cuda_bindings_without_a_gpu_answer_with_statuses_and_texts(bindings: Any) -> None:
    runtime = BoundCudart(bindings)
    assert runtime.call("cudaGetErrorName", 2) == (0, "cudaErrorMemoryAllocation")
    assert runtime.call("cudaGetErrorString", 2) == (0, "out of memory")
    status, count = runtime.call("cudaGetDeviceCount")
    assert isinstance(status, int)
    assert (status == 0) == bool(count)


def test_handles_of_cuda_bindings_become_numbers_and_enums_are_passed_as_enums() -> None:
    class Stream:
        def __int__(self) -> int:
            return BIG

    seen: list[Any] = []
    module = SimpleNamespace(
        cudaMemcpyKind=lambda value: f"kind {value}",
        cudaMemcpyAsync=lambda *arguments: seen.append(arguments) or (0,),
        cudaStreamCreateWithFlags=lambda flags: (0, Stream()),
        cudaMalloc=lambda size: (2, None),
    )
    runtime = BoundCudart(module)
    assert runtime.call("cudaMemcpyAsync", 1, 2, 3, 1, 5) == (0, None)
    assert seen == [(1, 2, 3, "kind 1", 5)]
    assert runtime.call("cudaStreamCreateWithFlags", 1) == (0, BIG)
    assert runtime.call("cudaMalloc", 9) == (2, None)


# --- ctypes


@pytest.fixture(scope="session")
def compile_library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc to compile the double of libcudart")

    def build(*options: str, name: str = "libcudart.so.12") -> Path:
        target = tmp_path_factory.mktemp("cudart") / name
        command = [compiler, "-shared", "-fPIC", *options, "-o", str(target), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True)
        return target

    return build


@pytest.fixture(scope="session")
def library(compile_library: Callable[..., Path]) -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_library()))


def arguments_of(library: ctypes.CDLL) -> list[int]:
    return list((ctypes.c_ulonglong * 5).in_dll(library, "last"))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cudaStreamCreateWithFlags", (1,)),
        ("cudaStreamDestroy", (BIG,)),
        ("cudaStreamSynchronize", (BIG,)),
        ("cudaEventCreateWithFlags", (3,)),
        ("cudaEventDestroy", (BIG,)),
        ("cudaEventRecord", (BIG, BIG + 1)),
        ("cudaEventSynchronize", (BIG,)),
        ("cudaHostGetDevicePointer", (BIG, 0)),
        ("cudaStreamBeginCapture", (BIG, 1)),
        ("cudaStreamEndCapture", (BIG,)),
        ("cudaGraphInstantiate", (BIG, 0)),
        ("cudaGraphLaunch", (BIG, BIG + 1)),
        ("cudaGraphDestroy", (BIG,)),
        ("cudaGraphExecDestroy", (BIG,)),
    ],
)
def test_every_number_reaches_c_whole_and_in_its_place(
    library: ctypes.CDLL, name: str, given: tuple[int, ...]
) -> None:
    status, value = LoadedCudart(library).call(name, *given)
    assert status == 0
    assert arguments_of(library)[: len(given)] == list(given)
    if name == "cudaHostGetDevicePointer":
        assert value == BIG
    else:
        assert value == (BIG if FUNCTIONS[name].gives else None)


def test_memory_through_ctypes_is_allocated_copied_and_freed(library: ctypes.CDLL) -> None:
    runtime = LoadedCudart(library)
    source, target = runtime.call("cudaHostAlloc", 5, 2)[1], runtime.call("cudaMalloc", 5)[1]
    ctypes.memmove(source, b"bytes", 5)
    assert runtime.call("cudaMemcpyAsync", target, source, 5, 1, BIG) == (0, None)
    assert arguments_of(library) == [target, source, 5, 1, BIG]
    assert ctypes.string_at(target, 5) == b"bytes"
    assert runtime.call("cudaFreeHost", source) == (0, None)
    assert runtime.call("cudaFree", target) == (0, None)
    assert runtime.call("cudaHostAlloc", 1 << 50, 0)[0] == 2  # a size of 64 bits


def test_answers_through_ctypes_are_numbers_and_texts(library: ctypes.CDLL) -> None:
    runtime = LoadedCudart(library)
    assert runtime.call("cudaGetDeviceCount") == (0, 1)
    assert runtime.call("cudaDeviceGetAttribute", 18, 3) == (0, 183)
    assert runtime.call("cudaGetErrorName", 2) == (0, "cudaErrorMemoryAllocation")
    assert runtime.call("cudaGetErrorString", 2) == (0, "out of memory")
    assert runtime.call("cudaGetLastError") == (2, None)


def test_the_double_and_the_prototypes_are_those_of_nvidias_header() -> None:
    try:
        files = importlib.metadata.files("nvidia-cuda-runtime") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs NVIDIA's header: the package nvidia-cuda-runtime")
    header = next((file for file in files if file.name == "cuda_runtime_api.h"), None)
    if header is None:
        pytest.skip("this nvidia-cuda-runtime brings no header")
    text = Path(str(header.locate())).read_text()
    for name, function in FUNCTIONS.items():
        found = re.search(rf"(\S+[ *]+)CUDARTAPI {name}\((.*?)\);", text)
        assert found, name
        parameters = [part.strip() for part in found[2].split(",") if part.strip() != "void"]
        out = function.gives not in (None, "text")
        assert len(parameters) == len(function.takes) + out, (name, found[2])
        assert ("char" in found[1]) == (function.gives == "text"), name
        if out:
            place = parameters.pop(-1 if function.last else 0)
            assert "*" in place, (name, place)
        for parameter, kind in zip(parameters, function.takes, strict=True):
            assert _is_of(parameter, kind), (name, parameter, kind)


def _is_of(parameter: str, kind: str) -> bool:
    if kind == "void*":
        return "*" in parameter or re.match(r"cuda(Stream|Event|Graph|GraphExec)_t ", parameter)
    return parameter.removeprefix("enum ").startswith(f"{kind} ")


# --- which one is taken


def test_the_first_runtime_that_sees_a_gpu_is_taken(
    monkeypatch: pytest.MonkeyPatch, fake_cuda: Any
) -> None:
    blind, seeing = fake_cuda.FakeCudart(), fake_cuda.FakeCudart()
    blind.lost = 35  # cuda-bindings 13 on JetPack 6
    found = [("cuda-bindings", blind), ("libcudart.so.12", seeing)]
    monkeypatch.setattr(cudart, "_candidates", lambda: iter(found))
    assert open_cudart() is seeing


def test_without_one_the_error_says_what_each_said_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, fake_cuda: Any
) -> None:
    blind, empty = fake_cuda.FakeCudart(), fake_cuda.FakeCudart(count=0)
    blind.lost = 2
    found = [("cuda-bindings", blind), ("one.so", blind), ("two.so", empty)]
    monkeypatch.setattr(cudart, "_candidates", lambda: iter(found))
    expected = "cuda-bindings, one.so: out of memory; two.so: no CUDA-capable device"
    with pytest.raises(DeviceError) as caught:
        open_cudart()
    assert expected in str(caught.value)
    assert 'pip install "cuda-bindings<13" for CUDA 12 (JetPack 6)' in str(caught.value)
    assert cudart.problem() == str(caught.value)


def test_with_nothing_installed_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setattr(cudart, "_library_paths", lambda: iter(["libcudart.so.none"]))
    with pytest.raises(DeviceError, match="neither cuda-bindings nor libcudart is here"):
        open_cudart()


def test_without_cuda_bindings_a_library_on_the_path_is_taken(
    monkeypatch: pytest.MonkeyPatch, compile_library: Callable[..., Path]
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    paths = [compile_library("-DDEVICES=0"), compile_library()]
    monkeypatch.setattr(cudart, "_library_paths", lambda: iter(map(str, paths)))
    assert isinstance(open_cudart(), LoadedCudart)
    monkeypatch.setattr(cudart, "_library_paths", lambda: iter(map(str, paths[:1])))
    with pytest.raises(DeviceError, match="no device"):
        open_cudart()


def test_a_library_that_lacks_a_function_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, compile_library: Callable[..., Path]
) -> None:
    old = compile_library("-DcudaGraphInstantiate=cudaGraphInstantiateWithFlags")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setattr(cudart, "_library_paths", lambda: iter([str(old)]))
    with pytest.raises(DeviceError, match="neither"):
        open_cudart()


def test_wheels_are_searched_for_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class File:
        name = "libcudart.so.12"

        def locate(self) -> str:
            return "/packages/nvidia/libcudart.so.12"

    def files(wheel: str) -> list[Any]:
        if wheel != "nvidia-cuda-runtime-cu12":
            raise importlib.metadata.PackageNotFoundError
        return [SimpleNamespace(name="LICENSE"), File()]

    monkeypatch.setattr(importlib.metadata, "files", files)
    paths = list(cudart._library_paths())
    assert paths[:2] == ["libcudart.so.13", "libcudart.so.12"]
    assert paths[-1] == "/packages/nvidia/libcudart.so.12"
    assert not [path for path in paths if "LICENSE" in path]
