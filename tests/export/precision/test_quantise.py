"""The CPU quantisation: which nodes, which numbers, deterministic, clear errors."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgeseg.errors import InputError
from edgeseg_export.graph import to_onnx
from edgeseg_export.int8 import describe_calibration, quantise_for_cpu


def images(n: int = 4) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return list(generator.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8))


@pytest.fixture
def master(make_network) -> bytes:
    return to_onnx(make_network(activation="relu", upsample="pixelshuffle"), 16, 16)


def test_weights_are_int8_per_channel_and_only_the_head_stays_float(master: bytes) -> None:
    model = onnx.load_from_string(quantise_for_cpu(master, images()))
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    produced = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    quantised = [n for n in convolutions if n.input[1] in produced]
    assert [n for n in convolutions if n not in quantised] == [convolutions[-1]]
    assert len(quantised) == 12
    for node in quantised:
        dequantise = produced[node.input[1]]
        weights, scales = (constants[name] for name in dequantise.input[:2])
        assert weights.dtype == np.int8
        assert scales.shape == (weights.shape[0],)
        assert produced[node.input[0]].op_type == "DequantizeLinear"


def test_the_quantised_graph_answers_like_its_master(master: bytes) -> None:
    providers = ["CPUExecutionProvider"]
    batch = np.stack(images())
    expected, found = (
        onnxruntime.InferenceSession(model, providers=providers).run(None, {"images": batch})[0]
        for model in (master, quantise_for_cpu(master, images()))
    )
    assert found.shape == expected.shape
    assert np.mean(found == expected) > 0.8  # an untrained network has many near ties


def test_quantising_twice_gives_the_same_bytes(master: bytes) -> None:
    assert quantise_for_cpu(master, images()) == quantise_for_cpu(master, images())


def test_calibration_images_change_the_scales(master: bytes) -> None:
    dark = [image // 8 for image in images()]
    assert quantise_for_cpu(master, images()) != quantise_for_cpu(master, dark)


def test_nothing_is_printed_and_logging_works_again_afterwards(
    master: bytes, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    quantise_for_cpu(master, images())
    assert capsys.readouterr().out == ""
    logging.getLogger().warning("still heard")
    assert [record.message for record in caplog.records] == ["still heard"]


@pytest.mark.parametrize("pictures", [[], [np.zeros((16, 16, 3), dtype=np.uint8)]])
def test_without_images_or_contrast_there_is_no_calibration(
    master: bytes, pictures: list[np.ndarray]
) -> None:
    with pytest.raises(InputError):
        quantise_for_cpu(master, pictures)


def test_the_calibration_hash_depends_on_names_pixels_and_order() -> None:
    a, b = images(2)
    hashes = {
        describe_calibration("d", names, pictures).list_sha256
        for names, pictures in (
            (["1", "2"], [a, b]),
            (["1", "2"], [b, a]),
            (["1", "3"], [a, b]),
            (["1"], [a]),
        )
    }
    assert len(hashes) == 4
    again = describe_calibration("d", ["1", "2"], [a, b])
    assert (again.images, again.method, again.list_sha256 in hashes) == (2, "minmax", True)
