"""``edgeseg.json`` in a model's folder: what edgeseg wrote there, so that it can add to it.

A model has one ``config.pbtxt`` for all its versions. The record says what that file holds, so
that a version is added only where it fits, and a file that somebody edited is not lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgeseg.documents import read_document
from edgeseg.errors import UsageError, show
from edgeseg.manifest import Sha256
from edgeseg_export.triton.pbtxt import Message, map_entries, render

RECORD = "edgeseg.json"
CONFIG = "config.pbtxt"
LABELS = "labels.tsv"

Facts = dict[str, str]


class Record(BaseModel):
    """What a model's folder holds.

    Attributes:
        config: the message in ``config.pbtxt``, without ``parameters``.
        config_sha256: of ``config.pbtxt`` as it was written.
        labels_sha256: of ``labels.tsv``.
        versions: per version, what it was made from; these are the ``parameters``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    config: dict[str, Any]
    config_sha256: Sha256
    labels_sha256: Sha256
    versions: dict[str, Facts]


def config_text(config: Message, versions: Mapping[str, Facts]) -> str:
    """Return ``config.pbtxt``; its parameters make every version traceable on a running server."""
    parameters = {
        f"edgeseg.{version}.{name}": {"string_value": value}
        for version, facts in versions.items()
        for name, value in facts.items()
    }
    return render({**config, "parameters": map_entries(parameters)})


def read_record(model: Path) -> Record | None:
    """Return the record of a model's folder, None where there is no such folder.

    Raises:
        UsageError: the folder is not ours.
        ArtifactError: the record is damaged or of another version of edgeseg.
    """
    if not model.exists() and not model.is_symlink():
        return None
    if model.is_symlink() or not (model / RECORD).is_file():
        raise UsageError(
            f"{show(model)} exists and was not written by edgeseg (it has no {RECORD}); "
            "choose another --name"
        )
    return read_document(model / RECORD, Record, "record")
