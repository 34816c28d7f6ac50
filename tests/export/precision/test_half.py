"""fp16 and bf16: what is lowered and what is not, judged by PyTorch in the same types."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from edgeseg.errors import ArtifactError
from edgeseg_export.graph.torch_export import fold_batch_norm
from edgeseg_export.precision.half import emulate_bfloat16, to_half

HALVES = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}
WEIGHT = "network.unet.downs.1.conv.3.weight"


def lowered(master: bytes, half: int) -> onnx.ModelProto:
    return to_half(onnx.load_from_string(master), half)


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def runnable(master: bytes, half: int) -> onnx.ModelProto:
    model = lowered(master, half)
    return emulate_bfloat16(model) if half == TensorProto.BFLOAT16 else model


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }


@torch.inference_mode()
def torch_logits(network: nn.Module, images: np.ndarray, half: torch.dtype) -> np.ndarray:
    """PyTorch with its own half-precision kernels behind an fp32 normalisation."""
    folded = fold_batch_norm(network)
    normalised = (torch.tensor(images).float() / 255).permute(0, 3, 1, 2)
    normalised = (normalised - folded.mean) / folded.std
    return folded.unet.to(half)(normalised.to(half)).float().numpy()


@torch.inference_mode()
def rounded_logits(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """PyTorch in float32 with each weight and each layer's result rounded to bfloat16."""

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.bfloat16).float()

    unet = fold_batch_norm(network).unet
    for module in unet.modules():
        if not list(module.children()):
            for parameter in module.parameters():
                parameter.data = rounded(parameter.data)
            module.register_forward_hook(lambda module, args, result: rounded(result))
    normalised = (torch.tensor(images).float() / 255).permute(0, 3, 1, 2)
    return unet(rounded((normalised - network.mean) / network.std)).numpy()


@pytest.mark.parametrize("half", HALVES)
def test_everything_between_the_normalisation_and_the_outputs_is_half(both, half: int) -> None:
    model = lowered(both.master, half)
    types, nodes = types_of(model), model.graph.node
    weighted = [node for node in nodes if node.op_type in ("Conv", "ConvTranspose")]
    assert len(weighted) == 13
    for node in weighted:
        assert {types[name] for name in (*node.input, *node.output)} == {half}
    first = list(nodes).index(weighted[0])
    for node in nodes[first:]:
        floats = [
            name
            for name in (*node.input, *node.output)
            if types[name] == TensorProto.FLOAT and name != "logits"
        ]
        assert floats == [], node.op_type


@pytest.mark.parametrize("half", HALVES)
def test_the_normalisation_stays_in_float32(both, half: int) -> None:
    model = lowered(both.master, half)
    types = types_of(model)
    before = [
        node for node in model.graph.node if node.op_type in ("Sub", "Div", "Mul", "Transpose")
    ]
    assert [node.op_type for node in before] == ["Transpose", "Div", "Sub", "Div"]
    for node in before:
        assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
    (cast,) = (node for node in model.graph.node if node.input[0] == before[-1].output[0])
    assert cast.op_type == "Cast"
    assert types[cast.output[0]] == half


