"""ONNX Runtime on the CPU, the real one: right answers, or an error that says why."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.bundle import Bundle
from edgeseg.cpu import cpu_threads
from edgeseg.errors import ArtifactError, DeviceError, InputError, ResourceError
from edgeseg.sessions import Session, open_session
from edgeseg.sessions.ort import PROVIDERS, create_session

Edit = Callable[[Callable[[dict[str, Any]], object]], None]
Replace = Callable[[str, bytes], None]
Script = Callable[..., Any]

IMAGE = (1, 48, 64, 3)


@pytest.fixture
def session(opened: Bundle) -> Session:
    return open_session(opened, "ort:cpu", "fp32")


def pictures(number: int, shape: tuple[int, ...] = IMAGE) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(number)]


# --- opening


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x09" * 50])
def test_a_file_that_is_no_model_is_an_artifact_error(
    bundle: Path, replace_file: Replace, data: bytes
) -> None:
    replace_file("model.fp32.onnx", data)
    with pytest.raises(ArtifactError, match=r"cannot load '.*bundle:fp32'") as caught:
        open_session(Bundle.open(bundle), "ort:cpu", "fp32")
    assert "\n" not in str(caught.value)


def test_a_corrupt_model_is_never_given_to_onnxruntime(
    bundle: Path, pretend: Callable[..., Any]
) -> None:
    machine = pretend([PROVIDERS["ort:cpu"]])
    opened = Bundle.open(bundle)
    (bundle / "model.fp32.onnx").write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="is corrupt"):
        open_session(opened, "ort:cpu", "fp32")
    assert machine.created == []


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        ("input", "name", "pictures"),
        ("input", "dtype", "float32"),
        ("outputs", "name", "logits"),
        ("outputs", "dtype", "float32"),
        ("outputs", "shape", ["batch", 150, 48, 64]),
    ],
)
def test_a_graph_other_than_the_manifest_promises_is_an_artifact_error(
    bundle: Path, edit_manifest: Edit, where: str, field: str, value: object
) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        spec = manifest[where] if where == "input" else manifest[where][0]
        spec[field] = value

    edit_manifest(edit)
    with pytest.raises(ArtifactError, match="which the manifest promises"):
        open_session(Bundle.open(bundle), "ort:cpu", "fp32")


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_the_threads_are_those_of_the_settings_or_all_that_are_ours(
    opened: Bundle, threads: int | None
) -> None:
    raw = create_session(
        opened.read("model.fp32.onnx"), PROVIDERS["ort:cpu"], "tiny", "any", threads
    )
    options = raw.get_session_options()
    assert options.intra_op_num_threads == (threads or cpu_threads())
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_session_keeps_no_second_copy_of_the_file(opened: Bundle) -> None:
    raw = create_session(opened.read("model.fp32.onnx"), PROVIDERS["ort:cpu"], "tiny", "any")
    assert all(value != opened.read("model.fp32.onnx") for value in vars(raw).values())


SUBNORMAL = """
import json, sys
import numpy as np
from edgeseg.bundle import Bundle
from edgeseg.sessions import open_session
bundle = Bundle.open(sys.argv[1])
open_session(bundle, "ort:cpu", "fp32").infer(bundle.reference().images)
print(json.dumps(float((np.array([1e-40], np.float32) * np.float32(0.5))[0])))
"""


def test_a_session_leaves_the_arithmetic_of_its_process_alone(
    script: Script, tiny_bundle: Path
) -> None:
    assert script(SUBNORMAL, tiny_bundle) > 0


QUIET = """
import json, os, sys
from pathlib import Path
from edgeseg.bundle import Bundle
from edgeseg.sessions import open_session
bundle = Bundle.open(sys.argv[1])
open_session(bundle, "ort:cpu", "fp32").infer(bundle.reference().images)
print(json.dumps([str(path) for path in Path.home().rglob("*") if path.is_file()]))
"""


def test_running_a_bundle_writes_no_file_at_home_and_sends_no_telemetry(
    script: Script, tiny_bundle: Path
) -> None:
    assert script(QUIET, tiny_bundle) == []


# --- running


def test_a_session_answers_as_pytorch_did(opened: Bundle, session: Session) -> None:
    reference = opened.reference()
    assert (session.backend, session.variant, session.fallback) == ("ort:cpu", "fp32", None)
    found = session.infer(reference.images)
    assert found.shape == reference.class_maps.shape
    assert found.dtype == np.uint8
    assert np.mean(found == reference.class_maps) > 0.999


def test_logits_of_any_size_agree_with_the_class_map(logits: Bundle) -> None:
    session = open_session(logits, "ort:cpu", "fp32")
    for height, width in ((16, 24), (40, 8)):
        images = pictures(1, (2, height, width, 3))[0]
        found = session.infer_logits(images)
        assert found.shape == (2, 150, height, width)
        assert found.dtype == np.float32
        assert np.array_equal(found.argmax(axis=1), session.infer(images))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros(IMAGE, np.float32),
        np.zeros(IMAGE, np.float16),
        np.zeros(IMAGE, np.int8),
        np.zeros(IMAGE, ">u2"),
        np.zeros(IMAGE, object),
        np.full(IMAGE, np.nan),
        np.zeros((), np.uint8),
        np.zeros((48, 64, 3), np.uint8),
        np.zeros((1, *IMAGE), np.uint8),
        np.zeros((1, 64, 48, 3), np.uint8),
        np.zeros((1, 3, 48, 64), np.uint8),
        np.zeros((1, 48, 64, 4), np.uint8),
        np.zeros((0, 48, 64, 3), np.uint8),
    ],
    ids=lambda images: f"{images.dtype}-{images.shape}",
)
def test_an_input_of_another_shape_or_dtype_is_an_input_error(
    session: Session, images: np.ndarray
) -> None:
    with pytest.raises(InputError) as caught:
        session.infer(images)
    assert f"got shape {images.shape} and dtype {images.dtype}" in str(caught.value)
    assert "expected uint8 ('batch', 48, 64, 3)" in str(caught.value)


def test_an_input_without_height_is_an_input_error_where_any_size_fits(logits: Bundle) -> None:
    with pytest.raises(InputError, match=r"got shape \(1, 0, 64, 3\)"):
        open_session(logits, "ort:cpu", "fp32").infer(np.zeros((1, 0, 64, 3), np.uint8))


def test_arrays_of_any_layout_in_memory_give_the_same_class_map(session: Session) -> None:
    image = pictures(1)[0]
    expected = session.infer(image)
    twice = np.repeat(image, 2, axis=2)
    frozen = image.copy()
    frozen.setflags(write=False)
    layouts = {
        "fortran": np.asfortranarray(image),
        "every second column": twice[:, :, ::2],
        "negative strides": np.ascontiguousarray(image[:, ::-1, :, ::-1])[:, ::-1, :, ::-1],
        "planes": np.ascontiguousarray(image.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
        "read-only": frozen,
        "big-endian": image.astype(">u1"),
        "broadcast": np.broadcast_to(image[:1], IMAGE),
        "unaligned": np.frombuffer(b"x" + image.tobytes(), np.uint8, offset=1).reshape(IMAGE),
    }
    for name, layout in layouts.items():
        assert np.array_equal(layout, image), name
        assert np.array_equal(session.infer(layout), expected), name


def test_what_was_answered_stays_when_the_session_answers_again(session: Session) -> None:
    first, second = pictures(2)
    found = session.infer(first)
    kept = found.copy()
    session.infer(second)
    session.close()
    assert np.array_equal(found, kept)


# --- the end


def test_a_closed_session_raises_and_closes_again(session: Session) -> None:
    session.close()
    session.close()
    with pytest.raises(DeviceError, match="the session is closed; open a new one"):
        session.infer(np.zeros(IMAGE, np.uint8))


@pytest.mark.parametrize(
    ("error", "kind", "later"),
    [
        (RuntimeError("CUDA failure 1: invalid argument"), DeviceError, None),
        (RuntimeError("std::bad_alloc"), ResourceError, None),
        (RuntimeError("CUDA failure 700: an illegal memory access"), DeviceError, "is lost"),
    ],
)
def test_after_an_error_a_session_works_on_or_says_that_it_is_lost(
    opened: Bundle,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
    later: str | None,
) -> None:
    images = opened.reference().images
    expected = session.infer(images)
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise error

        broken.setattr(session, "_run", fail)
        with pytest.raises(kind):
            session.infer(images)
    if later is None:
        assert np.array_equal(session.infer(images), expected)
        return
    for _ in range(3):
        with pytest.raises(DeviceError, match=later):
            session.infer(images)
    session.close()


def test_eight_threads_get_what_one_gets(session: Session) -> None:
    images = pictures(40)
    serial = [session.infer(image) for image in images]
    with ThreadPoolExecutor(8) as threads:
        parallel = list(threads.map(session.infer, images))
    assert all(np.array_equal(a, b) for a, b in zip(serial, parallel, strict=True))


def test_four_sessions_at_once_get_what_one_gets(opened: Bundle) -> None:
    images = pictures(10)
    serial = [open_session(opened, "ort:cpu", "fp32").infer(image) for image in images]

    def work(_: int) -> list[np.ndarray]:
        session = open_session(opened, "ort:cpu", "fp32")
        return [session.infer(image) for image in images]

    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(work, range(4)):
            assert all(np.array_equal(a, b) for a, b in zip(serial, found, strict=True))


def test_a_call_during_close_is_answered_or_refused(opened: Bundle) -> None:
    image = pictures(1)[0]
    expected = open_session(opened, "ort:cpu", "fp32").infer(image)
    session = open_session(opened, "ort:cpu", "fp32")
    answered, refused, wrong = threading.Event(), [], []

    def work(_: int) -> None:
        try:
            while True:
                if not np.array_equal(session.infer(image), expected):
                    wrong.append("another class map")
                answered.set()
        except DeviceError as error:
            refused.append(str(error))

    with ThreadPoolExecutor(4) as threads:
        done = threads.map(work, range(4))
        assert answered.wait(30)
        session.close()
        list(done)
    assert wrong == []
    assert refused == ["the session is closed; open a new one"] * 4


# --- other processes and limits

FORK = """
import gc, json, os, sys, time
import numpy as np
from edgeseg.bundle import Bundle
from edgeseg.errors import DeviceError
from edgeseg.sessions import Settings, open_session

