"""The command ``edgeseg serve``: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import Segmenter

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

PATIENCE_S = 20.0
MODEL = ("--backend", "ort:cpu", "--variant", "fp32")


@contextmanager
def command(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """Run ``edgeseg serve`` on a free port; give the process and what it said of itself."""
    words = [str(word) for word in (*arguments, "--port", 0, "--json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeseg", "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = "".join(iter(process.stdout.readline, "}\n"))
        yield process, json.loads(said + "}")
    finally:
        process.kill()
        process.communicate()


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def port_of(said: Any) -> int:
    return int(said["url"].rpartition(":")[2])


def wait_until_accepted(port: int, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while f"edgeseg_accepted_requests {count}.0\n" not in ask(port, "GET", "/metrics")[1].decode():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_under_load_ends_it_with_status_0_after_every_accepted_request_is_answered(
    tiny_bundle: Path,
    segmenter: Segmenter,
    picture: Callable[..., bytes],
    number: signal.Signals,
) -> None:
    # The network waits a second for a batch that never fills, so all eight are under way.
    with (
        command(tiny_bundle, *MODEL, "--batch", 16, "--wait-ms", 1000) as (process, said),
        ThreadPoolExecutor(8) as clients,
    ):
        port = port_of(said)
        asked = [clients.submit(ask, port, "POST", "/segment", picture(i)) for i in range(8)]
        wait_until_accepted(port, 8)
        process.send_signal(number)
        replies = [one.result(PATIENCE_S) for one in asked]
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert stderr.count("\n") == 1, stderr  # the note on what was chosen
        with pytest.raises(ConnectionRefusedError):
            ask(port, "GET", "/v2")
    for i, (status, body) in enumerate(replies):
        assert status == 200
        mask = np.asarray(Image.open(io.BytesIO(body)))
        np.testing.assert_array_equal(mask, segmenter(picture(i)).class_map)


def test_a_second_signal_ends_it_at_once(tiny_bundle: Path) -> None:
    head = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    with (
        command(tiny_bundle, *MODEL) as (process, said),
        socket.create_connection(("127.0.0.1", port_of(said)), PATIENCE_S) as client,
    ):
        client.sendall(head)
        assert client.recv(100).startswith(b"HTTP/1.1 100")  # it waits for the body now
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE_S
        while is_open(port_of(said)):
            assert time.monotonic() < deadline
        assert process.poll() is None  # and still does
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 143


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return False
    return True


def test_it_says_where_it_answers_and_with_what(tiny_bundle: Path) -> None:
    with command(tiny_bundle, *MODEL, "--name", "street") as (_, said):
        assert said == {
            "url": said["url"],
            "model": "street",
            "backend": "ort:cpu",
            "variant": "fp32",
            "fallback": None,
        }
        assert said["url"].startswith("http://127.0.0.1:")
        status, body = ask(port_of(said), "GET", "/v2/models/street")
        assert (status, json.loads(body)["name"]) == (200, "street")


def test_without_json_it_says_so_in_one_line(tiny_bundle: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeseg", "serve", str(tiny_bundle), *MODEL, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    rest, _ = process.communicate(timeout=PATIENCE_S)
    assert re.fullmatch(
        r"serving tiny_bundle at http://127\.0\.0\.1:\d+ \(fp32 on ort:cpu\)\n", line
    )
    assert (rest, process.returncode) == ("", 0)


def test_a_port_in_use_is_one_line_and_status_7(edgeseg: Any, tiny_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = edgeseg("serve", tiny_bundle, "--port", port, "--quiet")
    assert done.code == 7
    assert f"port {port} of 127.0.0.1 is in use; choose another with --port" in done.error_line


def test_a_host_that_is_none_is_a_usage_error(edgeseg: Any, tiny_bundle: Path) -> None:
    done = edgeseg("serve", tiny_bundle, "--host", "no such host", "--port", 0, "--quiet")
    assert done.code == 2
    assert "no host 'no such host'" in done.error_line


def test_an_address_of_another_machine_is_one_line_and_status_7(
    edgeseg: Any, tiny_bundle: Path
) -> None:
    done = edgeseg("serve", tiny_bundle, "--host", "192.0.2.1", "--port", 0, "--quiet")
    assert done.code == 7
    assert "cannot listen on port 0 of 192.0.2.1" in done.error_line


def test_no_bundle_is_refused_before_anything_listens(edgeseg: Any, tmp_path: Path) -> None:
    assert edgeseg("serve", tmp_path / "none", "--port", 0).code == 4


def test_without_the_extra_it_says_what_to_install(
    edgeseg: Any, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("edgeseg.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = edgeseg("serve", tiny_bundle, "--port", 0)
    assert done.code == 6
    assert 'pip install "edgeseg[serve]"' in done.error_line
