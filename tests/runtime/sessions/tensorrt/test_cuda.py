"""Handles, errors, graphs and buffers, on the double that moves bytes."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import DeviceError, ResourceError
from edgeseg.sessions.tensorrt.buffers import Pinned, TensorMemory
from edgeseg.sessions.tensorrt.cuda import TO_DEVICE, TO_HOST, Cuda, CudaError


@pytest.fixture
def cudart(fake_cuda: Any) -> Any:
    return fake_cuda.FakeCudart()


@pytest.fixture
def cuda(cudart: Any) -> Cuda:
    return Cuda(cudart)


def test_an_error_names_the_function_the_number_and_the_text(cudart: Any, cuda: Cuda) -> None:
    cudart.failing["cudaStreamCreateWithFlags"] = [700]
    with pytest.raises(CudaError) as caught:
        cuda.stream()
    assert isinstance(caught.value, DeviceError)
    assert "cudaStreamCreateWithFlags" in str(caught.value)
    assert "(700): an illegal memory access was encountered" in str(caught.value)
    assert cudart.last_error == 0  # TensorRT would take it for its own


@pytest.mark.parametrize("make", ["device_memory", "pinned_memory"])
def test_no_memory_is_a_resource_error_and_the_next_call_works(
    cudart: Any, cuda: Cuda, make: str
) -> None:
    options = {"mapped": False} if make == "pinned_memory" else {}
    cudart.failing = {"cudaMalloc": [2], "cudaHostAlloc": [2]}
    with pytest.raises(ResourceError, match="out of memory"):
        getattr(cuda, make)(100, **options)
    assert cudart.last_error == 0
    getattr(cuda, make)(100, **options).close()
    assert cudart.alive == 0


def test_handles_are_freed_once_by_close_or_when_nobody_holds_them(cudart: Any, cuda: Cuda) -> None:
    closed, forgotten = cuda.device_memory(10), cuda.stream()
    closed.close()
    closed.close()
    assert cudart.calls.count("cudaFree") == 1
    del forgotten
    gc.collect()
    assert cudart.alive == 0


def test_a_forked_process_frees_nothing_of_its_parent(
    cudart: Any, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = cuda.device_memory(10)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    memory.close()
    assert cudart.alive == 1


def test_freeing_on_a_gpu_that_is_lost_raises_nothing(cudart: Any, cuda: Cuda) -> None:
    memory = cuda.device_memory(10)
    cudart.lost = 700
    memory.close()


def test_a_lost_gpu_is_told_from_one_that_is_full(cudart: Any, cuda: Cuda) -> None:
    assert cuda.broken() is None
    cudart.failing["cudaStreamCreateWithFlags"] = [2]
    assert cuda.broken() is None
    cudart.lost = 700
    assert "illegal memory access" in str(cuda.broken())


def test_a_graph_does_nothing_until_it_is_launched_and_then_each_time(
    cudart: Any, cuda: Cuda
) -> None:
    stream, event, done = cuda.stream(), cuda.event(), []
    graph = cuda.capture(stream, lambda: cudart.enqueue(stream.value, lambda: done.append(1)))
    cuda.wait(event, stream)
    assert done == []
    for _ in range(3):
        cuda.launch(graph, stream)
    cuda.wait(event, stream)
    assert done == [1, 1, 1]
    graph.close()
    assert not cudart.graphs
    assert not cudart.executables


@pytest.mark.parametrize("invalidated", [False, True])
def test_a_capture_that_fails_leaves_the_stream_as_it_was(
    cudart: Any, cuda: Cuda, invalidated: bool
) -> None:
    stream, done = cuda.stream(), []

    def fail() -> None:
        if invalidated:
            cudart.invalidate_capture(stream.value)
        raise DeviceError("no")

    with pytest.raises(DeviceError, match="no"):
        cuda.capture(stream, fail)
    cudart.enqueue(stream.value, lambda: done.append(1))
    cuda.wait(cuda.event(), stream)
    assert done == [1]
    assert not cudart.graphs
    assert cudart.last_error == 0


def test_a_graph_that_cannot_be_instantiated_is_not_leaked(cudart: Any, cuda: Cuda) -> None:
    stream = cuda.stream()
    cudart.failing["cudaGraphInstantiate"] = [900]
    with pytest.raises(CudaError):
        cuda.capture(stream, lambda: None)
    assert not cudart.graphs


# --- buffers


def test_an_array_on_pinned_memory_keeps_it_alive(cudart: Any, cuda: Cuda) -> None:
    array = Pinned(cuda, 24, mapped=False).view((2, 3), np.dtype(np.float32))
    gc.collect()
    assert cudart.alive == 1
    array[...] = 1.5
    assert array.sum() == 9
    del array
    gc.collect()
    assert cudart.alive == 0


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_is_uploaded_comes_back_from_where_the_gpu_sees_it(
    cudart: Any, cuda: Cuda, integrated: bool, dtype: str
) -> None:
    there = TensorMemory(cuda, dtype, integrated=integrated)
    back = TensorMemory(cuda, dtype, integrated=integrated)
    stream = cuda.stream()
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    source, target = there.resize(array.shape), back.resize(array.shape)

    def kernel() -> None:
        n = array.nbytes
        cudart.memory(target, n, for_gpu=True)[:] = cudart.memory(source, n, for_gpu=True)[:]

    there.upload(array[:, :, ::-1], stream)  # not contiguous
    cudart.enqueue(stream.value, kernel)
    back.download(stream)
    assert not np.array_equal(back.read(), array[:, :, ::-1])  # nothing has run yet
    cuda.wait(cuda.event(), stream)
    answer = back.read()
    assert answer.dtype == dtype
    np.testing.assert_array_equal(answer, array[:, :, ::-1])
    assert cudart.calls.count("cudaMemcpyAsync") == (0 if integrated else 2)
    assert cudart.calls.count("cudaMalloc") == (0 if integrated else 2)
    there.close()
    back.close()
    np.testing.assert_array_equal(answer, array[:, :, ::-1])  # a copy: the memory is gone


def test_memory_grows_and_is_kept_when_the_shape_shrinks(cudart: Any, cuda: Cuda) -> None:
    memory, stream = TensorMemory(cuda, "uint8", integrated=False), cuda.stream()
    memory.resize((10,))
    large = memory.resize((1000,))
    assert memory.resize((10,)) == large
    memory.upload(np.zeros(10, np.uint8), stream)
    assert memory.resize((1000,)) == large
    memory.upload(np.ones(1000, np.uint8), stream)  # also into the host's side
    assert cudart.calls.count("cudaMalloc") == 2
    assert cudart.calls.count("cudaHostAlloc") == 1
    memory.close()
    memory.close()
    assert not cudart.blocks


def test_the_host_side_of_an_output_comes_with_its_first_download(cudart: Any, cuda: Cuda) -> None:
    memory, stream = TensorMemory(cuda, "float32", integrated=False), cuda.stream()
    memory.resize((100,))
    assert cudart.calls.count("cudaHostAlloc") == 0
    memory.download(stream)
    assert cudart.calls.count("cudaHostAlloc") == 1


def test_copies_to_the_wrong_side_are_caught_by_the_double(cudart: Any, cuda: Cuda) -> None:
    stream = cuda.stream()
    device, host = cuda.device_memory(8), cuda.pinned_memory(8, mapped=False)
    cuda.copy(device.value, host.value, 8, TO_DEVICE, stream)
    cuda.copy(host.value, device.value, 8, TO_HOST, stream)
    cuda.wait(cuda.event(), stream)
    cuda.copy(host.value, device.value, 8, TO_DEVICE, stream)
    with pytest.raises(CudaError, match="700"):
        cuda.wait(cuda.event(), stream)
    assert cuda.broken()
