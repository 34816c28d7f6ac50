"""KServe v2, the Open Inference Protocol: health, metadata and inference, as Triton serves it.

    import tritonclient.http as triton
    client = triton.InferenceServerClient("127.0.0.1:8000")
    client.get_model_metadata("street")

The model's input and outputs are the bundle's tensors. Of Triton's extensions: binary tensors,
model configuration, the repository's index and statistics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgeseg import __version__
from edgeseg.errors import InputError, UsageError, show
from edgeseg.manifest import TensorSpec
from edgeseg.serve.batching import Inferred, Wanted
from edgeseg.serve.service import Service
from edgeseg.serve.tensors import (
    DATATYPES,
    LENGTH,
    InferRequest,
    Output,
    parse_request,
    write_response,
)
from edgeseg.sessions.protocol import LOGITS

VERSION = "1"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
PLATFORM = "edgeseg_onnx"


class V2:
    """The routes under ``/v2``."""

    def __init__(self, service: Service) -> None:
        """Serve this service."""
        self._service = service

    def routes(self) -> list[Route]:
        """Return them."""
        routes = [
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/models/stats", self.statistics),
            Route("/v2/repository/index", self.index, methods=["POST"]),
        ]
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                Route(model, self.model),
                Route(f"{model}/ready", self.model_ready),
                Route(f"{model}/config", self.config),
                Route(f"{model}/stats", self.statistics),
                Route(f"{model}/infer", self.infer, methods=["POST"]),
            ]
        return routes

    async def server(self, _: Request) -> Response:
        """Tell name, version and extensions of the server."""
        return JSONResponse({"name": "edgeseg", "version": __version__, "extensions": EXTENSIONS})

    async def live(self, _: Request) -> Response:
        """Answer at all."""
        return Response()

    async def ready(self, _: Request) -> Response:
        """Tell by the status whether the network works."""
        return Response(status_code=200 if self._service.works else 503)

    async def model_ready(self, request: Request) -> Response:
        """Tell by the status whether the model is this one and works."""
        self._check_model(request)
        return await self.ready(request)

    async def model(self, request: Request) -> Response:
        """Describe the model's tensors."""
        self._check_model(request)
        manifest = self._service.bundle.manifest
        return JSONResponse(
            {
                "name": self._service.name,
                "versions": [VERSION],
                "platform": PLATFORM,
                "inputs": [_metadata(manifest.input)],
                "outputs": [_metadata(spec) for spec in manifest.outputs],
            }
        )

    async def config(self, request: Request) -> Response:
        """Describe the model as Triton's configuration does: dimensions without the batch axis."""
        self._check_model(request)
        manifest = self._service.bundle.manifest
        return JSONResponse(
            {
                "name": self._service.name,
                "platform": PLATFORM,
                "backend": self._service.segmenter.session.backend,
                "max_batch_size": self._service.limits.batch,
                "input": [_config(manifest.input)],
                "output": [_config(spec) for spec in manifest.outputs],
            }
        )

    async def index(self, _: Request) -> Response:
        """List the models: this one."""
        state = "READY" if self._service.works else "UNAVAILABLE"
        entry = {"name": self._service.name, "version": VERSION, "state": state, "reason": ""}
        return JSONResponse([entry])

    async def statistics(self, request: Request) -> Response:
        """Tell how many images were inferred and how long it took."""
        if "name" in request.path_params:
            self._check_model(request)
        statistics = self._service.metrics.statistics()
        entry = {"name": self._service.name, "version": VERSION, **statistics}
        return JSONResponse({"model_stats": [entry]})

    async def infer(self, request: Request) -> Response:
        """Run the model; status 400 for tensors that do not fit it."""
        self._check_model(request)
        intake = self._service.intake
        async with intake.accept(request) as body:
            try:
                return await intake.answer(request, self._infer(body, request.headers.get(LENGTH)))
            except (InputError, UsageError) as error:
                raise HTTPException(400, str(error)) from error

    async def _infer(self, body: bytes, length: str | None) -> Response:
        service = self._service
        with service.metrics.timing("decode"):
            asked = await service.work(parse_request, body, length, service.bundle.manifest)
        dtypes = {output.spec.dtype for output in asked.outputs}
        wanted = Wanted(class_maps=dtypes != {LOGITS}, logits=LOGITS in dtypes)
        inferred = await service.infer(asked.images, wanted)
        with service.metrics.timing("encode"):
            return await service.work(self._response, asked, inferred)

    def _response(self, asked: InferRequest, inferred: Inferred) -> Response:
        head = {"model_name": self._service.name, "model_version": VERSION}
        if asked.id:
            head["id"] = asked.id
        tensors = [(output, _values(output, inferred)) for output in asked.outputs]
        body, json_length = write_response(head, tensors)
        if json_length is None:
            return Response(body, media_type="application/json")
        headers = {LENGTH: str(json_length)}
        return Response(body, headers=headers, media_type="application/octet-stream")

    def _check_model(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self._service.name:
            raise HTTPException(404, f"no model {show(name)}; this is {show(self._service.name)}")
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise HTTPException(404, f"no version {show(version)} of the model; it has {VERSION}")


def _values(output: Output, inferred: Inferred) -> NDArray[Any]:
    if output.spec.dtype == LOGITS:
        assert inferred.logits is not None  # asked for because of this output
        return inferred.logits
    return np.stack([answer.class_map for answer in inferred.answers])


def _metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": _sides(spec)}


def _config(spec: TensorSpec) -> dict[str, Any]:
    data_type = f"TYPE_{DATATYPES[spec.dtype]}"
    return {"name": spec.name, "data_type": data_type, "dims": _sides(spec)[1:]}


def _sides(spec: TensorSpec) -> list[int]:
    return [side if isinstance(side, int) else -1 for side in spec.shape]
