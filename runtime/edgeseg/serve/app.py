"""The web application: routes, errors as JSON, and a count of every request.

Errors are ``{"error": "one line"}``: 400 malformed, 404 no such thing, 408 too slow, 413 too large,
415 compressed, 422 no picture, 500 the device failed, 503 busy or out of memory.
"""

from __future__ import annotations

from time import perf_counter

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeseg.errors import EdgeSegError, ResourceError, one_line
from edgeseg.serve.intake import RETRY
from edgeseg.serve.metrics import Metrics
from edgeseg.serve.pictures import Pictures
from edgeseg.serve.service import Service
from edgeseg.serve.v2 import V2

CLIENT_GONE = 499  # nginx's number; it is only counted, nobody reads the answer


def build_app(service: Service) -> Starlette:
    """Return the application that serves ``service``."""

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[*Pictures(service).routes(), *V2(service).routes(), Route("/metrics", metrics)],
        middleware=[Middleware(_Observed, metrics=service.metrics)],
        exception_handlers={
            HTTPException: _on_refusal,
            ClientDisconnect: _on_gone,
            EdgeSegError: _on_failure,
            MemoryError: _on_failure,
            Exception: _on_bug,
        },
    )


class _Observed:
    """Counts requests and times them; adds what every answer's head should have."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, status = perf_counter(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-content-type-options", b"nosniff"))
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            self._metrics.answered(_route(scope), status, perf_counter() - start)


def _route(scope: Scope) -> str:
    """Return the name of what answered: a path could be anything, and each would be a series."""
    endpoint = scope.get("endpoint")
    return endpoint.__name__ if endpoint else "none"


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, dict(error.headers or {}))


async def _on_gone(_: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _on_failure(_: Request, error: Exception) -> Response:
    if isinstance(error, ResourceError | MemoryError):
        return _error(503, str(error) or "out of memory", RETRY)
    return _error(500, str(error))


async def _on_bug(_: Request, error: Exception) -> Response:
    return _error(500, f"internal error: {type(error).__name__}")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": one_line(message)}, status_code=status, headers=headers)
