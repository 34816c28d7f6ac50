"""KServe's messages: what is understood, and that everything else is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.bundle import Bundle
from edgeseg.errors import InputError
from edgeseg.manifest import Manifest
from edgeseg.serve import tensors
from edgeseg.serve.tensors import InferRequest, Output, parse_request, write_response

SHAPE = (2, 48, 64, 3)
SIZE = 2 * 48 * 64 * 3


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    return Bundle.open(tiny_bundle).manifest


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(3).integers(0, 256, SHAPE, dtype=np.uint8)


def message(**changes: Any) -> dict[str, Any]:
    """A binary request, with other values for some keys of its input."""
    given = {
        "name": "images",
        "shape": list(SHAPE),
        "datatype": "UINT8",
        "parameters": {"binary_data_size": SIZE},
        **changes,
    }
    return {"inputs": [given]}


def parse(document: Any, manifest: Manifest, raw: bytes = b"", length: str = "") -> InferRequest:
    text = json.dumps(document).encode()
    return parse_request(text + raw, length or str(len(text)), manifest)


def test_bytes_behind_the_json_are_the_images(manifest: Manifest, images: Any) -> None:
    request = parse({"id": "seven", **message()}, manifest, images.tobytes())
    assert request.id == "seven"
    np.testing.assert_array_equal(request.images, images)
    assert [(output.spec.name, output.binary) for output in request.outputs] == [
        ("class_map", False)
    ]


@pytest.mark.parametrize("flat", [True, False])
def test_numbers_in_the_json_are_the_same_images_flat_or_nested(
    manifest: Manifest, images: Any, flat: bool
) -> None:
    data = images.ravel().tolist() if flat else images.tolist()
    request = parse_request(json.dumps(message(data=data)).encode(), None, manifest)
    np.testing.assert_array_equal(request.images, images)


BAD_DATA = [1.5, -1, 256, 2**70, None, "5", [1, 2]]


@pytest.mark.parametrize("bad", BAD_DATA, ids=repr)
def test_a_value_that_is_no_byte_is_refused_and_never_wrapped_or_rounded(
    manifest: Manifest, bad: object
) -> None:
    data: list[object] = [0] * SIZE
    data[5] = bad
    with pytest.raises(InputError, match=r"not 18432 whole numbers 0 \.\. 255"):
        parse(message(data=data), manifest)


BAD_INPUTS = {
    "another name": ({"name": "input"}, "expected one, 'images'"),
    "floats": ({"datatype": "FP32"}, "datatype 'FP32'; expected UINT8"),
    "another size": ({"shape": [2, 64, 48, 3]}, r"expected \('batch', 48, 64, 3\)"),
    "no batch axis": ({"shape": [48, 64, 3]}, "expected"),
    "an empty batch": ({"shape": [0, 48, 64, 3]}, "inputs.0.shape.0"),
    "a negative side": ({"shape": [-2, 48, 64, 3]}, "inputs.0.shape.0"),
    "a side that is no number": ({"shape": [2.5, 48, 64, 3]}, "inputs.0.shape.0"),
    "too many to exist": ({"shape": [10**30, 48, 64, 3]}, "bytes"),
    "too few bytes named": ({"parameters": {"binary_data_size": SIZE - 1}}, "has 18432 bytes"),
    "no size": ({"parameters": {}}, "neither data nor binary_data_size"),
    "shared memory": ({"parameters": {"shared_memory_region": "x"}}, "shared memory"),
    "bytes and numbers": ({"data": [0] * SIZE}, "bytes follow"),
}


@pytest.mark.parametrize(("changes", "words"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_an_input_that_does_not_fit_the_model_is_refused_in_words(
    manifest: Manifest, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        parse(message(**changes), manifest, bytes(SIZE))


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0])
def test_more_or_fewer_bytes_than_the_shape_are_refused(manifest: Manifest, size: int) -> None:
    with pytest.raises(InputError, match=f"{size} bytes follow"):
        parse(message(), manifest, bytes(size))


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999", "9" * 5000, "٣", "0x10", ""])
def test_a_length_of_the_json_that_cannot_be_is_refused(manifest: Manifest, length: str) -> None:
    body = json.dumps(message()).encode() + bytes(SIZE)
    with pytest.raises(InputError, match="Inference-Header-Content-Length"):
        parse_request(body, length, manifest)


NO_JSON = [b"", b"{", b"[]", b"null", b'{"inputs": 3}', b"\xff\xfe", b"[" * 100_000, b"{}"]


@pytest.mark.parametrize("body", NO_JSON, ids=lambda body: repr(body[:12]))
def test_what_is_no_request_is_refused_in_one_line(manifest: Manifest, body: bytes) -> None:
    with pytest.raises(InputError, match="the request's JSON is not as expected") as refused:
        parse_request(body, None, manifest)
    assert "\n" not in str(refused.value)


BAD_OUTPUTS = {
    "unknown": ([{"name": "logits"}], "'logits' is unknown"),
    "twice": ([{"name": "class_map"}] * 2, "named twice"),
    "classification": (
        [{"name": "class_map", "parameters": {"classification": 3}}],
        "classification",
    ),
}


@pytest.mark.parametrize(("outputs", "words"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_an_output_that_the_model_does_not_have_is_refused(
    manifest: Manifest, outputs: list[Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        parse({**message(), "outputs": outputs}, manifest, bytes(SIZE))


def test_an_output_with_too_many_numbers_for_json_is_refused_but_goes_as_bytes(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "MAX_JSON_VALUES", 10)
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    spec = manifest.outputs[0]
    with pytest.raises(InputError, match="12 values, too many for JSON"):
        write_response({}, [(Output(spec, binary=False), values)])
    body, length = write_response({"id": "a"}, [(Output(spec, binary=True), values)])
    assert body[length:] == values.tobytes()
    assert json.loads(body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 12}
