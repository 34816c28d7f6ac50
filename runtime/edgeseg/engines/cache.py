"""The engine cache: one plan and one JSON document per engine, in a folder that only we write.

    ~/.cache/edgeseg/engines/
      <digest of the key>.plan    what TensorRT loads: native code, in effect
      <digest of the key>.json    the engine manifest: key, hash of the plan, attestation
      <digest of the key>.lock    held by whoever builds this engine
      <digest of the key>.jit     kernels that TensorRT-RTX compiled for it on this GPU

Loading a plan runs what is in it. So the folder must be private, and a plan is only read if
it is a plain file of ours and has the SHA-256 that its document gives.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from edgeseg.documents import first_problem
from edgeseg.engines.document import EngineKey, EngineManifest
from edgeseg.errors import ArtifactError, ResourceError, show
from edgeseg.files import atomic_write, sha256_bytes

PLAN, DOCUMENT, LOCK, KERNELS = ".plan", ".json", ".lock", ".jit"
_OURS = re.compile(r"\.?[0-9a-f]{32}\.(plan|json|lock|jit)(\.partial-[0-9-]+)?")


def default_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/edgeseg/engines``, by default ``~/.cache/edgeseg/engines``."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is to be ignored.
    return (root if root.is_absolute() else Path.home() / ".cache") / "edgeseg" / "engines"


@dataclass(frozen=True)
class EngineCache:
    """A private folder of engines."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> EngineCache:
        """Make the folder if it is missing, and check that only we can write to it.

        Raises:
            ArtifactError: a link, no folder, somebody else's, or open to others.
            ResourceError: it cannot be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            if not os.path.lexists(path):
                raise ResourceError(
                    f"cannot make the engine cache {show(path)}: {error.strerror}; "
                    "choose --cache DIR"
                ) from error
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise ArtifactError(_unfit(path, "it is a link", "give the folder itself as --cache"))
        if not stat.S_ISDIR(found.st_mode):
            raise ArtifactError(_unfit(path, "it is no folder", "choose another --cache"))
        if found.st_uid != os.geteuid():
            raise ArtifactError(
                _unfit(path, f"it belongs to user {found.st_uid}", "choose another --cache")
            )
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise ArtifactError(
                _unfit(path, f"others can enter it (mode {mode:o})", f"run: chmod 700 {path}")
            )
        return cls(path)

    def load(self, key: EngineKey) -> tuple[EngineManifest, bytes] | None:
        """Return the engine of ``key`` and its plan, or None if there is none.

        Raises:
            ArtifactError: there is one, but it is corrupt or not ours; ``discard`` it.
        """
        plan, document = self.plan_path(key), self._file(key, DOCUMENT)
        if not os.path.lexists(plan) and not os.path.lexists(document):
            return None
        if not os.path.lexists(document):
            raise ArtifactError(
                f"engine {show(plan)} is untrusted: no {DOCUMENT} of ours vouches for it"
            )
        engine = _parse(document)
        if engine.key != key:
            raise ArtifactError(f"engine {show(plan)} is untrusted: it was built for another key")
        data = _read_own(plan)
        if len(data) != engine.plan.bytes or sha256_bytes(data) != engine.plan.sha256:
            raise ArtifactError(f"engine {show(plan)} is corrupt: its SHA-256 is another now")
        return engine, data

    def store(self, engine: EngineManifest, plan: bytes) -> Path:
        """Write an engine whole or not at all, and return the plan's path."""
        # The plan first: without its document it is never loaded.
        for suffix, content in ((PLAN, plan), (DOCUMENT, _document_bytes(engine))):
            path = self._file(engine.key, suffix)
            atomic_write(path, content)
            path.chmod(0o600)  # whatever the umask is
        return self.plan_path(engine.key)

    def load_kernels(self, key: EngineKey) -> bytes | None:
        """Return the kernels that were compiled for an engine before, or None.

        Raises:
            ArtifactError: the file is not ours.
        """
        path = self._file(key, KERNELS)
        return _read_own(path) if os.path.lexists(path) else None

    def store_kernels(self, key: EngineKey, kernels: bytes) -> None:
        """Keep the kernels that were compiled for an engine, for the next process."""
        with self.locked(key, lambda _: None):
            path = self._file(key, KERNELS)
            atomic_write(path, kernels)
            path.chmod(0o600)

    def plan_path(self, key: EngineKey) -> Path:
        """Return where the plan of ``key`` is, or would be."""
        return self._file(key, PLAN)

    def discard(self, key: EngineKey) -> None:
        """Remove the files of ``key``, whatever they are; of a link only the link."""
        for suffix in (DOCUMENT, PLAN, KERNELS):
            self._file(key, suffix).unlink(missing_ok=True)

    def entries(self) -> tuple[list[EngineManifest], list[str]]:
        """Return the engines, oldest first, and what is wrong with other files here."""
        engines, problems = [], []
        for path in sorted(self.path.iterdir()):
            try:
                if path.suffix == DOCUMENT:
                    engines.append(self._listed(path))
                elif path.suffix == PLAN and not path.with_suffix(DOCUMENT).exists():
                    problems.append(
                        f"engine {show(path)} is untrusted: no {DOCUMENT} of ours vouches for it"
                    )
                elif not _OURS.fullmatch(path.name):
                    problems.append(f"{show(path)} is not ours")
            except ArtifactError as error:
                problems.append(str(error))
        return sorted(engines, key=lambda engine: engine.created), problems

    def why_missing(self, key: EngineKey) -> str:
        """Return why there is no engine of ``key``: the nearest one of this ONNX file differs."""
        of_model = [e.key for e in self.entries()[0] if e.key.onnx_sha256 == key.onnx_sha256]
        differences = [key.differences(other) for other in of_model]
        if not differences:
            return "no engine of this ONNX file yet"
        nearest = min(differences, key=lambda words: len(words))
        return f"the engine here is for {'; '.join(nearest)}"

    def clean(self) -> tuple[int, int]:
        """Remove all engines that nobody is building; return how many plans and bytes went."""
        plans = freed = 0
        for path in sorted(self.path.iterdir()):
            if not _OURS.fullmatch(path.name) or self._is_locked(path):
                continue
            size = path.lstat().st_size
            path.unlink(missing_ok=True)
            plans += path.suffix == PLAN
            freed += size
        return plans, freed

    @contextmanager
    def locked(self, key: EngineKey, note: Callable[[str], None]) -> Iterator[None]:
        """Hold the lock of ``key`` while the body runs; ``note`` that another process holds it."""
        with self._file(key, LOCK).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note("waiting for another process that builds the same engine")
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if somebody forked

    def _file(self, key: EngineKey, suffix: str) -> Path:
        return self.path / f"{key.digest}{suffix}"

    def _listed(self, path: Path) -> EngineManifest:
        engine = _parse(path)
        if path.stem != engine.key.digest:
            raise ArtifactError(f"engine {show(path)} is untrusted: it was built for another key")
        return engine

    def _is_locked(self, path: Path) -> bool:
        digest = path.name.lstrip(".")[:32]
        try:
            with (self.path / f"{digest}{LOCK}").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def _parse(path: Path) -> EngineManifest:
    try:
        return EngineManifest.model_validate_json(_read_own(path))
    except ValidationError as error:
        where, what = first_problem(error)
        raise ArtifactError(
            f"engine manifest {show(path)} is corrupt or of another version: {where}: {what}"
        ) from error


def _read_own(path: Path) -> bytes:
    """Return the bytes of a plain file that we own and nobody else can write.

    The checks are made on the open file, so that it cannot be exchanged after them.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ArtifactError(f"engine {show(path)} is untrusted: it is a link") from error
        raise ArtifactError(f"engine {show(path)} is corrupt: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError(f"engine {show(path)} is untrusted: it is no plain file")
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise ArtifactError(f"engine {show(path)} is untrusted: others can write it")
        return file.read()


def _document_bytes(engine: EngineManifest) -> bytes:
    return (engine.model_dump_json(indent=2) + "\n").encode()


def _unfit(path: Path, what: str, fix: str) -> str:
    return f"engine cache {show(path)} is untrusted: {what}; engines are code, {fix}"
