"""Too much, too slow, too many, gone: what a server answers, and that others notice nothing."""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import Segmenter

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

Picture = Callable[..., bytes]
POST = "POST /segment HTTP/1.1\r\nHost: here\r\n"
PATIENCE_S = 20.0


@contextmanager
def connected(served: Any, text: str | bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_S) as client:
        client.sendall(text.encode() if isinstance(text, str) else text)
        yield client


def status_of(client: socket.socket) -> int:
    """Return the status of an answer, 0 if the server closed the connection without one."""
    with closing(client.makefile("rb")) as answer:
        line = answer.readline()
    return int(line.split()[1]) if line else 0


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(
    serving: Callable[..., Any],
) -> None:
    served = serving(max_bytes=1000)
    with connected(served, f"{POST}Content-Length: 1001\r\n\r\n") as client:
        assert status_of(client) == 413


def test_a_body_that_grows_too_large_is_refused(serving: Callable[..., Any]) -> None:
    served = serving(max_bytes=1000)
    chunk = "200\r\n" + "x" * 0x200 + "\r\n"
    with connected(served, f"{POST}Transfer-Encoding: chunked\r\n\r\n" + 3 * chunk) as client:
        assert status_of(client) == 413
    assert served.ask("POST", "/segment", b"x" * 1000).status == 422
    reply = served.ask("POST", "/v2/models/tiny_bundle/infer", b"x" * 1001)
    assert reply.status == 413
    assert "1000 bytes" in reply.error


def test_a_compressed_body_is_refused_as_it_is_counted_compressed(served: Any) -> None:
    assert served.ask("POST", "/segment", b"x", Content_Encoding="gzip").status == 415


