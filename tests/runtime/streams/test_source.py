"""What is a stream, and opening one: files, addresses, cameras, and what is wrong with them."""

from __future__ import annotations

import socket
import sys
import types
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.errors import DeviceError, InputError, UsageError
from edgeseg.streams.csi import CsiCamera, gstreamer_pipeline, sensor_of
from edgeseg.streams.source import Timeline, is_local, is_stream, open_source, redacted

WriteVideo = Callable[..., Path]


def shades(count: int, size: tuple[int, int] = (32, 48)) -> list[NDArray[np.uint8]]:
    return [np.full((*size, 3), 20 + 5 * i, np.uint8) for i in range(count)]


@pytest.mark.parametrize(
    ("word", "stream", "local"),
    [
        ("a.mp4", True, True),
        ("folder/12:30.MKV", True, True),
        ("rtsp://camera/1", True, False),
        ("RTSP://camera/1", True, False),
        ("http://host/a.mp4", True, False),
        ("/dev/video0", True, False),
        ("csi://0", True, False),
        ("a.jpg", False, True),
        ("folder", False, True),
        ("*.png", False, True),
        ("/dev/video", False, True),
        ("mp4", False, True),
    ],
)
def test_streams_are_told_from_pictures_by_their_names(
    word: str, stream: bool, local: bool
) -> None:
    assert (is_stream(word), is_local(word)) == (stream, local)


def test_a_folder_with_a_videos_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    assert not is_stream(str(tmp_path / "a.mp4"))


def test_an_address_of_an_unknown_kind_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no streams of kind ftp; known are rtsp, ") as raised:
        is_stream("ftp://user:secret@host/a.mp4")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:secret@host:554/a", "rtsp://host:554/a"),
        ("rtsp://host/a@b", "rtsp://host/a@b"),
        ("rtsp://user:p@ss@host/a", "rtsp://host/a"),
        ("rtsp://host", "rtsp://host"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert redacted(address) == shown


@pytest.mark.parametrize(
    ("given", "placed"),
    [
        ([0, 10, 20], [0, 10, 20]),
        ([90000, 90010, 90035], [0, 10, 35]),
        ([-5, 5, 8], [0, 10, 13]),
        ([None, None, None], [0, 10, 20]),
        ([5, None, 27], [0, 10, 22]),
        ([5, 5, 15], [0, 10, 20]),  # repeated, then on from there
        ([100, 110, 3, 13], [0, 10, 20, 30]),  # the camera began anew
    ],
)
def test_times_start_at_0_and_always_rise(given: list[int | None], placed: list[int]) -> None:
    timeline = Timeline(10)
    assert [timeline.place(pts) for pts in given] == placed


def test_frames_of_a_file_come_in_order_with_their_times(write_video: WriteVideo) -> None:
    path = write_video("12:30.mp4", shades(8), times_ms=[0, 40, 80, 200, 240, 280, 320, 900])
    with closing(open_source(str(path))) as source:
        assert (source.live, source.expected, source.has_audio) == (False, 8, False)
        frames = list(source.frames())
    times = [frame.pts * source.time_base for frame in frames]
    assert times == [Fraction(ms, 1000) for ms in (0, 40, 80, 200, 240, 280, 320, 900)]
    means = [frame.rgb().mean() for frame in frames]
    assert np.allclose(means, [20 + 5 * i for i in range(8)], atol=2)
    assert frames[0].rgb().shape == (32, 48, 3)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_frames_are_turned_upright(write_video: WriteVideo, rotation: int) -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24] = (250, 20, 20)  # the top left corner is red
    path = write_video("a.mp4", [picture] * 3, rotation=rotation)
    with closing(open_source(str(path))) as source:
        turned = next(source.frames()).rgb()
    # FFmpeg counts counterclockwise: its av_display_rotation_get.
    assert turned.shape == ((32, 48, 3) if rotation == 180 else (48, 32, 3))
    corners = {
        90: turned[30:46, 2:14],  # bottom left
        180: turned[18:30, 26:46],  # bottom right
        -90: turned[2:22, 18:30],  # top right
    }
    assert corners[rotation][..., 0].mean() > 200
    assert turned[..., 0].mean() == pytest.approx(250 / 4, abs=12)


@pytest.mark.parametrize(("height", "expected"), [(96, "601"), (720, "709")])
def test_colours_of_untagged_video_are_read_as_players_read_them(
    write_video: WriteVideo, height: int, expected: str
) -> None:
    av = pytest.importorskip("av", reason="needs PyAV, the extra [video]")
    from edgeseg.streams.decode import to_rgb

    luma, blue, red = 100.0, 90.0, 180.0
    frame = av.VideoFrame(64, height, "yuv420p")
    for plane, value in zip(frame.planes, (luma, blue, red), strict=True):
        plane.update(bytes([int(value)]) * plane.buffer_size)
    # ITU-R BT.601 and BT.709, limited range.
    weight_red, weight_blue = {"601": (0.299, 0.114), "709": (0.2126, 0.0722)}[expected]
    scaled, b, r = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    red_out = scaled + 2 * (1 - weight_red) * r
    blue_out = scaled + 2 * (1 - weight_blue) * b
    green_out = (scaled - weight_red * red_out - weight_blue * blue_out) / (
        1 - weight_red - weight_blue
    )
    wanted = 255 * np.array([red_out, green_out, blue_out])
    assert np.abs(to_rgb(frame).mean(axis=(0, 1)) - wanted).max() < 3  # swscale computes in 8 bits


