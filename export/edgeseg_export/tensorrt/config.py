"""Set the builder: flags, memory, profiles, timing cache. What a version lacks is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeseg.engines.device import MIB
from edgeseg.engines.document import Flags, Profile
from edgeseg.engines.library import Library
from edgeseg.engines.log import failure
from edgeseg.errors import ArtifactError, DeviceError, UsageError, first_line
from edgeseg.files import atomic_write
from edgeseg_export.tensorrt.options import CURRENT

_HARDWARE = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


def configure(library: Library, builder: Any, flags: Flags) -> Any:
    """Return a builder configuration.

    Raises:
        DeviceError: this version or this machine has no such thing.
        UsageError: a compute capability that TensorRT-RTX does not build for.
    """
    trt = library.module
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector tells little
    config.builder_optimization_level = flags.optimization_level
    for name, wanted in (
        ("TF32", flags.tf32),  # on by default
        ("VERSION_COMPATIBLE", flags.version_compatible),
        ("STRIP_PLAN", flags.strip_weights),
        ("REFIT_IDENTICAL", flags.strip_weights),  # the same weights come back, so all may fuse
    ):
        flag = getattr(trt.BuilderFlag, name)
        (config.set_flag if wanted else config.clear_flag)(flag)
    if flags.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, flags.workspace_mib * MIB)
    if flags.hardware_compatibility != "none":
        name = _HARDWARE[flags.hardware_compatibility]
        config.hardware_compatibility_level = _member(library, "HardwareCompatibilityLevel", name)
    if flags.compute_capabilities:
        _set_compute_capabilities(library, config, flags.compute_capabilities)
    if flags.dla_core is not None:
        _use_dla(library, builder, config, flags)
    return config


def add_profiles(
    library: Library, builder: Any, config: Any, input_name: str, profiles: Sequence[Profile]
) -> None:
    """Add the optimisation profiles, in order: the engine numbers them alike.

    Raises:
        ArtifactError: the graph does not take these shapes.
    """
    for profile in profiles:
        library.log.clear()
        shapes = builder.create_optimization_profile()
        what = f"{library.title} refuses input shapes {profile.min} to {profile.max}"
        try:
            shapes.set_shape(input_name, profile.min, profile.opt, profile.max)
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"{what}: {first_line(error)}") from error
        if config.add_optimization_profile(shapes) < 0:
            raise failure(library.log, what)


def use_timing_cache(config: Any, path: Path, tell: Callable[[str], None]) -> None:
    """Let the builder reuse the timings in ``path``; a bad file is ignored with a warning."""
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        tell(f"warning: cannot read timing cache {path}: {error.strerror}; starting anew")
        data = b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        tell(f"warning: timing cache {path} is corrupt or of another GPU or version; starting anew")
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def save_timing_cache(config: Any, path: Path, tell: Callable[[str], None]) -> None:
    """Write the timings of this build to ``path``; the engine is not lost if that fails."""
    try:
        atomic_write(path, memoryview(config.get_timing_cache().serialize()))
    except OSError as error:
        tell(f"warning: cannot write timing cache {path}: {error.strerror}")


def _member(library: Library, enum: str, name: str) -> Any:
    value = getattr(getattr(library.module, enum), name, None)
    if value is None:
        raise DeviceError(f"{library.title} has no {enum}.{name}; a newer TensorRT has it")
    return value


def _set_compute_capabilities(library: Library, config: Any, names: Sequence[str]) -> None:
    known = library.module.ComputeCapability.__members__
    targets = []
    for name in names:
        member = "CURRENT" if name == CURRENT else f"SM{name}"
        if member not in known:
            there = ", ".join(key[2:] for key in known if key.startswith("SM"))
            raise UsageError(
                f"{library.title} does not build for compute capability {name}; it has: {there}; "
                "for other GPUs use --backend tensorrt on that device"
            )
        targets.append(known[member])
    config.num_compute_capabilities = len(targets)
    for i, target in enumerate(targets):
        if not config.set_compute_capability(target, i):
            raise failure(library.log, f"{library.title} refuses compute capability {names[i]}")


def _use_dla(library: Library, builder: Any, config: Any, flags: Flags) -> None:
    trt = library.module
    if not builder.num_DLA_cores:
        raise DeviceError(
            f"{library.title} sees no DLA core here; that takes a Jetson Orin with the TensorRT "
            "10.3 of JetPack 6 or with 11.4.1 (JetPack 7.2.2); drop --dla-core"
        )
    if flags.dla_core is None or flags.dla_core >= builder.num_DLA_cores:
        raise DeviceError(
            f"no DLA core {flags.dla_core}: this device has {builder.num_DLA_cores}, from 0"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = flags.dla_core
    if flags.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
