"""What is known of an engine: the JSON document that lies beside its plan in the cache.

A frozen and strict pydantic model. ``key`` says what the engine was made from and for: an
engine whose key differs in anything is another engine.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeseg.engines.device import Device
from edgeseg.engines.library import Flavour
from edgeseg.files import sha256_bytes
from edgeseg.manifest import FileEntry, Precision, Sha256

HardwareCompatibility = Literal["none", "ampere+", "same-compute-capability"]
Shape = tuple[int, int, int, int]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Profile(_Frozen):
    """The input shapes (N, H, W, 3) that an engine takes, and the one it is tuned for."""

    min: Shape
    opt: Shape
    max: Shape


class Flags(_Frozen):
    """How the builder was set.

    Attributes:
        tf32: float32 convolutions may round their inputs to 10 bits of mantissa.
        optimization_level: 0 (quick) to 5 (tries most kernels).
        workspace_mib: at most so much scratch memory per layer; None: all there is.
        version_compatible: runs on later TensorRT versions of the same major.
        hardware_compatibility: on which other GPUs the engine runs.
        compute_capabilities: the GPUs that TensorRT-RTX builds for; empty: Ampere and later.
        dla_core: the deep learning accelerator that layers run on.
        gpu_fallback: layers that the accelerator cannot run go to the GPU.
        strip_weights: the plan has no weights; whoever loads it fills them in from the ONNX file.
    """

    tf32: bool = False
    optimization_level: int = Field(default=3, ge=0, le=5)
    workspace_mib: int | None = Field(default=None, ge=1)
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    compute_capabilities: tuple[str, ...] = ()
    dla_core: int | None = Field(default=None, ge=0)
    gpu_fallback: bool = False
    strip_weights: bool = False


class EngineKey(_Frozen):
    """What an engine was made from and for; ``device`` is None where it is for no special one."""

    onnx_sha256: Sha256
    library: Flavour
    version: str
    device: Device | None
    flags: Flags
    profiles: tuple[Profile, ...] = Field(min_length=1)

    @property
    def digest(self) -> str:
        """The name of the engine's files: 32 hexadecimal digits."""
        return sha256_bytes(self.model_dump_json().encode())[:32]

    def differences(self, other: EngineKey) -> list[str]:
        """Return, in words, what ``other`` was made for and this is not; empty if equal."""
        found = []
        if (self.library, self.version) != (other.library, other.version):
            found.append(f"{other.library} {other.version}, not {self.version}")
        if self.device != other.device:
            found.append(f"{_named(other.device)}, not {_named(self.device)}")
        for name, mine in self.flags:
            theirs = getattr(other.flags, name)
            if mine != theirs:
                words = name.replace("_", " ")
                found.append(f"{words} {_worded(theirs)}, not {_worded(mine)}")
        if self.profiles != other.profiles:
            found.append("other input shapes")
        return found


class LayerCount(_Frozen):
    """How many layers of a kind work at a precision."""

    layer: str
    precision: str
    layers: int = Field(ge=1)


class Convolution(_Frozen):
    """A convolution of the parsed network; ``weights`` counts its kernel's numbers."""

    name: str
    layer: str
    precision: str
    weights_precision: str
    weights: int = Field(ge=0)


class NetworkAttestation(_Frozen):
    """The precisions in the strongly typed network that the builder was given."""

    convolutions: tuple[Convolution, ...]
    layers: tuple[LayerCount, ...]


class EngineAttestation(_Frozen):
    """The precisions in the finished engine, as TensorRT's inspector reports them."""

    layers: tuple[LayerCount, ...]


class Attestation(_Frozen):
    """What was asked for and what is there; ``engine_unread`` says why ``engine`` is None."""

    requested: Precision
    network: NetworkAttestation
    engine: EngineAttestation | None
    engine_unread: str | None


class EngineManifest(_Frozen):
    """An engine in the cache: ``plan`` is its file, ``created`` is UTC in ISO 8601."""

    schema_version: Literal[1] = 1
    edgeseg: str
    key: EngineKey
    variant: str
    plan: FileEntry
    attestation: Attestation
    build_seconds: float = Field(ge=0)
    created: str
    warnings: tuple[str, ...]


def _worded(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        value = ", ".join(value)
    return str(value) if value not in (None, "") else "default"


def _named(device: Device | None) -> str:
    if device is None:
        return "any GPU of the set"
    return f"{device.name} ({device.compute_capability}, driver {device.driver})"
