"""Plain pictures: ``POST /segment`` answers a mask, and ``GET /`` is a page that shows it.

``curl --data-binary @photo.jpg 'http://127.0.0.1:8000/segment?format=overlay' > overlay.png`` sends
the picture as it is, ``curl -F image=@photo.jpg http://127.0.0.1:8000/segment`` as a form.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from functools import partial
from importlib import resources
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgeseg.errors import InputError, show
from edgeseg.segmentation import Segmentation, encode_png
from edgeseg.serve.service import Service

FORMATS = ("png", "overlay", "json")
MAX_COVERAGE = 4096  # bytes of the header; proxies take heads of 8 KiB and more

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
}


class Pictures:
    """The routes for people and for clients without a tensor library."""

    def __init__(self, service: Service) -> None:
        """Serve this service."""
        self._service = service

    def routes(self) -> list[Route]:
        """Return them."""
        pages = [Route(path, self.page) for path in _PAGE]
        return [*pages, Route("/segment", self.segment, methods=["POST"])]

    async def page(self, request: Request) -> Response:
        """Return a file of the web page."""
        name, media_type = _PAGE[request.url.path]
        content = resources.files("edgeseg.serve").joinpath("page", name).read_bytes()
        return Response(content, headers=_PAGE_HEADERS, media_type=media_type)

    async def segment(self, request: Request) -> Response:
        """Segment the picture that is the body, or the only file of a form.

        ``?format=png`` (default) answers the palette PNG of class ids, ``overlay`` the picture
        with the class colours over it, ``json`` coverage, colours, timings and the PNG in base64.
        """
        wanted = request.query_params.get("format", "png")
        if wanted not in FORMATS:
            raise HTTPException(400, f"no format {show(wanted)}; choose from {', '.join(FORMATS)}")
        intake = self._service.intake
        async with intake.accept(request) as body:
            try:
                return await intake.answer(request, self._segment(request, body, wanted))
            except InputError as error:
                raise HTTPException(422, str(error)) from error

    async def _segment(self, request: Request, body: bytes, wanted: str) -> Response:
        picture = await _picture(request, body)
        return await self._service.segment(picture, partial(self._response, wanted))

    def _response(self, wanted: str, result: Segmentation) -> Response:
        if wanted == "json":
            return JSONResponse(self._document(result))
        image = result.mask() if wanted == "png" else result.overlay()
        timings = (f"{stage};dur={ms:.3f}" for stage, ms in result.timings_ms.items())
        headers = {
            "Edgeseg-Coverage": coverage_header(result.coverage),
            "Server-Timing": ", ".join(timings),
        }
        return Response(encode_png(image), headers=headers, media_type="image/png")

    def _document(self, result: Segmentation) -> dict[str, Any]:
        labels, session = result.labels, self._service.segmenter.session
        colors = dict(zip(labels.names, labels.palette, strict=True))
        return {
            "model": self._service.name,
            "backend": session.backend,
            "variant": session.variant,
            **result.to_dict(),
            "colors": {name: f"#{bytes(colors[name]).hex()}" for name in result.coverage},
            "mask_png": base64.b64encode(encode_png(result.mask())).decode(),
        }


async def _picture(request: Request, body: bytes) -> bytes:
    """Return the picture in a body: all of it, or the file of a form."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        return body
    parser = MultiPartParser(request.headers, _once(body), max_files=1, max_fields=16)
    parser.spool_max_size = len(body) + 1  # it is in memory already, no need for a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form is not readable: {error.message}") from error
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise HTTPException(400, "the form has no whole file; send one: -F image=@photo.jpg")
    picture = await files[0].read()
    await form.close()
    return picture


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def coverage_header(coverage: dict[str, float]) -> str:
    """Return shares of the picture as JSON in ASCII: the largest classes that fit a header."""
    kept: dict[str, float] = {}
    size = 2
    for name, share in coverage.items():
        entry = {name: round(share, 6)}
        size += len(json.dumps(entry))
        if size > MAX_COVERAGE:
            break
        kept |= entry
    return json.dumps(kept)
