"""NVIDIA's real libraries: their names, what they do without a GPU, and with one the whole way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseg.bundle import Bundle
from edgeseg.engines.cache import default_cache
from edgeseg.engines.device import Device
from edgeseg.engines.library import Library, load
from edgeseg.errors import DeviceError
from edgeseg.sessions import open_session, tensorrt
from edgeseg.sessions.protocol import Settings
from edgeseg.sessions.tensorrt.engine import LoadedEngine
from edgeseg.sessions.tensorrt.lookup import Wanted, find_engine

GPU = Device(name="Any", compute_capability="8.9", driver="CUDA 13.0")


@pytest.fixture
def rtx() -> Library:
    try:
        return load("tensorrt-rtx")
    except DeviceError as error:
        pytest.skip(f"needs the extra tensorrt-rtx: {error}")


@pytest.fixture
def built(
    rtx: Library,
    tiny_bundle: Path,
    edgeseg: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Bundle:
    """The committed bundle, with an engine for TensorRT-RTX in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    options = ("--backend", "tensorrt-rtx", "--variant", "fp32")
    done = edgeseg("build", tiny_bundle, *options)
    assert done.code == 0, done.err
    return Bundle.open(tiny_bundle)


def _parameters(method: Any, name: str) -> list[list[str]]:
    """Return the parameters of each overload, from the signatures in pybind11's docstrings."""
    found = []
    for line in (method.__doc__ or "").splitlines():
        signature = re.match(rf"\s*(?:\d+\. )?{re.escape(name)}\((.*)\) -> ", line)
        if signature and not signature[1].startswith("*args"):
            without_defaults = re.sub(r"<[^>]*>", "", signature[1])
            names = re.findall(r"(\w+): ", without_defaults)
            found.append([name for name in names if name != "self"])
    return found


def test_the_doubles_names_are_those_of_the_real_library(rtx: Library, fake_tensorrt: Any) -> None:
    names = fake_tensorrt.NAMES["rtx-1.7"]
    if rtx.version != names["version"]:
        pytest.skip(f"the names are of {names['version']}, this is {rtx.version}")
    for kind, expected in names["classes"].items():
        real = getattr(rtx.module, kind)
        for name, parameters in expected.items():
            member = getattr(real, name)
            assert callable(member) == (parameters is not None), (kind, name)
            if parameters:
                assert _parameters(member, name) == parameters
    for enum, members in names["enums"].items():
        real_members = getattr(rtx.module, enum).__members__
        assert {name: int(member) for name, member in real_members.items()} == members


def test_a_plan_of_the_real_builder_is_found_for_any_gpu(rtx: Library, built: Bundle) -> None:
    wanted = Wanted.of(built, "tensorrt-rtx", "fp32", Settings())
    found = find_engine(wanted, rtx, GPU)
    assert found.engine.key.version == rtx.version
    assert found.read_plan() == next(default_cache().glob("*.plan")).read_bytes()


def test_without_a_gpu_the_session_is_refused_before_anything_is_loaded(built: Bundle) -> None:
    with pytest.raises(DeviceError) as caught:  # the tests' CUDA_VISIBLE_DEVICES hides any GPU
        open_session(built, "tensorrt-rtx", "fp32")
    assert str(caught.value).startswith(
        "backend tensorrt-rtx does not work here: no usable NVIDIA GPU here: libcuda.so.1"
    )


@pytest.mark.parametrize("asks_first", [True, False])
def test_the_real_library_without_a_gpu_is_a_device_error_with_its_own_words(
    rtx: Library, built: Bundle, monkeypatch: pytest.MonkeyPatch, asks_first: bool
) -> None:
    if not asks_first:  # then deserialize_cuda_engine returns None
        monkeypatch.setattr(LoadedEngine, "_check_validity", lambda *_: None)
    wanted = Wanted.of(built, "tensorrt-rtx", "fp32", Settings())
    with pytest.raises(DeviceError) as caught:
        LoadedEngine(find_engine(wanted, rtx, GPU), rtx)
    message = str(caught.value)
    assert "the GPU or its driver is not usable" in message
    assert "cudaError" in message
    assert "see nvidia-smi" in message
    assert "\n" not in message


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_where_no_gpu_is_problem_says_so_and_loads_nothing(backend: Any) -> None:
    load.cache_clear()
    assert "no usable NVIDIA GPU here" in str(tensorrt.problem(backend))
    assert load.cache_info().currsize == 0


ON_A_GPU = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from edgeseg.bundle import Bundle
from edgeseg.sessions import open_session
from edgeseg.sessions.protocol import Settings

bundle, backend = Bundle.open(sys.argv[1]), sys.argv[2]
images = bundle.reference().images
on_cpu = open_session(bundle, "ort:cpu", "fp32")
session = open_session(bundle, backend, "fp32", Settings(batch=len(images)))
agreement, same = [], []
first = session.infer(images)
for _ in range(4):
    found = session.infer(images)
    agreement.append(float(np.mean(found == on_cpu.infer(images))))
    same.append(bool((found == first).all()))
with ThreadPoolExecutor(8) as threads:
    answers = list(threads.map(lambda _: session.infer(images), range(16)))
same += [bool((answer == first).all()) for answer in answers]
with session._pool.lend() as context:
    uncapturable = context.uncapturable
logits = None
if len(bundle.manifest.outputs) > 1:
    logits = float(np.mean(session.infer_logits(images).argmax(axis=1) == first))
session.close()
print(json.dumps([agreement, same, uncapturable, logits]))
"""


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_logits"])
def test_on_a_gpu_the_answers_are_those_of_the_cpu(
    backend: str, name: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = tiny_bundle.with_name(name)
    batch = str(len(Bundle.open(bundle).reference().images))
    hidden = ("CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["XDG_CACHE_HOME"] = str(tmp_path)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *command]
        return subprocess.run(
            words, capture_output=True, text=True, check=False, env=environment, timeout=500
        )

    options = ("--backend", backend, "--variant", "fp32", "--batch", f"1,{batch},{batch}")
    built = run("-m", "edgeseg", "build", str(bundle), *options)
    if built.returncode == 6:
        pytest.skip(built.stderr)
    assert built.returncode == 0, built.stderr
    done = run("-c", ON_A_GPU, str(bundle), backend)
    if "UNSUPPORTED_CC" in done.stderr:
        pytest.skip("TensorRT-RTX does not build for this GPU's compute capability")
    assert done.returncode == 0, done.stderr
    agreement, same, uncapturable, logits = json.loads(done.stdout)
    assert min(agreement) > 0.999
    assert all(same)
    assert uncapturable is None
    assert logits in (None, 1.0)
    if backend == "tensorrt-rtx":
        assert list(tmp_path.rglob("*.jit"))
