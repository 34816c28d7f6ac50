"""The pipeline: order, bounds, errors, and no thread left behind whatever happens."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from edgeseg.errors import DeviceError, InputError, ResourceError
from edgeseg.streams.pipeline import Stages, default_depth, pipelined

PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def doubled(values: Sequence[int]) -> list[int]:
    return [2 * value for value in values]


def plus_one(_: int, value: int) -> int:
    return value + 1


def same(item: int) -> int:
    return item


def outcomes(stages: Stages[int, Any, Any, Any], count: int, **options: Any) -> list[Any]:
    with closing(pipelined(range(count), stages, **options)) as results:
        return [done.outcome for done in results]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_every_item_gets_its_result_in_order(batch: int, workers: int) -> None:
    def prepare(item: int) -> int:
        time.sleep((item * 7 % 3) / 1000)  # later items are often ready first
        return item

    stages = Stages(prepare, doubled, plus_one)
    found = outcomes(stages, 23, batch=batch, workers=workers)
    assert found == [2 * item + 1 for item in range(23)]


def test_no_items_are_no_results_and_no_call_of_the_network() -> None:
    def infer(_: Sequence[int]) -> list[int]:
        raise AssertionError("called")

    assert outcomes(Stages(same, infer, plus_one), 0) == []


def test_batches_are_full_but_for_the_last() -> None:
    sizes: list[int] = []

    def infer(values: Sequence[int]) -> list[int]:
        sizes.append(len(values))
        return list(values)

    outcomes(Stages(same, infer, plus_one), 11, batch=4)
    assert sizes == [4, 4, 3]


def test_bad_items_are_outcomes_and_the_others_go_on() -> None:
    def prepare(item: int) -> int:
        if item % 3 == 0:
            raise InputError(f"bad {item}")
        return item

    def finish(item: int, value: int) -> int:
        if item == 4:
            raise InputError("bad 4")
        return value

    found = outcomes(Stages(prepare, doubled, finish), 7, batch=3)
    shown = [str(one) if isinstance(one, InputError) else one for one in found]
    assert shown == ["bad 0", 2, 4, "bad 3", "bad 4", 10, "bad 6"]


def test_the_network_is_not_called_for_a_batch_of_bad_items() -> None:
    def prepare(item: int) -> int:
        raise InputError("bad")

    def infer(_: Sequence[int]) -> list[int]:
        raise AssertionError("called")

    assert len(outcomes(Stages(prepare, infer, plus_one), 5, batch=2)) == 5


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish"])
@pytest.mark.parametrize("error", [DeviceError("lost"), ResourceError("full"), OSError("disk")])
def test_any_other_error_ends_everything_after_the_results_before_it(
    stage: str, error: Exception
) -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            read.append(len(read))
            yield read[-1]

    def failing(name: str, value: int) -> int:
        if name == stage and value == 10:
            raise error
        return value

    stages = Stages(
        lambda item: failing("prepare", item),
        lambda values: [failing("infer", value) for value in values],
        lambda _, value: failing("finish", value),
    )
    found: list[Any] = []
    pipeline = pipelined(endless(), stages, workers=1, depth=4)
    with closing(pipeline) as results, pytest.raises(type(error)) as raised:
        found.extend(done.outcome for done in results)
    assert raised.value is error
    assert found == list(range(10))
    assert len(read) <= 10 + 1 + 4


def test_an_error_of_the_items_comes_after_their_results() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise InputError("the stream broke off")

    found: list[Any] = []
    pipeline = pipelined(items(), Stages(same, doubled, plus_one), batch=2)
    with closing(pipeline) as results, pytest.raises(InputError, match="broke off"):
        found.extend(done.outcome for done in results)
    assert found == [1, 3, 5]


@pytest.mark.parametrize(("batch", "workers", "depth"), [(1, 1, None), (4, 2, None), (1, 2, 1)])
def test_no_more_items_are_under_way_than_the_depth(
    batch: int, workers: int, depth: int | None
) -> None:
    limit = depth or default_depth(batch, workers)
    read = delivered = most = 0

    def items() -> Iterator[int]:
        nonlocal read, most
        for item in range(60):
            read += 1
            most = max(most, read - delivered)
            yield item

    def is_full() -> bool:
        return read == 60 or read - delivered == limit

    stages = Stages(same, doubled, plus_one)
    options: dict[str, Any] = {"batch": batch, "workers": workers, "depth": depth}
    with closing(pipelined(items(), stages, **options)) as results:
        for _ in results:
            if delivered % 20 == 0:
                wait_for(is_full)  # a caller that takes its time
            delivered += 1
    assert delivered == 60
    assert most == limit


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def test_items_are_prepared_and_finished_while_the_network_runs() -> None:
    prepared, finished = [threading.Event() for _ in range(3)], threading.Event()

    def prepare(item: int) -> int:
        prepared[item].set()
        return item

    def infer(values: Sequence[int]) -> list[int]:
        if values[0] < 2:
            assert prepared[values[0] + 1].wait(PATIENCE_S)  # the next one, meanwhile
        if values[0] == 2:
            assert finished.wait(PATIENCE_S)  # the first one, meanwhile
        return list(values)

    def finish(item: int, value: int) -> int:
        finished.set()
        return value

    assert outcomes(Stages(prepare, infer, finish), 3, workers=1) == [0, 1, 2]


def test_the_network_runs_in_one_thread_of_its_own() -> None:
    used: dict[str, set[int]] = {"prepare": set(), "infer": set(), "finish": set()}

    def note(stage: str) -> None:
        used[stage].add(threading.get_ident())

    stages: Stages[int, int, int, int] = Stages(
        lambda item: (note("prepare"), item)[1],
        lambda values: (note("infer"), list(values))[1],
        lambda _, value: (note("finish"), value)[1],
    )
    outcomes(stages, 50, workers=2)
    assert len(used["infer"]) == 1
    assert not used["infer"] & (used["prepare"] | used["finish"] | {threading.get_ident()})


def test_closing_early_ends_everything_also_in_the_middle_of_the_network() -> None:
    running = threading.Event()
    calls: list[int] = []

    def infer(values: Sequence[int]) -> list[int]:
        calls.append(values[0])
        if len(calls) > 1:
            running.set()
            time.sleep(0.05)
        return list(values)

    def endless() -> Iterator[int]:
        while True:
            yield 1

    with closing(pipelined(endless(), Stages(same, infer, plus_one))) as results:
        next(results)
        assert running.wait(PATIENCE_S)
    after = len(calls)
    time.sleep(0.1)
    assert len(calls) == after


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
def test_ctrl_c_while_waiting_for_a_result_ends_everything() -> None:
    def infer(values: Sequence[int]) -> list[int]:
        if values[0] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)  # as a network that takes its time
        return list(values)

    found: list[Any] = []
    stages = Stages(same, infer, plus_one)
    pipeline = pipelined(range(1000), stages, depth=4)
    with pytest.raises(KeyboardInterrupt), closing(pipeline) as results:
        found.extend(done.outcome for done in results)
    assert len(found) <= 3 + 4


def test_results_are_let_go_of() -> None:
    """A thousand results of 1 MB each fit into the memory of the few that are under way."""
    alive = most = 0

    class Big:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    stages: Stages[int, Big, Big, Big] = Stages(lambda _: Big(), list, lambda _, big: big)
    with closing(pipelined(range(1000), stages, workers=1, depth=6)) as results:
        for _ in results:
            pass
    assert most <= 6 + 2
    assert alive <= 1


def test_stopping_tells_a_long_inference_to_end() -> None:
    told = threading.Event()

    def infer(items: Sequence[int]) -> Sequence[int]:
        if items[0] > 0:
            assert told.wait(20), "nobody said stop"
            raise DeviceError("stopped")
        return items

    stages = Stages(lambda item: item, infer, lambda item, answer: answer, told.set)
    with closing(pipelined(range(9), stages)) as results:
        assert next(results).outcome == 0
    assert told.is_set()
