"""Which backend and which variant will run, and why."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, DeviceError, UsageError, show
from edgeseg.sessions.registry import AUTO, BACKENDS, CPU_BACKENDS, check_backend, problem


@dataclass(frozen=True)
class Choice:
    """What will run, and the reason in words."""

    backend: str
    variant: str
    why: str


def choose(bundle: Bundle, backend: str = AUTO, variant: str | None = None) -> Choice:
    """Settle backend and variant; ``auto`` takes the first of TensorRT, CUDA, CPU that works.

    Without a variant, CPUs get ``int8-cpu`` and GPUs ``fp16`` where the bundle has it (it passed
    its accuracy gate at export) and everything else gets ``fp32``.

    Raises:
        UsageError: unknown names, or a CPU variant on another backend.
        ArtifactError: the bundle did not pass its gates at export.
        DeviceError: ``auto``, and no backend works here.
    """
    if backend == AUTO:
        chosen, why = _first_that_works(bundle, variant)
    else:
        chosen, why = check_backend(backend), "as asked"
    if variant is None:
        variant = default_variant(bundle, chosen)
        why += f"; variant {variant} is the default there"
    entry = bundle.variant(variant)
    on_cpu = chosen in CPU_BACKENDS
    if entry.target == "cpu" and not on_cpu:
        raise UsageError(f"variant {show(variant)} is for CPUs and does not run on {chosen}")
    if entry.precision == "bf16" and on_cpu:
        raise UsageError(f"variant {show(variant)} has no kernels on {chosen}; use another variant")
    if failures := bundle.manifest.failures:
        raise ArtifactError(
            f"bundle {show(bundle.path)} was rejected at export: {'; '.join(failures)}"
        )
    return Choice(chosen, variant, why)


def default_variant(bundle: Bundle, backend: str) -> str:
    """Return the best variant of a bundle for a backend: the small one for its device, or fp32."""
    small = "int8-cpu" if backend in CPU_BACKENDS else "fp16"
    return small if small in bundle.manifest.variants else "fp32"


def variants_for(bundle: Bundle, backend: str) -> list[str]:
    """Return the bundle's variants that are meant for a backend; errors as ``choose``.

    CPUs run the variants for TensorRT, too, but only as a check: 8-bit there is emulated.
    """
    on_cpu = choose(bundle, backend, "fp32").backend in CPU_BACKENDS
    foreign = "tensorrt" if on_cpu else "cpu"
    variants = bundle.manifest.variants
    return [name for name, entry in variants.items() if entry.target != foreign]


def _first_that_works(bundle: Bundle, variant: str | None) -> tuple[str, str]:
    """Return the first backend that works here and is ready for the bundle, and why it is it."""
    passed: list[str] = []
    for name, backend in BACKENDS.items():
        if problem(name):
            continue
        wanted = variant or default_variant(bundle, name)
        if reason := backend.load().unready(bundle, name, wanted):
            passed.append(f"{name} not: {reason}")
            continue
        return name, "; ".join([f"auto: first of {', '.join(BACKENDS)} that works here", *passed])
    raise DeviceError(f"no backend works here: {problem('ort:cpu')}")
