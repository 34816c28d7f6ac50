"""OpenVINO itself, the real one, in processes of its own: see ``edgeseg.sessions.openvino``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Replace = Callable[[str, bytes], None]
Script = Callable[..., Any]

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")

ANSWERS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from edgeseg.bundle import Bundle
from edgeseg.errors import EdgeSegError
from edgeseg.sessions import Settings, open_session

maps, logits = Bundle.open(sys.argv[1]), Bundle.open(sys.argv[2])
reference = maps.reference()
found = {}

def share(a, b):
    return float(np.mean(a == b))

for variant in ("fp32", "int8-cpu"):
    theirs = open_session(maps, "ort:cpu", variant).infer(reference.images)
    ours = open_session(maps, "openvino", variant, Settings(threads=1)).infer(reference.images)
    found[variant] = [share(ours, theirs), share(ours, reference.class_maps), str(ours.dtype)]

session = open_session(logits, "openvino", "fp32")
plain = open_session(logits, "ort:cpu", "fp32")
rng = np.random.default_rng(0)
for height, width in ((16, 24), (40, 8)):
    images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    answer = session.infer_logits(images)
    found[f"logits {height}x{width}"] = [
        list(answer.shape), str(answer.dtype), float(abs(answer - plain.infer_logits(images)).max())
    ]

session = open_session(maps, "openvino", "fp32")
images = [rng.integers(0, 256, (1, 48, 64, 3), dtype=np.uint8) for _ in range(24)]
serial = [session.infer(image) for image in images]
with ThreadPoolExecutor(8) as threads:
    parallel = list(threads.map(session.infer, images))
found["threads"] = all(np.array_equal(a, b) for a, b in zip(serial, parallel))

wide = np.repeat(images[0], 2, axis=2)
frozen = images[0].copy()
frozen.setflags(write=False)
layouts = [wide[:, :, ::2], np.asfortranarray(images[0]), frozen]
found["layouts"] = [bool(np.array_equal(session.infer(one), serial[0])) for one in layouts]
kept = serial[0].copy()
session.infer(images[1])
found["kept"] = bool(np.array_equal(serial[0], kept))

def said(function):
    try:
        function()
    except EdgeSegError as error:
        return f"{type(error).__name__}: {error}"
    return None

found["shape"] = said(lambda: session.infer(images[0][:, :, :, :2]))
found["no logits"] = said(lambda: session.infer_logits(images[0]))
session.close()
session.close()
found["closed"] = said(lambda: session.infer(images[0]))
found["files"] = [str(path) for path in Path.home().rglob("*") if path.is_file()]
found["telemetry"] = sorted(name for name in sys.modules if "openvino_telemetry" in name)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process saw."""
    import json
    import os
    import subprocess
    import sys

    data = Path(__file__).parents[2] / "data"
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    words = [sys.executable, "-c", ANSWERS, str(data / "tiny_bundle"), str(data / "tiny_logits")]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_fp32_is_not_rounded_to_bf16(found: dict[str, Any]) -> None:
    onnxruntime, pytorch, dtype = found["fp32"]
    assert onnxruntime > 0.9999
    assert pytorch > 0.9999  # rounded to bf16 it was 0.994
    assert dtype == "uint8"


def test_int8_agrees_with_onnxruntime_and_with_pytorch_as_much_as_there(
    found: dict[str, Any],
) -> None:
    onnxruntime, pytorch, _ = found["int8-cpu"]
    assert onnxruntime > 0.999
    assert pytorch > 0.985


@pytest.mark.parametrize("size", [(16, 24), (40, 8)])
def test_logits_of_any_size_are_those_of_onnxruntime(
    found: dict[str, Any], size: tuple[int, int]
) -> None:
    height, width = size
    shape, dtype, difference = found[f"logits {height}x{width}"]
    assert (shape, dtype) == ([2, 150, height, width], "float32")
    assert difference < 1e-4


def test_eight_threads_get_what_one_gets(found: dict[str, Any]) -> None:
    assert found["threads"] is True


def test_arrays_of_any_layout_in_memory_give_the_same_class_map(found: dict[str, Any]) -> None:
    assert found["layouts"] == [True, True, True]


def test_what_was_answered_stays_when_the_session_answers_again(found: dict[str, Any]) -> None:
    assert found["kept"] is True


def test_wrong_inputs_and_closed_sessions_are_errors_in_our_words(found: dict[str, Any]) -> None:
    assert found["shape"].startswith("InputError: model input 'images' got shape (1, 48, 64, 2)")
    assert found["no logits"].startswith("UsageError: ")
    assert found["closed"] == "DeviceError: the session is closed; open a new one"


def test_nothing_is_written_at_home_and_no_telemetry_is_loaded(found: dict[str, Any]) -> None:
    assert found["files"] == []
    assert found["telemetry"] == []


REFUSED = """
import json, sys
from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError
from edgeseg.sessions import open_session
try:
    open_session(Bundle.open(sys.argv[1]), "openvino", "fp32")
    print(json.dumps(None))
except ArtifactError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x09" * 50])
def test_a_file_that_is_no_model_is_an_artifact_error(
    bundle: Path, replace_file: Replace, script: Script, data: bytes
) -> None:
    replace_file("model.fp32.onnx", data)
    said = script(REFUSED, bundle)
    assert "cannot load" in said
    assert "bundle:fp32'" in said
    assert "Exception from" not in said
    assert "\n" not in said


def test_a_file_that_changed_is_never_given_to_openvino(bundle: Path, script: Script) -> None:
    (bundle / "model.fp32.onnx").write_bytes(b"changed")
    assert "is corrupt: its SHA-256" in script(REFUSED, bundle)
