"""Graph rewrites for 8-bit CPU kernels: equal answers, standard operators, untouched otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from edgeseg_export.graph.concatenation import concatenate_in_8_bits
from edgeseg_export.graph.for_cpu import after_quantisation, float_nodes, for_cpu, ranges_for_cpu
from edgeseg_export.graph.gelu import QUICK_GELU_SLOPE, quick_gelu, slope_into_scale
from edgeseg_export.graph.head import crop_before_head, head_in_tiles
from edgeseg_export.graph.picture import fold_normalisation, picture_without_quantisation
from edgeseg_export.graph.torch_export import to_onnx
from edgeseg_export.graph.upsampling import convolution_for_transposed, shuffle_in_channels_last

Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]
SIZES = [(16, 24), (13, 18)]  # the second is padded and cropped inside the graph


def pictures(height: int, width: int, n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def answers(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    # The graph as it stands; ONNX Runtime's own rewrites are not what is tested here.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[np.ndarray] = session.run(None, {"images": images})
    return found


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {""}
    return model


@pytest.fixture
def export(make_network) -> Callable[..., onnx.ModelProto]:
    def make(height: int = 16, width: int = 24, **config: object) -> onnx.ModelProto:
        graph = {k: config.pop(k) for k in ("output", "dynamic_size") if k in config}
        return onnx.load_from_string(to_onnx(make_network(**config), height, width, **graph))

    return make


def qdq(model: onnx.ModelProto, folder: Path, *, tie: bool = False) -> onnx.ModelProto:
    """Quantise with ranges that are wide enough for anything: structure is tested, not quality."""
    path, target = folder / "fp32.onnx", folder / "int8.onnx"
    onnx.save(model, path)
    names = {name for node in model.graph.node for name in node.output}
    ranges = ranges_for_cpu(model, dict.fromkeys(names, (-2.0, 2.0 if tie else 6.0)))
    quantizer = QDQQuantizer(
        load_model_with_shape_infer(path),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {
                name: tuple(np.array(bound, dtype=np.float32) for bound in bounds)
                for name, bounds in ranges.items()
            },
        ),
        nodes_to_quantize=[],
        nodes_to_exclude=float_nodes(model),
        op_types_to_quantize=[
            *("Concat", "Conv", "Gemm", "MaxPool", "Mul", "Reshape"),
            *("Sigmoid", "Slice", "Split", "Transpose"),
        ],
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(target, False)
    return onnx.load(target)


def test_transposed_convolutions_become_convolutions_with_the_same_answers(export) -> None:
    before = export(upsample="transpose", output="logits")
    after = checked(convolution_for_transposed(before))
    assert ops(before).count("ConvTranspose") == 2
    assert "ConvTranspose" not in ops(after)
    images = pictures(16, 24)
    (expected,), (found,) = answers(before, images), answers(after, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def transposed(**attributes: object) -> onnx.ModelProto:
    weight = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 2, 2)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [1, 1]},
        {},  # stride 1 is the default
        {"strides": [2, 2], "pads": [1, 1, 0, 0], "kernel_shape": [2, 2]},
        {"strides": [2, 2], "output_padding": [1, 1], "kernel_shape": [2, 2]},
    ],
)
def test_other_transposed_convolutions_stay(attributes: dict[str, object]) -> None:
    model = transposed(**attributes)
    assert ops(convolution_for_transposed(model)) == ["ConvTranspose"]


def test_a_transposed_convolution_moves_whole_numbers_exactly() -> None:
    model = transposed(strides=[2, 2], kernel_shape=[2, 2])
    x = np.random.default_rng(0).integers(-9, 9, (1, 3, 4, 5)).astype(np.float32)
    expected, found = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )[0]
        for m in (model, convolution_for_transposed(model))
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_shuffling_in_channels_last_gives_exactly_the_same(export, height: int, width: int) -> None:
    before = export(height, width, upsample="pixelshuffle", output="logits")
    after = checked(shuffle_in_channels_last(before))
    assert ops(before).count("DepthToSpace") == 2
    assert "DepthToSpace" not in ops(after)
    images = pictures(height, width)
    np.testing.assert_array_equal(answers(after, images)[0], answers(before, images)[0])


def test_a_dynamic_size_keeps_what_needs_a_static_one(export) -> None:
    before = export(16, 16, upsample="pixelshuffle", dynamic_size=True)
    assert shuffle_in_channels_last(before) == before
    assert head_in_tiles(before) == before
    for height, width in ((16, 16), (8, 32)):
        images = pictures(height, width)
        (expected,), (found,) = answers(before, images), answers(fold_normalisation(before), images)
        assert np.mean(found == expected) > 0.999


def test_quick_gelu_is_off_by_two_hundredths_at_most() -> None:
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    exact = torch.nn.functional.gelu(x, approximate="tanh")
    error = (x * torch.sigmoid(QUICK_GELU_SLOPE * x) - exact).abs()
    assert error.max().item() == pytest.approx(0.0203, abs=5e-4)
    assert abs(x[error.argmax()].item()) == pytest.approx(2.2, abs=0.1)


def test_quick_gelu_replaces_every_gelu_and_computes_its_formula(export) -> None:
    before = export(activation="gelu", output="logits")
    after = checked(quick_gelu(before))
    assert ops(after).count("Sigmoid") == ops(before).count("Gelu") == 10
    assert "Gelu" not in ops(after)
    images = pictures(16, 24)
    (expected,), (found,) = answers(before, images), answers(after, images)
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_normalisation_folds_into_the_first_convolution_borders_included(
    export, height: int, width: int
) -> None:
    before = export(height, width, activation="relu", output="logits")
    after = checked(fold_normalisation(before))
    assert "Div" not in ops(after)
    for images in (pictures(height, width), np.full((1, height, width, 3), 255, dtype=np.uint8)):
        (expected,), (found,) = answers(before, images), answers(after, images)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_cropping_before_the_head_gives_exactly_the_same(export) -> None:
    before = export(13, 18, output="logits")
    after = checked(crop_before_head(before))
    assert ops(before)[-2:] == ["Conv", "Slice"]
    assert ops(after)[-2:] == ["Slice", "Conv"]
    images = pictures(13, 18)
    np.testing.assert_allclose(
        answers(after, images)[0], answers(before, images)[0], rtol=1e-6, atol=1e-6
    )
    uncropped = export(16, 24)
    assert crop_before_head(uncropped) == uncropped


@pytest.mark.parametrize(("tile_bytes", "tiles"), [(10**9, 1), (7 * 24 * 4 * 5, 4), (1, 16)])
def test_the_head_in_tiles_of_any_size_gives_the_same_classes(
    export, tile_bytes: int, tiles: int
) -> None:
    before = export()
    after = checked(head_in_tiles(before, tile_bytes))
    assert ops(after).count("Gemm") == tiles
    for n in (1, 3):
        images = pictures(16, 24, n)
        (expected,), (found,) = answers(before, images), answers(after, images)
        assert (found.shape, found.dtype) == (expected.shape, np.uint8)
        assert np.mean(found == expected) > 0.999  # another order of summation may break a tie


def test_a_graph_that_returns_logits_keeps_its_head(export) -> None:
    for output in ("logits", "both"):
        before = export(output=output)
        assert head_in_tiles(before) == before


@pytest.mark.parametrize(
    "rewrite",
    [
        convolution_for_transposed,
        quick_gelu,
        crop_before_head,
        slope_into_scale,
        picture_without_quantisation,
        concatenate_in_8_bits,
    ],
)
def test_without_its_pattern_a_graph_stays_as_it_is(export, rewrite: Rewrite) -> None:
    before = export(activation="relu", upsample="pixelshuffle")
    assert rewrite(before) == before


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("upsample", ["transpose", "pixelshuffle"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_all_rewrites_together(
    export, tmp_path: Path, activation: str, upsample: str, height: int, width: int
) -> None:
    before = export(height, width, activation=activation, upsample=upsample)
    rewritten = checked(for_cpu(before))
    assert rewritten == for_cpu(before)  # deterministic
    images = pictures(height, width)
    (expected,), (found,) = answers(before, images), answers(rewritten, images)
    assert np.mean(found == expected) > (0.98 if activation == "gelu" else 0.999)
    quantised = qdq(rewritten, tmp_path)
    finished = checked(after_quantisation(quantised))
    assert finished.graph.input == before.graph.input
    assert finished.graph.output == before.graph.output
    # The picture's bytes reach the first convolution; no constant factor is left.
    assert not float_nodes(finished)
    (unfinished,), (found,) = answers(quantised, images), answers(finished, images)
    assert np.mean(found == unfinished) > (0.8 if activation == "gelu" else 0.999)


def test_a_sigmoid_reads_the_convolutions_bytes_with_the_slope_in_the_scale(
    export, tmp_path: Path
) -> None:
    after = checked(slope_into_scale(qdq(quick_gelu(export(activation="gelu")), tmp_path)))
    constants = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    producer = {name: node for node in after.graph.node for name in node.output}
    sigmoids = [node for node in after.graph.node if node.op_type == "Sigmoid"]
    assert len(sigmoids) == 10
    gated = [n for n in after.graph.node if n.name.startswith("node_gelu") and n.op_type == "Mul"]
    plain = {producer[n.input[0]].input[0]: producer[n.input[0]] for n in gated}
    for sigmoid in sigmoids:
        scaled = producer[sigmoid.input[0]]
        source = plain[scaled.input[0]]
        expected = constants[source.input[1]] * np.float32(QUICK_GELU_SLOPE)
        assert constants[scaled.input[1]] == pytest.approx(expected, rel=1e-6)
        assert constants[scaled.input[2]] == constants[source.input[2]]


def test_the_pictures_own_bytes_are_exactly_its_quantised_values(export, tmp_path: Path) -> None:
    quantised = qdq(fold_normalisation(export(activation="relu")), tmp_path)
    finished = picture_without_quantisation(quantised)
    assert ops(finished).count("QuantizeLinear") == ops(quantised).count("QuantizeLinear") - 1
    images = np.arange(16 * 24 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 16, 24, 3)
    assert set(images.ravel()) == set(range(256))
    np.testing.assert_array_equal(answers(finished, images)[0], answers(quantised, images)[0])


def test_another_scale_of_the_picture_stays(export, tmp_path: Path) -> None:
    quantised = qdq(fold_normalisation(export(activation="relu")), tmp_path)
    for tensor in quantised.graph.initializer:
        if tensor.name == "centre":
            tensor.CopyFrom(numpy_helper.from_array(np.array(3, dtype=np.float32), "centre"))
    assert ops(picture_without_quantisation(quantised)) == ops(quantised)


def test_a_concatenation_of_equal_scales_runs_in_8_bits_with_exactly_the_same_answers(
    export, tmp_path: Path
) -> None:
    rewritten = shuffle_in_channels_last(export(activation="relu", upsample="pixelshuffle"))
    images = pictures(16, 24)
    for tie, fewer in ((True, 2), (False, 0)):
        quantised = qdq(rewritten, tmp_path, tie=tie)
        if not tie:  # ranges are all equal, so give the concatenations' results other ones
            for tensor in quantised.graph.initializer:
                if tensor.name.startswith("cat") and tensor.name.endswith("_scale"):
                    scale = numpy_helper.to_array(tensor) * np.float32(1.5)
                    tensor.CopyFrom(numpy_helper.from_array(np.asarray(scale), tensor.name))
        after = checked(concatenate_in_8_bits(quantised))
        assert ops(quantised).count("QuantizeLinear") - ops(after).count("QuantizeLinear") == fewer
        np.testing.assert_array_equal(answers(after, images)[0], answers(quantised, images)[0])
