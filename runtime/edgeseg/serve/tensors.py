"""KServe v2's messages: an inference request from its bytes, and the bytes of its answer.

A request is JSON; with the binary extension its tensors' bytes follow the JSON, whose length a
header tells. Protocol: https://github.com/kserve/open-inference-protocol, the extension:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from edgeseg.documents import first_problem
from edgeseg.errors import InputError, show
from edgeseg.manifest import Manifest, TensorSpec

DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
MAX_JSON_VALUES = 4_000_000  # of an output; as JSON it would take many times its size
LENGTH = "Inference-Header-Content-Length"

Dimension = Annotated[int, Field(ge=1, strict=True)]


class _Input(BaseModel):
    name: str
    shape: tuple[Dimension, ...]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class _Output(BaseModel):
    name: str
    parameters: dict[str, Any] = {}


class _Request(BaseModel):
    """What we read of a request; keys of other extensions are left alone."""

    id: str = ""
    parameters: dict[str, Any] = {}
    inputs: list[_Input]
    outputs: list[_Output] = []


@dataclass(frozen=True)
class Output:
    """An output that is wanted, as raw bytes or as JSON numbers."""

    spec: TensorSpec
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A request that makes sense: uint8 (N, h, w, 3) images and the outputs wanted."""

    id: str
    images: NDArray[np.uint8]
    outputs: list[Output]


def parse_request(body: bytes, json_length: str | None, manifest: Manifest) -> InferRequest:
    """Parse an inference request.

    Args:
        body: the JSON, and the bytes of binary tensors behind it.
        json_length: the header ``Inference-Header-Content-Length``, None if the JSON is all.
        manifest: says which tensors the model has.

    Raises:
        InputError: anything in it is not as the protocol or the model wants it.
    """
    length = _json_length(json_length, len(body))
    try:
        request = _Request.model_validate_json(body[:length])
    except ValidationError as error:
        where, what = first_problem(error)
        raise InputError(f"the request's JSON is not as expected: {where}: {what}") from error
    images = _images(request.inputs, memoryview(body)[length:], manifest.input)
    return InferRequest(request.id, images, _outputs(request, manifest.outputs))


def _json_length(header: str | None, total: int) -> int:
    if header is None:
        return total
    if not (header.isascii() and header.isdigit() and int(header[:20]) <= total):
        raise InputError(f"{LENGTH} is {show(header)}; expected 0 .. {total}, the body's length")
    return int(header)


def _images(inputs: list[_Input], raw: memoryview, spec: TensorSpec) -> NDArray[np.uint8]:
    names = [given.name for given in inputs]
    if names != [spec.name]:
        raise InputError(f"inputs are {show(names)}; expected one, {show(spec.name)}")
    given = inputs[0]
    if given.datatype != DATATYPES[spec.dtype]:
        raise InputError(
            f"input {show(spec.name)} has datatype {show(given.datatype)}; "
            f"expected {DATATYPES[spec.dtype]}"
        )
    if not spec.fits(given.shape):
        raise InputError(f"input {show(spec.name)} has shape {given.shape}; expected {spec.shape}")
    if "shared_memory_region" in given.parameters:
        raise InputError("shared memory is not served; send the tensor's data")
    values = _from_json(given) if given.data is not None else _from_bytes(given, raw)
    if given.data is not None and len(raw):
        raise InputError(f"{len(raw)} bytes follow a request whose tensor is in the JSON")
    return values.reshape(given.shape)


def _from_bytes(given: _Input, raw: memoryview) -> NDArray[np.uint8]:
    size = given.parameters.get("binary_data_size")
    if size is None:
        raise InputError(f"input {show(given.name)} has neither data nor binary_data_size")
    expected = math.prod(given.shape)
    if size != expected or len(raw) != expected:
        raise InputError(
            f"input {show(given.name)} of shape {given.shape} has {expected} bytes, but "
            f"binary_data_size is {show(size)} and {len(raw)} bytes follow the JSON"
        )
    return np.frombuffer(raw, dtype=np.uint8)


def _from_json(given: _Input) -> NDArray[np.uint8]:
    try:
        values = np.asarray(given.data)
    except ValueError:  # rows of different lengths
        values = np.empty(0, dtype=object)
    whole = values.dtype.kind in "iu" and values.size == math.prod(given.shape)
    if not whole or values.min() < 0 or values.max() > 255:
        raise InputError(
            f"data of input {show(given.name)} is not {math.prod(given.shape)} "
            "whole numbers 0 .. 255"
        )
    return values.astype(np.uint8)


def _outputs(request: _Request, specs: tuple[TensorSpec, ...]) -> list[Output]:
    """Return the outputs asked for, all of the model's if none is named."""
    binary = bool(request.parameters.get("binary_data_output", False))
    if not request.outputs:
        return [Output(spec, binary) for spec in specs]
    known = {spec.name: spec for spec in specs}
    found: dict[str, Output] = {}
    for wanted in request.outputs:
        if wanted.name not in known or wanted.name in found:
            raise InputError(
                f"output {show(wanted.name)} is unknown or named twice; "
                f"the model has {', '.join(known)}"
            )
        for parameter in ("classification", "shared_memory_region"):
            if parameter in wanted.parameters:
                raise InputError(f"outputs with {parameter} are not served")
        as_bytes = bool(wanted.parameters.get("binary_data", binary))
        found[wanted.name] = Output(known[wanted.name], as_bytes)
    return list(found.values())


def write_response(
    head: dict[str, Any], outputs: list[tuple[Output, NDArray[Any]]]
) -> tuple[bytes, int | None]:
    """Return an answer's body, and the length of its JSON if tensors follow it.

    Raises:
        InputError: an output has too many values for JSON.
    """
    described, raw = [], []
    for output, values in outputs:
        tensor: dict[str, Any] = {
            "name": output.spec.name,
            "datatype": DATATYPES[output.spec.dtype],
            "shape": list(values.shape),
        }
        if output.binary:
            data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        elif values.size > MAX_JSON_VALUES:
            raise InputError(
                f"output {show(output.spec.name)} has {values.size} values, too many for JSON; "
                "ask for it with binary_data"
            )
        else:
            tensor["data"] = values.ravel().tolist()
        described.append(tensor)
    text = json.dumps({**head, "outputs": described}).encode()
    return b"".join([text, *raw]), len(text) if raw else None
