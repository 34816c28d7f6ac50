"""Read a JSON document into its pydantic model, with one line that says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edgeseg.errors import ArtifactError, show

MAX_BYTES = 16 * 2**20

Document = TypeVar("Document", bound=BaseModel)


def read_document(path: Path, kind: type[Document], name: str) -> Document:
    """Return the document in ``path``; messages call it ``name``.

    Raises:
        ArtifactError: unreadable, larger than 16 MiB, no JSON, or not what ``kind`` describes.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{show(path)} is larger than {MAX_BYTES} bytes")
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {show(path)}: {error.strerror}") from error
    except ValidationError as error:
        where, what = first_problem(error)
        raise ArtifactError(
            f"{show(path)} is not a {name} this version reads: {where}: {what}"
        ) from error


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return where the first problem is (``a.b.0``) and what it is, without pydantic's links."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the document"
    return where, problem["msg"]
