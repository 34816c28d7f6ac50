"""``edgeseg run`` over streams: every frame at its time, in its colours; what ends a stream."""

from __future__ import annotations

import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseg import Segmenter
from edgeseg.errors import DeviceError

av = pytest.importorskip("av", reason="needs PyAV, the extra [video]")

Cli = Callable[..., Any]
Pixels = NDArray[np.uint8]
WriteVideo = Callable[..., Path]
ReadVideo = Callable[[Path], list[tuple[Fraction, Pixels]]]


def shades(number: int, size: tuple[int, int] = (48, 64)) -> list[Pixels]:
    """Return pictures of one gray each, every one lighter than the one before."""
    return [np.full((*size, 3), 20 + 4 * i, np.uint8) for i in range(number)]


def scene(size: tuple[int, int]) -> Pixels:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- the result


@pytest.mark.parametrize("batch", [1, 3])
def test_every_frame_is_written_once_in_order_at_its_time(
    edgeseg: Cli, tiny_bundle: Path, write_video: WriteVideo, read_video: ReadVideo, batch: int
) -> None:
    source = write_video("a.mp4", shades(40))
    out = source.with_name("deep") / "out.mp4"
    words = ("run", tiny_bundle, source, "--out", out, "--alpha", 0, "--batch", batch)
    done = edgeseg(*words, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    document = done.document
    assert (document["source"], document["out"]) == (str(source), str(out))
    assert (document["frames_in"], document["frames_done"], document["frames_dropped"]) == (
        *(40, 40, 0),
    )
    assert (document["ended"], document["variant"]) == ("end", "int8-cpu")
    assert document["fps"] == pytest.approx(40 / document["seconds"], rel=0.01)
    assert 0 < document["latency_ms_p50"] <= document["latency_ms_p90"]
    frames = read_video(out)
    assert [time for time, _ in frames] == [Fraction(i, 25) for i in range(40)]
    assert np.allclose([p.mean() for _, p in frames], [20 + 4 * i for i in range(40)], atol=2)
    assert names(out.parent) == {"out.mp4"}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_variable_frame_rates_are_kept(
    edgeseg: Cli, tiny_bundle: Path, write_video: WriteVideo, read_video: ReadVideo, suffix: str
) -> None:
    times = [0, 10, 20, 100, 150, 151, 400, 1000]
    source = write_video("a.mkv", shades(8), times_ms=times)
    out = source.with_name(f"out{suffix}")
    assert edgeseg("run", tiny_bundle, source, "--out", out, "--alpha", 0).code == 0
    frames = read_video(out)
    assert [round(1000 * time) for time, _ in frames] == times
    assert np.allclose([p.mean() for _, p in frames], [20 + 4 * i for i in range(8)], atol=3)


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (96, 131), (720, 64)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_size_and_colours_are_those_of_the_overlay_of_the_frame(
    edgeseg: Cli,
    tiny_bundle: Path,
    write_video: WriteVideo,
    read_video: ReadVideo,
    size: tuple[int, int],
    suffix: str,
) -> None:
    source = write_video("a.mp4", [scene(size)] * 3)
    out = source.with_name(f"out{suffix}")
    words = ("run", tiny_bundle, source, "--out", out, "--variant", "fp32", "--alpha", 0.4)
    assert edgeseg(*words).code == 0
    [(_, picture), *_] = read_frames_as_players_do(source)
    expected = np.asarray(Segmenter.load(tiny_bundle, "ort:cpu", "fp32")(picture).overlay(0.4))
    frames = read_frames_as_players_do(out)
    assert len(frames) == 3
    for _, pixels in frames:
        assert pixels.shape == (*size, 3)
        difference = pixels.astype(int) - expected
        assert np.abs(difference.mean(axis=(0, 1))).max() < 2
        assert np.abs(difference).mean() < 6  # what compression and half colour planes cost


def read_frames_as_players_do(path: Path) -> list[tuple[int, Pixels]]:
    """Decode with the colours that a file declares, else with BT.709 from 720 lines on."""
    found = []
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            matrix = {1: "ITU709", 5: "ITU601", 6: "ITU601"}.get(frame.colorspace)
            matrix = matrix or ("ITU709" if frame.height >= 720 else "ITU601")
            rgb = frame.reformat(format="rgb24", src_colorspace=matrix)
            found.append((frame.pts, rgb.to_ndarray()))
    return found


@pytest.mark.parametrize(("size", "matrix"), [((96, 128), 5), ((720, 64), 1)])
def test_the_video_says_how_its_colours_are_stored(
    edgeseg: Cli,
    tiny_bundle: Path,
    write_video: WriteVideo,
    size: tuple[int, int],
    matrix: int,
) -> None:
    source = write_video("a.mp4", [scene(size)] * 2)
    out = source.with_name("out.mp4")
    assert edgeseg("run", tiny_bundle, source, "--out", out).code == 0
    with av.open(str(out)) as file:
        frame = next(file.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (matrix, 1)


def test_a_turned_video_is_written_upright(
    edgeseg: Cli, tiny_bundle: Path, write_video: WriteVideo, read_video: ReadVideo
) -> None:
    source = write_video("a.mp4", [scene((48, 64))] * 2, rotation=90)
    out = source.with_name("out.mp4")
    assert edgeseg("run", tiny_bundle, source, "--out", out, "--alpha", 0).code == 0
    with av.open(str(out)) as file:
        assert next(file.decode(video=0)).rotation == 0
    [(_, stored), *_], [(_, upright), *_] = read_video(source), read_video(out)
    assert upright.shape == (64, 48, 3)
    assert np.abs(upright.astype(int) - np.rot90(stored)).mean() < 5


def test_sound_is_dropped_and_said(
    edgeseg: Cli, tiny_bundle: Path, write_video: WriteVideo
) -> None:
    source = write_video("a.mp4", shades(3), audio=True)
    out = source.with_name("out.mp4")
    done = edgeseg("run", tiny_bundle, source, "--out", out)
    assert done.code == 0
    assert f"the sound of {source} is not kept\n" in done.err
    assert f"; video in {out}" in done.out
    with av.open(str(out)) as file:
        assert not file.streams.audio


@pytest.mark.parametrize(
    ("options", "frames"),
    [(("--limit", 7), 7), (("--seconds", 0.2), 5), (("--limit", 3, "--seconds", 9), 3)],
)
def test_a_stream_can_be_ended_by_count_or_time(
    edgeseg: Cli,
    tiny_bundle: Path,
    write_video: WriteVideo,
    read_video: ReadVideo,
    options: tuple[Any, ...],
    frames: int,
) -> None:
    source = write_video("a.mp4", shades(20))
    out = source.with_name("out.mp4")
    assert edgeseg("run", tiny_bundle, source, "--out", out, *options).code == 0
    assert len(read_video(out)) == frames


# --- what is refused before any work


def test_streams_and_pictures_are_not_mixed(
    edgeseg: Cli, tiny_bundle: Path, tmp_path: Path
) -> None:
    camera = "rtsp://user:secret@camera/1"
    for sources in (("a.mp4", "b.png"), ("b.png", "a.mp4"), ("a.mp4", camera), (camera, camera)):
        done = edgeseg("run", tiny_bundle, *sources, "--out", tmp_path / "out.mp4")
        assert done.code == 2
        assert "is a stream and stands alone" in done.error_line
        assert "secret" not in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "png"), "--format is for pictures"),
        (("--overlay",), "--overlay is for pictures"),
        (("--tile", "48x64"), "--tile is for pictures"),
        (("--skip-existing",), "--skip-existing is for pictures"),
        (("--fail-fast",), "--fail-fast is for pictures"),
        (("--drop",), "--drop is for cameras"),
        (("--out", "out.gif"), "is no name for a video"),
        (("--out", "a.mp4"), "would be overwritten"),
        (("--out", "BUNDLE/out.mp4"), "is a bundle"),
        (("--out", "folder.mp4"), "is a folder"),
        (("--out", "taken.mp4"), "exists already; add --force"),
    ],
)
def test_what_makes_no_sense_is_refused(
    edgeseg: Cli,
    bundle: Path,
    write_video: WriteVideo,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    source = write_video("a.mp4", shades(2))
    before = source.read_bytes()
    monkeypatch.chdir(source.parent)
    (source.parent / "folder.mp4").mkdir()
    (source.parent / "taken.mp4").write_bytes(b"mine")
    words = [word.replace("BUNDLE", str(bundle)) for word in options]
    out = () if "--out" in words else ("--out", "out.mp4")
    done = edgeseg("run", bundle, "a.mp4", *words, *out)
    assert done.code == 2
    assert message in done.error_line
    assert source.read_bytes() == before
    assert (source.parent / "taken.mp4").read_bytes() == b"mine"


def test_force_replaces_a_video_only_when_the_new_one_is_whole(
    edgeseg: Cli, tiny_bundle: Path, write_video: WriteVideo, read_video: ReadVideo
) -> None:
    source = write_video("a.mp4", shades(2))
    out = source.with_name("out.mp4")
    out.write_bytes(b"old")
    missing = source.with_name("missing.mp4")
    assert edgeseg("run", tiny_bundle, missing, "--out", out, "--force").code == 3
    assert out.read_bytes() == b"old"
    assert edgeseg("run", tiny_bundle, source, "--out", out, "--force").code == 0
    assert len(read_video(out)) == 2


# --- how a stream ends


def test_of_a_damaged_file_what_was_decoded_is_kept(
    edgeseg: Cli, tiny_bundle: Path, write_video: WriteVideo, read_video: ReadVideo
) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(20)]
    source = write_video("a.mp4", noise, container={"movflags": "faststart"})
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    out = source.with_name("out.mp4")
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--json", "--quiet")
    assert done.code == 3
    kept = len(read_video(out))
    assert f"is damaged or broke off after {kept} frames" in done.error_line
    assert done.document["ended"] == "error"
    assert done.document["frames_done"] == kept > 3


