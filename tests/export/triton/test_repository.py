"""Versions, other people's files, and that a failure changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseg.labels import Labels, read_class_table
from edgeseg_export.triton import repository as module
from edgeseg_export.triton.repository import _label_table

Triton, Parse = Callable[..., Any], Callable[[Path], Any]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def model(repository: Path, triton: Triton, bundle: Path) -> Path:
    """A repository with version 1 of our model, made with ``--instances 2``."""
    assert triton(bundle, "--out", repository, "--instances", 2).code == 0
    return repository / "street"


def snapshot(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_folder_holds_what_triton_and_clients_need(model: Path) -> None:
    assert set(snapshot(model)) == {"config.pbtxt", "edgeseg.json", "labels.tsv", "1/model.onnx"}


def test_the_same_bundle_gives_the_same_bytes(
    triton: Triton, bundle: Path, model: Path, tmp_path: Path
) -> None:
    assert triton(bundle, "--out", tmp_path / "again", "--instances", 2).code == 0
    assert snapshot(tmp_path / "again" / "street") == snapshot(model)


def test_the_labels_are_the_bundles(model: Path, bundle: Path) -> None:
    labels, void = read_class_table(model / "labels.tsv")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert list(labels.names) == manifest["labels"]["names"]
    assert [list(color) for color in labels.palette] == manifest["labels"]["palette"]
    assert not void


def test_nasty_labels_come_back(tmp_path: Path) -> None:
    names = ("a\tb", 'say "x"', "two\nlines", "", " 東京 ")
    labels = Labels(names=names, palette=tuple((i, 0, 255) for i in range(len(names))))
    (tmp_path / "labels.tsv").write_bytes(_label_table(labels))
    assert read_class_table(tmp_path / "labels.tsv")[0] == labels


def test_a_new_version_keeps_the_old_ones(
    triton: Triton, bundle: Path, model: Path, parse: Parse
) -> None:
    before = snapshot(model)
    (model / "notes.txt").write_text("mine")
    (model / "link").symlink_to("notes.txt")
    options = ("--instances", 2, "--variant", "int8-cpu", "--kind", "cpu")
    done = triton(bundle, "--out", model.parent, "--model-version", 10, "--instances", 2, "--json")
    assert done.code == 0, done.err
    assert done.document["versions"] == [1, 10]
    after = snapshot(model)
    assert after["1/model.onnx"] == before["1/model.onnx"] == after["10/model.onnx"]
    assert after["notes.txt"] == b"mine"
    assert (model / "link").is_symlink()
    parameters = parse(model).parameters
    for version in (1, 10):
        assert parameters[f"edgeseg.{version}.variant"].string_value == "fp32"
    assert [path.name for path in model.parent.iterdir()] == ["street"]
    refused = triton(bundle, "--out", model.parent, "--model-version", 11, *options)
    assert refused.code == 2
    assert "instance_group" in refused.error_line


def test_versions_are_listed_in_numerical_order(triton: Triton, bundle: Path, model: Path) -> None:
    for version in (10, 2):
        options = ("--instances", 2, "--model-version", version)
        assert triton(bundle, "--out", model.parent, *options).code == 0
    record = json.loads((model / "edgeseg.json").read_text())
    assert list(record["versions"]) == ["1", "2", "10"]


def test_a_version_that_exists_is_replaced_only_by_force(
    triton: Triton, bundle: Path, model: Path, edit_manifest: Any
) -> None:
    edit_manifest(lambda manifest: manifest["model"].update(weights_sha256="0" * 64))
    before = snapshot(model)
    done = triton(bundle, "--out", model.parent, "--instances", 2)
    assert done.code == 2
    assert "has a version 1 already" in done.error_line
    assert snapshot(model) == before
    assert triton(bundle, "--out", model.parent, "--instances", 2, "--force").code == 0
    assert "0" * 64 in (model / "config.pbtxt").read_text()


def test_force_changes_the_options_of_the_only_version(
    triton: Triton, bundle: Path, model: Path, parse: Parse
) -> None:
    assert triton(bundle, "--out", model.parent, "--instances", 5, "--force").code == 0
    assert parse(model).instance_group[0].count == 5


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_version_with_other_options_never_replaces_others(
    triton: Triton, bundle: Path, model: Path, force: list[str]
) -> None:
    before = snapshot(model)
    options = ("--instances", 2, "--max-batch", 4, "--model-version", 2)
    done = triton(bundle, "--out", model.parent, *options, *force)
    assert done.code == 2
    assert "version 1 with another max_batch_size, dynamic_batching" not in done.error_line
    assert "version 1 with another max_batch_size, model_warmup" in done.error_line
    assert snapshot(model) == before


def test_a_version_with_other_classes_is_refused(
    triton: Triton, bundle: Path, model: Path, edit_manifest: Any
) -> None:
    edit_manifest(lambda manifest: manifest["labels"]["names"].__setitem__(0, "something else"))
    done = triton(bundle, "--out", model.parent, "--instances", 2, "--model-version", 2)
    assert done.code == 2
    assert "another labels.tsv" in done.error_line


def test_a_version_of_another_backend_is_refused(
    triton: Triton, bundle: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "e").write_bytes(b"engine")
    options = ("--instances", 2, "--model-version", 2, "--plan", tmp_path / "e")
    done = triton(bundle, "--out", model.parent, *options)
    assert done.code == 2
    assert "backend" in done.error_line


def test_an_edited_configuration_is_not_overwritten(
    triton: Triton, bundle: Path, model: Path
) -> None:
    with (model / "config.pbtxt").open("a") as file:
        file.write("# tuned by hand\n")
    options = ("--out", model.parent, "--instances", 2, "--model-version", 2)
    done = triton(bundle, *options)
    assert done.code == 2
    assert "was edited" in done.error_line
    assert not (model / "2").exists()
    assert triton(bundle, *options, "--force").code == 0
    assert "tuned by hand" not in (model / "config.pbtxt").read_text()


def test_other_models_stay_untouched(triton: Triton, bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "r" / "other"
    (other / "1").mkdir(parents=True)
    (other / "config.pbtxt").write_text('name: "other"')
    before = snapshot(other)
    assert triton(bundle, "--out", tmp_path / "r").code == 0
    assert snapshot(other) == before
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"other", "street"}


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_model_of_somebody_else_is_never_replaced(
    triton: Triton, bundle: Path, tmp_path: Path, force: list[str]
) -> None:
    theirs = tmp_path / "r" / "street"
    (theirs / "1").mkdir(parents=True)
    (theirs / "config.pbtxt").write_text('name: "street"')
    done = triton(bundle, "--out", tmp_path / "r", *force)
    assert done.code == 2
    assert "not written by edgeseg" in done.error_line
    assert set(snapshot(theirs)) == {"config.pbtxt"}


def test_a_model_behind_a_link_is_not_replaced(
    triton: Triton, bundle: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "street").symlink_to(model)
    (tmp_path / "r" / "other" / "1").mkdir(parents=True)
    assert triton(bundle, "--out", tmp_path / "r", "--force").code == 2
    assert (tmp_path / "r" / "street").is_symlink()


def test_a_folder_with_other_files_becomes_a_repository_only_by_force(
    triton: Triton, bundle: Path
) -> None:
    before = snapshot(bundle)
    done = triton(bundle, "--out", bundle)
    assert done.code == 2
    assert "no Triton model" in done.error_line
    assert snapshot(bundle) == before
    assert triton(bundle, "--out", bundle, "--force").code == 0
    assert snapshot(bundle).items() >= before.items()


@pytest.mark.parametrize("existing", [False, True])
def test_a_crash_leaves_what_was_there(
    triton: Triton,
    bundle: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    existing: bool,
) -> None:
    before = snapshot(model.parent)

    def crash(*_: object) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(module, "config_text", crash)
    options = ["--model-version", "2", "--instances", "2"] if existing else ["--name", "new"]
    assert triton(bundle, "--out", model.parent, *options).code == 7
    assert snapshot(model.parent) == before
    assert [path.name for path in model.parent.iterdir()] == ["street"]


def test_two_commands_at_once_lose_no_version(
    triton: Triton, bundle: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._write_onnx

    def slow(*arguments: Any) -> Any:
        command = ["triton", bundle, "--out", model.parent, "--instances", "2"]
        other = [sys.executable, "-m", "edgeseg", *command, "--model-version", "2"]
        subprocess.run(other, check=True, capture_output=True)
        return real(*arguments)

    monkeypatch.setattr(module, "_write_onnx", slow)
    done = triton(bundle, "--out", model.parent, "--instances", 2, "--model-version", 3)
    assert done.code == 2
    assert "meanwhile" in done.error_line
    assert (model / "2" / "model.onnx").is_file()
    assert not (model / "3").exists()
