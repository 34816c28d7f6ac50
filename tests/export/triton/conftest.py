"""Bundles with all kinds of graphs, the command line, Triton's schema and a stand-in server."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from edgeseg.cli.main import main
from edgeseg_export.graph.torch_export import tensor_specs, to_onnx

TINY_BUNDLE = Path(__file__).parents[2] / "data" / "tiny_bundle"


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error_line(self) -> str:
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("edgeseg: error: "), self.err
        return self.err.rstrip("\n")


@pytest.fixture
def triton(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Run the command in this process: ``triton(bundle, "--out", repository)``."""

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main(["triton", *(str(argument) for argument in arguments)])
        printed = capsys.readouterr()
        assert isinstance(done.value.code, int)
        return Finished(done.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the committed bundle that a test may change."""
    return Path(shutil.copytree(TINY_BUNDLE, tmp_path / "street"))


Edit = Callable[[Callable[[dict[str, Any]], object]], None]


@pytest.fixture
def edit_manifest(bundle: Path) -> Edit:
    """Change the manifest of ``bundle`` as parsed JSON."""

    def edit(change: Callable[[dict[str, Any]], object]) -> None:
        path = bundle / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return edit


@pytest.fixture
def set_graph(bundle: Path, edit_manifest: Edit, make_network: Callable[..., Any]) -> Any:
    """Give ``bundle`` another fp32 graph: other outputs, or a free size."""

    def change(output: str, dynamic_size: bool) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        size = (manifest["preprocessing"]["height"], manifest["preprocessing"]["width"])
        classes = len(manifest["labels"]["names"])
        network = make_network(num_classes=classes)
        data = to_onnx(network, *size, output=output, dynamic_size=dynamic_size)
        image, outputs = tensor_specs(*size, classes, output=output, dynamic_size=dynamic_size)
        (bundle / "model.fp32.onnx").write_bytes(data)
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

        def edit(document: dict[str, Any]) -> None:
            document["files"]["model.fp32.onnx"] = entry
            document["dynamic_size"] = dynamic_size
            document["input"] = image.model_dump(mode="json")
            document["outputs"] = [spec.model_dump(mode="json") for spec in outputs]

        edit_manifest(edit)

    return change


@pytest.fixture
def add_variant(edit_manifest: Edit) -> Any:
    """Add a variant that shares the int8 file, which no test of the configuration runs."""

    def add(name: str, precision: str, target: str) -> None:
        def edit(document: dict[str, Any]) -> None:
            variant = document["variants"]["int8-cpu"]
            document["variants"][name] = {**variant, "precision": precision, "target": target}

        edit_manifest(edit)

    return add


@pytest.fixture
def parse() -> Callable[[Path], Any]:
    """Read a model's ``config.pbtxt`` with Triton's schema; unknown fields are errors."""

    def read(model: Path) -> Any:
        text = (model / "config.pbtxt").read_text(encoding="ascii")
        return text_format.Parse(text, model_config_pb2.ModelConfig())

    return read


class StandIn(ThreadingHTTPServer):
    """Answers the KServe v2 protocol with its binary extension, as the configuration tells it."""

    def __init__(self, repository: Path, parse: Callable[[Path], Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = {}
        for model in repository.iterdir():
            config = parse(model)
            version = max(int(path.name) for path in model.iterdir() if path.name.isdecimal())
            file = model / str(version) / config.default_model_filename
            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            self.models[config.name] = (config, version, session)


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        words = self.path.strip("/").split("/")
        if words[:2] == ["v2", "health"]:
            self._answer(b"")
        elif words[:2] == ["v2", "models"] and words[2] in self.server.models:
            config, version, _ = self.server.models[words[2]]
            document = {"name": config.name, "versions": [str(version)], "platform": ""}
            document["inputs"] = [_metadata(tensor) for tensor in config.input]
            document["outputs"] = [_metadata(tensor) for tensor in config.output]
            self._answer(b"" if words[3:] == ["ready"] else json.dumps(document).encode())
        else:
            self._fail(f"unknown: {self.path}")

    def do_POST(self) -> None:
        config, version, session = self.server.models[self.path.split("/")[3]]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head_length = int(self.headers.get("Inference-Header-Content-Length", len(body)))
        head, raw = json.loads(body[:head_length]), body[head_length:]
        feeds = {}
        for tensor, declared in zip(head["inputs"], config.input, strict=True):
            expected = _metadata(declared)
            batch, *rest = tensor["shape"]
            dims = zip(rest, expected["shape"][1:], strict=True)
            if (
                tensor["name"] != declared.name
                or tensor["datatype"] != expected["datatype"]
                or not 1 <= batch <= config.max_batch_size
                or any(want not in (-1, have) for have, want in dims)
            ):
                self._fail(f"unexpected input {tensor}, expected {expected}")
                return
            size = tensor["parameters"]["binary_data_size"]
            dtype = triton_to_np_dtype(tensor["datatype"])
            feeds[tensor["name"]] = np.frombuffer(raw[:size], dtype).reshape(tensor["shape"])
            raw = raw[size:]
        assert head["parameters"]["binary_data_output"]
        names = [tensor.name for tensor in config.output]
        outputs, blobs = [], []
        for name, array in zip(names, session.run(names, feeds), strict=True):
            blobs.append(np.ascontiguousarray(array).tobytes())
            described = {"name": name, "datatype": np_to_triton_dtype(array.dtype)}
            sizes = {"shape": array.shape, "parameters": {"binary_data_size": len(blobs[-1])}}
            outputs.append({**described, **sizes})
        answer = {"model_name": config.name, "model_version": str(version), "outputs": outputs}
        text = json.dumps(answer).encode()
        self._answer(text + b"".join(blobs), {"Inference-Header-Content-Length": str(len(text))})

    def _answer(self, body: bytes, headers: dict[str, str] | None = None, code: int = 200) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, message: str) -> None:
        self._answer(json.dumps({"error": message}).encode(), code=400)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


def _metadata(tensor: Any) -> dict[str, Any]:
    """Describe a tensor as Triton does: with the batch axis."""
    kind = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return {"name": tensor.name, "datatype": kind, "shape": [-1, *tensor.dims]}


@pytest.fixture
def serve(parse: Callable[[Path], Any]) -> Iterator[Callable[[Path], str]]:
    """Start a stand-in for Triton on a repository and return its ``host:port``."""
    servers: list[StandIn] = []

    def start(repository: Path) -> str:
        servers.append(StandIn(repository, parse))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
