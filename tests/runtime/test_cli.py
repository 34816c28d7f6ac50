"""The command line: exit statuses, one line per error, one JSON document, nothing overwritten."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import Segmenter, __version__
from edgeseg.cli.main import COMMANDS
from edgeseg.errors import (
    ArtifactError,
    DeviceError,
    EdgeSegError,
    GateFailed,
    InputError,
    MeasurementInvalid,
    ResourceError,
    UsageError,
)
from edgeseg.images import read_image

Cli = Callable[..., Any]
Pictures = Callable[[Sequence[str]], Path]
Edit = Callable[[Callable[[dict[str, Any]], object]], None]

# Run in a fresh interpreter: imports of the named packages fail as if they were not installed.
BLOCKING = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
from edgeseg.cli.main import main
"""


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        **{"capture_output": True, "text": True, "timeout": 100, **options},
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- help, version, unknown words


@pytest.mark.parametrize("word", ["--help", "-h", "help", None])
def test_help_lists_every_command(edgeseg: Cli, word: str | None) -> None:
    done = edgeseg(*([word] if word else []))
    assert done.code == 0
    assert done.err == ""
    assert done.out.startswith("Usage: edgeseg COMMAND")
    for name, command in COMMANDS.items():
        assert f"  {name:<8} {command.help}\n" in done.out


def test_version_is_the_packages(edgeseg: Cli) -> None:
    assert edgeseg("--version").out == f"edgeseg {__version__}\n"


@pytest.mark.parametrize("word", ["--help", "--version", "nosuch"])
def test_nothing_heavy_is_loaded_before_a_command_is_known(word: str) -> None:
    heavy = ["numpy", "pydantic", "typer", "rich", "PIL", "onnxruntime", "torch"]
    code = f"""
import sys
from edgeseg.cli.main import main
try:
    main([{word!r}])
except SystemExit as done:
    print(done.code, [name for name in {heavy} if sys.modules.get(name)], file=sys.stderr)
"""
    done = python("-c", code)
    expected = "2 " if word == "nosuch" else "0 "
    # An unknown command is refused without the help of typer, too.
    assert done.stderr.splitlines()[-1] == expected + "[]"


def test_python_m_edgeseg_is_the_command() -> None:
    done = python("-m", "edgeseg", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"edgeseg {__version__}\n", "")
    assert python("-m", "edgeseg", "nosuch").returncode == 2


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("rn", "no command 'rn'; did you mean 'run'?"),
        ("benhc", "no command 'benhc'; did you mean 'bench'?"),
        ("xyzzy", "no command 'xyzzy'; commands: train, export, build"),
        ("--bogus", "no option '--bogus'; commands: "),
        ("a\nb", "no command 'a\\nb'; commands: "),
    ],
)
def test_an_unknown_command_is_refused_with_a_hint(edgeseg: Cli, word: str, hint: str) -> None:
    done = edgeseg(word)
    assert done.code == 2
    assert done.out == ""
    assert hint in done.error_line