@pytest.mark.parametrize(
    "request_text",
    [
        "nonsense\r\n\r\n",
        f"{POST}Content-Length: -5\r\n\r\n",
        f"{POST}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        f"{POST}Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
    ids=["no request", "a negative length", "two lengths", "no chunk"],
)
def test_what_is_no_http_is_refused_and_the_next_request_answered(
    served: Any, picture: Picture, request_text: str
) -> None:
    with connected(served, request_text) as client:
        assert status_of(client) in (0, 400)
    assert served.ask("POST", "/segment", picture()).status == 200


def test_a_body_that_comes_too_slowly_is_given_up(serving: Callable[..., Any]) -> None:
    served = serving(timeout_s=0.3)
    with connected(served, f"{POST}Content-Length: 100\r\n\r\nsome") as client:
        received = b"".join(iter(lambda: client.recv(65536), b""))  # and the connection is closed
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.3 s" in received
    assert served.metric('edgeseg_requests_total{route="segment",status="408"}') == 1


def test_a_head_that_comes_too_slowly_is_given_up_however_busily_it_drips(
    serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg.serve import server

    monkeypatch.setattr(server, "HEAD_S", 0.3)
    served = serving()
    with connected(served) as silent, connected(served, "GET / HT") as client:
        served.until(lambda: not takes_a_byte(client))
        assert silent.recv(1) == b""


def takes_a_byte(client: socket.socket) -> bool:
    try:
        client.sendall(b"x")
    except OSError:
        return False
    return True


def test_a_connection_may_wait_between_requests_longer_than_a_head_may_take(
    serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg.serve import server

    monkeypatch.setattr(server, "HEAD_S", 0.2)
    served = serving()
    with closing(http.client.HTTPConnection("127.0.0.1", served.port)) as connection:
        connection.request("GET", "/v2")
        assert connection.getresponse().read()
        client = connection.sock
        time.sleep(0.5)
        connection.request("GET", "/v2")
        assert connection.getresponse().status == 200
        assert connection.sock is client  # not a new connection


def test_slow_clients_starve_nobody(serving: Callable[..., Any], picture: Picture) -> None:
    served = serving(queue=2)
    with ExitStack() as slow:
        for _ in range(40):
            slow.enter_context(connected(served, f"{POST}Content-Length: 100\r\n\r\nsome"))
        for i in range(5):
            assert served.ask("POST", "/segment", picture(i)).status == 200


def test_what_unfinished_bodies_hold_together_is_bounded_and_given_back(
    serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg.serve import intake

    monkeypatch.setattr(intake, "BODIES_AT_ONCE", 1)
    served = serving(max_bytes=1000)
    with connected(served, f"{POST}Content-Length: 900\r\n\r\n{'x' * 800}"):
        served.until(lambda: served.ask("POST", "/segment", b"x" * 300).status == 503)
        assert served.ask("POST", "/segment", b"x" * 100).status == 422
    served.until(lambda: served.ask("POST", "/segment", b"x" * 300).status == 422)


def test_a_full_queue_is_status_503_with_a_time_to_come_back_and_the_accepted_are_answered(
    serving: Callable[..., Any], picture: Picture
) -> None:
    served = serving(queue=3, gated=True)
    with ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(served.ask, "POST", "/segment", picture(i)) for i in range(3)]
        served.wait_for("edgeseg_accepted_requests", 3)
        refused = served.ask("POST", "/segment", picture())
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert "3 requests are waiting" in refused.error
        assert served.ask("GET", "/v2/health/ready").status == 200
        served.service.segmenter.session.gate.set()
        assert [one.result(PATIENCE_S).status for one in asked] == [200] * 3
    assert served.ask("POST", "/segment", picture()).status == 200


def test_requests_that_wait_are_run_together_and_no_more_than_the_batch(
    serving: Callable[..., Any], segmenter: Segmenter, picture: Picture
) -> None:
    served = serving(batch=4, wait_ms=0, gated=True)
    with ThreadPoolExecutor(7) as clients:
        first = clients.submit(served.ask, "POST", "/segment", picture(0))
        served.wait_for("edgeseg_accepted_requests", 1)
        served.wait_for("edgeseg_queue_length", 0)
        rest = [clients.submit(served.ask, "POST", "/segment", picture(i)) for i in range(1, 7)]
        served.wait_for("edgeseg_queue_length", 6)
        served.service.segmenter.session.gate.set()
        replies = [one.result(PATIENCE_S) for one in [first, *rest]]
    assert served.service.segmenter.session.batches == [1, 4, 2]
    for i, reply in enumerate(replies):
        mask = np.asarray(Image.open(io.BytesIO(reply.body)))
        np.testing.assert_array_equal(mask, segmenter(picture(i)).class_map)


def test_a_request_whose_client_went_away_is_never_run(
    serving: Callable[..., Any], picture: Picture
) -> None:
    served = serving(gated=True, wait_ms=0)
    session, data = served.service.segmenter.session, picture()
    request = f"{POST}Content-Length: {len(data)}\r\n\r\n".encode() + data
    with connected(served, request):
        served.wait_for("edgeseg_accepted_requests", 1)
        served.wait_for("edgeseg_queue_length", 0)  # it is in the network, behind the gate
        with connected(served, request):
            served.wait_for("edgeseg_queue_length", 1)
        served.wait_for('edgeseg_requests_total{route="segment",status="499"}', 1)
        served.wait_for("edgeseg_accepted_requests", 1)
    served.wait_for("edgeseg_accepted_requests", 0)
    session.gate.set()
    assert served.ask("POST", "/segment", data).status == 200
    assert session.batches == [1, 1]  # the first and the last; the second was taken back


def test_a_client_that_goes_away_in_the_middle_of_its_body_costs_nothing(
    serving: Callable[..., Any],
) -> None:
    served = serving()
    with connected(served, f"{POST}Content-Length: 1000\r\n\r\nsome"):
        pass
    served.wait_for('edgeseg_requests_total{route="segment",status="499"}', 1)
    assert served.metric("edgeseg_accepted_requests") == 0


def test_an_answer_that_takes_too_long_is_status_503(
    serving: Callable[..., Any], picture: Picture
) -> None:
    served = serving(timeout_s=0.4, gated=True)
    reply = served.ask("POST", "/segment", picture())
    assert reply.status == 503
    assert "no answer within 0.4 s" in reply.error


def test_a_bug_is_status_500_in_one_line_and_the_server_goes_on(
    serving: Callable[..., Any], picture: Picture
) -> None:
    served = serving(gated=True)
    session = served.service.segmenter.session
    session.gate.set()
    for error, status in ((ZeroDivisionError("secret"), 500), (MemoryError(), 503)):
        session.error = error
        reply = served.ask("POST", "/segment", picture())
        assert reply.status == status
        assert "secret" not in reply.error
    session.error = None
    assert served.ask("POST", "/segment", picture()).status == 200


def test_the_event_loop_answers_while_the_workers_decode(
    serving: Callable[..., Any], picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, go = serving(), threading.Event()
    segmenter = served.service.segmenter
    prepare = segmenter.prepare
    monkeypatch.setattr(
        segmenter, "prepare", lambda data: go.wait(PATIENCE_S) and prepare(data), raising=True
    )
    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(served.ask, "POST", "/segment", picture(i)) for i in range(8)]
        served.wait_for("edgeseg_accepted_requests", 8)
        assert served.ask("GET", "/v2/health/live").status == 200
        go.set()
        assert {one.result(PATIENCE_S).status for one in asked} == {200}
