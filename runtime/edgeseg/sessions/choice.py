"""Which backend and which variant will run, and why."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, DeviceError, UsageError, show
from edgeseg.sessions.registry import AUTO, BACKENDS, CPU_BACKENDS, check_backend, problem
from edgeseg.sessions.remembered import recall


@dataclass(frozen=True)
class Choice:
    """What will run, and the reason in words."""

    backend: str
    variant: str
    why: str


def choose(bundle: Bundle, backend: str = AUTO, variant: str | None = None) -> Choice:
    """Settle backend and variant.

    ``auto`` takes what ``edgeseg bench --remember`` found fastest on this machine, else the first
    of ``BACKENDS`` that works here and is ready for the bundle.

    Without a variant, CPUs get ``int8-cpu`` and GPUs ``fp16`` where the bundle has it (it passed
    its accuracy gate at export) and everything else gets ``fp32``.

    Raises:
        UsageError: unknown names, or a CPU variant on another backend.
        ArtifactError: the bundle did not pass its gates at export.
        DeviceError: ``auto``, and no backend works here.
    """
    if backend == AUTO:
        choice = _fastest(bundle, variant)
    elif variant is None:
        variant = default_variant(bundle, check_backend(backend))
        choice = Choice(backend, variant, f"as asked; variant {variant} is the default there")
    else:
        choice = Choice(check_backend(backend), variant, "as asked")
    _check(bundle, choice)
    return choice


def _check(bundle: Bundle, choice: Choice) -> None:
    if reason := _misfit(bundle, choice.backend, choice.variant):
        raise UsageError(reason)
    if failures := bundle.manifest.failures:
        raise ArtifactError(
            f"bundle {show(bundle.path)} was rejected at export: {'; '.join(failures)}"
        )


def _misfit(bundle: Bundle, backend: str, variant: str) -> str | None:
    """Return why a variant is not meant for a backend, or None."""
    entry, on_cpu = bundle.variant(variant), backend in CPU_BACKENDS
    if entry.target == "cpu" and not on_cpu:
        return f"variant {show(variant)} is for CPUs and does not run on {backend}"
    if entry.precision == "bf16" and on_cpu:
        return f"variant {show(variant)} has no kernels on {backend}; use another variant"
    return None


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


def _fastest(bundle: Bundle, variant: str | None) -> Choice:
    """Return what this machine remembers as fastest, or the first backend that works here."""
    for measured in recall(bundle):
        wanted = variant in (None, measured.variant)
        known = measured.backend in BACKENDS and measured.variant in bundle.manifest.variants
        if wanted and known and _obstacle(bundle, measured.backend, measured.variant) is None:
            why = f"auto: fastest here by 'edgeseg bench --remember' ({measured.model_ms:.1f} ms)"
            return Choice(measured.backend, measured.variant, why)
    return _first_that_works(bundle, variant)


def _first_that_works(bundle: Bundle, variant: str | None) -> Choice:
    passed: list[str] = []
    for name in BACKENDS:
        if problem(name):
            continue  # `edgeseg doctor` says why
        wanted = variant or default_variant(bundle, name)
        if reason := _obstacle(bundle, name, wanted):
            passed.append(f"{name} not: {reason}")
            continue
        why = ["auto: the first that works here", *passed]
        if variant is None:
            why.append(f"variant {wanted} is the default there")
        return Choice(name, wanted, "; ".join(why))
    reasons = "; ".join(passed) or problem("ort:cpu")
    raise DeviceError(f"no backend works here: {reasons}")


def _obstacle(bundle: Bundle, backend: str, variant: str) -> str | None:
    """Return why a backend cannot run a variant of a bundle here, or None."""
    reason = _misfit(bundle, backend, variant) or problem(backend)
    if reason is None:
        reason = BACKENDS[backend].load().unready(bundle, backend, variant)
    return reason