@pytest.mark.parametrize("half", HALVES)
def test_inputs_and_outputs_keep_names_types_and_shapes(both, half: int) -> None:
    master, model = onnx.load_from_string(both.master), lowered(both.master, half)
    assert list(model.graph.input) == list(master.graph.input)
    assert list(model.graph.output) == list(master.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    assert types == {"class_map": TensorProto.UINT8, "logits": TensorProto.FLOAT}
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(("half", "opset"), [(TensorProto.FLOAT16, 20), (TensorProto.BFLOAT16, 22)])
def test_the_opset_is_the_lowest_with_the_type(both, half: int, opset: int) -> None:
    model = lowered(both.master, half)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": opset}


@pytest.mark.parametrize("half", HALVES)
def test_the_master_is_left_alone(both, half: int) -> None:
    master = onnx.load_from_string(both.master)
    to_half(master, half)
    assert master.SerializeToString(deterministic=True) == both.master


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("upsample", ["transpose", "pixelshuffle"])
def test_logits_are_pytorchs_in_the_same_type(
    exported, half: int, activation: str, upsample: str
) -> None:
    made = exported(activation=activation, upsample=upsample)
    logits = run(runnable(made.master, half), made.images)["logits"]
    expected = torch_logits(made.network, made.images, HALVES[half])
    exact = torch_logits(made.network, made.images, torch.float32)
    unit = torch.finfo(HALVES[half]).eps * np.abs(exact).max()
    assert np.abs(logits - expected).max() < 4 * unit
    assert unit / 100 < np.abs(logits - exact).max() < 4 * unit


@pytest.mark.parametrize("upsample", ["transpose", "pixelshuffle"])
def test_the_bf16_emulation_rounds_exactly_where_a_rounding_pytorch_does(
    exported, upsample: str
) -> None:
    made = exported(activation="relu", upsample=upsample)
    found = run(runnable(made.master, TensorProto.BFLOAT16), made.images)["logits"]
    expected = rounded_logits(made.network, made.images)
    assert np.mean(found == expected) > 0.98  # sums in another order round differently, rarely
    assert np.abs(found - expected).max() <= 2**-8


def test_the_bf16_emulation_is_what_onnxs_reference_makes_of_the_bf16_graph(exported) -> None:
    made = exported(activation="relu", upsample="pixelshuffle")
    model = lowered(made.master, TensorProto.BFLOAT16)
    images = made.images[:1]
    _, expected = ReferenceEvaluator(model).run(None, {"images": images})
    found = run(emulate_bfloat16(model), images)["logits"]
    assert np.mean(found == expected) > 0.98
    assert np.abs(found - expected).max() <= 2**-8


def test_the_bf16_emulation_keeps_no_bf16_but_for_rounding(both) -> None:
    model = emulate_bfloat16(lowered(both.master, TensorProto.BFLOAT16))
    types = types_of(model)
    for node in model.graph.node:
        if node.op_type != "Cast":
            touched = {types[name] for name in (*node.input, *node.output)}
            assert TensorProto.BFLOAT16 not in touched


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("output", ["classmap", "logits"])
def test_other_outputs_are_lowered_too(exported, half: int, output: str) -> None:
    made = exported(output=output, activation="relu", upsample="pixelshuffle")
    exact = torch_logits(made.network, made.images, torch.float32)
    found = run(runnable(made.master, half), made.images)
    if output == "classmap":
        assert list(found) == ["class_map"]
        assert found["class_map"].dtype == np.uint8
        assert np.mean(found["class_map"] == exact.argmax(1)) > 0.99
    else:
        assert list(found) == ["logits"]
        assert found["logits"].dtype == np.float32
        np.testing.assert_allclose(found["logits"], exact, atol=0.02)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_padding_inside_the_graph_is_lowered_too(exported, half: int, activation: str) -> None:
    made = exported(30, activation=activation, upsample="transpose")
    found = run(runnable(made.master, half), made.images)
    assert found["class_map"].shape == (8, 30, 30)
    with torch.inference_mode():
        exact = made.network(torch.tensor(made.images)).numpy()
    difference = np.abs(found["logits"] - exact).max()
    assert 0 < difference < 4 * torch.finfo(HALVES[half]).eps


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("size", [(32, 32), (8, 44)])
def test_a_free_size_stays_free(exported, half: int, size: tuple[int, int]) -> None:
    made = exported(dynamic_size=True, activation="gelu", upsample="pixelshuffle")
    images = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    found = run(runnable(made.master, half), images)["logits"]
    exact = torch_logits(made.network, images, torch.float32)
    assert found.shape == exact.shape
    assert 0 < np.abs(found - exact).max() < 4 * torch.finfo(HALVES[half]).eps


def with_weight(master: bytes, value: float) -> onnx.ModelProto:
    model = onnx.load_from_string(master)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == WEIGHT)
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = value
    tensor.CopyFrom(numpy_helper.from_array(values, WEIGHT))
    return model


@pytest.mark.parametrize("value", [65520.0, -1e6])
def test_a_weight_beyond_fp16_is_an_error_that_names_it(both, value: float) -> None:
    with pytest.raises(ArtifactError, match=rf"{WEIGHT} reaches .*65504; export bf16 or fp32"):
        to_half(with_weight(both.master, value), TensorProto.FLOAT16)


def test_the_largest_fp16_weight_fits_and_bf16_takes_larger_ones(both) -> None:
    for value, half in ((65504.0, TensorProto.FLOAT16), (1e6, TensorProto.BFLOAT16)):
        model = to_half(with_weight(both.master, value), half)
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == WEIGHT)
        found = float(numpy_helper.to_array(tensor)[0, 0, 0, 0])
        assert found == pytest.approx(value, rel=2**-8)
        assert tensor.data_type == half
