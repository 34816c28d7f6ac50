"""What fails while it runs, threads, closing and forking."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgeseg.bundle import Bundle
from edgeseg.errors import DeviceError, ResourceError
from edgeseg.sessions.tensorrt.session import CONTEXTS

# --- failures


def test_a_gpu_that_is_lost_ends_the_session_and_later_calls_fail_at_once(
    machine: Any, session: Any, pictures: Any
) -> None:
    session.infer(pictures())
    machine.cuda.lost = 700
    with pytest.raises(DeviceError, match="illegal memory access"):
        session.infer(pictures())
    machine.cuda.calls.clear()
    for _ in range(3):
        with pytest.raises(DeviceError, match=r"lost to this process .*start it again"):
            session.infer(pictures())
    assert machine.cuda.calls == []
    session.close()


def test_an_error_that_tensorrt_reports_ends_one_call_only(
    machine: Any, session: Any, pictures: Any, expected: Any
) -> None:
    machine.scenario.failing["execute_async_v3"] = 1
    machine.scenario.says = "Error Code 1: Internal Error"
    with pytest.raises(DeviceError, match=r"failed in execute_async_v3.*Internal Error"):
        session.infer(pictures())
    for seed in range(3):
        images = pictures(seed=seed)
        np.testing.assert_array_equal(session.infer(images), expected(images))
    assert machine.scenario.contexts == 2  # the one that failed is not used again


def test_a_refused_shape_is_an_error_of_one_call(
    machine: Any, session: Any, pictures: Any, expected: Any
) -> None:
    machine.scenario.failing["set_input_shape"] = 1
    with pytest.raises(DeviceError, match="failed in set_input_shape"):
        session.infer(pictures())
    np.testing.assert_array_equal(session.infer(pictures()), expected(pictures()))


def test_shapes_that_tensorrt_does_not_know_are_an_error_of_one_call(
    machine: Any, session: Any, pictures: Any, expected: Any
) -> None:
    machine.scenario.failing["infer_shapes"] = 1
    with pytest.raises(DeviceError, match=r"does not know the shapes of \['images'\]"):
        session.infer(pictures())
    np.testing.assert_array_equal(session.infer(pictures()), expected(pictures()))


def test_nothing_is_freed_while_the_gpu_may_still_use_it(
    machine: Any, session: Any, pictures: Any
) -> None:
    machine.cuda.failing["cudaMemcpyAsync"] = [0, 1]  # of the answer, after the kernel's start
    with pytest.raises(DeviceError, match="cudaMemcpyAsync"):
        session.infer(pictures())
    assert machine.cuda.faults == []


def test_the_words_of_an_earlier_failure_are_not_taken_for_this_ones(
    machine: Any, session: Any, pictures: Any
) -> None:
    machine.scenario.capturable, machine.scenario.says = False, "Error Code 2: OutOfMemory"
    session.infer(pictures())
    session.infer(pictures())  # tries to capture
    machine.scenario.failing["execute_async_v3"] = 1
    machine.scenario.says = "Error Code 1: Internal Error"
    with pytest.raises(DeviceError, match="Internal Error"):
        session.infer(pictures())


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaHostAlloc"])
def test_out_of_memory_is_a_resource_error_and_the_next_call_works(
    machine: Any, session: Any, function: str, pictures: Any, expected: Any
) -> None:
    machine.cuda.failing[function] = [2]
    with pytest.raises(ResourceError, match="ran out of memory"):
        session.infer(pictures())
    for _ in range(3):
        np.testing.assert_array_equal(session.infer(pictures()), expected(pictures()))
    session.close()
    assert machine.cuda.alive == 0


def test_out_of_memory_in_tensorrt_is_a_resource_error_and_the_next_call_works(
    machine: Any, session: Any, pictures: Any, expected: Any
) -> None:
    machine.scenario.failing["execute_async_v3"] = 1
    machine.scenario.says = "Error Code 2: OutOfMemory"
    with pytest.raises(ResourceError):
        session.infer(pictures())
    np.testing.assert_array_equal(session.infer(pictures()), expected(pictures()))


def test_the_first_context_that_finds_no_memory_is_an_error_and_leaks_nothing(
    machine: Any, map_bundle: Bundle
) -> None:
    machine.build(map_bundle)
    machine.scenario.failing["create_execution_context"] = 1
    machine.scenario.says = "Error Code 2: OutOfMemory"
    with pytest.raises(ResourceError):
        machine.open(map_bundle)
    assert machine.cuda.alive == 0


# --- threads, closing, forking


def test_eight_threads_get_the_answers_of_one(
    machine: Any, session: Any, pictures: Any, expected: Any
) -> None:
    batches = [pictures(seed=seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(session.infer, batches))
    for images, answer in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(answer, expected(images))
    assert machine.scenario.contexts <= CONTEXTS


def test_two_threads_run_at_the_same_time_on_two_contexts(
    machine: Any, session: Any, pictures: Any
) -> None:
    both = threading.Barrier(2, timeout=20)
    machine.scenario.during = both.wait  # breaks, unless two kernels run at once
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(session.infer, [pictures(), pictures()]))
    assert len(answers) == 2
    assert machine.scenario.contexts == 2


def test_one_thread_uses_one_context(machine: Any, session: Any, pictures: Any) -> None:
    for _ in range(5):
        session.infer(pictures())
    assert machine.scenario.contexts == 1


def test_a_second_context_that_finds_no_memory_is_done_without(
    machine: Any, session: Any, pictures: Any, expected: Any
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(20)

    machine.scenario.during = wait
    machine.scenario.says = "Error Code 2: OutOfMemory"
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(session.infer, pictures())
        assert inside.wait(20)
        machine.scenario.failing["create_execution_context"] = 1
        second = threads.submit(session.infer, pictures(seed=1))
        while machine.scenario.failing["create_execution_context"]:
            pass  # until the second has tried
        go_on.set()
        np.testing.assert_array_equal(first.result(20), expected(pictures()))
        np.testing.assert_array_equal(second.result(20), expected(pictures(seed=1)))
    assert machine.scenario.contexts == 1


def test_close_waits_for_running_calls_and_turns_waiting_ones_away(
    machine: Any, session: Any, pictures: Any, expected: Any
) -> None:
    inside, go_on = threading.Semaphore(0), threading.Event()

    def wait() -> None:
        inside.release()
        assert go_on.wait(20)

    machine.scenario.during = wait
    with ThreadPoolExecutor(CONTEXTS + 2) as threads:
        running = [threads.submit(session.infer, pictures()) for _ in range(CONTEXTS)]
        for _ in range(CONTEXTS):
            assert inside.acquire(timeout=20)
        late = threads.submit(session.infer, pictures())
        closing = threads.submit(session.close)
        with pytest.raises(DeviceError, match="the session is closed"):
            late.result(20)
        assert not closing.done()
        go_on.set()
        for future in running:
            np.testing.assert_array_equal(future.result(20), expected(pictures()))
        closing.result(20)
    assert machine.cuda.alive == 0


def test_a_closed_session_says_so_and_closes_again(
    machine: Any, session: Any, pictures: Any
) -> None:
    session.infer(pictures())
    session.close()
    session.close()
    assert machine.cuda.alive == 0
    with pytest.raises(DeviceError, match="the session is closed; open a new one"):
        session.infer(pictures())


def test_many_sessions_one_after_the_other_leave_nothing(
    machine: Any, map_bundle: Bundle, pictures: Any
) -> None:
    machine.build(map_bundle)
    for _ in range(20):
        session = machine.open(map_bundle)
        for _ in range(3):
            session.infer(pictures())
        session.close()
        assert machine.cuda.alive == 0


def test_a_session_of_a_forked_parent_is_refused_and_left_alone(
    machine: Any, session: Any, monkeypatch: pytest.MonkeyPatch, pictures: Any, expected: Any
) -> None:
    session.infer(pictures())
    held = machine.cuda.alive
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        machine.cuda.calls.clear()
        with pytest.raises(DeviceError, match="'spawn'"):
            session.infer(pictures())
        session.close()
        assert machine.cuda.calls == []
    assert machine.cuda.alive == held
    np.testing.assert_array_equal(session.infer(pictures()), expected(pictures()))
