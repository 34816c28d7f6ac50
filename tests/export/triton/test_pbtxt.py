"""The text that we write is the text that protobuf reads."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from edgeseg_export.triton.pbtxt import Enum, map_entries, quote, render

NASTY = [
    "",
    "\"quoted\" 'both'",
    "back\\slash\\",
    "\\n \\0 \\x41 \\u0041",
    "line\nbreak\r\n\ttab",
    "\0007 nul before a digit",
    "\x7f\x80\x9f",
    "#no comment",
    "} { [ ] ; : ,",
    "Straße 東京 🚦 ‮",
    "\u2028\ufeff",
]


def parse(message: dict[str, Any]) -> ModelConfig:
    return text_format.Parse(render(message), ModelConfig())


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_comes_back(text: str) -> None:
    assert parse({"name": text}).name == text
    entries = map_entries({text: {"string_value": text}})
    assert dict(parse({"parameters": entries}).parameters)[text].string_value == text


def test_random_text_comes_back() -> None:
    rng = random.Random(0)
    alphabet = "".join(NASTY) + "07abf" + "".join(map(chr, range(256)))
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(12))) for _ in range(3000)]
    parsed = parse({"metric_tags": map_entries({text: text[::-1] for text in texts})})
    assert dict(parsed.metric_tags) == {text: text[::-1] for text in texts}


def test_a_file_name_of_another_encoding_stays_readable() -> None:
    assert parse({"name": "f\udce9"}).name == "f\\udce9"


def test_text_is_one_line_of_ascii() -> None:
    for text in NASTY:
        assert quote(text).isascii()
        assert quote(text).isprintable()


def test_every_kind_of_field_comes_back() -> None:
    message = {
        "max_batch_size": 4,
        "input": [
            {"name": "a", "data_type": Enum("TYPE_UINT8"), "dims": [-1, 2, 3]},
            {"name": "b", "data_type": Enum("TYPE_FP32"), "dims": []},
        ],
        "version_policy": {"all": {}},
        "response_cache": {"enable": True},
        "dynamic_batching": {"preserve_ordering": False, "preferred_batch_size": [4]},
        "parameters": map_entries({}),
    }
    expected = ModelConfig(max_batch_size=4)
    expected.input.add(name="a", data_type="TYPE_UINT8", dims=[-1, 2, 3])
    expected.input.add(name="b", data_type="TYPE_FP32")
    expected.version_policy.all.SetInParent()
    expected.response_cache.enable = True
    expected.dynamic_batching.preferred_batch_size.append(4)
    assert parse(message) == expected


def test_text_for_an_enum_is_refused_by_the_schema() -> None:
    with pytest.raises(text_format.ParseError):
        parse({"input": [{"data_type": "TYPE_UINT8"}]})
