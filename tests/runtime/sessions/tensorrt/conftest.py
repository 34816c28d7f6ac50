"""A machine with a GPU, made of doubles: its CUDA, its TensorRT, its driver, its engine cache."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeseg.bundle import Bundle
from edgeseg.engines.cache import EngineCache, default_cache
from edgeseg.engines.device import Device
from edgeseg.engines.document import (
    Attestation,
    EngineKey,
    EngineManifest,
    Flags,
    NetworkAttestation,
    Profile,
)
from edgeseg.engines.library import adopt
from edgeseg.files import sha256_bytes
from edgeseg.manifest import FileEntry
from edgeseg.sessions import tensorrt
from edgeseg.sessions.protocol import Settings

TINY_LOGITS = Path(__file__).parents[3] / "data" / "tiny_logits"
DEVICE = Device(name="Fake GPU", compute_capability="8.9", driver="580.1 (CUDA 13.0)")
WORDS = {"uint8": "UINT8", "float32": "FLOAT"}


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


FAKE_CUDA, FAKE_TENSORRT = _module("fake_cuda"), _module("fake_tensorrt")


@pytest.fixture
def fake_cuda() -> Any:
    """The module with the double of the CUDA runtime."""
    return FAKE_CUDA


@pytest.fixture
def fake_tensorrt() -> Any:
    """The module with the double of TensorRT."""
    return FAKE_TENSORRT


@pytest.fixture
def logits_bundle() -> Bundle:
    """The committed bundle with both outputs and a free size in multiples of 4."""
    return Bundle.open(TINY_LOGITS)


@pytest.fixture
def map_bundle(tiny_bundle: Path) -> Bundle:
    """The committed bundle with a class map only, at 48x64."""
    return Bundle.open(tiny_bundle)


Shape = tuple[int, int, int, int]


@dataclass
class Machine:
    """What a test changes about the machine, and opens sessions on."""

    version: str
    cuda: Any
    scenario: Any
    device: Device | None = DEVICE

    @property
    def backend(self) -> str:
        return "tensorrt-rtx" if self.version.startswith("rtx") else "tensorrt"

    @property
    def library_version(self) -> str:
        found: str = FAKE_TENSORRT.NAMES[self.version]["version"]
        return found

    def build(
        self,
        bundle: Bundle,
        *profiles: tuple[Shape, Shape, Shape],
        variant: str = "fp32",
        created: str = "2026-01-01T00:00:00.000+00:00",
        flags: Flags | None = None,
        **changes: Any,
    ) -> EngineManifest:
        """Put an engine into the cache, as ``edgeseg build`` does; ``changes`` are of its key."""
        manifest = bundle.manifest
        flags = flags or Flags()
        height, width = manifest.sizes[0]
        own = ((1, height, width, 3),) * 3
        shapes = [Profile(min=p[0], opt=p[1], max=p[2]) for p in (profiles or (own,))]
        plan = FAKE_TENSORRT.plan(
            {spec.name: WORDS[spec.dtype] for spec in manifest.outputs},
            [(shape.min, shape.max) for shape in shapes],
            stripped=flags.strip_weights,
        )
        key: dict[str, Any] = {
            "onnx_sha256": manifest.files[bundle.variant(variant).file].sha256,
            "library": self.backend,
            "version": self.library_version,
            "device": None if self.backend == "tensorrt-rtx" else DEVICE,
            "flags": flags,
            "profiles": tuple(shapes),
        }
        network = NetworkAttestation(convolutions=(), layers=())
        engine = EngineManifest(
            edgeseg="0",
            key=EngineKey(**{**key, **changes}),
            variant=variant,
            plan=FileEntry(sha256=sha256_bytes(plan), bytes=len(plan)),
            attestation=Attestation(
                requested="fp32", network=network, engine=None, engine_unread="a double"
            ),
            build_seconds=0,
            created=created,
            warnings=(),
        )
        EngineCache.open(default_cache()).store(engine, plan)
        return engine

    def open(self, bundle: Bundle, variant: str = "fp32", **settings: Any) -> Any:
        return tensorrt.open_session(bundle, self.backend, variant, Settings(**settings))


@pytest.fixture
def new_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Machine]]:
    """Make the machine: ``new_machine("10.3", integrated=True)``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))

    def make(version: str = "10.16", **cuda: Any) -> Machine:
        machine = Machine(version, FAKE_CUDA.FakeCudart(**cuda), FAKE_TENSORRT.Scenario())
        module = FAKE_TENSORRT.make(version, machine.cuda, machine.scenario)
        library = adopt(machine.backend, module)
        monkeypatch.setattr(tensorrt, "load", lambda flavour: library)
        monkeypatch.setattr(tensorrt, "open_driver", lambda: machine.device)
        monkeypatch.setattr(tensorrt, "find_device", lambda driver: driver)
        monkeypatch.setattr(tensorrt.cudart, "_candidates", lambda: iter([("fake", machine.cuda)]))
        return machine

    return make


@pytest.fixture
def machine(new_machine: Callable[..., Machine]) -> Machine:
    """A machine with TensorRT 10.16 and a GPU with memory of its own."""
    return new_machine()


@pytest.fixture
def session(machine: Machine, map_bundle: Bundle) -> Iterator[Any]:
    """An open session of ``map_bundle`` on ``machine``."""
    machine.build(map_bundle)
    opened = machine.open(map_bundle)
    yield opened
    opened.close()


@pytest.fixture
def pictures() -> Callable[..., np.ndarray]:
    """Make random pictures uint8 (N, H, W, 3): ``pictures(2, 48, 64, seed=1)``."""

    def make(number: int = 1, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return rng.integers(0, 256, (number, height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture
def expected() -> Callable[[np.ndarray], np.ndarray]:
    """Return the class map that the double must give, by another formula than its own."""
    return lambda images: (images.astype(np.int64) @ [1, 2, 3] % 150).astype(np.uint8)
