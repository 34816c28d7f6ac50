"""The documented client, word for word, against a stand-in server that runs the written model."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from PIL import Image

import edgeseg_export.triton
from edgeseg.segmenter import Segmenter

ROOT = Path(__file__).parents[3]
README = (ROOT / "export" / "README.md").read_text(encoding="utf-8")


def documented_clients() -> list[str]:
    """Return the client of the package's docstring and those of the README."""
    _, _, example = (edgeseg_export.triton.__doc__ or "").partition("::\n")
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return [textwrap.dedent(example), *(block for block in blocks if "tritonclient" in block)]


@pytest.mark.parametrize("client", documented_clients())
def test_the_documented_client_gives_the_segmenters_answer(
    triton: Callable[..., Any],
    serve: Callable[[Path], str],
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    client: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = np.random.default_rng(0).integers(0, 256, (60, 71, 3), dtype=np.uint8)
    Image.fromarray(photo).save("photo.jpg")
    assert triton(bundle, "--out", "model_repository", "--name", "first").code == 0
    address = serve(Path("model_repository"))
    assert "localhost:8000" in client
    namespace: dict[str, Any] = {}
    exec(client.replace("localhost:8000", address), namespace)
    expected = Segmenter.load(bundle, "ort:cpu", "fp32")("photo.jpg")
    np.testing.assert_array_equal(namespace["class_map"], expected.class_map)
    shown = np.asarray(Image.open("photo.overlay.png"))
    np.testing.assert_array_equal(shown, np.asarray(expected.overlay()))


def test_the_stand_in_refuses_what_the_configuration_does_not_allow(
    triton: Callable[..., Any], serve: Callable[[Path], str], bundle: Path, tmp_path: Path
) -> None:
    assert triton(bundle, "--out", tmp_path / "r", "--name", "first", "--max-batch", 2).code == 0
    client = tritonclient.http.InferenceServerClient(serve(tmp_path / "r"))
    assert client.is_server_ready()
    assert client.is_model_ready("first")
    for shape, allowed in (((2, 48, 64, 3), True), ((3, 48, 64, 3), False), ((1, 8, 8, 3), False)):
        request = tritonclient.http.InferInput("images", shape, "UINT8")
        request.set_data_from_numpy(np.zeros(shape, np.uint8))
        if allowed:
            assert client.infer("first", [request]).as_numpy("class_map").shape == shape[:3]
        else:
            with pytest.raises(tritonclient.utils.InferenceServerException):
                client.infer("first", [request])
