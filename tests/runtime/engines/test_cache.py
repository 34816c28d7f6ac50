from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from edgeseg.engines import cache as module
from edgeseg.engines.cache import EngineCache, default_cache
from edgeseg.engines.device import Device
from edgeseg.engines.document import (
    Attestation,
    EngineKey,
    EngineManifest,
    Flags,
    NetworkAttestation,
    Profile,
)
from edgeseg.errors import ArtifactError, ResourceError
from edgeseg.files import sha256_bytes
from edgeseg.manifest import FileEntry

SHAPE = (1, 32, 32, 3)
KEY = EngineKey(
    onnx_sha256="a" * 64,
    library="tensorrt",
    version="10.3.0",
    device=Device(name="Orin", compute_capability="8.7", driver="540.4 (CUDA 12.6)"),
    flags=Flags(),
    profiles=(Profile(min=SHAPE, opt=SHAPE, max=SHAPE),),
)
PLAN = b"engine"


def engine(key: EngineKey = KEY, **changes: Any) -> EngineManifest:
    attestation = Attestation(
        requested="fp16",
        network=NetworkAttestation(convolutions=(), layers=()),
        engine=None,
        engine_unread="no GPU",
    )
    values = {
        "edgeseg": "0",
        "key": key,
        "variant": "fp16",
        "plan": FileEntry(sha256=sha256_bytes(PLAN), bytes=len(PLAN)),
        "attestation": attestation,
        "build_seconds": 1.5,
        "created": "2026-01-01T00:00:00.000+00:00",
        "warnings": (),
    }
    return EngineManifest(**{**values, **changes})


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache.open(tmp_path / "engines")


def test_what_was_stored_is_loaded(cache: EngineCache) -> None:
    assert cache.load(KEY) is None
    path = cache.store(engine(), PLAN)
    assert cache.load(KEY) == (engine(), PLAN)
    assert path == cache.plan_path(KEY)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in cache.path.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"library": "tensorrt-rtx"}, "tensorrt 10.3.0, not 10.3.0"),
        ({"version": "10.16"}, "tensorrt 10.3.0, not 10.16"),
        ({"device": None}, "Orin (8.7, driver 540.4 (CUDA 12.6)), not any GPU of the set"),
        ({"flags": Flags(tf32=True)}, "tf32 off, not on"),
        ({"flags": Flags(workspace_mib=64)}, "workspace mib default, not 64"),
        (
            {"flags": Flags(compute_capabilities=("86", "89"))},
            "compute capabilities default, not 86, 89",
        ),
        ({"profiles": (Profile(min=SHAPE, opt=SHAPE, max=(2, 32, 32, 3)),)}, "other input shapes"),
    ],
)
def test_a_key_that_differs_in_anything_is_another_engine(
    cache: EngineCache, change: dict[str, Any], words: str
) -> None:
    cache.store(engine(), PLAN)
    other = KEY.model_copy(update=change)
    assert other.digest != KEY.digest
    assert cache.load(other) is None
    assert cache.why_missing(other) == f"the engine here is for {words}"


def test_the_nearest_engine_explains_what_is_missing(cache: EngineCache) -> None:
    assert cache.why_missing(KEY) == "no engine of this ONNX file yet"
    flags = KEY.model_copy(update={"flags": Flags(tf32=True)})
    both = flags.model_copy(update={"version": "10.16"})
    cache.store(engine(both), PLAN)
    cache.store(engine(flags), PLAN)
    assert cache.why_missing(KEY) == "the engine here is for tf32 on, not off"
    assert "no engine" in cache.why_missing(KEY.model_copy(update={"onnx_sha256": "b" * 64}))


def damage(path: Path) -> None:
    path.write_bytes(b"enginE")


def shorten(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def open_up(path: Path) -> None:
    path.chmod(0o666)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("suffix", "harm", "word"),
    [
        (".plan", damage, "corrupt"),
        (".plan", shorten, "corrupt"),
        (".plan", remove, "corrupt"),
        (".plan", link, "untrusted: it is a link"),
        (".plan", open_up, "untrusted: others can write it"),
        (".plan", make_pipe, "untrusted: it is no plain file"),
        (".json", damage, "corrupt"),
        (".json", shorten, "corrupt"),
        (".json", remove, "untrusted: no .json of ours vouches"),
        (".json", link, "untrusted: it is a link"),
        (".json", open_up, "untrusted: others can write it"),
    ],
)
def test_what_is_not_exactly_ours_is_never_loaded_and_can_be_discarded(
    cache: EngineCache, suffix: str, harm: Any, word: str
) -> None:
    path = cache.store(engine(), PLAN).with_suffix(suffix)
    harm(path)
    with pytest.raises(ArtifactError, match=word):
        cache.load(KEY)
    cache.discard(KEY)
    assert cache.load(KEY) is None


