"""NVIDIA's real builder, through the command: TensorRT-RTX builds without a GPU.

What only a GPU can prove is marked ``gpu``; there TensorRT itself builds, too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeseg.bundle import Bundle
from edgeseg.engines.device import MIB
from edgeseg.files import sha256_bytes
from edgeseg_export.precision.calibration import observe
from edgeseg_export.precision.variants import KINDS, make
from edgeseg_export.tensorrt import memory, progress

pytestmark = pytest.mark.usefixtures("rtx")
CLASSES = 7
RTX = ("--backend", "tensorrt-rtx")


@pytest.fixture
def bundle(make_bundle, graphs) -> Bundle:
    opened: Bundle = make_bundle(
        fp32=(graphs["fp32"], "fp32"),
        fp16=(graphs["fp16"], "fp16"),
        int8=(graphs["int8"], "int8", "tensorrt"),
        fp8=(graphs["fp8"], "fp8", "tensorrt"),
        claims_fp16=(graphs["fp32"], "fp16"),
        int8_cpu=(graphs["int8"], "int8", "cpu"),
    )
    return opened


@pytest.fixture
def build(bundle: Bundle, edgeseg, cache: Path) -> Callable[..., Any]:
    return lambda *arguments: edgeseg("build", bundle.path, *RTX, "--cache", cache, *arguments)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_every_precision_is_built_and_attested(build, cache: Path, precision: str) -> None:
    done = build("--variant", precision, "--json")
    assert done.code == 0, done.err
    document = done.document
    convolutions = document["attestation"]["network"]["convolutions"]
    assert len(convolutions) == 13  # counted in the network: 10 in blocks, 2 upsampling, the head
    assert {row["precision"] for row in convolutions} == {precision}
    assert {row["weights_precision"] for row in convolutions} == {precision}
    assert sum(row["weights"] for row in convolutions) == 7400
    plan = Path(document["engine"])
    assert plan.parent == cache
    assert plan.stat().st_mode & 0o777 == 0o600
    assert sha256_bytes(plan.read_bytes()) == document["plan"]["sha256"]
    kept = json.loads(plan.with_suffix(".json").read_text())
    assert kept == {key: document[key] for key in kept}


def test_a_bfloat16_graph_is_built_and_attested(make_bundle, edgeseg, cache: Path) -> None:
    kernel = helper.make_tensor("kernel", TensorProto.BFLOAT16, [CLASSES, 3, 3, 3], [0.5] * 189)
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.BFLOAT16),
        helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "kernel"], ["logits"], pads=[1, 1, 1, 1]),
        helper.make_node("ArgMax", ["logits"], ["ids"], axis=1, keepdims=0),
        helper.make_node("Cast", ["ids"], ["class_map"], to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])
    classes = helper.make_tensor_value_info("class_map", TensorProto.UINT8, ["batch", 32, 32])
    graph = helper.make_graph(nodes, "bf16", [image], [classes], [kernel])
    opset = [helper.make_opsetid("", 22)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    bundle = make_bundle(bf16=(model, "bf16"))
    done = edgeseg("build", bundle.path, *RTX, "--variant", "bf16", "--cache", cache, "--json")
    assert done.code == 0, done.err
    (convolution,) = done.document["attestation"]["network"]["convolutions"]
    assert (convolution["precision"], convolution["weights"]) == ("bf16", 189)


def test_without_a_gpu_it_says_that_the_engine_was_not_read(build) -> None:
    done = build("--variant", "fp16")
    assert "attested: fp16 in the parsed network; no GPU here, so the engine itself" in done.out
    assert build("--variant", "fp16", "--json").document["attestation"]["engine"] is None


def test_the_second_time_it_is_reused(build) -> None:
    first = build("--json").document
    second = build("--json").document
    assert (first["reused"], second["reused"]) == (False, True)
    assert first["variant"] == "fp16"  # the default, where a bundle has it
    assert first["created"] == second["created"]
    again = build("--json", "--rebuild").document
    assert (again["reused"], again["reason"]) == (False, "--rebuild")


def test_a_variant_that_is_not_what_it_claims_is_refused_also_when_its_file_is_built(
    build, cache: Path
) -> None:
    for _ in range(2):
        done = build("--variant", "claims_fp16")
        assert done.code == 4
        assert "'claims_fp16' is to be fp16 but its convolutions are: 13 fp32" in done.err
        assert build("--variant", "fp32").code == 0  # the same file, so the same engine
    assert len(list(cache.glob("*.plan"))) == 1


def test_a_variant_for_cpus_is_refused_with_what_there_is(build) -> None:
    done = build("--variant", "int8_cpu")
    assert done.code == 2
    assert "for TensorRT this bundle has: fp32, fp16, int8, fp8, claims_fp16" in done.err


def test_what_the_parser_refuses_is_one_line_and_the_bundle_stays_usable(
    make_bundle, graphs, edgeseg, cache: Path
) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    (kind,) = (kind for kind in KINDS if kind.target == "cpu")
    model = make(kind, graphs["fp32"], observe(graphs["fp32"], images, "minmax"))
    bundle = make_bundle(int8=(model, "int8"))
    done = edgeseg("build", bundle.path, *RTX, "--variant", "int8", "--cache", cache)
    assert done.code == 4
    error = done.err.splitlines()[-1]
    assert "TensorRT-RTX" in error
    assert "(DequantizeLinear)" in error
    assert "Int32" in error
    assert not list(cache.glob("*.plan"))
    Bundle.open(bundle.path).check_files()


def test_a_free_size_takes_a_range(make_bundle, graphs, edgeseg, cache: Path) -> None:
    bundle = make_bundle(dynamic_size=True, fp32=(graphs["dynamic"], "fp32"))
    sizes = ("--size-range", "16x16,32x48,64x64", "--batch", "1,2,4")
    done = edgeseg("build", bundle.path, *RTX, *sizes, "--cache", cache)
    assert done.code == 0, done.err
    assert "1x16x16x3 .. 4x64x64x3 (tuned for 2x32x48x3)" in done.out


def test_several_sizes_become_profiles(make_bundle, graphs, edgeseg, cache: Path) -> None:
    sizes = ((32, 32), (16, 48))
    bundle = make_bundle(sizes=sizes, fp32=(graphs["dynamic"], "fp32"))
    done = edgeseg("build", bundle.path, *RTX, "--cache", cache, "--json")
    assert done.code == 0, done.err
    assert [p["opt"] for p in done.document["key"]["profiles"]] == [[1, 32, 32, 3], [1, 16, 48, 3]]


def test_sizes_that_the_graph_does_not_take_are_refused(
    make_bundle, graphs, edgeseg, cache: Path
) -> None:
    bundle = make_bundle(sizes=((32, 32), (16, 48)), fp32=(graphs["fp32"], "fp32"))
    done = edgeseg("build", bundle.path, *RTX, "--cache", cache)
    assert done.code == 4
    assert "refuses input shapes" in done.err or "did not build" in done.err


def test_compute_capabilities_choose_the_target(build) -> None:
    done = build("--compute-capability", "8.9,75")
    assert done.code == 0, done.err
    assert "compute capability 75, 89" in done.out


@pytest.mark.parametrize("unknown", ["87", "90", "5"])
def test_a_gpu_that_rtx_does_not_build_for_is_refused(build, unknown: str) -> None:
    done = build("--compute-capability", unknown)
    assert done.code == 2
    assert f"for compute capability {unknown}; it has: 75, 80, 86, 89, 120" in done.err


@pytest.mark.parametrize("option", [("--compute-capability", "current"), ("--strip-weights",)])
def test_what_needs_a_gpu_says_so(build, option: tuple[str, ...]) -> None:
    done = build(*option)
    assert done.code == 6
    assert "GPU" in done.err


def test_tensorrt_that_is_not_installed_comes_with_the_fix(
    bundle, edgeseg, cache, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = edgeseg("build", bundle.path, "--cache", cache)
    assert done.code == 6
    assert "python3-libnvinfer" in done.err
    assert "--system-site-packages" in done.err
    assert 'pip install "edgeseg[tensorrt]"' in done.err


def test_too_little_memory_is_refused(build, monkeypatch, cache: Path) -> None:
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 64 * MIB)
    done = build()
    assert done.code == 7
    assert "64 MiB of host memory are free" in done.err
    assert not list(cache.glob("*.plan"))


def test_a_corrupt_engine_is_removed_and_built_again(build, cache: Path) -> None:
    build()
    (plan,) = cache.glob("*.plan")
    damaged = bytearray(plan.read_bytes())
    damaged[1000] ^= 1
    plan.write_bytes(damaged)
    done = build("--json")
    assert "is corrupt: its SHA-256 is another now; removed" in done.err
    assert done.document["reason"] == "the engine in the cache was not usable"
    assert sha256_bytes(plan.read_bytes()) == done.document["plan"]["sha256"]


def test_a_plan_that_nothing_vouches_for_is_not_loaded(build, cache: Path) -> None:
    build()
    (plan,) = cache.glob("*.plan")
    plan.with_suffix(".json").unlink()
    plan.write_bytes(b"somebody else's code")
    done = build("--json")
    assert "is untrusted: no .json of ours vouches for it; removed" in done.err
    assert done.document["reused"] is False
    assert plan.read_bytes() != b"somebody else's code"


def test_a_corrupt_bundle_is_refused(bundle, build) -> None:
    model = bundle.path / "model.fp16.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    done = build()
    assert done.code == 4
    assert "is corrupt" in done.err


def test_quiet_prints_nothing(build) -> None:
    done = build("--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_ctrl_c_stops_the_builder_and_writes_nothing(build, cache: Path, monkeypatch) -> None:
    started = progress.Phases.start

    def interrupt(self: Any, name: str, parent: str | None, total: int) -> None:
        if parent is None:
            os.kill(os.getpid(), signal.SIGINT)
            self.stop.wait(10)  # the main thread has heard it
        started(self, name, parent, total)

    monkeypatch.setattr(progress.Phases, "start", interrupt)
    done = build()
    assert done.code == 130
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    monkeypatch.undo()
    assert build().code == 0


def test_list_and_clean(build, edgeseg, cache: Path) -> None:
    empty = edgeseg("build", "--list", "--cache", cache)
    assert (empty.code, empty.out.split()[0]) == (0, "0")
    build("--variant", "fp32")
    build("--variant", "fp16")
    (cache / "notes.txt").write_text("mine")
    listed = edgeseg("build", "--list", "--cache", cache, "--json").document
    assert [engine["variant"] for engine in listed["engines"]] == ["fp32", "fp16"]
    assert "notes.txt' is not ours" in listed["problems"][0]
    shown = edgeseg("build", "--list", "--cache", cache).out
    assert "tensorrt-rtx" in shown
    assert listed["engines"][1]["digest"][:12] in shown
    removed = edgeseg("build", "--clean", "--cache", cache, "--json").document
    assert removed["removed"] == 2
    assert [path.name for path in cache.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("arguments", [(), ("--list", "--clean"), ("bundle", "--list")])
def test_it_wants_a_bundle_or_list_or_clean(edgeseg, arguments: tuple[str, ...]) -> None:
    done = edgeseg("build", *arguments)
    assert done.code == 2
    assert "give one of: a bundle, --list, --clean" in done.err


def test_it_needs_neither_torch_nor_onnx(bundle, cache: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime'): sys.modules[name] = None\n"
        "from edgeseg.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "build", str(bundle.path), *RTX, "--cache", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "attested: fp16" in done.stdout


def test_two_processes_build_an_engine_once(bundle, cache: Path) -> None:
    command = [sys.executable, "-m", "edgeseg", "build", str(bundle.path), *RTX]
    command += ["--cache", str(cache), "--json"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    documents = [json.loads(process.communicate()[0]) for process in both]
    assert sorted(document["reused"] for document in documents) == [False, True]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_on_a_gpu_the_engine_itself_is_attested(
    bundle, cache: Path, rtx, backend: str, precision: str
) -> None:
    pytest.importorskip("tensorrt" if backend == "tensorrt" else "tensorrt_rtx_bindings")
    target = ["--compute-capability", "current"] if backend == "tensorrt-rtx" else []
    command = [sys.executable, "-m", "edgeseg", "build", str(bundle.path), "--variant", precision]
    command += ["--backend", backend, "--cache", str(cache), "--json", *target]
    visible = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    if backend == "tensorrt-rtx" and not _rtx_has_this_gpu(rtx, visible):
        pytest.skip("TensorRT-RTX does not build for this GPU's compute capability")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=visible)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["attestation"]
    assert found["engine_unread"] is None
    assert precision in {row["precision"] for row in found["engine"]["layers"]}


def _rtx_has_this_gpu(rtx: Any, environment: dict[str, str]) -> bool:
    code = "from edgeseg.engines.device import *; print(find_device(open_driver()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    known = rtx.module.ComputeCapability.__members__
    return any(f"'{name[2:-1]}.{name[-1]}'" in done.stdout for name in known if name[:2] == "SM")
