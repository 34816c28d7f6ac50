"""Write whole or not at all."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from edgeseg.errors import UsageError
from edgeseg.files import atomic_write, refuse_existing, replace_folder, sha256_bytes, staged_folder

MARKER = "ours.json"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def our_folder(path: Path, content: str = "old") -> Path:
    path.mkdir()
    (path / MARKER).write_text(content)
    return path


def test_sha256_is_the_published_one_of_abc() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    assert sha256_bytes(b"abc") == expected
    assert sha256_bytes(b"") == hashlib.sha256().hexdigest()


def test_a_file_is_written_and_nothing_else_remains(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a.bin", b"\0one")
    assert (tmp_path / "a.bin").read_bytes() == b"\0one"
    assert names(tmp_path) == ["a.bin"]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old, and longer")
    atomic_write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_the_old_file_stays_until_the_new_one_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    seen: list[bytes] = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        seen.append(target.read_bytes())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    atomic_write(target, b"new")
    assert seen == [b"old"]
    assert target.read_bytes() == b"new"


def test_a_symlink_is_replaced_and_what_it_pointed_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_bytes() == b"new"


def test_the_longest_name_a_file_system_allows_can_be_written(tmp_path: Path) -> None:
    name = "x" * 251 + ".png"
    atomic_write(tmp_path / name, b"new")
    assert (tmp_path / name).read_bytes() == b"new"


def test_threads_writing_one_file_leave_one_of_their_contents_whole(tmp_path: Path) -> None:
    contents = [bytes([i]) * 20_000 for i in range(6)]
    failures: list[BaseException] = []

    def write(data: bytes) -> None:
        try:
            for _ in range(5):
                atomic_write(tmp_path / "a", data)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (tmp_path / "a").read_bytes() in contents
    assert names(tmp_path) == ["a"]


def test_a_new_output_is_never_refused(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "new", MARKER, force=False)
    refuse_existing(tmp_path / "deep" / "new", MARKER, force=True)
    assert names(tmp_path) == []


def test_an_existing_output_needs_force(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already; choose another or add --force"):
        refuse_existing(our_folder(tmp_path / "out"), MARKER, force=False)


def test_force_accepts_our_folder_and_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", MARKER, force=True)
    refuse_existing(our_folder(tmp_path / "out"), MARKER, force=True)


def test_force_refuses_somebodys_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"has no ours\.json, so --force will not replace it"):
        refuse_existing(tmp_path, MARKER, force=True)


def test_force_refuses_a_folder_whose_marker_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / MARKER).mkdir()
    with pytest.raises(UsageError, match="--force will not replace it"):
        refuse_existing(tmp_path, MARKER, force=True)


def test_force_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="--force will not replace it"):
        refuse_existing(tmp_path / "out", MARKER, force=True)


@pytest.mark.parametrize("dangling", [False, True])
def test_force_refuses_a_symlink_even_to_our_folder(tmp_path: Path, dangling: bool) -> None:
    target = tmp_path / "nowhere" if dangling else our_folder(tmp_path / "real")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UsageError, match="--force will not replace it"):
        refuse_existing(tmp_path / "link", MARKER, force=True)
    with pytest.raises(UsageError, match="exists already"):
        refuse_existing(tmp_path / "link", MARKER, force=False)


@pytest.mark.parametrize("name", [".", "..", "/", "x/.."])
def test_a_folder_without_a_name_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a new folder"):
        refuse_existing(Path(name), MARKER, force=True)


def test_a_staged_folder_appears_when_its_body_is_done(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "out"
    with staged_folder(target, MARKER, force=False) as folder:
        (folder / MARKER).write_text("new")
        assert not target.exists()
    assert (target / MARKER).read_text() == "new"
    assert names(target.parent) == ["out"]


@pytest.mark.parametrize("failure", [ValueError("broken"), KeyboardInterrupt()])
def test_a_failing_body_leaves_the_old_folder(tmp_path: Path, failure: BaseException) -> None:
    target = our_folder(tmp_path / "out")
    (target / "extra").write_text("kept")

    def fail() -> None:
        with staged_folder(target, MARKER, force=True) as folder:
            (folder / MARKER).write_text("new")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert (target / MARKER).read_text() == "old"
    assert (target / "extra").read_text() == "kept"
    assert names(tmp_path) == ["out"]


def test_a_failing_body_leaves_no_new_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_folder(tmp_path / "out", MARKER, force=False) as folder:
            (folder / "half").write_text("half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert names(tmp_path) == []


def test_force_replaces_the_whole_old_folder(tmp_path: Path) -> None:
    target = our_folder(tmp_path / "out")
    (target / "stale").write_text("from the old run")
    with staged_folder(target, MARKER, force=True) as folder:
        (folder / MARKER).write_text("new")
        assert (target / MARKER).read_text() == "old"
    assert names(target) == [MARKER]
    assert (target / MARKER).read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_without_force_the_body_never_runs(tmp_path: Path) -> None:
    target = our_folder(tmp_path / "out")
    ran: list[Path] = []

    def write() -> None:
        with staged_folder(target, MARKER, force=False) as folder:
            ran.append(folder)

    with pytest.raises(UsageError):
        write()
    assert ran == []
    assert (target / MARKER).read_text() == "old"


def test_when_the_last_rename_fails_the_old_folder_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = our_folder(tmp_path / "out")
    source = our_folder(tmp_path / "new", "new")
    real = Path.replace

    def replace(self: Path, to: Path) -> Path:
        if self == source:
            raise OSError(5, "Input/output error")
        return real(self, to)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="Input/output error"):
        replace_folder(source, target)
    assert (target / MARKER).read_text() == "old"
    assert names(tmp_path) == ["new", "out"]
