"""Fixtures of the server's tests: real servers on free ports, and sessions that wait for a sign.

What needs the extra is imported inside: without it the tests skip, and say so.
"""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import Segmenter
from edgeseg.bundle import Bundle
from edgeseg.serve.limits import Limits

PATIENCE_S = 20.0


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one line that every refusal carries, in JSON and nothing else."""
        document = self.document
        assert list(document) == ["error"]
        assert "\n" not in document["error"]
        return str(document["error"])


@dataclass(frozen=True)
class Served:
    """A running server."""

    port: int
    service: Any

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        """Send one request; underscores in the names of headers become dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Return a sample of ``/metrics``, 0 if there is none yet."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        found = [line for line in lines if line.startswith(f"{name} ")]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a metric has a value."""
        self.until(lambda: self.metric(name) == value)

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@dataclass
class Gated:
    """A session that starts a call only when the gate is open, and then does what it should."""

    real: Any
    gate: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    batches: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def infer(self, images: np.ndarray[Any, Any]) -> Any:
        assert self.gate.wait(PATIENCE_S)
        self.batches.append(len(images))
        if self.error is not None:
            raise self.error
        return self.real.infer(images)


@contextmanager
def running(path: Path, limits: Limits, gated: bool) -> Iterator[Served]:
    from edgeseg.serve.server import listener, serve
    from edgeseg.serve.service import Service

    opened = Bundle.open(path)
    segmenter = Segmenter.load(opened, "ort:cpu", "fp32", threads=1)
    if gated:
        segmenter.session = Gated(segmenter.session)
    service = Service(path.name, opened, segmenter, limits)
    door, stop = listener("127.0.0.1", 0), threading.Event()
    door.listen()
    port = door.getsockname()[1]
    thread = threading.Thread(target=serve, args=(service, door, stop))
    thread.start()
    try:
        yield Served(port, service)
    finally:
        if gated:
            segmenter.session.gate.set()
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        service.close()


@pytest.fixture
def serving(tiny_bundle: Path) -> Iterator[Callable[..., Served]]:
    """Start servers: ``serving(queue=2)``, ``serving(bundle, gated=True)``; they end with the test.

    Options are those of ``Limits``. A gated one runs the network only once
    ``served.service.segmenter.session.gate`` is set.
    """
    with ExitStack() as servers:

        def start(path: Path = tiny_bundle, gated: bool = False, **limits: Any) -> Served:
            return servers.enter_context(running(path, Limits(**limits), gated))

        yield start


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[Served]:
    """A server of the committed bundle with the usual limits, for tests that leave it as it was."""
    with running(tiny_bundle, Limits(batch=4), gated=False) as server:
        yield server


@pytest.fixture(scope="session")
def segmenter(tiny_bundle: Path) -> Iterator[Segmenter]:
    """What a server's answers are compared with."""
    with Segmenter.load(tiny_bundle, "ort:cpu", "fp32", threads=1) as opened:
        yield opened


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Make an encoded picture: ``picture(seed, (height, width), "JPEG")``."""

    def make(seed: int = 0, size: tuple[int, int] = (90, 130), kind: str = "PNG") -> bytes:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
        image.save(buffer, format=kind)
        return buffer.getvalue()

    return make
