"""Where ONNX Runtime's TensorRT providers keep the engines that they build.

They check neither the model nor the versions when they load one, and loading an engine runs what
is in it. So each combination of ONNX file, versions, GPU and shapes has a folder of its own, and
all are private, as in ``edgeseg.engines.cache``.

    ~/.cache/edgeseg/ort-engines/<digest of the key>/
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edgeseg.engines.cache import EngineCache, default_cache
from edgeseg.engines.device import find_device, open_driver
from edgeseg.files import sha256_bytes


def engine_folder(key: Mapping[str, str]) -> Path:
    """Return the private folder for ``key`` on this machine's GPU; it is made if missing.

    Raises:
        ArtifactError: others can write there.
        ResourceError: it cannot be made.
    """
    device = find_device(open_driver())
    here = {**key, "device": device.model_dump_json() if device else ""}
    digest = sha256_bytes(json.dumps(here, sort_keys=True).encode())[:32]
    root = EngineCache.open(default_cache().with_name("ort-engines"))
    return EngineCache.open(root.path / digest).path
