"""Triton's own client talks to the server as it would to Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import Segmenter, __version__
from edgeseg.errors import DeviceError, ResourceError

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")
triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
utils = pytest.importorskip("tritonclient.utils")


@pytest.fixture
def client(served: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(served.address) as opened:
        yield opened


def pixels(count: int = 1, size: tuple[int, int] = (48, 64)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def tensor(images: np.ndarray[Any, Any], binary: bool = True) -> Any:
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images, binary_data=binary)
    return given


def test_the_server_lives_is_ready_and_says_who_it_is(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    found = client.get_server_metadata()
    assert (found["name"], found["version"]) == ("edgeseg", __version__)
    assert "binary_tensor_data" in found["extensions"]


@pytest.mark.parametrize("version", ["", "1"])
def test_the_model_is_described_as_its_bundle(client: Any, version: str) -> None:
    assert client.is_model_ready("tiny_bundle", version)
    assert client.get_model_metadata("tiny_bundle", version) == {
        "name": "tiny_bundle",
        "versions": ["1"],
        "platform": "edgeseg_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 48, 64, 3]}],
        "outputs": [{"name": "class_map", "datatype": "UINT8", "shape": [-1, 48, 64]}],
    }
    config = client.get_model_config("tiny_bundle", version)
    assert config["max_batch_size"] == 4
    assert config["input"] == [{"name": "images", "data_type": "TYPE_UINT8", "dims": [48, 64, 3]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_class_maps_are_those_of_the_segmenter_as_bytes_and_as_json(
    client: Any, segmenter: Segmenter, binary_in: bool, binary_out: bool
) -> None:
    images = pixels(3)
    wanted = [triton.InferRequestedOutput("class_map", binary_data=binary_out)]
    answer = client.infer(
        "tiny_bundle", [tensor(images, binary_in)], outputs=wanted, request_id="a 1"
    )
    found = answer.as_numpy("class_map")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, segmenter.session.infer(images))
    head = answer.get_response()
    assert (head["id"], head["model_name"], head["model_version"]) == ("a 1", "tiny_bundle", "1")


def test_all_outputs_come_if_none_is_named_and_equal_the_sessions(
    serving: Callable[..., Any], tiny_logits: Path
) -> None:
    with triton.InferenceServerClient(serving(tiny_logits, batch=2).address) as client:
        answer = client.infer("tiny_logits", [tensor(pixels(2))])
        one = [triton.InferRequestedOutput("logits")]
        logits_only = client.infer("tiny_logits", [tensor(pixels(2))], outputs=one)
    with Segmenter.load(tiny_logits, "ort:cpu", "fp32", threads=1) as segmenter:
        class_maps = segmenter.session.infer(pixels(2))
        logits = segmenter.session.infer_logits(pixels(2))
    np.testing.assert_array_equal(answer.as_numpy("class_map"), class_maps)
    np.testing.assert_array_equal(answer.as_numpy("logits"), logits)
    np.testing.assert_array_equal(logits_only.as_numpy("logits"), logits)
    assert logits_only.as_numpy("class_map") is None


def test_the_network_does_not_run_for_an_output_that_nobody_asked_for(
    serving: Callable[..., Any], tiny_logits: Path
) -> None:
    served = serving(tiny_logits, gated=True)
    session = served.service.segmenter.session
    session.gate.set()
    with triton.InferenceServerClient(served.address) as client:
        for names in (["logits"], ["class_map"], ["class_map", "logits"]):
            wanted = [triton.InferRequestedOutput(name) for name in names]
            client.infer("tiny_logits", [tensor(pixels())], outputs=wanted)
    assert session.batches == [1, 1]  # the calls for class maps


def test_a_bundle_with_a_free_size_runs_smaller_sizes_and_no_larger_ones(
    serving: Callable[..., Any], tiny_logits: Path
) -> None:
    def classes(client: Any, size: tuple[int, int]) -> Any:
        wanted = [triton.InferRequestedOutput("class_map")]
        return client.infer("tiny_logits", [tensor(pixels(1, size))], outputs=wanted)

    with triton.InferenceServerClient(serving(tiny_logits).address) as client:
        found = classes(client, (32, 40)).as_numpy("class_map")
        with pytest.raises(utils.InferenceServerException, match="more pixels than any size"):
            classes(client, (64, 64))
        with pytest.raises(utils.InferenceServerException, match="multiple of 4"):
            classes(client, (30, 40))
    with Segmenter.load(tiny_logits, "ort:cpu", "fp32", threads=1) as segmenter:
        np.testing.assert_array_equal(found, segmenter.session.infer(pixels(1, (32, 40))))


def test_concurrent_requests_of_the_client_each_get_their_own_answer(
    served: Any, segmenter: Segmenter
) -> None:
    stacks = [pixels(1 + i % 4) ^ np.uint8(i) for i in range(12)]
    with triton.InferenceServerClient(served.address, concurrency=8) as client:
        asked = [client.async_infer("tiny_bundle", [tensor(images)]) for images in stacks]
        found = [one.get_result().as_numpy("class_map") for one in asked]
    for images, class_maps in zip(stacks, found, strict=True):
        np.testing.assert_array_equal(class_maps, segmenter.session.infer(images))


def test_what_does_not_fit_is_status_400_with_the_reason(client: Any) -> None:
    with pytest.raises(utils.InferenceServerException, match="expected") as refused:
        client.infer("tiny_bundle", [tensor(pixels(1, (64, 48)))])
    assert refused.value.status() == "400"
    with pytest.raises(utils.InferenceServerException, match="5 images at once") as refused:
        client.infer("tiny_bundle", [tensor(pixels(5))])
    assert refused.value.status() == "400"


def test_another_model_or_version_is_status_404(client: Any) -> None:
    for name, version in (("other", ""), ("tiny_bundle", "2")):
        with pytest.raises(utils.InferenceServerException, match=r"no (model|version)") as refused:
            client.infer(name, [tensor(pixels())], model_version=version)
        assert refused.value.status() == "404"
        assert not client.is_model_ready(name, version)


def test_models_are_not_loaded_over_the_network(client: Any) -> None:
    with pytest.raises(utils.InferenceServerException) as refused:
        client.load_model("tiny_bundle")
    assert refused.value.status() == "404"


def test_index_and_statistics_tell_what_was_served(serving: Callable[..., Any]) -> None:
    with triton.InferenceServerClient(serving(batch=4).address) as client:
        (entry,) = client.get_model_repository_index()
        assert (entry["name"], entry["state"]) == ("tiny_bundle", "READY")
        for count in (1, 3):
            client.infer("tiny_bundle", [tensor(pixels(count))])
        (found,) = client.get_inference_statistics("tiny_bundle")["model_stats"]
        assert client.get_inference_statistics()["model_stats"] == [found]
    assert (found["inference_count"], found["execution_count"]) == (4, 2)
    assert found["inference_stats"]["success"]["count"] == 2
    assert found["inference_stats"]["compute_infer"]["ns"] > 0


def test_a_device_that_fails_makes_the_server_unready_until_it_works_again(
    serving: Callable[..., Any],
) -> None:
    served = serving(gated=True)
    session = served.service.segmenter.session
    session.gate.set()
    with triton.InferenceServerClient(served.address) as client:
        session.error = DeviceError("the GPU is gone")
        with pytest.raises(utils.InferenceServerException, match="the GPU is gone") as refused:
            client.infer("tiny_bundle", [tensor(pixels())])
        assert refused.value.status() == "500"
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("tiny_bundle")
        session.error = ResourceError("no memory")
        with pytest.raises(utils.InferenceServerException, match="no memory") as refused:
            client.infer("tiny_bundle", [tensor(pixels())])
        assert refused.value.status() == "503"
        assert not client.is_server_ready()
        session.error = None
        client.infer("tiny_bundle", [tensor(pixels())])
        assert client.is_server_ready()


def test_a_body_without_json_is_status_400_in_the_protocols_form(served: Any) -> None:
    reply = served.ask("POST", "/v2/models/tiny_bundle/infer", b"\x00\x01")
    assert reply.status == 400
    assert "JSON" in reply.error
    assert served.ask("GET", "/v2/models/tiny_bundle/infer").status == 405
    assert served.ask("GET", "/v2/nothing").status == 404
