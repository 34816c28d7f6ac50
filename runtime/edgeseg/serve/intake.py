"""What is let in: bodies within their limits, and requests as long as there is room.

A request takes its place in the queue when its body is here, so slow clients hold none. What they
have sent so far is bounded for all of them together.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from edgeseg.images import IMAGE_FORMATS
from edgeseg.serve.limits import Limits
from edgeseg.serve.metrics import Metrics

Answer = TypeVar("Answer")

RETRY = {"Retry-After": "1"}
BODIES_AT_ONCE = 16  # of the largest size; more of smaller ones


class Intake:
    """The door of one server; only its event loop may use it."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        """Let requests in up to ``limits``."""
        self._limits = limits
        self._metrics = metrics
        self._accepted = 0
        self._held_bytes = 0

    @asynccontextmanager
    async def accept(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request's body and give it a place in the queue until the end of the context.

        Raises:
            HTTPException: 408 too slow, 413 too large, 415 compressed, 503 no room.
            ClientDisconnect: the client went away before it had sent everything.
        """
        chunks: list[bytes] = []
        try:
            await self._read(request, chunks)
            if self._accepted >= self._limits.queue:
                raise busy(f"{self._accepted} requests are waiting already")
            self._count(+1)
            try:
                yield b"".join(chunks)
            finally:
                self._count(-1)
        finally:
            self._held_bytes -= sum(map(len, chunks))

    async def answer(self, request: Request, work: Awaitable[Answer]) -> Answer:
        """Return what ``work`` gives; stop it when the client goes away or time is up.

        Raises:
            ClientDisconnect: nobody waits for the answer any more.
            HTTPException: 503 after ``Limits.timeout_s``.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_until_gone(request))
        try:
            timeout = self._limits.timeout_s
            done, _ = await asyncio.wait(
                {task, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done:
                return task.result()
            if gone in done:
                raise ClientDisconnect
            raise busy(f"there was no answer within {timeout:g} s")
        finally:
            task.cancel()
            gone.cancel()

    async def _read(self, request: Request, chunks: list[bytes]) -> None:
        self._check_head(request)
        seconds = self._limits.timeout_s
        try:
            with anyio.fail_after(seconds):
                size = 0
                async for chunk in request.stream():
                    size += len(chunk)
                    self._check_size(size)
                    self._hold(chunk, chunks)
        except TimeoutError:
            message = f"the body did not arrive within {seconds:g} s"
            raise HTTPException(408, message, {"Connection": "close"}) from None

    def _check_head(self, request: Request) -> None:
        if encoding := request.headers.get("content-encoding"):
            raise HTTPException(415, f"Content-Encoding {encoding!r}: send the body as it is")
        declared = request.headers.get("content-length", "")
        if declared.isdigit():  # h11 has refused anything else
            self._check_size(int(declared))

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise HTTPException(
                413, f"the body has more than {self._limits.max_bytes} bytes; see --max-bytes"
            )

    def _hold(self, chunk: bytes, chunks: list[bytes]) -> None:
        if self._held_bytes + len(chunk) > BODIES_AT_ONCE * self._limits.max_bytes:
            raise busy("too much is being sent at once")
        self._held_bytes += len(chunk)
        chunks.append(chunk)

    def _count(self, step: int) -> None:
        self._accepted += step
        self._metrics.accepted.set(self._accepted)


def check_pixels(picture: bytes, limit: int) -> None:
    """Refuse a picture by what its head says, before any pixel is decoded.

    What cannot be read passes: decoding it says why.

    Raises:
        HTTPException: 413, it has more than ``limit`` pixels.
    """
    try:
        with Image.open(io.BytesIO(picture), formats=IMAGE_FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise HTTPException(413, str(error)) from error
    except Exception:  # Pillow's parsers raise whatever a damaged file trips them into
        return
    if width * height > limit:
        raise HTTPException(
            413, f"the picture is {width}x{height}, more than {limit} pixels; see --max-pixels"
        )


def busy(reason: str) -> HTTPException:
    """Return the answer that asks a client to come back."""
    return HTTPException(503, f"the server is busy: {reason}; try again", RETRY)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # the rest of a body that nobody wants