@pytest.mark.parametrize("stalls", [False, True])
def test_a_network_camera_is_recorded_until_it_hangs_up_or_falls_silent(
    edgeseg: Cli,
    tiny_bundle: Path,
    rtsp_camera: Callable[..., Any],
    read_video: ReadVideo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stalls: bool,
) -> None:
    monkeypatch.setattr("edgeseg.streams.decode.READ_TIMEOUT_S", 0.5)
    camera = rtsp_camera(shades(50), stalls=stalls)
    out = tmp_path / "out.mp4"
    words = ("run", tiny_bundle, camera.address, "--out", out, "--alpha", 0, "--no-drop")
    done = edgeseg(*words, "--json")
    assert done.code == (3 if stalls else 0)
    assert ("nothing came for 0.5 s" in done.err) == stalls
    assert "secret" not in done.out + done.err
    assert done.document["ended"] == ("error" if stalls else "end")
    means = [pixels.mean() for _, pixels in read_video(out)]
    assert len(means) == done.document["frames_done"] >= 48
    assert np.allclose(np.diff(means), 4, atol=2.5)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, fake_camera: Any) -> Callable[[Iterator[Pixels]], Any]:
    """Put a camera of the test's in the place of ``rtsp://camera/1``."""

    def plug_in(pictures: Iterator[Pixels]) -> Any:
        camera = fake_camera(pictures)
        monkeypatch.setattr("edgeseg.cli.stream.open_source", lambda word: camera)
        return camera

    return plug_in


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_camera_with_a_whole_video_and_a_report(
    edgeseg: Cli,
    tiny_bundle: Path,
    live: Callable[[Iterator[Pixels]], Any],
    read_video: ReadVideo,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    threads = set(threading.enumerate())

    def endless() -> Iterator[Pixels]:
        for i in count():
            if i == 30:
                os.kill(os.getpid(), number)
            yield np.full((48, 64, 3), i % 256, np.uint8)

    camera = live(endless())
    out = tmp_path / "out.mp4"
    words = ("run", tiny_bundle, "rtsp://camera/1", "--out", out, "--no-drop", "--json")
    done = edgeseg(*words)
    assert done.code == 0
    assert "Ctrl-C ends it" in done.err
    assert done.document["ended"] == "stopped"
    assert done.document["frames_in"] == done.document["frames_done"] == len(read_video(out)) >= 30
    assert names(tmp_path) == {"out.mp4"}
    assert camera.closed
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert set(threading.enumerate()) == threads


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
def test_a_second_interrupt_is_an_interrupt(
    edgeseg: Cli,
    tiny_bundle: Path,
    live: Callable[[Iterator[Pixels]], Any],
    tmp_path: Path,
) -> None:
    first, second = threading.Event(), threading.Event()

    def stuck() -> Iterator[Pixels]:
        yield np.zeros((48, 64, 3), np.uint8)
        os.kill(os.getpid(), signal.SIGINT)
        first.wait(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        second.wait(0.2)
        yield np.zeros((48, 64, 3), np.uint8)

    live(stuck())
    words = ("run", tiny_bundle, "rtsp://camera/1", "--out", tmp_path / "out.mp4", "--no-drop")
    assert edgeseg(*words).code == 130
    assert names(tmp_path) == set()


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
def test_an_interrupt_of_a_file_leaves_nothing(
    edgeseg: Cli,
    tiny_bundle: Path,
    write_video: WriteVideo,
    fake_camera: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = write_video("a.mp4", shades(2))
    threads = set(threading.enumerate())

    def long() -> Iterator[Pixels]:
        for i in range(100_000):
            if i == 20:
                os.kill(os.getpid(), signal.SIGINT)
            yield np.zeros((48, 64, 3), np.uint8)

    file = fake_camera(long(), live=False)
    monkeypatch.setattr("edgeseg.cli.stream.open_source", lambda word: file)
    done = edgeseg("run", tiny_bundle, source, "--out", source.with_name("out.mp4"))
    assert done.code == 130
    assert names(source.parent) == {"a.mp4"}
    assert set(threading.enumerate()) == threads


def test_a_stream_that_changes_its_size_ends_with_what_was_done(
    edgeseg: Cli,
    tiny_bundle: Path,
    live: Callable[[Iterator[Pixels]], Any],
    read_video: ReadVideo,
    tmp_path: Path,
) -> None:
    live(iter([*shades(5, (48, 64)), *shades(5, (96, 64))]))
    out = tmp_path / "out.mp4"
    done = edgeseg("run", tiny_bundle, "rtsp://camera/1", "--out", out, "--no-drop")
    assert done.code == 3
    assert "changes its size from 64x48 to 64x96" in done.err
    assert len(read_video(out)) == 5


def test_a_device_that_fails_ends_the_stream_with_its_status_and_keeps_what_was_done(
    edgeseg: Cli,
    tiny_bundle: Path,
    live: Callable[[Iterator[Pixels]], Any],
    read_video: ReadVideo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = Segmenter.infer, count()

    def infer(self: Segmenter, prepared: Any) -> Any:
        if next(calls) == 6:
            raise DeviceError("the GPU is lost")
        return real(self, prepared)

    monkeypatch.setattr(Segmenter, "infer", infer)
    live(np.zeros((48, 64, 3), np.uint8) for _ in count())
    out = tmp_path / "out.mp4"
    done = edgeseg("run", tiny_bundle, "rtsp://camera/1", "--out", out, "--no-drop")
    assert done.code == 6
    assert "the GPU is lost" in done.err
    assert len(read_video(out)) == 6


def test_a_camera_drops_by_default_and_takes_no_batches(
    edgeseg: Cli,
    tiny_bundle: Path,
    live: Callable[[Iterator[Pixels]], Any],
    tmp_path: Path,
) -> None:
    live(iter(shades(3)))
    words = ("run", tiny_bundle, "rtsp://camera/1", "--out", tmp_path / "out.mp4", "--batch", 2)
    done = edgeseg(*words)
    assert done.code == 2
    assert "add --no-drop" in done.err
    live(iter(shades(3)))
    assert edgeseg(*words, "--no-drop").code == 0


def test_a_full_disk_leaves_no_video(
    edgeseg: Cli, tiny_bundle: Path, live: Callable[[Iterator[Pixels]], Any], tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    rng = np.random.default_rng(0)
    live(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(60))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        out = tmp_path / "out.mp4"
        done = edgeseg("run", tiny_bundle, "rtsp://camera/1", "--out", out, "--no-drop")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.code == 7
    assert f"cannot write '{out}': " in done.err
    assert names(tmp_path) == set()


# --- the window


class FakeWindows(types.ModuleType):
    """OpenCV with windows; the user presses a key at the third frame."""

    WINDOW_NORMAL, WND_PROP_VISIBLE = 0, 4
    error = RuntimeError

    def __init__(self, key: int) -> None:
        super().__init__("cv2")
        self.key = key
        self.shown: list[Pixels] = []
        self.open: set[str] = set()

    def namedWindow(self, title: str, flags: int) -> None:  # noqa: N802 - OpenCV's name
        self.open.add(title)

    def imshow(self, title: str, pixels: Pixels) -> None:
        self.shown.append(pixels)

    def waitKey(self, delay: int) -> int:  # noqa: N802 - OpenCV's name
        return self.key if len(self.shown) == 3 else -1

    def getWindowProperty(self, title: str, which: int) -> float:  # noqa: N802 - OpenCV's name
        return 1.0

    def destroyAllWindows(self) -> None:  # noqa: N802 - OpenCV's name
        self.open.clear()


def test_a_window_shows_the_overlay_and_a_key_ends_the_stream(
    edgeseg: Cli,
    tiny_bundle: Path,
    live: Callable[[Iterator[Pixels]], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows = FakeWindows(ord("q"))
    monkeypatch.setitem(sys.modules, "cv2", windows)
    monkeypatch.setenv("DISPLAY", ":0")
    live(np.full((48, 64, 3), (250, 120, 10), np.uint8) for _ in count())
    words = ("run", tiny_bundle, "rtsp://camera/1", "--show", "--no-drop", "--alpha", 0)
    done = edgeseg(*words, "--json")
    assert done.code == 0
    assert (done.document["out"], done.document["ended"]) == (None, "stopped")
    assert done.document["frames_done"] == len(windows.shown) == 3
    assert windows.shown[0][5, 5].tolist() == [10, 120, 250]  # OpenCV has blue first
    assert windows.open == set()


def test_without_a_screen_or_windows_show_is_refused(
    edgeseg: Cli,
    tiny_bundle: Path,
    live: Callable[[Iterator[Pixels]], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("run", tiny_bundle, "rtsp://camera/1", "--show", "--quiet")
    live(iter([]))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform == "linux":
        assert "needs a screen" in edgeseg(*words).error_line
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "cv2", None)
    done = edgeseg(*words)
    assert (done.code, "pip install opencv-python" in done.error_line) == (6, True)
    windows = FakeWindows(0)

    def without(title: str, flags: int) -> None:
        raise windows.error("The function is not implemented")

    monkeypatch.setattr(windows, "namedWindow", without)
    monkeypatch.setitem(sys.modules, "cv2", windows)
    done = edgeseg(*words)
    assert (done.code, "this OpenCV cannot open windows" in done.error_line) == (6, True)


def test_without_an_output_there_must_be_a_window(edgeseg: Cli, tiny_bundle: Path) -> None:
    done = edgeseg("run", tiny_bundle, "rtsp://camera/1")
    assert done.code == 2
    assert "--out is missing" in done.error_line
