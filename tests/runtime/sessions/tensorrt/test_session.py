"""Right answers on a machine of doubles, and TensorRT's order of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeseg.bundle import Bundle
from edgeseg.errors import InputError, UsageError
from edgeseg.segmenter import Segmenter

VERSIONS = ["10.3", "10.16", "11.4", "rtx-1.7"]
FIXED = (1, 48, 64, 3)
NewMachine = Callable[..., Any]


# --- answers


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("integrated", [False, True])
def test_class_maps_are_right_on_every_version_and_kind_of_memory(
    new_machine: NewMachine,
    map_bundle: Bundle,
    version: str,
    integrated: bool,
    pictures: Any,
    expected: Any,
) -> None:
    machine = new_machine(version, integrated=integrated)
    machine.build(map_bundle)
    session = machine.open(map_bundle)
    assert (session.backend, session.variant) == (machine.backend, "fp32")
    assert session.fallback is None
    for seed in range(4):  # plain, captured, launched, launched
        images = pictures(seed=seed)
        answer = session.infer(images)
        assert answer.dtype == np.uint8
        np.testing.assert_array_equal(answer, expected(images))
    session.close()
    assert machine.cuda.alive == 0
    assert machine.cuda.last_error == 0


def test_an_answer_is_the_callers_own(session: Any, pictures: Any, expected: Any) -> None:
    images = pictures()
    first = session.infer(images)
    session.infer(pictures(seed=1))
    np.testing.assert_array_equal(first, expected(images))


def test_arrays_that_are_not_contiguous_or_not_writable_are_right(
    session: Any, pictures: Any, expected: Any
) -> None:
    images = pictures(2, 48, 128)[1:, :, ::2]
    images.flags.writeable = False
    np.testing.assert_array_equal(session.infer(images), expected(images))


@pytest.mark.parametrize("integrated", [False, True])
def test_logits_and_class_maps_of_one_engine_agree(
    new_machine: NewMachine, logits_bundle: Bundle, integrated: bool, pictures: Any, expected: Any
) -> None:
    machine = new_machine(integrated=integrated)
    machine.build(logits_bundle)
    session = machine.open(logits_bundle)
    height, width = logits_bundle.manifest.sizes[0]
    for seed in range(3):
        images = pictures(1, height, width, seed)
        class_maps, logits = session.infer(images), session.infer_logits(images)
        assert (logits.dtype, logits.shape) == (np.float32, (1, 150, height, width))
        np.testing.assert_array_equal(logits.argmax(axis=1), expected(images))
        np.testing.assert_array_equal(class_maps, expected(images))


def test_logits_stay_on_the_gpu_unless_they_are_asked_for(
    machine: Any, logits_bundle: Bundle, pictures: Any
) -> None:
    machine.build(logits_bundle)
    session = machine.open(logits_bundle)
    height, width = logits_bundle.manifest.sizes[0]
    session.infer(pictures(1, height, width))
    pinned = [buffer for buffer, kind in machine.cuda.blocks.values() if kind == "pinned"]
    assert sum(len(buffer) for buffer in pinned) == height * width * (3 + 1)


def test_a_bundle_of_class_maps_has_no_logits(session: Any, pictures: Any) -> None:
    with pytest.raises(UsageError, match="holds class maps only"):
        session.infer_logits(pictures())


def test_a_segmenter_runs_on_it(
    machine: Any, tiny_bundle: Any, pictures: Any, expected: Any
) -> None:
    opened = Bundle.open(tiny_bundle)
    machine.build(opened)
    with Segmenter.load(tiny_bundle, machine.backend, "fp32") as segmenter:
        image = pictures()[0]
        np.testing.assert_array_equal(segmenter(image).class_map, expected(image[None])[0])


# --- shapes, profiles, graphs


def test_a_graph_is_captured_after_one_plain_run_of_a_shape_and_then_launched(
    machine: Any, session: Any, pictures: Any
) -> None:
    machine.scenario.calls.clear()
    for _ in range(4):
        session.infer(pictures())
    assert machine.scenario.calls == [("shape", FIXED), ("run", FIXED), ("captured", FIXED)]
    assert machine.cuda.calls.count("cudaGraphLaunch") == 3


def test_a_new_shape_is_run_plainly_again_and_its_old_graph_is_freed(
    machine: Any, logits_bundle: Bundle, pictures: Any, expected: Any
) -> None:
    small, large = (1, 16, 16, 3), (1, 32, 64, 3)
    machine.build(logits_bundle, (small, small, (2, 64, 64, 3)))
    session = machine.open(logits_bundle, size=(16, 16))
    machine.scenario.calls.clear()
    for shape in (small, small, large, large, large, small):
        images = pictures(*shape[:3])
        np.testing.assert_array_equal(session.infer(images), expected(images))
    kinds = [call for call in machine.scenario.calls if call[0] in ("run", "captured")]
    assert kinds == [
        ("run", small),
        ("captured", small),
        ("run", large),
        ("captured", large),
        ("run", small),
    ]
    assert not machine.cuda.executables


def test_profiles_are_switched_before_the_shape_and_only_when_they_change(
    machine: Any, logits_bundle: Bundle, pictures: Any, expected: Any
) -> None:
    first, second = (1, 16, 16, 3), (1, 32, 32, 3)
    machine.build(logits_bundle, (first,) * 3, (second,) * 3)
    session = machine.open(logits_bundle, size=(16, 16))
    machine.scenario.calls.clear()
    for shape in (first, second, second, first):
        images = pictures(*shape[:3])
        np.testing.assert_array_equal(session.infer(images), expected(images))
    settings = [call for call in machine.scenario.calls if call[0] in ("profile", "shape")]
    assert settings == [
        ("shape", first),
        ("profile", 1),
        ("shape", second),
        ("profile", 0),
        ("shape", first),
    ]


def test_an_engine_that_cannot_be_captured_runs_plainly_and_is_not_tried_again(
    machine: Any, session: Any, pictures: Any, expected: Any
) -> None:
    machine.scenario.capturable = False
    machine.scenario.calls.clear()
    for seed in range(4):
        images = pictures(seed=seed)
        np.testing.assert_array_equal(session.infer(images), expected(images))
    kinds = [kind for kind, _ in machine.scenario.calls]
    assert kinds == ["shape", "run", "captured", "run", "run", "run"]
    assert machine.cuda.last_error == 0
    with session._pool.lend() as context:
        assert "API Usage Error" in context.uncapturable


@pytest.mark.parametrize("function", ["cudaStreamBeginCapture", "cudaGraphInstantiate"])
def test_a_capture_that_cuda_refuses_is_a_plain_run(
    machine: Any, session: Any, function: str, pictures: Any, expected: Any
) -> None:
    machine.cuda.failing[function] = [901]
    for seed in range(3):
        images = pictures(seed=seed)
        np.testing.assert_array_equal(session.infer(images), expected(images))
    assert not machine.cuda.graphs


def test_rtx_makes_its_graphs_itself_with_eager_kernels(
    new_machine: NewMachine, map_bundle: Bundle, pictures: Any
) -> None:
    machine = new_machine("rtx-1.7")
    machine.build(map_bundle)
    session = machine.open(map_bundle)
    for _ in range(3):
        session.infer(pictures())
    assert ("set", "cuda_graph_strategy", "WHOLE_GRAPH_CAPTURE") in machine.scenario.calls
    eager = ("set", "dynamic_shapes_kernel_specialization_strategy", "EAGER")
    assert eager in machine.scenario.calls
    assert ("context", True) in machine.scenario.calls  # with the configuration
    assert "cudaStreamBeginCapture" not in machine.cuda.calls


def test_fewer_pictures_than_the_engine_takes_are_filled_up(
    machine: Any, logits_bundle: Bundle, pictures: Any, expected: Any
) -> None:
    four = (4, 16, 16, 3)
    machine.build(logits_bundle, (four,) * 3)
    session = machine.open(logits_bundle, size=(16, 16), batch=4)
    images = pictures(3, 16, 16)
    np.testing.assert_array_equal(session.infer(images), expected(images))
    assert session.infer_logits(images).shape == (3, 150, 16, 16)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 128, 16), (1, 16, 4)])
def test_what_the_engine_was_not_built_for_is_an_input_error_with_the_command(
    machine: Any, logits_bundle: Bundle, shape: tuple[int, ...], pictures: Any, expected: Any
) -> None:
    machine.build(logits_bundle, ((1, 16, 16, 3), (1, 16, 16, 3), (2, 64, 64, 3)))
    session = machine.open(logits_bundle, size=(16, 16))
    before = machine.scenario.contexts
    with pytest.raises(InputError) as caught:
        session.infer(pictures(*shape))
    assert "takes input shapes (1, 16, 16, 3) to (2, 64, 64, 3)" in str(caught.value)
    assert "edgeseg build" in str(caught.value)
    images = pictures(2, 32, 64)
    np.testing.assert_array_equal(session.infer(images), expected(images))
    assert machine.scenario.contexts == before


@pytest.mark.parametrize(
    "images", [np.zeros(FIXED, np.float32), np.zeros((0, 48, 64, 3), np.uint8), np.zeros(3)]
)
def test_an_array_that_is_no_input_is_an_input_error(session: Any, images: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected uint8"):
        session.infer(images)
