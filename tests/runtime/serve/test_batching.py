"""Which requests share a call of the network, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import DeviceError
from edgeseg.segmenter import Answer, Prepared
from edgeseg.serve.limits import Limits

pytest.importorskip("prometheus_client", reason="needs the extra serve")

PATIENCE_S = 20.0


class Network:
    """Stands for a segmenter: notes its calls; an image's answer is its own first value."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()
        self.calls: list[tuple[int, int]] = []
        self.session = SimpleNamespace(infer_logits=lambda images: images.astype(np.float32))

    def infer(self, prepared: Sequence[Any]) -> list[Any]:
        self.started.set()
        assert self.gate.wait(PATIENCE_S)
        self.calls.append((len(prepared), prepared[0].pixels.shape[0]))
        return [Answer(one, one.pixels[..., 0], {}) for one in prepared]


def images(value: int, count: int = 1, height: int = 4) -> list[Prepared]:
    pixels = np.full((height, 4, 3), value, np.uint8)
    return [Prepared(pixels, (height, 4), pixels, None, {}) for _ in range(count)]  # type: ignore[arg-type] # fake


def run(network: Network, requests: Sequence[list[Prepared]], **limits: Any) -> list[list[int]]:
    """Send requests while the first one is in the network; return each one's answered values."""
    from edgeseg.serve.batching import Batcher
    from edgeseg.serve.metrics import Metrics

    async def ask(batcher: Batcher) -> list[list[int]]:
        tasks = [asyncio.ensure_future(batcher.infer(requests[0]))]
        await asyncio.to_thread(network.started.wait, PATIENCE_S)
        tasks += [asyncio.ensure_future(batcher.infer(prepared)) for prepared in requests[1:]]
        await asyncio.sleep(0)  # each task puts its request into the queue
        network.gate.set()
        done = await asyncio.gather(*tasks)
        return [[int(answer.class_map[0, 0]) for answer in one.answers] for one in done]

    batcher = Batcher(network, Limits(**limits), Metrics("m", "b", "v"))  # type: ignore[arg-type] # fake
    try:
        return asyncio.run(ask(batcher))
    finally:
        batcher.close()


def test_what_waits_is_run_together_and_everyone_gets_their_own() -> None:
    network = Network()
    found = run(network, [images(i, 1 + i % 2) for i in range(6)], batch=4, wait_ms=0)
    assert found == [[i] * (1 + i % 2) for i in range(6)]
    assert [count for count, _ in network.calls] == [1, 3, 3, 2]


def test_images_of_different_sizes_never_share_a_call() -> None:
    network = Network()
    heights = [4, 8, 4, 8, 4]
    found = run(network, [images(i, 1, h) for i, h in enumerate(heights)], batch=8, wait_ms=0)
    assert found == [[i] for i in range(5)]
    assert network.calls == [(1, 4), (2, 8), (2, 4)]


def test_small_requests_do_not_overtake_a_large_one() -> None:
    network = Network()
    counts = [1, 1, 3, 1, 1]
    run(network, [images(i, count) for i, count in enumerate(counts)], batch=3, wait_ms=0)
    assert [count for count, _ in network.calls] == [1, 1, 3, 2]


def test_an_idle_network_waits_for_a_batch_to_fill() -> None:
    from edgeseg.serve.batching import Batcher
    from edgeseg.serve.metrics import Metrics

    async def ask(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.infer(images(i)) for i in range(3)))

    network = Network()
    network.gate.set()
    limits = Limits(batch=3, wait_ms=PATIENCE_S * 1000)
    batcher = Batcher(network, limits, Metrics("m", "b", "v"))  # type: ignore[arg-type] # fake
    asyncio.run(ask(batcher))
    assert network.calls == [(3, 4)]
    batcher.close()


def test_closing_answers_what_waits_and_then_refuses() -> None:
    from edgeseg.serve.batching import Batcher
    from edgeseg.serve.metrics import Metrics

    network = Network()
    network.gate.set()
    limits = Limits(batch=8, wait_ms=PATIENCE_S * 1000)  # only closing ends the wait
    batcher = Batcher(network, limits, Metrics("m", "b", "v"))  # type: ignore[arg-type] # fake

    async def ask() -> Any:
        waiting = asyncio.ensure_future(batcher.infer(images(7)))
        await asyncio.sleep(0)
        await asyncio.to_thread(batcher.close)
        with pytest.raises(DeviceError, match="stopping"):
            await batcher.infer(images(8))
        return await waiting

    assert asyncio.run(ask()).answers[0].class_map[0, 0] == 7
    batcher.close()
