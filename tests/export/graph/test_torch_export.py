"""The exported graph: right answers, clean, deterministic, read by independent readers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from edgeseg.errors import ArtifactError
from edgeseg_export.graph import torch_export
from edgeseg_export.graph.torch_export import fold_batch_norm, tensor_specs, to_onnx
from edgeseg_train.unet import SegmentationNetwork

CPU = ["CPUExecutionProvider"]


def pictures(n: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def torch_logits(network: SegmentationNetwork, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.tensor(images)).numpy()


def ops(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


@pytest.mark.parametrize("norm", ["first", "both"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("upsample", ["transpose", "pixelshuffle"])
def test_every_architecture_gives_pytorchs_logits_in_onnx_runtime(
    make_network, norm: str, activation: str, upsample: str
) -> None:
    network = make_network(norm=norm, activation=activation, upsample=upsample)
    session = onnxruntime.InferenceSession(to_onnx(network, 16, 24, output="both"), providers=CPU)
    for batch in (1, 3):
        images = pictures(batch, 16, 24)
        class_map, logits = session.run(None, {"images": images})
        expected = torch_logits(network, images)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
        assert class_map.dtype == np.uint8
        ordered = np.sort(expected, axis=1)
        near_tie = ordered[:, -1] - ordered[:, -2] < 1e-3
        assert ((class_map == expected.argmax(1)) | near_tie).all()


def test_onnxs_own_reference_evaluator_gives_the_same_logits(make_network) -> None:
    network = make_network(activation="relu", upsample="transpose")
    model = onnx.load_from_string(to_onnx(network, 8, 12, output="logits"))
    images = pictures(2, 8, 12)
    (logits,) = ReferenceEvaluator(model).run(None, {"images": images})
    np.testing.assert_allclose(logits, torch_logits(network, images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(13, 18), (5, 8), (16, 9)])
def test_sizes_that_are_no_multiples_are_padded_inside_and_cropped_back(
    make_network, height: int, width: int
) -> None:
    network = make_network()
    model = to_onnx(network, height, width, output="both")
    images = pictures(2, height, width)
    class_map, logits = onnxruntime.InferenceSession(model, providers=CPU).run(
        None, {"images": images}
    )
    assert class_map.shape == (2, height, width)
    np.testing.assert_allclose(logits, torch_logits(network, images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("upsample", ["transpose", "pixelshuffle"])
def test_a_dynamic_size_runs_at_any_multiple(make_network, upsample: str) -> None:
    network = make_network(upsample=upsample)
    model = to_onnx(network, 16, 16, output="logits", dynamic_size=True)
    session = onnxruntime.InferenceSession(model, providers=CPU)
    for height, width in ((16, 16), (8, 32), (40, 12), (4, 4)):
        images = pictures(1, height, width)
        (logits,) = session.run(None, {"images": images})
        np.testing.assert_allclose(logits, torch_logits(network, images), rtol=1e-3, atol=1e-3)


def test_batch_norm_is_folded_without_changing_the_network(make_network) -> None:
    network = make_network()
    images = torch.tensor(pictures(2, 8, 8))
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-4)
    assert "BatchNormalization" not in ops(to_onnx(network, 8, 8))


def test_uint8_tensors_meet_only_casts_and_argmax_is_in_the_graph(make_network) -> None:
    model = onnx.shape_inference.infer_shapes(
        onnx.load_from_string(to_onnx(make_network(), 16, 16)), strict_mode=True
    )
    graph = model.graph
    uint8 = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    assert uint8 == {"images", "class_map"}
    touching = {n.op_type for n in graph.node if uint8 & {*n.input, *n.output}}
    assert touching == {"Cast"}
    assert [node.op_type for node in graph.node][-2:] == ["ArgMax", "Cast"]


def test_opset_names_and_shapes_are_the_contract(make_network) -> None:
    model = onnx.load_from_string(to_onnx(make_network(), 16, 24, output="both"))
    assert {o.domain: o.version for o in model.opset_import} == {"": 20}
    image, outputs = tensor_specs(16, 24, 7, output="both", dynamic_size=False)
    specs = (image, *outputs)
    for value, spec in zip((*model.graph.input, *model.graph.output), specs, strict=True):
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
        assert (value.name, shape) == (spec.name, spec.shape)
        assert onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type) == np.dtype(spec.dtype)


def test_dynamic_dimensions_have_readable_names(make_network) -> None:
    model = onnx.load_from_string(to_onnx(make_network(), 16, 16, output="both", dynamic_size=True))
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", "height", "width", 3],
        "class_map": ["batch", "height", "width"],
        "logits": ["batch", 7, "height", "width"],
    }


def test_the_file_tells_nothing_about_the_exporting_machine(make_network) -> None:
    model = to_onnx(make_network(), 8, 8)
    for word in (b"stack_trace", b".py", str(Path.home()).encode(), b"torch.ops"):
        assert word not in model


def test_an_interrupt_inside_the_exporter_stays_an_interrupt(
    make_network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise torch.onnx.errors.OnnxExporterError("Failed to export") from error

    monkeypatch.setattr(torch.onnx, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        to_onnx(make_network(), 8, 8)


EXPORT_AGAIN = """
import hashlib, pathlib, sys
from edgeseg_export.graph.torch_export import to_onnx
from edgeseg_train.run_folder import load_network, read_config
run = pathlib.Path(sys.argv[1])
model = to_onnx(load_network(run, read_config(run)), 32, 48)
print(hashlib.sha256(model).hexdigest())
"""


def test_exporting_in_two_processes_gives_the_same_bytes(tiny_run: Path) -> None:
    hashes = {
        subprocess.run(
            [sys.executable, "-c", EXPORT_AGAIN, str(tiny_run)],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_e7_a_network_too_large_for_one_file_is_refused_before_the_work(
    make_network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_export, "MAX_BYTES", 1000)
    with pytest.raises(ArtifactError, match="GB of weights, but an ONNX file holds at most"):
        to_onnx(make_network(), 16, 16)
