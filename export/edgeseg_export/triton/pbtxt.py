"""Write protobuf's text format: what Triton reads as ``config.pbtxt``.

A message is a dict, a repeated field a list, a map field is made by ``map_entries``. Written by
hand in these few lines, so that making a model repository needs no protobuf; the tests parse
every file with Triton's own schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Message = dict[str, Any]


class Enum(str):
    """A value that is written bare: ``KIND_GPU``, not ``"KIND_GPU"``."""


def render(message: Message) -> str:
    """Return the text of a message; fields come in the dict's order."""
    return "".join(f"{line}\n" for line in _lines(message))


def map_entries(mapping: Mapping[str, Any]) -> list[Message]:
    """Return a map field: protobuf's text has one ``{ key value }`` message per entry."""
    return [{"key": key, "value": value} for key, value in mapping.items()]


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, list) and not any(isinstance(item, dict) for item in value):
            yield f"{name}: [ {', '.join(_scalar(item) for item in value)} ]"
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(item))
                yield "}"
            else:
                yield f"{name}: {_scalar(item)}"


def _scalar(value: str | int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | Enum) else quote(value)


def quote(text: str) -> str:
    r"""Return ``text`` as a string literal in ASCII: anything else as octal bytes of its UTF-8.

    What has no UTF-8 (a file name with bytes of another encoding) is written as ``\udcff``.
    """
    data = text.encode("utf-8", "backslashreplace")
    return '"' + "".join(_escaped(byte) for byte in data) + '"'


def _escaped(byte: int) -> str:
    # Octal, because a hexadecimal escape has no fixed length and swallows digits that follow it.
    return chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
