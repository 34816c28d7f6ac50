"""Both dialects of the inspector; the fixtures are written by hand, no engine was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeseg.errors import ArtifactError
from edgeseg_export.tensorrt.inspect import check_engine, read_layers

HERE = Path(__file__).parent


def rows(text: str) -> set[tuple[str, str, int]]:
    return {(row.layer, row.precision, row.layers) for row in read_layers(text).layers}


def test_tensorrt_10_writes_format_and_type_as_one_text() -> None:
    assert rows((HERE / "engine_10.json").read_text()) == {
        ("Reformat", "fp16", 1),  # uint8 is no precision, so what it writes counts
        ("CaskConvolution", "fp16", 1),
        ("TopK", "fp16", 1),
    }


def test_tensorrt_11_writes_them_apart_and_its_compiler_names_kernels() -> None:
    assert rows((HERE / "engine_11.json").read_text()) == {
        ("kgen", "int8", 1),
        ("kgen (convolution)", "int8", 1),
        ("kgen", "fp16", 1),
    }


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Row major linear FP32", "fp32"),
        ("Row major linear BFloat16 format", "bf16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Row major linear FP8 format", "fp8"),
        ("Row major linear UInt8 format", "other"),
        ("Row major linear INT32 format", "other"),
        ("", "other"),
    ],
)
def test_words_in_the_text_are_matched_whole(text: str, precision: str) -> None:
    layer = {"Name": "a", "LayerType": "b", "Inputs": [{"Format/Datatype": text}]}
    assert rows(json.dumps({"Layers": [layer]})) == {("b", precision, 1)}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": 1}', '{"Layers": ["conv"]}'])
def test_an_answer_without_details_is_an_error_not_a_pass(text: str) -> None:
    with pytest.raises(ArtifactError, match="inspector"):
        read_layers(text)


def test_a_precision_that_only_copies_have_is_not_enough() -> None:
    copy = {"LayerType": "Reformat", "Inputs": [{"Datatype": "Int8"}]}
    convolution = {"LayerType": "CaskConvolution", "Inputs": [{"Datatype": "Float"}]}
    other = {"LayerType": "PointWise", "Inputs": [{"Datatype": "Int8"}]}
    found = read_layers(json.dumps({"Layers": [copy, convolution, other]}))
    check_engine(found, "fp32", "fp32")
    with pytest.raises(
        ArtifactError, match=r"'int8' has no layer at int8; found: 1 CaskConv.* fp32"
    ):
        check_engine(found, "int8", "int8")


def test_without_recognisable_convolutions_any_computing_layer_counts() -> None:
    found = read_layers(
        json.dumps({"Layers": [{"LayerType": "DLA", "Inputs": [{"Datatype": "Half"}]}]})
    )
    check_engine(found, "fp16", "fp16")
    with pytest.raises(ArtifactError, match="no layer at int8"):
        check_engine(found, "int8", "int8")
