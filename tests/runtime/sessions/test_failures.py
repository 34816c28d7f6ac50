"""What a runtime says when it fails, sorted: memory, a lost GPU, or this one call."""

from __future__ import annotations

import pytest

from edgeseg.errors import DeviceError, EdgeSegError, ResourceError
from edgeseg.sessions.failures import DeviceLost, failure

ORT = "[ONNXRuntimeError] : 1 : FAIL : "
WHERE = " ; GPU=0 ; hostname=secret ; file=cuda_call.cc ; line=121 ; expr=cudaMemcpy()"


@pytest.mark.parametrize(
    "text",
    [
        f"{ORT}CUDA failure 2: out of memory{WHERE}",
        f"{ORT}bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 157286400",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
    ],
)
def test_memory_that_ran_out_is_a_resource_error(text: str) -> None:
    found = failure(RuntimeError(text), "ort:cuda")
    assert type(found) is ResourceError
    assert "use a smaller batch or size, the session still works" in str(found)


def test_a_memory_error_without_words_is_a_resource_error() -> None:
    assert type(failure(MemoryError(), "ort:cpu")) is ResourceError


@pytest.mark.parametrize(
    "text",
    [
        f"{ORT}CUDA failure 700: an illegal memory access was encountered{WHERE}",
        f"{ORT}CUDA failure 719: unspecified launch failure{WHERE}",
        f"{ORT}CUDA failure 214: uncorrectable ECC error encountered{WHERE}",
        f"{ORT}CUDA failure 999: unknown error{WHERE}",
        "CUDNN failure: GPU is lost",
        # Memory cannot be allocated any more, but that is not the reason:
        f"Failed to allocate memory: CUDA failure 700: an illegal memory access{WHERE}",
    ],
)
def test_a_sticky_error_of_cuda_means_that_the_gpu_is_lost(text: str) -> None:
    found = failure(RuntimeError(text), "ort:cuda")
    assert isinstance(found, DeviceLost)
    assert "the GPU is lost to this process" in str(found)
    assert "start it again" in str(found)
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        f"{ORT}CUDA failure 1: invalid argument{WHERE}",
        f"{ORT}CUDA failure 7000: no such number{WHERE}",
        "Non-zero status code returned while running Conv node.\nand a stack",
    ],
)
def test_anything_else_is_an_error_of_this_call(text: str) -> None:
    found = failure(RuntimeError(text), "ort:cuda")
    assert type(found) is DeviceError
    assert str(found).startswith("inference failed on ort:cuda: ")


def test_every_message_is_one_line() -> None:
    errors: list[EdgeSegError] = [
        failure(RuntimeError(f"{first}\nsecond line"), "ort:cuda")
        for first in ("CUDA failure 700: x", "bad_alloc", "other")
    ]
    assert not any("\n" in str(error) for error in errors)
