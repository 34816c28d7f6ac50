"""What the configuration says, read with Triton's schema, against the graph and the options."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

import edgeseg

Triton, Parse = Callable[..., Any], Callable[[Path], Any]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def configure(triton: Triton, bundle: Path, repository: Path, parse: Parse) -> Callable[..., Any]:
    """Run the command with options and return the parsed configuration."""

    def run(*options: object) -> Any:
        done = triton(bundle, "--out", repository, "--name", "m", *options)
        assert done.code == 0, done.err
        return parse(repository / "m")

    return run


def test_the_whole_configuration(
    triton: Triton, bundle: Path, tmp_path: Path, parse: Parse
) -> None:
    assert triton(bundle, "--out", tmp_path / "r").code == 0
    data = (bundle / "model.fp32.onnx").read_bytes()
    assert (tmp_path / "r" / "street" / "1" / "model.onnx").read_bytes() == data
    expected = ModelConfig(name="street", backend="onnxruntime", max_batch_size=8)
    expected.default_model_filename = "model.onnx"
    expected.input.add(name="images", data_type="TYPE_UINT8", dims=[48, 64, 3])
    expected.output.add(name="class_map", data_type="TYPE_UINT8", dims=[48, 64])
    expected.version_policy.latest.num_versions = 1
    expected.response_cache.enable = False
    expected.instance_group.add(kind="KIND_AUTO", count=1)
    expected.dynamic_batching.max_queue_delay_microseconds = 0
    for batch in (1, 8):
        warmup = expected.model_warmup.add(name=f"batch {batch} at 48x64", batch_size=batch)
        image = warmup.inputs["images"]
        image.data_type = DataType.Value("TYPE_UINT8")
        image.dims.extend([48, 64, 3])
        image.random_data = True
    found = parse(tmp_path / "r" / "street")
    facts = {key: value.string_value for key, value in found.parameters.items()}
    found.ClearField("parameters")
    assert found == expected
    weights = facts.pop("edgeseg.1.weights_sha256")
    assert len(weights) == 64
    assert facts == {
        "edgeseg.1.bundle": "street",
        "edgeseg.1.edgeseg": edgeseg.__version__,
        "edgeseg.1.variant": "fp32",
        "edgeseg.1.precision": "fp32",
        "edgeseg.1.onnx_sha256": hashlib.sha256(data).hexdigest(),
    }


def onnx_dims(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in _shape(value).dim]


def _shape(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape


ELEMENT_TYPES = {onnx.TensorProto.UINT8: "TYPE_UINT8", onnx.TensorProto.FLOAT: "TYPE_FP32"}


@pytest.mark.parametrize("graph", [None, ("both", True), ("logits", False)])
def test_names_types_and_dims_are_those_of_the_graph(
    configure: Any, set_graph: Any, repository: Path, graph: tuple[str, bool] | None
) -> None:
    if graph is not None:
        set_graph(*graph)
    config = configure()
    written = onnx.load(repository / "m" / "1" / "model.onnx").graph
    for described, real in ((config.input, written.input), (config.output, written.output)):
        assert [tensor.name for tensor in described] == [value.name for value in real]
        for tensor, value in zip(described, real, strict=True):
            assert [-1, *tensor.dims] == onnx_dims(value)
            kind = ELEMENT_TYPES[value.type.tensor_type.elem_type]
            assert tensor.data_type == DataType.Value(kind)
    assert (-1 in config.input[0].dims) == (graph == ("both", True))
    for warmup in config.model_warmup:
        assert list(warmup.inputs["images"].dims) == [48, 64, 3]


def test_batching_instances_and_cache_are_as_asked(configure: Any) -> None:
    config = configure(
        *("--max-batch", 4, "--max-queue-delay-us", 250, "--instances", 3, "--kind", "gpu"),
        *("--warmup", "zero", "--response-cache"),
    )
    assert config.max_batch_size == 4
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, ModelInstanceGroup.KIND_GPU)
    assert config.response_cache.enable
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4]
    assert all(warmup.inputs["images"].zero_data for warmup in config.model_warmup)


def test_without_batches_nothing_waits_for_one(configure: Any) -> None:
    config = configure("--max-batch", 1, "--warmup", "none")
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert not config.model_warmup


def test_every_size_of_the_bundle_is_warmed_up(configure: Any, edit_manifest: Any) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["sizes"] = [[48, 64], [96, 128]]
        manifest["input"]["shape"] = ["batch", "height", "width", 3]

    edit_manifest(edit)
    names = [warmup.name for warmup in configure("--max-batch", 2).model_warmup]
    assert names == [
        "batch 1 at 48x64",
        "batch 2 at 48x64",
        "batch 1 at 96x128",
        "batch 2 at 96x128",
    ]


@pytest.mark.parametrize(
    ("kind", "extra", "expected"),
    [
        ("auto", (), "fp32"),
        ("gpu", (), "fp32"),
        ("cpu", (), "int8-cpu"),
        ("gpu", ("fp16", "fp16", "any"), "fp16"),
        ("auto", ("fp16", "fp16", "any"), "fp32"),
        ("cpu", ("fp16", "fp16", "any"), "int8-cpu"),
    ],
)
def test_the_default_variant_follows_the_kind(
    configure: Any, add_variant: Any, kind: str, extra: tuple[str, ...], expected: str
) -> None:
    if extra:
        add_variant(*extra)
    parameters = configure("--kind", kind).parameters
    assert parameters["edgeseg.1.variant"].string_value == expected


@pytest.mark.parametrize(
    ("variant", "mode"), [("fp32", "FP32"), ("fp16", "FP16"), ("int8-trt", "INT8")]
)
def test_the_accelerator_gets_the_precision_of_the_graph(
    configure: Any, add_variant: Any, variant: str, mode: str
) -> None:
    add_variant("fp16", "fp16", "any")
    add_variant("int8-trt", "int8", "tensorrt")
    options = ("--kind", "gpu", "--accelerator", "tensorrt", "--engine-cache", "/cache")
    config = configure("--variant", variant, *options)
    (found,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert found.name == "tensorrt"
    assert dict(found.parameters) == {
        "precision_mode": mode,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache",
    }


def test_the_accelerator_always_has_parameters(configure: Any) -> None:
    config = configure("--kind", "gpu", "--accelerator", "tensorrt")
    (found,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert dict(found.parameters) == {"precision_mode": "FP32"}


def test_one_engine_serves_every_gpu(configure: Any, tmp_path: Path, repository: Path) -> None:
    engine = tmp_path / "a.engine"
    engine.write_bytes(b"engine")
    config = configure("--plan", engine)
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU
    assert not config.cc_model_filenames
    assert (repository / "m" / "1" / "model.plan").read_bytes() == b"engine"
    facts = {key: value.string_value for key, value in config.parameters.items()}
    assert facts["edgeseg.1.plan_sha256"] == hashlib.sha256(b"engine").hexdigest()
    # Nothing proves which graph and weights it was built from.
    assert set(facts) == {f"edgeseg.1.{name}" for name in ("bundle", "edgeseg", "plan_sha256")}


def test_engines_are_chosen_by_compute_capability(
    configure: Any, tmp_path: Path, repository: Path
) -> None:
    options: list[object] = []
    for capability in ("8.6", "12.0"):
        engine = tmp_path / f"odd=name {capability}"
        engine.write_bytes(capability.encode())
        options += ["--plan", f"{capability}={engine}"]
    config = configure(*options)
    assert dict(config.cc_model_filenames) == {
        "8.6": "model.sm86.plan",
        "12.0": "model.sm120.plan",
    }
    for capability, name in config.cc_model_filenames.items():
        assert (repository / "m" / "1" / name).read_text() == capability
        fact = config.parameters[f"edgeseg.1.plan_sha256.{capability}"].string_value
        assert fact == hashlib.sha256(capability.encode()).hexdigest()


def test_a_bundle_with_a_nasty_name_is_traceable(
    triton: Triton, bundle: Path, tmp_path: Path, parse: Parse
) -> None:
    nasty = bundle.rename(tmp_path / 'a "b"\n\\ 東京')
    assert triton(nasty, "--out", tmp_path / "r", "--name", "m").code == 0
    parameters = parse(tmp_path / "r" / "m").parameters
    assert parameters["edgeseg.1.bundle"].string_value == nasty.name