# --- what cannot be opened, and what breaks off


def test_a_file_that_is_no_video_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV, the extra [video]")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(InputError, match=r"cannot open '.*a\.mp4': Invalid data"):
        open_source(str(tmp_path / "a.mp4"))
    with pytest.raises(InputError, match="cannot open '/dev/video63': No such file"):
        open_source("/dev/video63")


def test_a_file_with_sound_only_holds_no_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs PyAV, the extra [video]")
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        sound = file.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        file.mux([*sound.encode(silence), *sound.encode()])
    with pytest.raises(InputError, match="holds no video"):
        open_source(str(tmp_path / "a.mp4"))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_was_cut_gives_what_is_there_and_then_an_error(
    write_video: WriteVideo, share: float
) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(20)]
    path = write_video("a.mp4", pictures, container={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    found = []
    with closing(open_source(str(path))) as source, pytest.raises(InputError) as raised:
        found.extend(frame.rgb().shape for frame in source.frames())
    assert set(found) == {(64, 64, 3)}
    assert f"is damaged or broke off after {len(found)} frames" in str(raised.value)
    assert 20 * share - 8 < len(found) < 20 * share + 1


def test_a_camera_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="needs PyAV, the extra [video]")
    monkeypatch.setattr("edgeseg.streams.decode.OPEN_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(InputError, match=r"no answer within 0\.3 s") as raised:
            open_source(f"rtsp://user:secret@127.0.0.1:{port}/1")
    assert "secret" not in str(raised.value)
    with pytest.raises(InputError, match="Connection refused"):
        open_source(f"rtsp://127.0.0.1:{port}/1")


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(DeviceError, match=r'pip install "edgeseg\[video\]"'):
        open_source(str(tmp_path / "a.mp4"))


# --- a Jetson's cameras


class FakeCapture:
    """OpenCV's VideoCapture of a camera that gives two frames."""

    def __init__(self, pipeline: str, api: int, *, opens: bool = True) -> None:
        self.pipeline, self.api, self.opens = pipeline, api, opens
        self.left, self.released = 2, False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.opens

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        if self.left < 0:
            return False, None
        return True, np.full((4, 6, 3), (1, 2, 3), np.uint8)

    def release(self) -> None:
        self.released = True


def fake_cv2(build: str, captures: list[FakeCapture], *, opens: bool = True) -> types.ModuleType:
    module: Any = types.ModuleType("cv2")

    def capture(pipeline: str, api: int) -> FakeCapture:
        captures.append(FakeCapture(pipeline, api, opens=opens))
        return captures[-1]

    module.VideoCapture, module.CAP_GSTREAMER = capture, 1800
    module.getBuildInformation = lambda: build
    found: types.ModuleType = module
    return found


WITH_GSTREAMER = "    GStreamer:                   YES (1.20.3)\n"


def test_a_csi_camera_is_read_through_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[FakeCapture] = []
    monkeypatch.setitem(sys.modules, "cv2", fake_cv2(WITH_GSTREAMER, captures))
    with closing(open_source("csi://1")) as camera:
        assert (camera.name, camera.live) == ("csi://1", True)
        frames = camera.frames()
        first, second = next(frames), next(frames)
        with pytest.raises(InputError, match="csi://1 gives no more frames"):
            next(frames)
    assert captures[0].released
    assert (captures[0].pipeline, captures[0].api) == (gstreamer_pipeline(1), 1800)
    assert first.pts == 0 < second.pts
    assert first.rgb()[0, 0].tolist() == [3, 2, 1]  # OpenCV has blue first
    assert first.rgb().flags.c_contiguous


def test_the_gstreamer_pipeline_takes_the_sensor_and_ends_in_a_sink_of_one_frame() -> None:
    elements = [element.strip() for element in gstreamer_pipeline(2).split(" ! ")]
    assert elements == [
        "nvarguscamerasrc sensor-id=2",
        "video/x-raw(memory:NVMM), width=1920, height=1080, framerate=30/1",
        "nvvidconv",
        "video/x-raw, format=BGRx",
        "videoconvert",
        "video/x-raw, format=BGR",
        "appsink max-buffers=1 drop=true sync=false",
    ]


def test_sensors_have_numbers() -> None:
    assert [sensor_of(word) for word in ("csi://0", "CSI://12", "rtsp://0", "0")] == [
        *(0, 12, None, None)
    ]
    for word in ("csi://", "csi://-1", "csi://x", "csi://0/1", "csi://100"):
        with pytest.raises(UsageError, match="expected csi://N"):
            sensor_of(word)


def refused(monkeypatch: pytest.MonkeyPatch, cv2: types.ModuleType | None, message: str) -> None:
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    with pytest.raises(DeviceError, match=message):
        CsiCamera(0)


def test_a_csi_camera_without_its_software_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captures: list[FakeCapture] = []
    refused(monkeypatch, None, "no OpenCV is installed")
    without = "    GStreamer:                   NO\n"
    refused(monkeypatch, fake_cv2(without, captures), "this OpenCV has none")
    assert captures == []
    broken = fake_cv2(WITH_GSTREAMER, captures, opens=False)
    refused(monkeypatch, broken, "GStreamer cannot open camera csi://0")
    assert captures[0].released
