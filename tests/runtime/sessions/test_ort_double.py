"""The double of onnxruntime-gpu has the names and arguments of the real package.

What this cannot show is how a GPU behaves: for that are the tests in ``test_ort_gpu.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import onnxruntime as real
import pytest

CUDA = "CUDAExecutionProvider"


@pytest.fixture
def double(fake_onnxruntime: Any) -> Any:
    return fake_onnxruntime.machine(fake_onnxruntime.Machine([CUDA]))


def arguments(function: Callable[..., Any]) -> list[tuple[str, object]]:
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.default) for p in parameters]


def test_functions_take_what_the_real_ones_take(double: Any) -> None:
    session, real_session = double.InferenceSession, real.InferenceSession
    pairs = [
        (session.__init__, real_session.__init__),
        (session.run, real_session.run),
        (session.get_providers, real_session.get_providers),
        (session.io_binding, real_session.io_binding),
        (session.run_with_iobinding, real_session.run_with_iobinding),
        (double.preload_dlls, real.preload_dlls),
    ]
    for ours, theirs in pairs:
        assert arguments(ours) == arguments(theirs), theirs.__qualname__


def test_memory_is_made_by_the_leading_arguments_of_the_real_function(double: Any) -> None:
    ours = arguments(double.OrtValue.ortvalue_from_shape_and_type)
    theirs = arguments(real.OrtValue.ortvalue_from_shape_and_type)
    assert ours == theirs[: len(ours)]
    # Its one argument had another name in 1.23.
    updates = [arguments(module.OrtValue.update_inplace) for module in (double, real)]
    assert len(updates[0]) == len(updates[1]) == 2


def test_bindings_take_what_the_real_ones_take(double: Any, fake_onnxruntime: Any) -> None:
    for name in ("bind_ortvalue_input", "bind_ortvalue_output", "copy_outputs_to_cpu"):
        ours = getattr(fake_onnxruntime.FakeBinding, name)
        assert arguments(ours) == arguments(getattr(real.IOBinding, name)), name


def test_names_that_only_the_real_package_implements_exist_there() -> None:
    for name in ("register_execution_provider_library", "get_ep_devices", "ExecutionMode"):
        assert hasattr(real, name) or real.__version__ < "1.24"
    assert hasattr(real.SessionOptions, "add_session_config_entry")
    assert hasattr(real.RunOptions, "add_run_config_entry")


def test_a_real_placement_has_the_fields_of_the_double(opened: Any, fake_onnxruntime: Any) -> None:
    if not hasattr(real.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip(f"onnxruntime {real.__version__} does not tell its placement")
    options = real.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    model = opened.read("model.fp32.onnx")
    session = real.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    part = session.get_provider_graph_assignment_info()[0]
    assert part.ep_name == "CPUExecutionProvider"
    (node, *_) = part.get_nodes()
    assert node.op_type
    assert isinstance(node.name, str)


def test_a_session_of_the_double_repeats_the_addresses_that_it_captured(
    fake_onnxruntime: Any, opened: Any
) -> None:
    """The fault that it must show: a graph that is used for another shape's memory."""
    import numpy as np

    machine = fake_onnxruntime.Machine([CUDA])
    onnxruntime = fake_onnxruntime.machine(machine)
    session = onnxruntime.InferenceSession(
        opened.read("model.fp32.onnx"),
        real.SessionOptions(),
        [(CUDA, {"enable_cuda_graph": "1"})],
    )
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    bindings = []
    for _ in range(2):
        binding = session.io_binding()
        binding.bind_ortvalue_input("images", value([1, 48, 64, 3], np.uint8, "cuda", 0))
        binding.bind_ortvalue_output("class_map", value([1, 48, 64], np.uint8, "cuda", 0))
        session.run_with_iobinding(binding)
        bindings.append(binding.copy_outputs_to_cpu()[0])
    assert (bindings[0] != 77).any()
    assert (bindings[1] == 77).all()
