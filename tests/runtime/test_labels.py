"""Class names, colours and class tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgeseg.errors import InputError
from edgeseg.labels import (
    Labels,
    ade20k_labels,
    distinct_color,
    numbered_labels,
    parse_class_table,
    read_class_table,
)

TABLE = "id\tname\tr\tg\tb\n0\tfloor\t1\t2\t3\n1\twall\t4\t5\t6\n"


def test_ade20k_has_the_benchmarks_names_and_colours() -> None:
    labels = ade20k_labels()
    assert labels.num_classes == 150
    # From the scene parsing benchmark's objectInfo150.csv and color150.mat, file ids minus 1.
    assert labels.names[:4] == ("wall", "building", "sky", "floor")
    assert (labels.names[12], labels.names[20], labels.names[149]) == ("person", "car", "flag")
    assert labels.palette[:3] == ((120, 120, 120), (180, 120, 120), (6, 230, 230))
    assert labels.palette[12] == (150, 5, 61)
    assert labels.palette[149] == (92, 0, 255)
    assert labels.ignore_index == 255


def test_ade20k_names_are_unique() -> None:
    names = ade20k_labels().names
    assert len(set(names)) == len(names)


def test_only_road_and_skyscraper_share_an_ade20k_colour() -> None:
    labels = ade20k_labels()
    shared = {
        name
        for name, color in zip(labels.names, labels.palette, strict=True)
        if labels.palette.count(color) > 1
    }
    assert shared == {"road", "skyscraper"}


def test_voc_colours_are_the_published_ones() -> None:
    # PASCAL VOC: 1 aeroplane, 2 bicycle, 3 bird, 4 boat, 15 person, 20 tv monitor.
    published = {1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128)}
    published |= {15: (192, 128, 128), 20: (0, 64, 128)}
    assert {i: distinct_color(i - 1) for i in published} == published


def test_numbered_labels_have_distinct_colours() -> None:
    labels = numbered_labels(255)
    assert len(set(labels.palette)) == 255
    assert labels.names[0] == "class 0"
    assert labels.names[254] == "class 254"


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": (), "palette": ()},
        {"names": ("a", "b"), "palette": ((0, 0, 0),)},
        {"names": ("a",), "palette": ((0, 0, 256),)},
        {"names": ("a",), "palette": ((0, 0, -1),)},
        {"names": ("a",), "palette": ((0, 0),)},
        {"names": ("a",), "palette": ((0, 0, 0),), "ignore_index": 0},
        {"names": ("a",), "palette": ((0, 0, 0),), "color": 1},
        {"names": ("a",) * 256, "palette": ((0, 0, 0),) * 256},
    ],
)
def test_inconsistent_labels_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Labels.model_validate(wrong)


def test_labels_are_frozen() -> None:
    labels = numbered_labels(2)
    with pytest.raises(ValidationError):
        labels.names = ("x", "y")


def test_a_class_table_is_read() -> None:
    labels, void = parse_class_table(TABLE, "t.tsv")
    assert labels.names == ("floor", "wall")
    assert labels.palette == ((1, 2, 3), (4, 5, 6))
    assert void == frozenset()


def test_rows_may_come_in_any_order() -> None:
    lines = TABLE.splitlines()
    shuffled = "\n".join([lines[0], lines[2], lines[1]])
    assert parse_class_table(shuffled, "t.tsv") == parse_class_table(TABLE, "t.tsv")


def test_void_ids_are_no_classes() -> None:
    text = (
        "id\tname\tr\tg\tb\trole\n0\ta\t0\t0\t0\t\n255\tother\t0\t0\t0\tvoid\n7\tx\t0\t0\t0\tvoid"
    )
    labels, void = parse_class_table(text, "t.tsv")
    assert labels.names == ("a",)
    assert void == {7, 255}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the columns"),
        ("id,name,r,g,b\n0,a,1,2,3\n", "lacks the columns"),
        ("id\tname\tr\tg\n0\ta\t1\t2\n", r"lacks the columns \['b'\]"),
        ("id\tname\tr\tg\tb\n", "without gaps"),
        (TABLE + "3\tgap\t0\t0\t0\n", "without gaps"),
        (TABLE + "-1\tminus\t0\t0\t0\n", "without gaps"),
        (TABLE + "1\tagain\t0\t0\t0\n", "line 4: id 1 appears twice"),
        (TABLE + "x\tletter\t0\t0\t0\n", "line 4: id, r, g, b must be numbers"),
        (TABLE + "2\tshort\t0\n", "line 4: id, r, g, b must be numbers"),
        (
            TABLE + "2\tbright\t0\t0\t300\n",
            "palette.2.2: Input should be less than or equal to 255",
        ),
        (TABLE + "2\t" + "n" * 200_000 + "\t0\t0\t0\n", "is not readable"),
    ],
)
def test_a_bad_class_table_is_refused_with_its_reason(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_class_table(text, "t.tsv")
    assert "\n" not in str(caught.value)


def test_256_classes_are_too_many() -> None:
    rows = "".join(f"{i}\tn{i}\t0\t0\t0\n" for i in range(256))
    with pytest.raises(InputError, match="1 to 255 classes"):
        parse_class_table("id\tname\tr\tg\tb\n" + rows, "t.tsv")


def test_a_table_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "classes.tsv"
    path.write_text(TABLE, encoding="utf-8-sig")
    assert read_class_table(path)[0].names == ("floor", "wall")


def test_a_missing_table_and_a_binary_one_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read class table"):
        read_class_table(tmp_path / "no.tsv")
    (tmp_path / "binary.tsv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="cannot read class table"):
        read_class_table(tmp_path / "binary.tsv")


def test_a_role_that_is_no_role_is_refused() -> None:
    with pytest.raises(InputError, match="role 'viod'"):
        parse_class_table("id\tname\tr\tg\tb\trole\n0\ta\t0\t0\t0\tviod\n", "classes.tsv")


def test_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="same name"):
        parse_class_table("id\tname\tr\tg\tb\n0\ta\t0\t0\t0\n1\ta\t1\t1\t1\n", "classes.tsv")
