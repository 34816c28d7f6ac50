"""Class names, colours and the ignore index: one definition for all stages.

ADE20K's 150 names and colours come from the scene parsing benchmark
(CSAIL, objectInfo150 and color150). Two classes there share one colour (road and
skyscraper), so a colour-coded prediction cannot be decoded; a class map can.
"""

from __future__ import annotations

import csv
import io
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeseg.documents import first_problem
from edgeseg.errors import InputError, show

IGNORE_INDEX = 255
MAX_CLASSES = 255  # class maps are uint8 and 255 means "ignore"

Channel = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Channel, Channel, Channel]


class Labels(BaseModel):
    """What each class id means: ``names[i]`` and ``palette[i]`` (RGB, 0..255) belong to id i."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(min_length=1, max_length=MAX_CLASSES)
    palette: tuple[Color, ...]
    ignore_index: int = Field(default=IGNORE_INDEX, ge=IGNORE_INDEX, le=IGNORE_INDEX)

    @model_validator(mode="after")
    def _one_color_per_name(self) -> Labels:
        if len(self.names) != len(self.palette):
            raise ValueError(f"{len(self.names)} names but {len(self.palette)} colours")
        if len(set(self.names)) != len(self.names):
            raise ValueError("two classes have the same name")
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes; ids are 0 .. num_classes - 1."""
        return len(self.names)


def ade20k_labels() -> Labels:
    """Return ADE20K's 150 classes with zero-based ids (wall 0, building 1, sky 2 ...)."""
    text = resources.files("edgeseg").joinpath("ade20k.tsv").read_text(encoding="utf-8")
    labels, _ = parse_class_table(text, "ade20k.tsv")
    return labels


def numbered_labels(num_classes: int) -> Labels:
    """Return labels ``class 0`` .. with distinct colours, for data that names none."""
    return Labels(
        names=tuple(f"class {i}" for i in range(num_classes)),
        palette=tuple(distinct_color(i) for i in range(num_classes)),
    )


def distinct_color(index: int) -> Color:
    """Return the PASCAL VOC colour of a class id: its bits spread over the channels' high bits."""
    red = green = blue = 0
    bits = index + 1  # VOC's id 0 is black background; ours is a class
    for shift in range(7, -1, -1):
        red |= (bits & 1) << shift
        green |= (bits >> 1 & 1) << shift
        blue |= (bits >> 2 & 1) << shift
        bits >>= 3
    return (red, green, blue)


def read_class_table(path: Path) -> tuple[Labels, frozenset[int]]:
    """Read ``classes.tsv``; see ``parse_class_table``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read class table {show(path)}: {error}") from error
    return parse_class_table(text, str(path))


def parse_class_table(text: str, name: str) -> tuple[Labels, frozenset[int]]:
    """Parse a tab-separated table with the columns ``id name r g b`` and, optionally, ``role``.

    A row whose role is ``void`` names an id that is never trained or scored.

    Returns:
        The labels (ids must be 0 .. C-1) and the set of void ids.

    Raises:
        InputError: a column is missing, a value is no number or the ids have gaps.
    """
    try:
        reader = csv.DictReader(io.StringIO(text), delimiter="\t")
        columns, table = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise InputError(f"class table {show(name)} is not readable: {error}") from error
    missing = {"id", "name", "r", "g", "b"} - set(columns)
    if missing:
        raise InputError(
            f"class table {show(name)} lacks the columns {sorted(missing)}; "
            "expected tab-separated id, name, r, g, b"
        )
    rows: dict[int, tuple[str, Color]] = {}
    void: set[int] = set()
    for line, row in enumerate(table, start=2):
        try:
            class_id = int(row["id"])
            color = (int(row["r"]), int(row["g"]), int(row["b"]))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"class table {show(name)} line {line}: id, r, g, b must be numbers"
            ) from error
        if class_id in rows or class_id in void:
            raise InputError(f"class table {show(name)} line {line}: id {class_id} appears twice")
        role = row.get("role") or "class"
        if role not in ("class", "void"):
            raise InputError(
                f"class table {show(name)} line {line}: role {show(role)} is neither class nor void"
            )
        if role == "void":
            void.add(class_id)
        else:
            rows[class_id] = (row["name"], color)
    return _labels_from_rows(rows, name), frozenset(void)


def _labels_from_rows(rows: dict[int, tuple[str, Color]], name: str) -> Labels:
    if not 1 <= len(rows) <= MAX_CLASSES or sorted(rows) != list(range(len(rows))):
        raise InputError(
            f"class table {show(name)} must have ids 0 .. C-1 without gaps, "
            f"1 to {MAX_CLASSES} classes; found {len(rows)} ids, {sorted(rows)[:5]} ..."
        )
    ordered = [rows[i] for i in range(len(rows))]
    try:
        return Labels(names=tuple(r[0] for r in ordered), palette=tuple(r[1] for r in ordered))
    except ValidationError as error:
        where, what = first_problem(error)
        raise InputError(f"class table {show(name)}: {where}: {what}") from error