@pytest.mark.parametrize("command", ["run", "info", "verify", "doctor"])
def test_every_runtime_command_has_help_and_refuses_unknown_options(
    edgeseg: Cli, command: str
) -> None:
    done = edgeseg(command, "--help")
    assert done.code == 0
    assert f"Usage: edgeseg {command}" in done.out
    done = edgeseg(command, "--bogus")
    assert done.code == 2
    assert done.out == ""
    assert "No such option: --bogus" in done.error_line


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "bundle"),
        ("run", "bundle", "a.png"),
        ("info",),
        ("info", "a", "b"),
        ("verify",),
        ("doctor", "now", "then"),
        ("run", "b", "a.png", "--out"),
        ("run", "b", "a.png", "--out", "o", "--batch", "0"),
        ("run", "b", "a.png", "--out", "o", "--batch", "x\n\x1b[31my"),
        ("run", "b", "a.png", "--out", "o", "--backend"),
    ],
)
def test_wrong_arguments_are_usage_errors(edgeseg: Cli, arguments: tuple[str, ...]) -> None:
    done = edgeseg(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.error_line.endswith("; see --help")
    assert "\x1b" not in done.err


def test_words_after_two_dashes_are_no_switches(edgeseg: Cli) -> None:
    done = edgeseg("info", "--", "--json")
    assert done.code == 4
    assert "'--json' does not exist" in done.error_line


# --- errors of every kind

KINDS: list[tuple[BaseException, int, str]] = [
    (UsageError("u"), 2, "u"),
    (InputError("i"), 3, "i"),
    (ArtifactError("a"), 4, "a"),
    (GateFailed("g"), 5, "g"),
    (DeviceError("d"), 6, "d"),
    (ResourceError("r"), 7, "r"),
    (MeasurementInvalid("m"), 8, "m"),
    (EdgeSegError("e"), 1, "e (run with --debug for the traceback)"),
    (InputError("two\nlines \x1b[31mred"), 3, "two\\nlines \\x1b[31mred"),
    (MemoryError("of 8 GB"), 7, "out of memory: of 8 GB"),
    (OSError(errno.ENOSPC, "No space left on device", "f"), 7, "No space left on device ('f')"),
    (OSError(errno.EROFS, "Read-only file system"), 7, "Read-only file system"),
    (PermissionError(errno.EACCES, "Permission denied", "f"), 7, "Permission denied ('f')"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f"), 7, "Not a directory ('f')"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "f"), 7, "File name too long ('f')"),
    (ModuleNotFoundError("x", name="x"), 6, "this needs the package 'x'"),
    (
        ModuleNotFoundError("No module named 'edgeseg.gone'", name="edgeseg.gone"),
        1,
        "internal error: ModuleNotFoundError: No module named 'edgeseg.gone'",
    ),
    (EOFError("end"), 1, "internal error: EOFError: end"),
    (ValueError("two\nlines"), 1, "internal error: ValueError: two (run with --debug"),
    (RecursionError("deep"), 1, "internal error: RecursionError: deep"),
]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("edgeseg.cli.doctor.diagnose", fail)


@pytest.mark.parametrize(("error", "code", "message"), KINDS, ids=lambda value: repr(value)[:40])
def test_every_error_is_one_line_and_its_status(
    edgeseg: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    failing(monkeypatch, error)
    done = edgeseg("doctor")
    assert done.code == code
    assert done.out == ""
    assert done.error_line.startswith(f"edgeseg: error: {message}")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("error", "code", "message"), KINDS, ids=lambda value: repr(value)[:40])
def test_with_json_an_error_is_one_document(
    edgeseg: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    failing(monkeypatch, error)
    done = edgeseg("doctor", "--json", "--quiet")
    assert done.code == code
    assert set(done.document) == {"error"}
    assert set(done.document["error"]) == {"type", "message", "code"}
    assert done.document["error"]["code"] == code
    assert done.document["error"]["message"]
    assert done.error_line


def test_the_json_error_names_its_type(edgeseg: Cli) -> None:
    assert edgeseg("info", "nowhere", "--json").document == {
        "error": {"type": "ArtifactError", "message": "bundle 'nowhere' does not exist", "code": 4}
    }
    assert edgeseg("--json", "nosuch").document["error"]["type"] == "UsageError"
    assert edgeseg("run", "--json").document["error"]["code"] == 2


def test_debug_shows_the_traceback(edgeseg: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ValueError("boom"))
    done = edgeseg("doctor", "--debug")
    assert done.code == 1
    assert done.err.startswith("Traceback (most recent call last):")
    assert done.err.splitlines()[-1] == "edgeseg: error: internal error: ValueError: boom"


@pytest.mark.parametrize(
    ("interrupt", "line"),
    [
        (KeyboardInterrupt(), "edgeseg: interrupted\n"),
        (KeyboardInterrupt("kept in runs/x"), "edgeseg: interrupted: kept in runs/x\n"),
    ],
)
def test_an_interrupt_is_one_line_and_130(
    edgeseg: Cli, monkeypatch: pytest.MonkeyPatch, interrupt: KeyboardInterrupt, line: str
) -> None:
    failing(monkeypatch, interrupt)
    done = edgeseg("doctor")
    assert (done.code, done.out, done.err) == (130, "", line)


# --- streams that are closed or full


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("info", "BUNDLE"), ("info", "BUNDLE", "--json"), ("nosuch", "--json")],
)
def test_a_closed_pipe_is_141_without_a_traceback(
    tiny_bundle: Path, arguments: tuple[str, ...]
) -> None:
    words = [word.replace("BUNDLE", str(tiny_bundle)) for word in arguments]
    read, write = os.pipe()
    os.close(read)
    try:
        done = python(
            "-m", "edgeseg", *words, capture_output=False, stdout=write, stderr=subprocess.PIPE
        )
    finally:
        os.close(write)
    assert done.returncode == 141
    assert done.stderr.count("\n") == (1 if "nosuch" in words else 0), done.stderr


def test_a_closed_stderr_is_141(tiny_bundle: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = python("-m", "edgeseg", "nosuch", capture_output=False, stdout=write, stderr=write)
    finally:
        os.close(write)
    assert done.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a Linux device")
@pytest.mark.parametrize(
    ("arguments", "code"), [(("--version",), 7), (("info", "nowhere", "--json"), 4)]
)
def test_a_full_disk_behind_stdout_is_one_line(arguments: tuple[str, ...], code: int) -> None:
    with Path("/dev/full").open("w") as full:
        done = python(
            "-m", "edgeseg", *arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("edgeseg: error: ")


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors through a shell")
def test_a_closed_stdout_descriptor_is_no_internal_error() -> None:
    shell = 'exec "$0" -m edgeseg --version >&-'
    done = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_a_name_that_is_no_text_is_escaped(tmp_path: Path, tiny_bundle: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    out = os.fsdecode(b"o\xff")
    done = python(
        *("-m", "edgeseg", "run", str(tiny_bundle), "a.png", "--out", out),
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == 0
    assert "masks in o\\udcff" in done.stdout
    assert names(tmp_path / out) == ["a.png"]


# --- missing packages


def test_a_missing_extra_is_one_line_with_the_pip_command() -> None:
    blocked = {"lightning", "torch", "torchvision", "onnx", "matplotlib"}
    for command, extra in (("train", "train"), ("export", "export")):
        code = BLOCKING.format(blocked=blocked) + f"main([{command!r}, '--help'])"
        done = python("-c", code)
        assert done.returncode == 6, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert f'which is not installed; run: pip install "edgeseg[{extra}]"' in done.stderr


def test_the_runtime_works_without_torch_and_all_that_comes_with_it(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    blocked = {
        *("torch", "torchvision", "onnx", "lightning", "onnxscript", "onnxslim", "matplotlib"),
        *("safetensors", "torchmetrics", "edgeseg_train", "edgeseg_export", "edgeseg_benchmarks"),
    }
    Image.new("RGB", (9, 8), (90, 120, 30)).save(tmp_path / "a.png")
    commands = [
        ["run", str(tiny_bundle), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")],
        ["info", str(tiny_bundle)],
        ["verify", str(tiny_bundle)],
        ["doctor"],
    ]
    code = (
        BLOCKING.format(blocked=blocked)
        + f"""
for words in {commands!r}:
    try:
        main(words)
    except SystemExit as done:
        print("status", words[0], done.code, file=sys.stderr)
print("loaded", sorted(filter(sys.modules.get, {blocked!r})), file=sys.stderr)
"""
    )
    done = python("-c", code)
    statuses = [line for line in done.stderr.splitlines() if line.startswith(("status", "loaded"))]
    expected = [f"status {name} 0" for name in ("run", "info", "verify", "doctor")]
    assert statuses == [*expected, "loaded []"]
    assert names(tmp_path / "out") == ["a.png"]


def test_without_onnxruntime_running_is_6_and_info_still_works(
    edgeseg: Cli, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, pictures: Pictures
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    source = pictures(["a.png"])
    out = source.parent / "out"
    there = ("--backend", "ort:cpu")  # openvino may be installed, too
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--quiet", *there)
    assert done.code == 6
    assert 'pip install "edgeseg[cpu]"' in done.error_line
    assert not out.exists()
    assert edgeseg("verify", tiny_bundle, *there).code == 6
    assert edgeseg("info", tiny_bundle).code == 0
    assert edgeseg("doctor").code == 0


# --- info, verify, doctor


def test_info_shows_what_the_manifest_says(edgeseg: Cli, tiny_bundle: Path) -> None:
    done = edgeseg("info", tiny_bundle)
    assert (done.code, done.err) == (0, "")
    shown = ("unet, 8,330 parameters", "uint8 batchx48x64x3 RGB", "150: wall", "int8-cpu")
    assert [text for text in shown if text not in done.out] == []


def test_info_as_json_is_the_manifest(edgeseg: Cli, tiny_bundle: Path) -> None:
    done = edgeseg("info", tiny_bundle, "--json")
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    assert done.document == {"bundle": str(tiny_bundle), **manifest}


def test_info_escapes_what_a_hostile_bundle_names_its_classes(
    edgeseg: Cli, bundle: Path, edit_manifest: Edit
) -> None:
    edit_manifest(lambda manifest: manifest["labels"]["names"].__setitem__(0, "\x1b[2Jwall"))
    done = edgeseg("info", bundle)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "\\x1b[2Jwall" in done.out


def test_paths_are_printed_as_they_are(
    edgeseg: Cli, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    bundle.rename("a:car:[bold]b")
    assert "a:car:[bold]b" in edgeseg("info", "a:car:[bold]b").out


def test_verify_passes_and_says_so(edgeseg: Cli, tiny_bundle: Path) -> None:
    done = edgeseg("verify", tiny_bundle)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split(" on ")[0] for line in lines] == ["PASSED fp32", "PASSED int8-cpu"]


def test_verify_as_json_has_every_variant(edgeseg: Cli, tiny_bundle: Path) -> None:
    document = edgeseg("verify", tiny_bundle, "--json").document
    assert document["passed"] is True
    assert [entry["variant"] for entry in document["variants"]] == ["fp32", "int8-cpu"]
    assert all(entry["agreement"] >= entry["min_agreement"] for entry in document["variants"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--variant", "int8-cpu"), 0),
        (("--variant", "nosuch"), 2),
        (("--backend", "nosuch"), 2),
        (("--backend", "ort:cpu"), 0),
    ],
)
def test_verify_takes_a_variant_and_a_backend(
    edgeseg: Cli, tiny_bundle: Path, options: tuple[str, str], code: int
) -> None:
    assert edgeseg("verify", tiny_bundle, *options).code == code


def test_doctor_names_every_backend(edgeseg: Cli) -> None:
    done = edgeseg("doctor")
    assert done.code == 0
    assert "ort:cpu" in done.out
    document = edgeseg("doctor", "--json").document
    assert document["backends"]["ort:cpu"] is None
    assert document["edgeseg"] == __version__


@pytest.mark.parametrize("command", ["info", "verify", "doctor"])
def test_quiet_prints_nothing(edgeseg: Cli, tiny_bundle: Path, command: str) -> None:
    words = [command] if command == "doctor" else [command, tiny_bundle]
    done = edgeseg(*words, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


# --- run


def test_run_writes_one_mask_per_picture_of_its_size_and_answer(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png", "b.jpg", "c.webp"])
    out = source.parent / "deep" / "out"
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--variant", "fp32")
    assert done.code == 0
    assert "3 of 3 images segmented" in done.out
    assert done.err.startswith("fp32 on ort:cpu (")
    assert names(out) == ["a.png", "b.png", "c.png"]
    segmenter = Segmenter.load(tiny_bundle, "ort:cpu", "fp32")
    for path in source.iterdir():
        with Image.open(out / f"{path.stem}.png") as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.asarray(mask), segmenter(path).class_map)


@pytest.mark.parametrize("batch", [2, 3, 1024])
def test_batches_write_the_same_masks(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures, batch: int
) -> None:
    source = pictures([f"{i}.png" for i in range(5)])
    one, many = source.parent / "one", source.parent / "many"
    assert edgeseg("run", tiny_bundle, source, "--out", one).code == 0
    assert edgeseg("run", tiny_bundle, source, "--out", many, "--batch", batch).code == 0
    assert names(one) == names(many) == [f"{i}.png" for i in range(5)]
    for path in one.iterdir():
        assert path.read_bytes() == (many / path.name).read_bytes()


def test_run_takes_files_folders_and_patterns_and_each_picture_once(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png", "b.jpg"])
    (source / "notes.txt").write_text("no picture")
    (source / "folder.png").mkdir()
    (source / "sub").mkdir()
    shutil.copy(source / "a.png", source / "sub" / "c.png")
    shutil.copy(source / "a.png", source / "[odd] name.PNG")
    out = source.parent / "out"
    done = edgeseg(
        *("run", tiny_bundle, source, source / "a.png", f"{source}/*.jpg", f"{source}/sub/**/*"),
        *("--out", out, "--json"),
    )
    assert done.code == 0
    assert names(out) == ["[odd] name.png", "a.png", "b.png", "c.png"]
    assert done.document["segmented"] == 4


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["[a].png", "a.png"])
    out = source.parent / "out"
    assert edgeseg("run", tiny_bundle, source / "[a].png", "--out", out).code == 0
    assert names(out) == ["[a].png"]


def test_overlays_are_written_beside_the_masks(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"
    assert edgeseg("run", tiny_bundle, source, "--out", out, "--overlay").code == 0
    assert names(out) == ["a.overlay.png", "a.png"]
    with Image.open(out / "a.overlay.png") as overlay, Image.open(source / "a.png") as picture:
        assert overlay.mode == "RGB"
        assert overlay.size == picture.size


def test_run_as_json_is_one_document(edgeseg: Cli, tiny_bundle: Path, pictures: Pictures) -> None:
    source = pictures(["a.png", "b.png"])
    out = source.parent / "out"
    document = edgeseg("run", tiny_bundle, source, "--out", out, "--json").document
    assert (document["segmented"], document["failed"]) == (2, 0)
    assert document["backend"] == "ort:cpu"
    assert document["variant"] == "int8-cpu"
    first = document["images"][0]
    assert first["image"] == str(source / "a.png")
    assert first["mask"] == str(out / "a.png")
    assert (first["height"], first["width"]) == (30, 41)
    assert sum(first["coverage"].values()) == pytest.approx(1, abs=1e-4)


def test_quiet_run_prints_nothing_and_still_writes(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert names(out) == ["a.png"]


@pytest.mark.parametrize("batch", [1, 4])
def test_bad_pictures_among_good_ones_are_listed_and_the_good_are_written(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures, batch: int
) -> None:
    source = pictures(["a.png", "c.png", "e.jpg"])
    (source / "b.png").write_text("no picture")
    (source / "d.jpg").write_bytes((source / "e.jpg").read_bytes()[:200])
    out = source.parent / "out"
    words = ("run", tiny_bundle, source, source / "missing.png", "--out", out, "--batch", batch)
    done = edgeseg(*words, "--json", "--quiet")
    assert done.code == 3
    assert names(out) == ["a.png", "c.png", "e.png"]
    assert (done.document["segmented"], done.document["failed"]) == (3, 3)
    bad = {Path(entry["image"]).name for entry in done.document["images"] if "error" in entry}
    assert bad == {"b.png", "d.jpg", "missing.png"}
    lines = done.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("edgeseg: error: ") for line in lines)


def test_one_bad_picture_of_a_hundred_costs_one_line(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures([f"{i:03d}.png" for i in range(12)])
    for i in range(12, 100):
        shutil.copy(source / f"{i % 12:03d}.png", source / f"{i:03d}.png")
    (source / "050.png").write_text("no picture")
    out = source.parent / "out"
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--json", "--quiet")
    assert done.code == 3
    assert "050.png' is not a readable image" in done.error_line
    entries = done.document["images"]
    assert [Path(entry["image"]).name for entry in entries] == names(source)
    assert [i for i, entry in enumerate(entries) if "error" in entry] == [50]
    assert names(out) == [name for name in names(source) if name != "050.png"]
    segmenter = Segmenter.load(tiny_bundle, "ort:cpu")
    for i in (0, 49, 51, 99):
        with Image.open(out / f"{i:03d}.png") as mask:
            expected = segmenter(source / f"{i:03d}.png").class_map
            assert np.array_equal(np.asarray(mask), expected)


def test_with_fail_fast_the_first_bad_picture_ends_everything(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures([f"{i:02d}.png" for i in range(30)])
    (source / "03.png").write_text("no picture")
    (source / "07.png").write_text("no picture")
    out = source.parent / "out"
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--quiet", "--fail-fast")
    assert done.code == 3
    assert "03.png' is not a readable image" in done.error_line
    assert set(names(out)) >= {"00.png", "01.png", "02.png"}
    assert len(names(out)) < 28


def test_skip_existing_goes_on_after_an_interrupt(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures([f"{i}.png" for i in range(5)])
    out = source.parent / "out"
    assert edgeseg("run", tiny_bundle, source, "--out", out).code == 0
    expected = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "1.png").unlink()
    (out / "2.png").write_bytes(expected["2.png"][:-20])  # cut, as by a copy that broke off
    (out / "3.png").write_bytes(b"no mask")
    before = (out / "0.png").stat().st_mtime_ns
    words = ("run", tiny_bundle, source, "--out", out, "--skip-existing")
    document = edgeseg(*words, "--json").document
    assert (document["segmented"], document["skipped"], document["failed"]) == (3, 2, 0)
    skipped = [Path(entry["image"]).name for entry in document["images"] if "skipped" in entry]
    assert [Path(entry["image"]).name for entry in document["images"]] == sorted(expected)
    assert skipped == ["0.png", "4.png"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == expected
    assert (out / "0.png").stat().st_mtime_ns == before
    done = edgeseg(*words)
    assert "0 of 5 images segmented" in done.out
    assert "5 were there already" in done.out


def test_skip_existing_wants_every_format(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png", "b.png"])
    out = source.parent / "out"
    words = ("run", tiny_bundle, source, "--out", out, "--format", "png,npy")
    assert edgeseg(*words).code == 0
    (out / "b.npy").write_bytes(b"")
    document = edgeseg(*words, "--skip-existing", "--json").document
    assert (document["segmented"], document["skipped"]) == (1, 1)
    assert np.load(out / "b.npy").shape == (31, 40)


def test_skip_existing_and_force_exclude_each_other(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--skip-existing", "--force")
    assert done.code == 2
    assert "give one of them" in done.error_line


def test_formats_are_written_beside_each_other_and_listed(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"
    words = ("run", tiny_bundle, source, "--out", out, "--json")
    document = edgeseg(*words, "--format", "npy,png", "--format", "overlay").document
    assert names(out) == ["a.npy", "a.overlay.png", "a.png"]
    [entry] = document["images"]
    assert entry["mask"] == str(out / "a.png")
    assert entry["files"] == {
        "npy": str(out / "a.npy"),
        "png": str(out / "a.png"),
        "overlay": str(out / "a.overlay.png"),
    }
    with Image.open(out / "a.png") as mask:
        assert np.array_equal(np.load(out / "a.npy"), np.asarray(mask))
    only = source.parent / "only"
    document = edgeseg("run", tiny_bundle, source, "--out", only, "--format", "npy", "--json")
    assert names(only) == ["a.npy"]
    assert "mask" not in document.document["images"][0]
    done = edgeseg(*words, "--format", "jpeg", "--force")
    assert (done.code, "no format 'jpeg'" in done.error_line) == (2, True)


def test_confidence_and_smooth_need_a_bundle_with_logits(
    edgeseg: Cli, tiny_bundle: Path, tiny_logits: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"
    for option in (("--smooth",), ("--confidence",), ("--format", "confidence")):
        done = edgeseg("run", tiny_bundle, source, "--out", out, "--quiet", *option)
        assert done.code == 2
        assert "--output both" in done.error_line
        assert not out.exists()
    words = ("run", tiny_logits, source, "--out", out, "--smooth", "--confidence")
    assert edgeseg(*words, "--variant", "fp32").code == 0
    assert names(out) == ["a.confidence.png", "a.png"]
    segmenter = Segmenter.load(tiny_logits, "ort:cpu", "fp32", smooth=True)
    with Image.open(out / "a.png") as mask:
        assert np.array_equal(np.asarray(mask), segmenter(source / "a.png").class_map)


def test_tiles_see_the_picture_at_its_own_scale(
    edgeseg: Cli, tiny_bundle: Path, tmp_path: Path
) -> None:
    from edgeseg.tiling import TiledSegmenter

    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (100, 150, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    out = tmp_path / "out"
    words = ("run", tiny_bundle, tmp_path / "a.png", tmp_path / "b.png", "--out", out)
    done = edgeseg(*words, "--tile", "48x64", "--overlap", 16, "--batch", 4, "--quiet")
    assert done.code == 3
    assert "b.png' is not a readable image" in done.error_line
    tiled = TiledSegmenter(Segmenter.load(tiny_bundle, "ort:cpu", size=(48, 64)), 16)
    with Image.open(out / "a.png") as mask:
        assert np.array_equal(np.asarray(mask), tiled(picture).class_map)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--overlap", 4), "give --tile HxW, too"),
        (("--tile", "48x64", "--size", "48x64"), "leave --size out"),
        (("--tile", "48x64", "--smooth"), "leave that option out"),
        (("--tile", "48x64", "--confidence"), "leave that option out"),
        (("--tile", "48x64", "--overlap", 48), "overlap"),
        (("--tile", "64x64"), "runs at 48x64 only"),
        (("--show",), "--show is for video and cameras"),
        (("--limit", 3), "--limit is for video and cameras"),
        (("--no-drop",), "--drop is for video and cameras"),
        (("--alpha", 0.5), "--alpha is for video and cameras"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    edgeseg: Cli,
    tiny_bundle: Path,
    pictures: Pictures,
    options: tuple[Any, ...],
    message: str,
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--quiet", *options)
    assert done.code == 2
    assert message in done.error_line
    assert not out.exists()


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
def test_an_interrupt_says_how_far_it_came_and_leaves_whole_masks(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures([f"{i:02d}.png" for i in range(30)])
    out = source.parent / "out"
    real = Segmenter.prepare

    def prepare(self: Segmenter, path: Any) -> Any:
        if path.name == "10.png":
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, path)

    monkeypatch.setattr(Segmenter, "prepare", prepare)
    before = set(threading.enumerate())
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--quiet")
    assert set(threading.enumerate()) == before
    assert done.code == 130
    assert re.fullmatch(
        r"edgeseg: interrupted: \d+ of 30 images were segmented; "
        r"--skip-existing goes on from there\n",
        done.err,
    )
    for path in out.iterdir():
        with Image.open(path) as mask:
            mask.load()
    assert len(names(out)) < 30


@pytest.mark.parametrize("error", [DeviceError("the GPU is lost"), ResourceError("no memory")])
def test_a_device_that_fails_ends_a_folder_with_its_status(
    edgeseg: Cli,
    tiny_bundle: Path,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    error: EdgeSegError,
) -> None:
    source = pictures([f"{i:02d}.png" for i in range(30)])

    def fail(self: Segmenter, prepared: Any) -> Any:
        raise error

    monkeypatch.setattr(Segmenter, "infer", fail)
    before = set(threading.enumerate())
    done = edgeseg("run", tiny_bundle, source, "--out", source.parent / "out", "--quiet")
    assert (done.code, done.out) == (error.exit_code, "")
    assert done.error_line == f"edgeseg: error: {error}"
    assert set(threading.enumerate()) == before


def test_damaged_pictures_print_no_warnings_of_libraries(tmp_path: Path, tiny_bundle: Path) -> None:
    image = Image.new("RGB", (8, 8))
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    image.save(tmp_path / "a.jpg", exif=exif)
    image.save(tmp_path / "b.tif")
    data = bytearray((tmp_path / "b.tif").read_bytes())
    (tmp_path / "b.tif").write_bytes(data[: len(data) - 30])
    done = python(
        *("-m", "edgeseg", "run", str(tiny_bundle), str(tmp_path), "--out", "out", "--quiet"),
        cwd=tmp_path,
    )
    assert "Warning" not in done.stderr
    assert all(line.startswith("edgeseg: error: ") for line in done.stderr.splitlines())
    assert (tmp_path / "out" / "a.png").is_file()


def test_no_readable_picture_at_all_is_3(edgeseg: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for source, message in (
        (tmp_path / "a.png", "is not a readable image"),
        (tmp_path / "missing.png", "does not exist"),
        (tmp_path / "empty", "has no images"),
        (tmp_path / "*.jpg", "matches no file"),
        (tmp_path / "emp*", "matches no file"),
    ):
        done = edgeseg("run", tiny_bundle, source, "--out", out, "--quiet")
        assert done.code == 3
        assert message in done.error_line
    assert not out.exists() or names(out) == []


# --- run never overwrites what it must not


def untouched(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_existing_mask_is_kept_without_force(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png", "b.png"])
    out = source.parent / "out"
    out.mkdir()
    (out / "b.png").write_bytes(b"mine")
    done = edgeseg("run", tiny_bundle, source, "--out", out)
    assert done.code == 2
    assert "b.png' exists already; add --force to overwrite" in done.error_line
    assert untouched(out) == {str(out / "b.png"): b"mine"}
    assert edgeseg("run", tiny_bundle, source, "--out", out, "--force").code == 0
    assert names(out) == ["a.png", "b.png"]
    assert (out / "b.png").read_bytes() != b"mine"


def test_an_existing_overlay_is_kept_without_force(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"
    out.mkdir()
    (out / "a.overlay.png").write_bytes(b"mine")
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--overlay")
    assert done.code == 2
    assert untouched(out) == {str(out / "a.overlay.png"): b"mine"}


@pytest.mark.parametrize("force", [False, True])
def test_two_pictures_for_one_mask_are_refused(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures, force: bool
) -> None:
    source = pictures(["a.png", "a.jpg"])
    out = source.parent / "out"
    done = edgeseg("run", tiny_bundle, source, "--out", out, *(["--force"] if force else []))
    assert done.code == 2
    assert "would both be written to" in done.error_line
    assert not out.exists()


def test_a_mask_and_an_overlay_of_one_name_are_refused(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png", "a.overlay.png"])
    out = source.parent / "out"
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--overlay", "--force")
    assert done.code == 2
    assert "a.overlay.png' as png and " in done.error_line
    assert "a.png' as overlay would both be written to" in done.error_line
    assert edgeseg("run", tiny_bundle, source, "--out", out).code == 0


@pytest.mark.parametrize("way", ["same folder", "symlinked folder", "symlinked mask"])
def test_no_input_is_ever_overwritten_even_with_force(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures, way: str
) -> None:
    source = pictures(["a.png"])
    out = source
    if way == "symlinked folder":
        out = source.parent / "link"
        out.symlink_to(source)
    elif way == "symlinked mask":
        out = source.parent / "out"
        out.mkdir()
        (out / "a.png").symlink_to(source / "a.png")
    before = untouched(source)
    done = edgeseg("run", tiny_bundle, source / "a.png", "--out", out, "--force")
    assert done.code == 2
    assert "would be overwritten; choose another --out" in done.error_line
    assert untouched(source) == before


def test_another_input_is_never_overwritten(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.jpg", "a.overlay.jpg", "b.png"])
    (source / "b.png").rename(source / "a.overlay.png")
    before = untouched(source)
    words = ("run", tiny_bundle, source / "a.jpg", source / "a.overlay.png", "--out", source)
    assert edgeseg(*words, "--overlay", "--force").code == 2
    assert untouched(source) == before


def test_a_jpeg_may_have_its_mask_beside_it(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.jpg"])
    before = (source / "a.jpg").read_bytes()
    assert edgeseg("run", tiny_bundle, source / "a.jpg", "--out", source).code == 0
    assert names(source) == ["a.jpg", "a.png"]
    assert (source / "a.jpg").read_bytes() == before


def test_an_output_that_is_a_file_is_a_usage_error(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png"])
    taken = source.parent / "taken"
    taken.write_bytes(b"mine")
    done = edgeseg("run", tiny_bundle, source, "--out", taken, "--force")
    assert done.code == 2
    assert "is a file; expected a folder" in done.error_line
    done = edgeseg("run", tiny_bundle, source, "--out", taken / "sub", "--quiet")
    assert done.code == 7
    assert "Not a directory" in done.error_line
    assert taken.read_bytes() == b"mine"


def test_a_folder_in_a_masks_place_is_a_usage_error(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"
    (out / "a.png").mkdir(parents=True)
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--force")
    assert done.code == 2
    assert "is a folder; expected a place for a mask" in done.error_line


def test_the_longest_file_names_work(edgeseg: Cli, tiny_bundle: Path, pictures: Pictures) -> None:
    name = "x" * 251
    source = pictures([f"{name}.jpg"])
    out = source.parent / "out"
    assert edgeseg("run", tiny_bundle, source, "--out", out).code == 0
    assert names(out) == [f"{name}.png"]


def test_a_full_disk_leaves_no_half_mask(
    edgeseg: Cli, tiny_bundle: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--quiet")
    assert done.code == 7
    assert "No space left on device" in done.error_line
    assert names(out) == []


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--backend", "ort:gpu"), 2, "no backend 'ort:gpu'"),
        (("--variant", "fp64"), 2, "has no variant 'fp64'"),
        (("--size", "64x64"), 2, "runs at 48x64 only"),
        (("--size", "big"), 2, "is not HEIGHTxWIDTH"),
        (("--size", "9" * 5000), 2, "is not HEIGHTxWIDTH"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_written(
    edgeseg: Cli,
    tiny_bundle: Path,
    pictures: Pictures,
    options: tuple[str, str],
    code: int,
    message: str,
) -> None:
    source = pictures(["a.png"])
    out = source.parent / "out"
    done = edgeseg("run", tiny_bundle, source, "--out", out, "--quiet", *options)
    assert done.code == code
    assert message in done.error_line
    assert not out.exists()


def test_a_corrupt_bundle_writes_nothing(edgeseg: Cli, bundle: Path, pictures: Pictures) -> None:
    with (bundle / "model.int8-cpu.onnx").open("ab") as file:
        file.write(b"\0")
    source = pictures(["a.png"])
    out = source.parent / "out"
    done = edgeseg("run", bundle, source, "--out", out, "--quiet")
    assert done.code == 4
    assert "is corrupt" in done.error_line
    assert not out.exists()


def test_an_empty_source_is_refused_and_masks_never_go_into_a_bundle(
    bundle: Path, tmp_path: Path, edgeseg: Cli
) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    before = names(bundle)
    done = edgeseg("run", str(bundle), "", "--out", str(tmp_path / "masks"))
    assert (done.code, "empty" in done.error_line) == (2, True)
    done = edgeseg("run", str(bundle), str(picture), "--out", str(bundle))
    assert (done.code, "is a bundle" in done.error_line) == (2, True)
    assert names(bundle) == before


# --- found by hostile use


def test_a_link_to_itself_is_one_bad_picture(
    edgeseg: Cli, tiny_bundle: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "loop.png").symlink_to("loop.png")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(pictures / "good.png")
    done = edgeseg("run", tiny_bundle, pictures, "--out", tmp_path / "m", "--backend", "ort:cpu")
    assert done.code == 3
    assert "internal" not in done.err
    assert (tmp_path / "m" / "good.png").exists()


def test_a_pipe_is_no_picture_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="is a pipe"):
        read_image(tmp_path / "a.png")


def test_masks_below_a_bundle_would_spoil_it_too(
    edgeseg: Cli, bundle: Path, tmp_path: Path
) -> None:
    done = edgeseg("run", bundle, bundle.parent, "--out", bundle / "masks")
    assert done.code in (2, 3)
    assert not (bundle / "masks").exists()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    done = edgeseg("run", bundle, tmp_path / "a.png", "--out", bundle / "masks" / "below")
    assert done.code == 2
    assert "is a bundle" in done.err


@pytest.mark.parametrize("words", [("--out", ""), ("--out", "m", "--threads", "99999999999")])
def test_absurd_values_are_usage_errors(
    edgeseg: Cli, tiny_bundle: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    assert edgeseg("run", tiny_bundle, tmp_path / "a.png", *words).code == 2
    for size in ((0, 0), (-4, -4), (10**6, 10**6), (64,), (64, 64, 3)):
        with pytest.raises(UsageError, match="is not"):
            Segmenter.load(tiny_bundle.with_name("tiny_logits"), size=size)
