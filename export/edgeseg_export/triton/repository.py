"""A Triton model repository made from a bundle.

    model_repository/
      first/                 one folder per model; other models stay as they are
        config.pbtxt         how Triton serves it
        labels.tsv           class ids, names and colours, for clients
        edgeseg.json         what edgeseg wrote here
        1/model.onnx         one folder per version; or model.plan

The model's folder is put together beside the old one and replaces it as a whole, older versions
included, so a crash leaves what was there.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import edgeseg
from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, UsageError, show
from edgeseg.files import atomic_write, sha256_bytes, staged_folder
from edgeseg.labels import Labels
from edgeseg_export.triton.config import Serving, check_serving, choose_variant, model_config
from edgeseg_export.triton.pbtxt import Message
from edgeseg_export.triton.plans import Plan, copy_plan
from edgeseg_export.triton.record import (
    CONFIG,
    LABELS,
    RECORD,
    Facts,
    Record,
    config_text,
    read_record,
)

OURS = (CONFIG, LABELS, RECORD)


@dataclass(frozen=True)
class Request:
    """What to serve: an ONNX variant (None: the best one), or engines instead of it."""

    name: str
    version: int = 1
    variant: str | None = None
    plans: tuple[Plan, ...] = ()


def model_name(bundle: Path, name: str | None) -> str:
    """Return ``name`` or else the bundle's folder name, if Triton and its URLs can use it.

    Raises:
        UsageError: it has other characters than letters, digits, ``_``, ``-`` and ``.``.
    """
    chosen = bundle.resolve().name if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", chosen):
        raise UsageError(
            f"{show(chosen)} is no model name: up to 128 of A-Z, a-z, 0-9, '_', '-' and '.', "
            "no '.' or '-' first; give one with --name"
        )
    return chosen


def write_version(
    bundle: Bundle, repository: Path, request: Request, serving: Serving, *, force: bool = False
) -> Record:
    """Write one version of a model into a repository, which is made if missing.

    Args:
        bundle: an opened bundle.
        repository: the folder that Triton's ``--model-repository`` names.
        request: what to serve, under which name and version.
        serving: how to serve it.
        force: replace this version, and a ``config.pbtxt`` that was edited.

    Raises:
        UsageError: the options do not fit together or to the model that is there, the version
            exists, or a folder is not ours.
        ArtifactError: the bundle is corrupt or was rejected, or an engine is no plain file.
    """
    check_serving(serving, request.plans, request.variant)
    if failures := bundle.manifest.failures:
        raise ArtifactError(
            f"bundle {show(bundle.path)} was rejected at export: {'; '.join(failures)}"
        )
    variant = None if request.plans else choose_variant(bundle, serving, request.variant)
    source = request.plans if variant is None else bundle.variant(variant)
    config = model_config(request.name, bundle.manifest, serving, source)
    labels = _label_table(bundle.manifest.labels)
    model = repository / request.name
    _check_repository(repository, force=force)
    old = read_record(model)
    versions = {} if old is None else _kept_versions(model, old, request, config, labels, force)
    with staged_folder(model, RECORD, force=old is not None) as folder:
        if old is not None:
            _carry_over(model, folder, without=str(request.version))
        files = folder / str(request.version)
        files.mkdir()
        versions[str(request.version)] = {
            "bundle": bundle.path.resolve().name,
            "edgeseg": edgeseg.__version__,
            **(_write_onnx(bundle, variant, files) if variant else _write_plans(request, files)),
        }
        record = _write_shared(folder, config, labels, versions)
        if read_record(model) != old:
            raise UsageError(f"{show(model)} was changed by somebody meanwhile; run this again")
    return record


def _label_table(labels: Labels) -> bytes:
    """Return the table that ``edgeseg.labels.read_class_table`` reads."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(("id", "name", "r", "g", "b"))
    for i, (name, color) in enumerate(zip(labels.names, labels.palette, strict=True)):
        writer.writerow((i, name, *color))
    return text.getvalue().encode()


def _check_repository(repository: Path, *, force: bool) -> None:
    """Refuse to put a model among somebody's other files: a bundle, a home folder."""
    if not repository.exists():
        return
    if not repository.is_dir():
        raise UsageError(f"output {show(repository)} is a file; expected a model repository")
    entries = [entry for entry in repository.iterdir() if not entry.name.startswith(".")]
    if entries and not force and not any(_is_model(entry) for entry in entries):
        raise UsageError(
            f"output {show(repository)} holds files but no Triton model; choose another folder "
            "or add --force to put one there"
        )


def _is_model(entry: Path) -> bool:
    return entry.is_dir() and (
        (entry / CONFIG).is_file() or any(child.name.isdecimal() for child in entry.iterdir())
    )


def _kept_versions(
    model: Path, old: Record, request: Request, config: Message, labels: bytes, force: bool
) -> dict[str, Facts]:
    """Return the versions that stay beside the new one; they share its config and labels."""
    version = str(request.version)
    if version in old.versions and not force:
        raise UsageError(
            f"{show(model)} has a version {version} already; choose another --model-version "
            "or add --force to replace it"
        )
    kept = {name: facts for name, facts in old.versions.items() if name != version}
    fields = [key for key in {**old.config, **config} if old.config.get(key) != config.get(key)]
    if old.labels_sha256 != sha256_bytes(labels):
        fields.append(LABELS)
    if kept and fields:
        raise UsageError(
            f"{show(model)} has version {', '.join(kept)} with another {', '.join(fields)}, which "
            "all versions share: give the same options, or choose another --name"
        )
    config_path = model / CONFIG
    as_written = config_path.is_file() and sha256_bytes(config_path.read_bytes())
    if as_written != old.config_sha256 and not force:
        raise UsageError(
            f"{show(config_path)} was edited after edgeseg wrote it; add --force to write it anew"
        )
    return kept


def _carry_over(model: Path, folder: Path, *, without: str) -> None:
    """Bring everything else of the old folder into the new one: versions, somebody's files."""
    for entry in model.iterdir():
        if entry.name in (*OURS, without):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, folder / entry.name, symlinks=True, copy_function=_link_or_copy)
        else:
            shutil.copy2(entry, folder / entry.name, follow_symlinks=False)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)  # models are large, and nobody writes into them
    except OSError:
        shutil.copy2(source, target)


def _write_onnx(bundle: Bundle, name: str, folder: Path) -> Facts:
    variant = bundle.variant(name)
    data = bundle.read(variant.file)
    atomic_write(folder / "model.onnx", data)
    return {
        "variant": name,
        "precision": variant.precision,
        "onnx_sha256": sha256_bytes(data),
        "weights_sha256": bundle.manifest.model.weights_sha256,
    }


def _write_plans(request: Request, folder: Path) -> Facts:
    """Copy the engines; only their own hashes are facts, for nothing says what they came from."""
    return {
        f"plan_sha256.{plan.capability}".rstrip("."): copy_plan(plan, folder / plan.name)
        for plan in request.plans
    }


def _write_shared(
    folder: Path, config: Message, labels: bytes, versions: dict[str, Facts]
) -> Record:
    ordered = dict(sorted(versions.items(), key=lambda item: int(item[0])))
    text = config_text(config, ordered).encode()
    record = Record(
        config=config,
        config_sha256=sha256_bytes(text),
        labels_sha256=sha256_bytes(labels),
        versions=ordered,
    )
    atomic_write(folder / LABELS, labels)
    atomic_write(folder / CONFIG, text)
    atomic_write(folder / RECORD, (record.model_dump_json(indent=2) + "\n").encode())
    return record
