"""The whole flow: what is asked for, is it there already, build, attest, keep."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeseg import __version__
from edgeseg.bundle import Bundle
from edgeseg.cli.output import Output
from edgeseg.engines.cache import EngineCache
from edgeseg.engines.device import Device, find_device, open_driver
from edgeseg.engines.document import Attestation, EngineKey, EngineManifest, NetworkAttestation
from edgeseg.engines.library import Library, load
from edgeseg.engines.log import failure
from edgeseg.errors import ArtifactError, DeviceError, EdgeSegError, UsageError, show
from edgeseg.files import sha256_bytes
from edgeseg.manifest import FileEntry, Variant
from edgeseg_export.tensorrt.attest import attest_network, check_network
from edgeseg_export.tensorrt.config import (
    add_profiles,
    configure,
    save_timing_cache,
    use_timing_cache,
)
from edgeseg_export.tensorrt.inspect import attest_engine, check_engine
from edgeseg_export.tensorrt.memory import check_memory
from edgeseg_export.tensorrt.network import Parsed, check_input, parse
from edgeseg_export.tensorrt.options import CURRENT, Options, check
from edgeseg_export.tensorrt.profiles import profiles_for
from edgeseg_export.tensorrt.progress import Phases, new_monitor, shown, watch

_PREFERRED = ("fp16", "fp32")
_KEPT_WARNINGS = 20


@dataclass(frozen=True)
class Outcome:
    """The engine that is in the cache now; ``reason`` says why it was built or reused."""

    engine: EngineManifest
    path: Path
    reused: bool
    reason: str


@dataclass(frozen=True)
class _Job:
    """All that a build needs, after everything that can be refused early was."""

    bundle: Bundle
    name: str
    variant: Variant
    options: Options
    library: Library
    cuda: Any | None
    key: EngineKey
    output: Output


def build(bundle: Bundle, options: Options, cache: EngineCache, output: Output) -> Outcome:
    """Return the engine for a bundle's variant: the one in the cache, or a new one.

    Raises:
        UsageError: options or variants that do not go together.
        ArtifactError: a damaged bundle, a network that TensorRT does not take, or a precision
            that is not what the variant claims.
        DeviceError: no TensorRT, or no GPU where one is needed.
        ResourceError: memory or disk ran out.
        KeyboardInterrupt: Ctrl-C; nothing was written.
    """
    job = _prepare(bundle, options, output)
    with cache.locked(job.key, output.note):
        found, reason = _look_up(cache, job)
        if found:
            _check_attestation(found.attestation, job)  # the key is of the file, not of its claim
            return Outcome(found, cache.plan_path(job.key), reused=True, reason=reason)
        output.note(f"{job.name} for {job.library.title}: {reason}; building")
        engine, plan = _build(job)
        return Outcome(engine, cache.store(engine, plan), reused=False, reason=reason)


def _prepare(bundle: Bundle, options: Options, output: Output) -> _Job:
    check(options)
    name, variant = _variant(bundle, options)
    profiles = profiles_for(bundle.manifest, options.batch, options.size_range)
    if options.flags.dla_core is not None and len(profiles) > 1:
        raise UsageError("a DLA takes one fixed shape, and this bundle has several sizes")
    library = load(options.library)
    cuda = open_driver()
    key = EngineKey(
        onnx_sha256=bundle.manifest.files[variant.file].sha256,
        library=library.flavour,
        version=library.version,
        device=_device(find_device(cuda), options),
        flags=options.flags,
        profiles=profiles,
    )
    return _Job(bundle, name, variant, options, library, cuda, key, output)


def _variant(bundle: Bundle, options: Options) -> tuple[str, Variant]:
    variants = bundle.manifest.variants
    usable = [name for name, variant in variants.items() if variant.target != "cpu"]
    there = ", ".join(usable) or "none"
    name = options.variant or next((name for name in _PREFERRED if name in usable), None)
    if name is None:
        raise UsageError(f"say which --variant; for TensorRT this bundle has: {there}")
    variant = bundle.variant(name)
    if name not in usable:
        raise UsageError(
            f"variant {show(name)} is for CPUs; for TensorRT this bundle has: {there} "
            "(edgeseg export --target tensorrt makes more)"
        )
    if variant.failures:
        raise ArtifactError(
            f"variant {show(name)} was rejected at export: {'; '.join(variant.failures)}"
        )
    return name, variant


def _device(device: Device | None, options: Options) -> Device | None:
    """Return the GPU that the engine will be bound to; an engine of TensorRT-RTX seldom is."""
    if options.library == "tensorrt":
        if device is None:
            raise DeviceError(
                "no usable NVIDIA GPU here, and TensorRT builds on the GPU it builds for; check "
                "nvidia-smi, or build on the device (--backend tensorrt-rtx builds without a GPU)"
            )
        return device
    if CURRENT in options.flags.compute_capabilities:
        if device is None:
            raise DeviceError(
                "no usable NVIDIA GPU here to build for; name one: --compute-capability 86"
            )
        return device
    if options.flags.strip_weights and device is None:
        raise DeviceError(
            "TensorRT-RTX strips weights only where an NVIDIA GPU is; drop --strip-weights"
        )
    return None


def _look_up(cache: EngineCache, job: _Job) -> tuple[EngineManifest | None, str]:
    """Return the engine in the cache, if it may be used, and the reason for what happens next."""
    try:
        found = cache.load(job.key)
    except ArtifactError as error:
        job.output.note(f"warning: {error}; removed")
        cache.discard(job.key)
        return None, "the engine in the cache was not usable"
    if found is None:
        return None, cache.why_missing(job.key)
    if job.options.rebuild:
        return None, "--rebuild"
    return found[0], "built before with the same key; its SHA-256 holds"


def _build(job: _Job) -> tuple[EngineManifest, bytes]:
    model = job.bundle.read(job.variant.file)
    check_memory(len(model), job.options.flags.workspace_mib, job.cuda)
    phases = Phases()
    with shown(job.output, phases) as draw:
        # All of TensorRT in the thread: Python hears Ctrl-C in the main one, and inside of one of
        # TensorRT's callbacks it would be lost.
        return watch(lambda: _make(job, model, phases), phases, draw, job.output.note)


def _make(job: _Job, model: bytes, phases: Phases) -> tuple[EngineManifest, bytes]:
    file = job.variant.file
    for_dla = job.options.flags.dla_core is not None
    parsed = parse(job.library, model, file, for_dla=for_dla)
    check_input(parsed, job.bundle.manifest.input, file)
    network = attest_network(job.library, parsed.network)
    check_network(network, job.variant.precision, job.name)
    start = time.perf_counter()
    plan = _run_builder(job, parsed, phases)
    seconds = time.perf_counter() - start
    warnings = tuple(job.library.log.warnings[-_KEPT_WARNINGS:])
    engine = EngineManifest(
        edgeseg=__version__,
        key=job.key,
        variant=job.name,
        plan=FileEntry(sha256=sha256_bytes(plan), bytes=len(plan)),
        attestation=_attest(job, network, plan),
        build_seconds=round(seconds, 3),
        created=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        warnings=warnings,
    )
    return engine, plan


def _run_builder(job: _Job, parsed: Parsed, phases: Phases) -> bytes:
    library, builder = job.library, parsed.builder
    library.log.clear()
    config = configure(library, builder, job.options.flags)
    add_profiles(library, builder, config, job.bundle.manifest.input.name, job.key.profiles)
    timings = job.options.timing_cache
    if timings:
        use_timing_cache(config, timings, job.output.note)
    config.progress_monitor = new_monitor(library.module, phases)
    plan = builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise failure(library.log, f"{library.title} did not build {job.variant.file}")
    if timings:
        save_timing_cache(config, timings, job.output.note)
    return bytes(plan)


def _check_attestation(found: Attestation, job: _Job) -> None:
    check_network(found.network, job.variant.precision, job.name)
    if found.engine:
        check_engine(found.engine, job.variant.precision, job.name)


def _attest(job: _Job, network: NetworkAttestation, plan: bytes) -> Attestation:
    """Read the engine back, where there is a GPU to load it on; else say that nobody has."""
    engine, unread = None, None
    if job.cuda is None:
        unread = "no GPU here, so the engine itself was not read"
    else:
        try:
            engine = attest_engine(job.library, plan, job.options.flags)
        except EdgeSegError as error:
            if job.key.device is not None:
                raise  # built for this GPU, so it must load
            unread = f"the engine is not for the GPU that is here: {error}"
        else:
            check_engine(engine, job.variant.precision, job.name)
    return Attestation(
        requested=job.variant.precision, network=network, engine=engine, engine_unread=unread
    )