bundle = Bundle.open(sys.argv[1])
images = bundle.reference().images
session = open_session(bundle, "ort:cpu", "fp32", Settings(threads=4))
expected = session.infer(images)
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    try:
        session.infer(images)
        said = "answered"
    except DeviceError as error:
        said = str(error)
    session.close()
    del session
    gc.collect()
    again = open_session(bundle, "ort:cpu", "fp32", Settings(threads=4))
    same = bool(np.array_equal(again.infer(images), expected))
    os.write(writer, json.dumps([said, same]).encode())
    sys.exit(0)
deadline = time.monotonic() + 60
status = None
while status is None and time.monotonic() < deadline:
    ended, code = os.waitpid(child, os.WNOHANG)
    status = code if ended else None
    time.sleep(0.01)
if status is None:
    os.kill(child, 9)
said, same = json.loads(os.read(reader, 10_000) or "[null, null]")
parent = bool(np.array_equal(session.infer(images), expected))
print(json.dumps({"status": status, "said": said, "new": same, "parent": parent}))
"""


def test_a_forked_child_is_told_to_open_its_own_session_and_ends_normally(
    script: Script, tiny_bundle: Path
) -> None:
    found = script(FORK, tiny_bundle)
    assert found["said"].startswith("this session was opened before the process forked")
    assert "'spawn', or open a session in each" in found["said"]
    assert (found["status"], found["new"], found["parent"]) == (0, True, True)


LOADING = """
import json, os, re, sys
from edgeseg.bundle import Bundle
from edgeseg.sessions import Settings, open_session

