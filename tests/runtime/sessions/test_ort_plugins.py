"""Providers that plug into ONNX Runtime, with the real OpenVINO plugin in a process of its own.

OpenVINO in the process of the other tests would make trainings with PyTorch crash there.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from edgeseg.errors import DeviceError
from edgeseg.sessions.ort import plugins

Replace = Callable[[str, bytes], None]
Script = Callable[..., Any]

needs_plugin = pytest.mark.skipif(
    find_spec("onnxruntime_ep_openvino") is None
    or not hasattr(onnxruntime, "register_execution_provider_library"),
    reason="needs the extra openvino and an onnxruntime that takes plugins",
)

# Class 1 where the brightest channel is over 127: of its five nodes OpenVINO has no Binarizer.
PARTLY = base64.b64decode(
    "CAkSADraAgomCgZpbWFnZXMSAWYaCHRvX2Zsb2F0IgRDYXN0KgkKAnRvGAGgAQIKLQoBZhIBdBoHdG9fbmNodyIJ"
    "VHJhbnNwb3NlKhEKBHBlcm1AAEADQAFAAqABBwozCgF0CgRheGVzEgFtGglicmlnaHRlc3QiCVJlZHVjZU1heCoP"
    "CghrZWVwZGltcxgAoAECCj0KAW0SAWIaCXRocmVzaG9sZCIJQmluYXJpemVyKhMKCXRocmVzaG9sZBUAAP5CoAEB"
    "OgphaS5vbm54Lm1sCikKAWISCWNsYXNzX21hcBoIdG9fY2xhc3MiBENhc3QqCQoCdG8YAqABAhIGcGFydGx5Kg0I"
    "ARAHOgEBQgRheGVzWiUKBmltYWdlcxIbChkIAhIVCgcSBWJhdGNoCgIIMAoCCEAKAggDYiQKCWNsYXNzX21hcBIX"
    "ChUIAhIRCgcSBWJhdGNoCgIIMAoCCEBCBAoAEBRCDgoKYWkub25ueC5tbBAD"
)

STRICT = """
import json, sys
import numpy as np
from edgeseg.bundle import Bundle
from edgeseg.errors import DeviceError
from edgeseg.sessions import Settings, open_session

bundle = Bundle.open(sys.argv[1])
images = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
try:
    open_session(bundle, "ort:openvino", "fp32")
    refused = None
except DeviceError as error:
    refused = str(error)
allowed = open_session(bundle, "ort:openvino", "fp32", Settings(allow_fallback=True))
same = bool(np.array_equal(allowed.infer(images), images.max(axis=3) > 127))
print(json.dumps({"refused": refused, "fallback": allowed.fallback, "same": same}))
"""

ANSWERS = """
import json, sys
import numpy as np
from edgeseg.bundle import Bundle
from edgeseg.sessions import Settings, open_session
from edgeseg.sessions.ort.library import import_onnxruntime

bundle = Bundle.open(sys.argv[1])
images = bundle.reference().images
found = {}
for variant in ("fp32", "int8-cpu"):
    expected = open_session(bundle, "ort:cpu", variant).infer(images)
    session = open_session(bundle, "ort:openvino", variant, Settings(threads=2))
    found[variant] = float(np.mean(session.infer(images) == expected))
    session.close()
for _ in range(3):
    open_session(bundle, "ort:openvino", "fp32").infer(images)
found["fallback"] = session.fallback
devices = import_onnxruntime().get_ep_devices()
found["cpus"] = sum(
    d.ep_name == "OpenVINOExecutionProvider" and d.ep_metadata.get("ov_device") == "CPU"
    for d in devices
)
print(json.dumps(found))
"""


@needs_plugin
def test_the_openvino_plugin_answers_as_onnxruntime_does(script: Script, tiny_bundle: Path) -> None:
    found = script(ANSWERS, tiny_bundle)
    assert found["fp32"] > 0.9999
    assert found["int8-cpu"] > 0.999
    assert found["fallback"] is None
    assert found["cpus"] == 1  # registered once, and the process ended without a crash


@needs_plugin
def test_a_node_that_the_plugin_cannot_run_is_an_error_or_is_said(
    script: Script, bundle: Path, replace_file: Replace
) -> None:
    replace_file("model.fp32.onnx", PARTLY)
    found = script(STRICT, bundle)
    said = r"1 of \d nodes run on CPUExecutionProvider: Binarizer 'threshold'"
    assert re.search(f"asked for OpenVINOExecutionProvider for .*, but {said};", found["refused"])
    assert re.fullmatch(said, found["fallback"])
    assert found["same"]


# --- on a double


def test_a_plugin_that_does_not_load_is_a_device_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(registration_name: str, library_path: str) -> None:
        raise RuntimeError(f"Failed to load library {library_path}: no libcuda.so.1\nand a stack")

    onnxruntime = SimpleNamespace(
        __version__="9.9", get_ep_devices=list, register_execution_provider_library=refuse
    )
    package = SimpleNamespace(get_library_path=lambda: "plugin.so")
    monkeypatch.setattr(plugins, "import_module", lambda name: package)
    with pytest.raises(DeviceError, match=r"cannot be loaded into onnxruntime 9\.9.*no libcuda"):
        plugins.find_devices(onnxruntime, "ort:tensorrt-rtx")


def test_a_plugin_is_registered_once_and_gives_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[str] = []
    gpu = SimpleNamespace(ep_name="NvTensorRTRTXExecutionProvider", ep_metadata={})
    onnxruntime = SimpleNamespace(
        __version__="9.9",
        get_ep_devices=lambda: [gpu, gpu] if registered else [],
        register_execution_provider_library=lambda name, path: registered.append(path),
    )
    package = SimpleNamespace(get_library_path=lambda: "plugin.so")
    monkeypatch.setattr(plugins, "import_module", lambda name: package)
    for _ in range(2):
        assert plugins.find_devices(onnxruntime, "ort:tensorrt-rtx") == [gpu]
    assert registered == ["plugin.so"]


def test_a_plugin_without_a_device_here_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    npu = SimpleNamespace(ep_name="OpenVINOExecutionProvider", ep_metadata={"ov_device": "NPU"})
    onnxruntime = SimpleNamespace(
        __version__="9.9",
        get_ep_devices=lambda: [npu],
        register_execution_provider_library=lambda name, path: None,
    )
    package = SimpleNamespace(get_library_path=lambda: "plugin.so")
    monkeypatch.setattr(plugins, "import_module", lambda name: package)
    with pytest.raises(DeviceError, match="OpenVINOExecutionProvider finds no device"):
        plugins.find_devices(onnxruntime, "ort:openvino")
