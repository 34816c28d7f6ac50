"""What Triton is told about a model: the message in ``config.pbtxt``, without the versions' facts.

Fields: model_config.proto in https://github.com/triton-inference-server/common. The accelerator's
parameters: https://github.com/triton-inference-server/onnxruntime_backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, UsageError, show
from edgeseg.manifest import Manifest, TensorSpec, Variant
from edgeseg_export.triton.pbtxt import Enum, Message, map_entries
from edgeseg_export.triton.plans import Plan

Kind = Literal["auto", "cpu", "gpu"]
Warmup = Literal["random", "zero", "none"]
Accelerator = Literal["none", "tensorrt"]

_TYPES = {"uint8": Enum("TYPE_UINT8"), "float32": Enum("TYPE_FP32")}
_KINDS = {"auto": Enum("KIND_AUTO"), "cpu": Enum("KIND_CPU"), "gpu": Enum("KIND_GPU")}
_PRECISION_MODES = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}  # the documented ones


@dataclass(frozen=True)
class Serving:
    """How Triton is to serve the model; see the command's help for each."""

    max_batch: int = 8
    max_queue_delay_us: int = 0
    instances: int = 1
    kind: Kind = "auto"
    warmup: Warmup = "random"
    accelerator: Accelerator = "none"
    engine_cache: str | None = None
    response_cache: bool = False


def choose_variant(bundle: Bundle, serving: Serving, name: str | None) -> str:
    """Settle which ONNX file is served.

    Without a name: fp16 on GPUs and int8-cpu on CPUs where the bundle has them (they passed
    their gates), else fp32.

    Raises:
        UsageError: no such variant, or one that is meant for other devices.
    """
    if name is None:
        preferred = {"gpu": "fp16", "cpu": "int8-cpu"}.get(serving.kind, "fp32")
        name = preferred if preferred in bundle.manifest.variants else "fp32"
    variant = bundle.variant(name)
    if needed := _missing_option(variant.target, serving):
        raise UsageError(
            f"variant {show(name)} is for {variant.target}: add {needed}, or choose another of "
            f"{', '.join(bundle.manifest.variants)}"
        )
    if serving.accelerator == "tensorrt" and variant.precision not in _PRECISION_MODES:
        raise UsageError(
            f"Triton's accelerator tensorrt has no documented mode for {variant.precision}; "
            "build an engine and give it with --plan"
        )
    return name


def _missing_option(target: str, serving: Serving) -> str:
    if target == "cpu" and serving.kind != "cpu":
        return "--kind cpu"
    if target == "tensorrt" and serving.accelerator != "tensorrt":
        return "--kind gpu --accelerator tensorrt"
    return ""


def check_serving(serving: Serving, plans: tuple[Plan, ...], variant: str | None) -> None:
    """Check that the options make sense together.

    Raises:
        UsageError: they do not; nothing would fail in Triton, it would quietly do something else.
    """
    if plans and serving.kind == "cpu":
        raise UsageError("a TensorRT engine runs on GPUs only; leave --kind cpu out")
    if plans and (variant is not None or serving.accelerator != "none"):
        raise UsageError("--variant and --accelerator are for ONNX files; leave out --plan or them")
    if serving.accelerator == "tensorrt" and serving.kind != "gpu":
        raise UsageError("--accelerator tensorrt works on GPUs only; add --kind gpu")
    if serving.engine_cache is not None and serving.accelerator != "tensorrt":
        raise UsageError("--engine-cache is where --accelerator tensorrt keeps its engines")
    if serving.max_queue_delay_us and serving.max_batch == 1:
        raise UsageError("--max-queue-delay-us waits for a batch; --max-batch 1 makes none")


def model_config(
    name: str,
    manifest: Manifest,
    serving: Serving,
    source: Variant | tuple[Plan, ...],
) -> Message:
    """Return the message for the model ``name``, which serves one ONNX variant or engines.

    Raises:
        ArtifactError: the graph's batch size is fixed.
    """
    for spec in (manifest.input, *manifest.outputs):
        if isinstance(spec.shape[0], int):
            raise ArtifactError(
                f"{show(spec.name)} has the fixed batch size {spec.shape[0]}; "
                "Triton needs a free one to batch: export the run again"
            )
    config: Message = {
        "name": name,
        "max_batch_size": serving.max_batch,
        "input": [_tensor(manifest.input)],
        "output": [_tensor(spec) for spec in manifest.outputs],
        # Said although it is the default: the newest version answers, older ones wait.
        "version_policy": {"latest": {"num_versions": 1}},
        "response_cache": {"enable": serving.response_cache},
    }
    if isinstance(source, tuple):
        kind = "gpu"
        files = {plan.capability: plan.name for plan in source if plan.capability}
        config |= {"backend": "tensorrt", "default_model_filename": "model.plan"}
        config |= {"cc_model_filenames": map_entries(files)} if files else {}
    else:
        kind = serving.kind
        config |= {"backend": "onnxruntime", "default_model_filename": "model.onnx"}
    config["instance_group"] = [{"kind": _KINDS[kind], "count": serving.instances}]
    if serving.max_batch > 1:
        delay = serving.max_queue_delay_us
        config["dynamic_batching"] = {"max_queue_delay_microseconds": delay}
    if serving.accelerator == "tensorrt" and not isinstance(source, tuple):
        config["optimization"] = _tensorrt(source, serving.engine_cache)
    if serving.warmup != "none":
        config["model_warmup"] = _warmup(manifest, serving)
    return config


def _tensor(spec: TensorSpec) -> Message:
    """Return name, type and dimensions without the batch axis, which Triton adds."""
    dims = [side if isinstance(side, int) else -1 for side in spec.shape[1:]]
    return {"name": spec.name, "data_type": _TYPES[spec.dtype], "dims": dims}


def _tensorrt(variant: Variant, cache: str | None) -> Message:
    # Never without parameters: only with some does the backend tell TensorRT which GPU to use.
    parameters = {"precision_mode": _PRECISION_MODES[variant.precision]}
    if cache is not None:
        parameters |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": cache}
    accelerator = {"name": "tensorrt", "parameters": map_entries(parameters)}
    return {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}


def _warmup(manifest: Manifest, serving: Serving) -> list[Message]:
    """Return a request of one image and one of a full batch, at every size of the bundle."""
    data = {f"{serving.warmup}_data": True, "data_type": _TYPES[manifest.input.dtype]}
    return [
        {
            "name": f"batch {batch} at {height}x{width}",
            "batch_size": batch,
            "inputs": map_entries({manifest.input.name: {**data, "dims": [height, width, 3]}}),
        }
        for height, width in manifest.sizes
        for batch in sorted({1, serving.max_batch})
    ]
