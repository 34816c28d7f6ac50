"""The command: what it prints, its exit codes, and what it does without."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Triton = Callable[..., Any]


def test_the_command_says_what_it_wrote(triton: Triton, bundle: Path, tmp_path: Path) -> None:
    done = triton(bundle, "--out", tmp_path / "r")
    assert done.code == 0
    assert "street: version 1 for onnxruntime" in done.out
    assert "onnx_sha256" in done.out
    assert done.err == ""


def test_the_command_prints_one_json_document(triton: Triton, bundle: Path, tmp_path: Path) -> None:
    document = triton(bundle, "--out", tmp_path / "r", "--json").document
    assert document["files"] == ["config.pbtxt", "labels.tsv", "1/model.onnx"]
    assert (document["model"], document["version"]) == ("street", 1)
    assert document["made_from"]["variant"] == "fp32"


def test_an_engine_comes_with_a_warning(triton: Triton, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(b"engine")
    done = triton(bundle, "--out", tmp_path / "r", "--plan", tmp_path / "e")
    assert done.code == 0
    assert "GPU and the TensorRT version" in done.err
    assert "batches of 1 to 8" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "fp4"], "no variant 'fp4'"),
        (["--variant", "int8-cpu"], "add --kind cpu"),
        (["--variant", "int8-cpu", "--kind", "gpu"], "add --kind cpu"),
        (["--variant", "int8-trt", "--kind", "gpu"], "add --kind gpu --accelerator tensorrt"),
        (["--variant", "fp8", "--kind", "gpu", "--accelerator", "tensorrt"], "--plan"),
        (["--accelerator", "tensorrt"], "add --kind gpu"),
        (["--engine-cache", "/x"], "--accelerator tensorrt"),
        (["--max-batch", "1", "--max-queue-delay-us", "9"], "--max-batch 1 makes none"),
        (["--max-batch", "0"], "max-batch"),
        (["--model-version", "0"], "model-version"),
        (["--instances", "0"], "instances"),
        (["--kind", "tpu"], "kind"),
        (["--name", "../x"], "no model name"),
        (["--name", ""], "no model name"),
        (["--name", "a/b"], "no model name"),
        (["--name", "x" * 200], "no model name"),
        (["--plan", "FILE", "--variant", "fp32"], "leave out --plan"),
        (["--plan", "FILE", "--kind", "cpu"], "GPUs only"),
        (["--plan", "FILE", "--plan", "FILE"], "two --plan for all GPUs"),
        (["--plan", "8.6=FILE", "--plan", "8.6=x"], "two --plan for 8.6"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(
    triton: Triton,
    bundle: Path,
    tmp_path: Path,
    add_variant: Any,
    options: list[str],
    words: str,
) -> None:
    add_variant("int8-trt", "int8", "tensorrt")
    add_variant("fp8", "fp8", "tensorrt")
    done = triton(bundle, "--out", tmp_path / "r", *options)
    assert done.code == 2
    assert words in done.error_line
    assert not (tmp_path / "r").exists()


def test_a_bundle_folder_that_is_no_model_name_needs_one(
    triton: Triton, bundle: Path, tmp_path: Path
) -> None:
    done = triton(bundle.rename(tmp_path / "my street"), "--out", tmp_path / "r")
    assert done.code == 2
    assert "give one with --name" in done.error_line


def make_engine(path: Path, what: str) -> None:
    if what == "folder":
        path.mkdir()
    elif what == "empty":
        path.touch()
    elif what == "pipe":
        os.mkfifo(path)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nothing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("pipe", "not a plain file"),
    ],
)
def test_an_engine_that_is_no_file_is_exit_4(
    triton: Triton, bundle: Path, tmp_path: Path, what: str, words: str
) -> None:
    make_engine(tmp_path / "e", what)
    done = triton(bundle, "--out", tmp_path / "r", "--plan", tmp_path / "e", "--quiet")
    assert done.code == 4
    assert words in done.error_line
    assert not list((tmp_path / "r").iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["input"]["shape"].__setitem__(0, 1), "fixed batch size 1"),
        (lambda m: m["variants"]["fp32"]["parity"].update(agreement=0), "rejected at export"),
        (lambda m: m["files"]["model.fp32.onnx"].update(sha256="0" * 64), "corrupt"),
    ],
)
def test_a_bundle_that_must_not_be_served_is_exit_4(
    triton: Triton, bundle: Path, tmp_path: Path, edit_manifest: Any, change: Any, words: str
) -> None:
    edit_manifest(change)
    done = triton(bundle, "--out", tmp_path / "r")
    assert done.code == 4
    assert words in done.error_line
    assert not (tmp_path / "r" / "street").exists()


def test_a_folder_that_is_no_bundle_is_exit_4(triton: Triton, tmp_path: Path) -> None:
    assert triton(tmp_path / "none", "--out", tmp_path / "r").code == 4


def test_a_damaged_record_is_exit_4(triton: Triton, bundle: Path, tmp_path: Path) -> None:
    assert triton(bundle, "--out", tmp_path / "r").code == 0
    (tmp_path / "r" / "street" / "edgeseg.json").write_text("{}")
    done = triton(bundle, "--out", tmp_path / "r", "--model-version", "2")
    assert done.code == 4
    assert "edgeseg.json" in done.error_line


def test_a_file_as_repository_is_exit_2(triton: Triton, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "r").touch()
    assert triton(bundle, "--out", tmp_path / "r").code == 2


BLOCKED = """
import sys
for name in ("torch", "onnx", "onnxruntime", "google", "tritonclient"):
    sys.modules[name] = None
from edgeseg.cli.main import main
main(sys.argv[1:])
"""


def test_nothing_but_the_base_install_is_needed(bundle: Path, tmp_path: Path) -> None:
    arguments = ["triton", str(bundle), "--out", str(tmp_path / "r")]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "street" / "1" / "model.onnx").is_file()
