"""Every variant of every architecture, judged by readers that do not know our code."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from edgeseg.errors import ArtifactError, UsageError
from edgeseg.sessions.ort import PROVIDERS, create_session
from edgeseg_export.precision.half import emulate_bfloat16
from edgeseg_export.precision.variants import (
    KINDS,
    PRECISIONS,
    TARGETS,
    Kind,
    Target,
    make,
    quantised_layers,
    selected,
)

BY_NAME = {kind.name: kind for kind in KINDS}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=BY_NAME)
FOR_TENSORRT = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.target != "cpu"], ids=lambda kind: kind.name
)

# Of the largest logit; several times what these networks show, a tenth of what a fault shows.
TOLERANCES = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.5e-2, "int8": 2e-2, "fp8": 6e-2}

Run = Callable[[Kind, bytes, np.ndarray], tuple[np.ndarray, np.ndarray]]


def run_in_onnx_runtime(kind: Kind, data: bytes, images: np.ndarray) -> tuple[np.ndarray, ...]:
    if kind.precision == "bf16":
        data = emulate_bfloat16(onnx.load_from_string(data)).SerializeToString()
    session = create_session(data, PROVIDERS["ort:cpu"], kind.name, kind.target)
    return session.run(["class_map", "logits"], {"images": images})


def run_in_onnxs_reference(kind: Kind, data: bytes, images: np.ndarray) -> tuple[np.ndarray, ...]:
    evaluator = ReferenceEvaluator(onnx.load_from_string(data))
    return tuple(evaluator.run(["class_map", "logits"], {"images": images}))


# In a process of its own: loaded beside PyTorch, OpenVINO made later trainings crash.
# On CPUs with bf16 or fp16 units it would lower the graph once more without the hint.
OPENVINO = """
import sys, numpy as np, openvino
core = openvino.Core()
options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
compiled = core.compile_model(core.read_model(sys.argv[1]), "CPU", options)
result = compiled({"images": np.load(sys.argv[2])})
np.savez(sys.argv[3], class_map=result["class_map"], logits=result["logits"])
"""


def run_in_openvino(kind: Kind, data: bytes, images: np.ndarray) -> tuple[np.ndarray, ...]:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    with tempfile.TemporaryDirectory() as folder:
        model, inputs, outputs = (Path(folder, n) for n in ("m.onnx", "in.npy", "out.npz"))
        model.write_bytes(data)
        np.save(inputs, images)
        command = [sys.executable, "-c", OPENVINO, str(model), str(inputs), str(outputs)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with np.load(outputs) as found:
            return found["class_map"], found["logits"]


@EVERY_KIND
@pytest.mark.parametrize(
    "run", [run_in_onnx_runtime, run_in_onnxs_reference, run_in_openvino], ids=lambda f: f.__name__
)
def test_independent_readers_give_pytorchs_answers(both, kind: Kind, run: Run) -> None:
    images = both.images[:2]
    with torch.inference_mode():
        expected = both.network(torch.tensor(images)).numpy()
    class_map, logits = run(kind, make(kind, both.master, both.ranges), images)
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert error < TOLERANCES[kind.precision]
    assert error > 1e-4 or kind.precision in ("fp32", "fp16")  # it is what its name says
    assert class_map.dtype == np.uint8
    ordered = np.sort(logits, axis=1)
    near_tie = ordered[:, -1] - ordered[:, -2] < 0.01
    assert ((class_map == logits.argmax(1)) | near_tie).all()
    assert np.mean(class_map == expected.argmax(1)) > 0.98


@EVERY_KIND
def test_onnxs_checker_accepts_the_graph_and_its_interface_is_the_masters(both, kind: Kind) -> None:
    model = onnx.load_from_string(make(kind, both.master, both.ranges))
    onnx.checker.check_model(model, full_check=True)
    master = onnx.load_from_string(both.master)
    assert list(model.graph.input) == list(master.graph.input)
    assert list(model.graph.output) == list(master.graph.output)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    made = [name for node in model.graph.node for name in node.output]
    assert len(set(made)) == len(made)


@EVERY_KIND
def test_making_twice_gives_the_same_bytes(both, kind: Kind) -> None:
    first = make(kind, both.master, both.ranges)
    assert make(kind, both.master, both.ranges) == first
    assert (first == both.master) == (kind.name == "fp32")


@pytest.mark.parametrize("name", ["int8-cpu", "int8-trt", "fp8-trt"])
def test_float_layers_change_quantised_variants(both, name: str) -> None:
    whole = make(BY_NAME[name], both.master, both.ranges)
    mended = make(BY_NAME[name], both.master, both.ranges, ["bottleneck.conv.3"])
    assert len(mended) > len(whole)


@pytest.mark.parametrize("name", ["int8-cpu", "int8-trt", "fp8-trt"])
def test_with_every_layer_in_float_no_8_bit_node_is_left(both, name: str) -> None:
    kind = BY_NAME[name]
    layers = quantised_layers(kind, both.master)
    assert len(layers) > 5
    model = onnx.load_from_string(make(kind, both.master, both.ranges, layers))
    assert "QuantizeLinear" not in {node.op_type for node in model.graph.node}
    with torch.inference_mode():
        expected = both.network(torch.tensor(both.images)).numpy()
    _, logits = run_in_onnx_runtime(kind, model.SerializeToString(), both.images)
    assert np.abs(logits - expected).max() < 2e-3


@FOR_TENSORRT
def test_tensorrt_builds_it(both, build_rtx, kind: Kind) -> None:
    engine, why_not = build_rtx(make(kind, both.master, both.ranges), (32, 32, 32))
    assert why_not == ""
    assert engine is not None
    assert len(engine) > 1000


@FOR_TENSORRT
def test_tensorrt_builds_it_with_padding(exported, build_rtx, kind: Kind) -> None:
    made = exported(30, activation="gelu", upsample="transpose")
    engine, why_not = build_rtx(make(kind, made.master, made.ranges), (30, 30, 30))
    assert why_not == ""
    assert engine is not None


@FOR_TENSORRT
def test_tensorrt_builds_it_with_a_free_size(exported, build_rtx, kind: Kind) -> None:
    made = exported(dynamic_size=True, activation="gelu", upsample="pixelshuffle")
    engine, why_not = build_rtx(make(kind, made.master, made.ranges), (16, 32, 64))
    assert why_not == ""
    assert engine is not None


@pytest.mark.parametrize("name", ["int8-trt", "fp8-trt"])
def test_tensorrt_builds_it_with_layers_back_in_float(both, build_rtx, name: str) -> None:
    floats = ["downs.1.conv.0", "ups.1.conv.0", "ups.3.conv.3"]
    model = make(BY_NAME[name], both.master, both.ranges, floats)
    engine, why_not = build_rtx(model, (32, 32, 32))
    assert why_not == ""
    assert engine is not None


def test_tensorrt_refuses_the_cpu_quantisation(both, build_rtx) -> None:
    model = make(BY_NAME["int8-cpu"], both.master, both.ranges)
    engine, why_not = build_rtx(model, (32, 32, 32))
    assert engine is None
    assert "DequantizeLinear" in why_not


def test_a_scale_that_fp16_cannot_hold_is_an_error_not_a_wrong_graph(
    both, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg_export.precision import quantise

    monkeypatch.setattr(quantise, "_usable", lambda bounds: bounds)
    monkeypatch.setattr(quantise, "_LEAST_RANGE", 0.0)
    nothing = dict.fromkeys(both.ranges, (0.0, 1e-6))
    with pytest.raises(ArtifactError, match=r"scale .*_scale is .*, too small for fp16"):
        make(BY_NAME["int8-trt"], both.master, nothing)


EXPECTED = {
    "cpu": {"fp32": ["fp32"], "fp16": ["fp16"], "int8": ["int8-cpu"]},
    "tensorrt": {
        "fp32": ["fp32"],
        "fp16": ["fp16"],
        "bf16": ["bf16"],
        "int8": ["int8-trt"],
        "fp8": ["fp8-trt"],
    },
    "all": {
        "fp32": ["fp32"],
        "fp16": ["fp16"],
        "bf16": ["bf16"],
        "int8": ["int8-cpu", "int8-trt"],
        "fp8": ["fp8-trt"],
    },
}


@pytest.mark.parametrize(("precision", "target"), list(product(PRECISIONS, TARGETS)))
def test_each_precision_gives_the_targets_variants_or_a_refusal(
    precision: str, target: Target
) -> None:
    if precision not in EXPECTED[target]:
        message = f"precision '{precision}' is for TensorRT; add --target tensorrt"
        with pytest.raises(UsageError, match=message):
            selected([precision], target)
        return
    names = [kind.name for kind in selected([precision], target)]
    assert names == (["fp32"] if precision != "fp32" else []) + EXPECTED[target][precision]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("cpu", ["fp32", "int8-cpu"]),
        ("tensorrt", ["fp32", "fp16", "int8-trt"]),
        ("all", ["fp32", "fp16", "int8-cpu", "int8-trt"]),
    ],
)
def test_without_precisions_a_target_gets_its_usual_variants(
    target: Target, names: list[str]
) -> None:
    assert [kind.name for kind in selected((), target)] == names


def test_everything_comes_in_a_fixed_order_and_once() -> None:
    wanted = ("fp8", "int8", "fp32", "bf16", "fp16", "int8")
    assert [kind.name for kind in selected(wanted, "all")] == list(BY_NAME)
    assert [kind.file for kind in selected(wanted, "all")][-2:] == [
        "model.int8-trt.onnx",
        "model.fp8-trt.onnx",
    ]


def test_one_precision_without_kernels_refuses_all() -> None:
    with pytest.raises(UsageError, match="'bf16' is for TensorRT"):
        selected(("fp32", "int8", "fp8", "bf16"), "cpu")
