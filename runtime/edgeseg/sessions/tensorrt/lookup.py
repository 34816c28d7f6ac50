"""Which engine of the cache runs a bundle's variant here, at a size and a batch; or how to get it.

wanted = Wanted.of(bundle, "tensorrt", "fp16", settings)
found = find_engine(wanted, library, device)
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from edgeseg.bundle import Bundle
from edgeseg.engines.cache import EngineCache, default_cache
from edgeseg.engines.compatibility import obstacles
from edgeseg.engines.device import Device
from edgeseg.engines.document import EngineKey, EngineManifest, Profile, Shape
from edgeseg.engines.library import Library
from edgeseg.errors import ArtifactError, one_line, show
from edgeseg.sessions.protocol import Settings


@dataclass(frozen=True)
class Wanted:
    """What is to run: a variant of a bundle, on a backend, at an input shape (N, H, W, 3)."""

    bundle: Bundle
    backend: str
    variant: str
    shape: Shape

    @classmethod
    def of(cls, bundle: Bundle, backend: str, variant: str, settings: Settings) -> Wanted:
        """Return what the settings ask for."""
        height, width = settings.size or bundle.manifest.sizes[0]
        return cls(bundle, backend, variant, (settings.batch, height, width, 3))

    @property
    def onnx_sha256(self) -> str:
        """The hash of the variant's ONNX file, by which its engines are known."""
        manifest = self.bundle.manifest
        return manifest.files[self.bundle.variant(self.variant).file].sha256

    @property
    def build_command(self) -> str:
        """The command that builds the engine."""
        batch, height, width, _ = self.shape
        words = ["edgeseg", "build", str(self.bundle.path), "--backend", self.backend]
        words += ["--variant", self.variant]
        if batch > 1:
            words += ["--batch", f"1,{batch},{batch}"]
        if (height, width) not in self.bundle.manifest.sizes:
            words += ["--size-range", ",".join([f"{height}x{width}"] * 3)]
        return one_line(shlex.join(words))


@dataclass(frozen=True)
class Found:
    """An engine of the cache that runs here what is wanted."""

    engine: EngineManifest
    cache: EngineCache
    wanted: Wanted

    def read_plan(self) -> bytes:
        """Return what TensorRT loads, after its hash was checked.

        Raises:
            ArtifactError: it is damaged or gone; the message has the command that builds it.
        """
        try:
            loaded = self.cache.load(self.engine.key)
        except ArtifactError as error:
            raise ArtifactError(f"{error}; run: {self.wanted.build_command}") from error
        if loaded is None:  # removed since it was found
            raise ArtifactError(f"the engine is gone; run: {self.wanted.build_command}")
        return loaded[1]


def find_engine(wanted: Wanted, library: Library, device: Device) -> Found:
    """Return the engine to run: one that is tuned for the shape if there is one, else the newest.

    Raises:
        ArtifactError: there is none; the message has the command that builds it.
    """
    title = f"variant {show(wanted.variant)} of {show(wanted.bundle.path)}"
    if not default_cache().exists():  # and is not made: a device may run from a read-only disk
        raise ArtifactError(f"no engine for {title} yet; run: {wanted.build_command}")
    cache = EngineCache.open(default_cache())
    known = [
        engine
        for engine in cache.entries()[0]
        if engine.key.onnx_sha256 == wanted.onnx_sha256 and engine.key.library == library.flavour
    ]
    fitting = [engine for engine in known if not _against(engine.key, wanted, library, device)]
    if not fitting:
        reasons = [_against(engine.key, wanted, library, device) for engine in known]
        nearest = min(reasons, key=len, default=["none was built yet"])
        raise ArtifactError(
            f"no engine for {title} that runs here: {'; '.join(nearest)}; "
            f"run: {wanted.build_command}"
        )
    return Found(max(fitting, key=lambda engine: _rank(engine, wanted)), cache, wanted)


def _against(key: EngineKey, wanted: Wanted, library: Library, device: Device) -> list[str]:
    found = obstacles(key, library, device)
    if not any(covers(profile, wanted.shape) for profile in key.profiles):
        shapes = ", ".join(_worded(profile) for profile in key.profiles)
        found.append(f"built for input {shapes}, wanted is {_joined(wanted.shape)}")
    return found


def covers(profile: Profile, shape: tuple[int, ...]) -> bool:
    """Return whether an engine takes ``shape`` in this profile."""
    return all(
        low <= side <= high for low, side, high in zip(profile.min, shape, profile.max, strict=True)
    )


def _rank(engine: EngineManifest, wanted: Wanted) -> tuple[bool, str]:
    tuned = any(profile.opt == wanted.shape for profile in engine.key.profiles)
    return tuned, engine.created


def _worded(profile: Profile) -> str:
    low, high = _joined(profile.min), _joined(profile.max)
    return low if low == high else f"{low} .. {high}"


def _joined(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