bundle, kept, counts = Bundle.open(sys.argv[1]), [], []
images = bundle.reference().images[:1]
for time in range(200):
    session = open_session(bundle, "ort:cpu", "int8-cpu", Settings(threads=2))
    session.infer(images)
    if sys.argv[2] == "leak":
        kept.append(session)
    else:
        session.close()
    if time in (99, 199):
        status = open("/proc/self/status").read()
        resident = int(re.search(r"VmRSS:\\s+(\\d+)", status)[1]) / 1024
        threads = int(re.search(r"Threads:\\s+(\\d+)", status)[1])
        counts.append([resident, threads, len(os.listdir("/proc/self/fd"))])
print(json.dumps(counts), flush=True)
os._exit(0)  # 200 sessions that leak take long to end
"""


def test_loading_200_times_leaves_nothing_behind(script: Script, tiny_bundle: Path) -> None:
    before, after = script(LOADING, tiny_bundle, "close")
    assert after[0] - before[0] < 4  # MiB in 100 times
    assert after[1:] == before[1:]  # threads and open files


def test_the_check_sees_sessions_that_stay_open(script: Script, tiny_bundle: Path) -> None:
    before, after = script(LOADING, tiny_bundle, "leak")
    assert after[0] - before[0] > 16
    assert after[1] - before[1] == 100


MEMORY = """
import json, re, resource, sys
import numpy as np
from edgeseg.bundle import Bundle
from edgeseg.errors import EdgeSegError
from edgeseg.sessions import Settings, open_session

session = open_session(Bundle.open(sys.argv[1]), "ort:cpu", "fp32", Settings(threads=1))
small = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
expected = session.infer_logits(small)
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    session.infer_logits(np.zeros((1, 1024, 1024, 3), np.uint8))
    error = "none"
except EdgeSegError as raised:
    error = f"{type(raised).__name__}: {raised}"
same = bool(np.array_equal(session.infer_logits(small), expected))
print(json.dumps([error, same]))
"""


def test_out_of_memory_is_a_resource_error_and_the_next_call_works(
    script: Script, tiny_logits: Path
) -> None:
    error, same = script(MEMORY, tiny_logits)
    assert error.startswith("ResourceError: out of memory during inference on ort:cpu")
    assert same
