"""ONNX Runtime's CUDA and TensorRT providers on a real GPU, in processes that may see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu

ANSWERS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from edgeseg.bundle import Bundle
from edgeseg.sessions import open_session, problem

bundle, backend = Bundle.open(sys.argv[1]), sys.argv[2]
if reason := problem(backend):
    print(json.dumps({"problem": reason}))
    sys.exit()
plain, session = (open_session(bundle, name, "fp32") for name in ("ort:cpu", backend))
rng = np.random.default_rng(0)
height, width = bundle.manifest.sizes[0]
images = [rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8) for _ in range(12)]
expected = [plain.infer(image) for image in images]
serial = [session.infer(image) for image in images]
with ThreadPoolExecutor(8) as threads:
    parallel = list(threads.map(session.infer, images))
found = {
    "agreement": float(np.mean([np.mean(a == b) for a, b in zip(serial, expected)])),
    "parallel": all(np.array_equal(a, b) for a, b in zip(serial, parallel)),
    "fallback": session.fallback,
}
if bundle.manifest.dynamic_size and backend == "ort:cuda":
    shapes = [(8 + 4 * i, 16) for i in range(7)] * 2
    pictures = [rng.integers(0, 256, (1, *shape, 3), dtype=np.uint8) for shape in shapes]
    found["shapes"] = min(float(np.mean(session.infer(p) == plain.infer(p))) for p in pictures)
session.close()
print(json.dumps(found))
"""


@pytest.mark.parametrize("backend", ["ort:cuda", "ort:tensorrt", "ort:tensorrt-rtx"])
@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_logits"])
def test_on_a_gpu_the_answers_are_those_of_the_cpu(
    script: Callable[..., Any], tiny_bundle: Path, name: str, backend: str
) -> None:
    found = script(ANSWERS, tiny_bundle.with_name(name), backend, seconds=500)
    if "problem" in found:
        pytest.skip(found["problem"])
    assert found["agreement"] > 0.999
    assert found["parallel"]
    assert found["fallback"] is None
    assert found.get("shapes", 1) > 0.999
