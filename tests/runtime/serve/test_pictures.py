"""``POST /segment``: pictures in, the same masks out as from the segmenter."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import Segmenter

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

Picture = Callable[..., bytes]
IMAGES = Path(__file__).parents[2] / "data" / "images"


def form(picture: bytes, name: str = "image", end: str = "--B--\r\n") -> tuple[bytes, str]:
    """A form as browsers and curl send it: a text field, and a file."""
    head = (
        '--B\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
        f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    return head.encode() + picture + b"\r\n" + end.encode(), "multipart/form-data; boundary=B"


def mask_of(reply: Any) -> np.ndarray[Any, Any]:
    assert reply.status == 200, reply.body
    return np.asarray(Image.open(io.BytesIO(reply.body)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_the_mask_is_the_segmenters_at_the_pictures_own_size(
    served: Any, segmenter: Segmenter, picture: Picture, kind: str
) -> None:
    data = picture(1, (70, 101), kind)
    reply = served.ask("POST", "/segment", data)
    assert reply.headers["content-type"] == "image/png"
    mask = mask_of(reply)
    assert mask.shape == (70, 101)
    np.testing.assert_array_equal(mask, segmenter(data).class_map)


def test_the_answer_is_the_very_file_that_the_runtime_saves(
    served: Any, segmenter: Segmenter, picture: Picture, tmp_path: Path
) -> None:
    segmenter(picture()).save(tmp_path / "mask.png")
    assert served.ask("POST", "/segment", picture()).body == (tmp_path / "mask.png").read_bytes()


@pytest.mark.parametrize("size", [(40, 40), (1500, 1400)], ids=["small", "over 1 MB"])
def test_a_form_is_the_same_as_the_bare_picture(
    served: Any, segmenter: Segmenter, picture: Picture, size: tuple[int, int]
) -> None:
    data = picture(2, size, "BMP")
    body, content_type = form(data)
    reply = served.ask("POST", "/segment", body, Content_Type=content_type)
    np.testing.assert_array_equal(mask_of(reply), segmenter(data).class_map)


def test_coverage_and_timings_stand_in_the_head(
    served: Any, segmenter: Segmenter, picture: Picture
) -> None:
    reply = served.ask("POST", "/segment", picture())
    coverage = json.loads(reply.headers["edgeseg-coverage"])
    assert coverage == pytest.approx(segmenter(picture()).coverage, abs=1e-6)
    assert sum(coverage.values()) == pytest.approx(1, abs=1e-4)
    stages = [part.partition(";")[0] for part in reply.headers["server-timing"].split(", ")]
    assert stages == ["decode", "pre", "compute", "post"]


def test_a_head_with_many_long_names_keeps_the_largest_classes() -> None:
    from edgeseg.serve.pictures import MAX_COVERAGE, coverage_header

    many = {f"{'é' * 30} {i}": (255 - i) / 40_000 for i in range(255)}
    text = coverage_header(many)
    assert text.isascii()
    assert MAX_COVERAGE / 2 < len(text) <= MAX_COVERAGE
    kept = json.loads(text)
    assert list(kept) == list(many)[: len(kept)]


def test_json_has_coverage_colours_timings_and_the_mask(
    served: Any, segmenter: Segmenter, picture: Picture
) -> None:
    reply = served.ask("POST", "/segment?format=json", picture())
    found, expected = reply.document, segmenter(picture())
    assert (found["model"], found["variant"], found["backend"]) == (
        "tiny_bundle",
        "fp32",
        "ort:cpu",
    )
    assert (found["height"], found["width"]) == (90, 130)
    assert found["coverage"] == expected.to_dict()["coverage"]
    mask = Image.open(io.BytesIO(base64.b64decode(found["mask_png"])))
    np.testing.assert_array_equal(np.asarray(mask), expected.class_map)
    shown = np.asarray(mask.convert("RGB"))
    for name, color in found["colors"].items():
        at = expected.class_map == segmenter.labels.names.index(name)
        assert {bytes(pixel).hex() for pixel in shown[at]} == {color.removeprefix("#")}


def test_an_overlay_is_the_runtimes(served: Any, segmenter: Segmenter, picture: Picture) -> None:
    reply = served.ask("POST", "/segment?format=overlay", picture())
    np.testing.assert_array_equal(mask_of(reply), np.asarray(segmenter(picture()).overlay()))


def test_sixteen_clients_at_once_each_get_the_mask_of_their_own_picture(
    served: Any, segmenter: Segmenter, picture: Picture
) -> None:
    pictures = [picture(i, (40 + i, 90 - i), "JPEG") for i in range(32)]
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda data: served.ask("POST", "/segment", data), pictures))
    for data, reply in zip(pictures, replies, strict=True):
        np.testing.assert_array_equal(mask_of(reply), segmenter(data).class_map)


@pytest.mark.parametrize(
    "name", ["text.jpg", "truncated.jpg", "animated.png", "gray16.png", "float.tif"]
)
def test_what_is_no_picture_for_the_runtime_is_status_422_with_the_reason(
    served: Any, name: str
) -> None:
    reply = served.ask("POST", "/segment", (IMAGES / name).read_bytes())
    assert reply.status == 422
    assert "image" in reply.error


def test_an_empty_body_is_status_422(served: Any) -> None:
    assert served.ask("POST", "/segment").status == 422


BAD_FORMS = {
    "no boundary": (b"x", "multipart/form-data"),
    "no part": (b"--B--\r\n", "multipart/form-data; boundary=B"),
    "garbage": (b"\x00" * 300, "multipart/form-data; boundary=B"),
    "truncated": (form(b"x" * 50, end="")[0][:-10], form(b"")[1]),
    "two files": (form(b"x", end="")[0] + form(b"y")[0], form(b"")[1]),
    "only text": (
        b'--B\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--B--\r\n',
        form(b"")[1],
    ),
}


@pytest.mark.parametrize(("body", "content_type"), BAD_FORMS.values(), ids=BAD_FORMS)
def test_a_form_without_one_whole_file_is_status_400(
    served: Any, body: bytes, content_type: str
) -> None:
    reply = served.ask("POST", "/segment", body, Content_Type=content_type)
    assert reply.status == 400
    assert "form" in reply.error


def test_an_unknown_format_is_status_400_and_lists_those_there_are(
    served: Any, picture: Picture
) -> None:
    reply = served.ask("POST", "/segment?format=gif", picture())
    assert reply.status == 400
    assert "png, overlay, json" in reply.error


def test_a_picture_with_too_many_pixels_is_refused_by_its_head(
    serving: Callable[..., Any], picture: Picture
) -> None:
    served = serving(max_pixels=100 * 100)
    assert served.ask("POST", "/segment", picture(0, (100, 100))).status == 200
    reply = served.ask("POST", "/segment", picture(0, (101, 100)))
    assert reply.status == 413
    assert "100x101" in reply.error
    huge = served.ask("POST", "/segment", (IMAGES / "huge.png").read_bytes())
    assert huge.status == 413


def test_metrics_count_requests_by_route_and_status_and_time_each_stage(
    serving: Callable[..., Any], picture: Picture
) -> None:
    served = serving()
    for data in (picture(), picture(), b"nothing"):
        served.ask("POST", "/segment", data)
    served.ask("GET", "/no/such/page")
    assert served.metric('edgeseg_requests_total{route="segment",status="200"}') == 2
    assert served.metric('edgeseg_requests_total{route="segment",status="422"}') == 1
    assert served.metric('edgeseg_requests_total{route="none",status="404"}') == 1
    for stage in ("decode", "pre", "queue", "compute", "post", "encode"):
        assert served.metric(f'edgeseg_stage_seconds_count{{stage="{stage}"}}') == 2
    assert served.metric("edgeseg_batch_images_count") == 2
    assert served.metric("edgeseg_queue_length") == 0
    assert served.metric("edgeseg_accepted_requests") == 0