def test_an_engine_of_somebody_else_is_not_loaded(cache: EngineCache, monkeypatch) -> None:
    cache.store(engine(), PLAN)
    monkeypatch.setattr(module.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ArtifactError, match="others can write it"):
        cache.load(KEY)


def test_an_engine_under_another_engines_name_is_not_loaded(cache: EngineCache) -> None:
    other = KEY.model_copy(update={"version": "10.16"})
    path = cache.store(engine(), PLAN)
    for suffix in (".plan", ".json"):
        path.with_suffix(suffix).rename(cache.path / f"{other.digest}{suffix}")
    with pytest.raises(ArtifactError, match="built for another key"):
        cache.load(other)
    assert "built for another key" in cache.entries()[1][0]


def test_a_manifest_of_another_schema_is_stale_not_a_crash(cache: EngineCache) -> None:
    document = cache.store(engine(), PLAN).with_suffix(".json")
    document.write_text(document.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(ArtifactError, match="of another version: schema_version"):
        cache.load(KEY)


def test_a_write_that_fails_leaves_no_engine(cache: EngineCache, monkeypatch) -> None:
    def fail_for_documents(path: Path, *parts: bytes) -> None:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        path.write_bytes(b"".join(parts))

    monkeypatch.setattr(module, "atomic_write", fail_for_documents)
    with pytest.raises(OSError, match="No space"):
        cache.store(engine(), PLAN)
    with pytest.raises(ArtifactError, match="untrusted"):
        cache.load(KEY)


def test_a_folder_that_others_can_enter_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir(mode=0o755)
    (tmp_path / "engines").chmod(0o755)
    fix = re.escape(f"(mode 755); engines are code, run: chmod 700 {tmp_path / 'engines'}")
    with pytest.raises(ArtifactError, match=fix):
        EngineCache.open(tmp_path / "engines")


def test_a_link_or_a_file_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="it is a link"):
        EngineCache.open(tmp_path / "link")
    with pytest.raises(ArtifactError, match="it is no folder"):
        EngineCache.open(tmp_path / "file")


def test_somebody_elses_folder_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "engines").mkdir(mode=0o700)
    monkeypatch.setattr(module.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ArtifactError, match="it belongs to user"):
        EngineCache.open(tmp_path / "engines")


def test_a_place_that_cannot_be_made_is_a_lack_of_resources(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="choose --cache DIR"):
        EngineCache.open(tmp_path / "file" / "engines")


@pytest.mark.parametrize("value", ["", "relative"])
def test_the_default_place_follows_xdg(monkeypatch, tmp_path: Path, value: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "edgeseg" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "edgeseg" / "engines"


def test_clean_removes_what_is_ours_and_nobody_builds(cache: EngineCache) -> None:
    cache.store(engine(), PLAN)
    being_built = KEY.model_copy(update={"version": "10.16"})
    (cache.path / f".{KEY.digest}.plan.partial-12-34").write_bytes(b"left by a killed build")
    (cache.path / "notes").write_text("mine")
    with cache.locked(being_built, lambda _: None):
        partial = cache.path / f".{being_built.digest}.plan.partial-12-34"
        partial.write_bytes(b"half")
        plans, freed = cache.clean()
        assert plans == 1
        assert freed > len(PLAN)
        left = {path.name for path in cache.path.iterdir()}
        assert left == {"notes", partial.name, f"{being_built.digest}.lock"}


def test_entries_are_oldest_first_and_say_what_is_wrong(cache: EngineCache) -> None:
    newer = KEY.model_copy(update={"version": "10.16"})
    cache.store(engine(newer, created="2026-02-01"), PLAN)
    cache.store(engine(), PLAN)
    (cache.path / f"{'f' * 32}.plan").write_bytes(b"whose?")
    (cache.path / f"{'e' * 32}.json").write_bytes(b"{}")
    engines, problems = cache.entries()
    assert [found.key for found in engines] == [KEY, newer]
    assert [re.search("corrupt|untrusted", text)[0] for text in problems] == [
        "corrupt",
        "untrusted",
    ]


def test_the_lock_lets_one_build_at_a_time(cache: EngineCache) -> None:
    said = []
    got_it = threading.Event()

    def second() -> None:
        with cache.locked(KEY, said.append):
            got_it.set()

    with cache.locked(KEY, said.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert not got_it.wait(0.2)
    thread.join(10)
    assert got_it.is_set()
    assert said == ["waiting for another process that builds the same engine"]
