"""Fixtures of the runtime's tests: the committed bundle, copies to damage, and the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg.cli.main import main

TINY_BUNDLE = Path(__file__).parents[1] / "data" / "tiny_bundle"


@dataclass(frozen=True)
class Finished:
    """What a command left behind: its exit status and everything it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; anything before or after it is a ValueError."""
        return json.loads(self.out)

    @property
    def error_line(self) -> str:
        """The only line on stderr, which must be an error."""
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("edgeseg: error: "), self.err
        return self.err.rstrip("\n")


Cli = Callable[..., Finished]
Edit = Callable[[Callable[[dict[str, Any]], object]], None]
Replace = Callable[[str, bytes], None]


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """The committed bundle; never to be written to."""
    return TINY_BUNDLE


@pytest.fixture(scope="session")
def tiny_logits() -> Path:
    """The committed bundle that also answers logits, at any size; never to be written to."""
    return TINY_BUNDLE.with_name("tiny_logits")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the committed bundle that a test may damage."""
    return Path(shutil.copytree(TINY_BUNDLE, tmp_path / "bundle"))


@pytest.fixture
def edit_manifest(bundle: Path) -> Edit:
    """Change the manifest of ``bundle`` as parsed JSON."""

    def edit(change: Callable[[dict[str, Any]], object]) -> None:
        path = bundle / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return edit


@pytest.fixture
def replace_file(bundle: Path, edit_manifest: Edit) -> Replace:
    """Put other bytes into a file of ``bundle``, with the right hash: a consistent, bad bundle."""

    def replace(name: str, data: bytes) -> None:
        (bundle / name).write_bytes(data)
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        edit_manifest(lambda manifest: manifest["files"].__setitem__(name, entry))

    return replace


@pytest.fixture
def edgeseg(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command in this process: ``edgeseg("info", bundle)``."""

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        code = done.value.code
        assert isinstance(code, int)
        return Finished(code, printed.out, printed.err)

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[Sequence[str]], Path]:
    """Write random pictures of different sizes into ``tmp_path/pictures`` and return the folder."""

    def write(names: Sequence[str]) -> Path:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(7)
        for i, name in enumerate(names):
            pixels = rng.integers(0, 256, (30 + i, 41 - i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        return folder

    return write
