"""``edgeseg run --ray`` with two local workers: the masks of the plain run, and an index.

One cluster serves all tests of this file: starting one takes seconds.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseg.bundle import Bundle
from edgeseg.cluster.places import Place
from edgeseg.cluster.plan import INDEX, plan_items
from edgeseg.cluster.worker import Task, Worker, bundle_files
from edgeseg.errors import InputError, ResourceError, UsageError

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'edgeseg[ray]'")
pa_fs = pytest.importorskip("pyarrow.fs", reason="needs Arrow: pip install 'edgeseg[ray]'")

GOLDEN = Path(__file__).parents[2] / "data" / "images"
GOOD = ("plain.png", "exif6.jpg", "cmyk.jpg", "alpha.png", "gray.jpg")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures, one of them in a folder below, and one that is none."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name in GOOD:
        shutil.copy(GOLDEN / name, folder / ("below" if name == "cmyk.jpg" else "."))
    shutil.copy(GOLDEN / "text.jpg", folder / "bad.jpg")
    return folder


def index_of(out: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(out / INDEX).to_pylist()
    return rows


# --- without a cluster


def test_names_below_the_folder_are_kept_and_the_index_is_no_picture(photos: Path) -> None:
    out = Place.of(str(photos.parent / "masks"))
    items = plan_items(Place.of(str(photos)), out, force=False, skip_existing=False)
    assert [item.mask for item in items] == sorted(item.mask for item in items)
    assert ("below/cmyk.jpg", "below/cmyk.png") in {(item.image, item.mask) for item in items}
    assert len(items) == 6


def test_an_address_means_the_same_folder(photos: Path) -> None:
    plain, address = Place.of(str(photos)), Place.of(photos.as_uri())
    assert address.pictures() == plain.pictures()
    assert address.read("plain.png") == (photos / "plain.png").read_bytes()
    assert address.is_local
    assert plain.is_local


def test_fsspecs_file_systems_serve_too() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/shop/a/one.png", (GOLDEN / "plain.png").read_bytes())
    place = Place.of("memory://shop")
    assert place.pictures() == ["a/one.png"]
    place.write("b/two.png", b"x")
    assert memory.cat("/shop/b/two.png") == b"x"
    assert not place.is_local


def test_what_would_be_lost_is_refused_before_any_work(photos: Path, tmp_path: Path) -> None:
    source, out = Place.of(str(photos)), tmp_path / "masks"

    def plan(place: Place, **options: bool) -> None:
        plan_items(source, place, **{"force": False, "skip_existing": False, **options})

    with pytest.raises(UsageError, match="in one folder"):
        plan(source)
    out.mkdir()
    (out / "plain.png").write_bytes(b"old")
    with pytest.raises(UsageError, match=r"plain\.png' exists already; add --force"):
        plan(Place.of(str(out)))
    plan(Place.of(str(out)), force=True)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="is a bundle"):
        plan(Place.of(str(out)), force=True)
    shutil.copy(photos / "plain.png", photos / "plain.webp")
    with pytest.raises(UsageError, match=r"'plain\.png' and 'plain\.webp' would both be written"):
        plan(Place.of(str(tmp_path / "new")))


def test_places_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no images"):
        Place.of(str(tmp_path / "nothing")).pictures()
    with pytest.raises(InputError, match="cannot reach 'nowhere://x'"):
        Place.of("nowhere://x")
    with pytest.raises(InputError, match="cannot be read"):
        Place.of(str(tmp_path)).read("a.png")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="cannot write"):
        Place.of(str(tmp_path / "file")).write("a.png", b"x")


def task(bundle: Path, source: Path, out: Path) -> Task:
    places = Place.of(str(source)), Place.of(str(out))
    return Task(bundle_files(Bundle.open(bundle)), "ort:cpu", "fp32", {}, *places)


def batch_of(*names: str) -> dict[str, Any]:
    import numpy as np

    masks = [str(Path(name).with_suffix(".png")) for name in names]
    columns = {"image": list(names), "mask": masks, "kept": [False] * len(names)}
    return {key: np.array(values) for key, values in columns.items()}


def test_a_worker_answers_what_ends_the_run_instead_of_raising_it(
    tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    broken = task(tiny_bundle, photos, tmp_path / "masks")
    files = {**broken.files, "model.fp32.onnx": b"changed on the way"}
    worker = Worker(Task(files, "ort:cpu", "fp32", {}, broken.source, broken.out))
    answer = worker(batch_of("plain.png", "alpha.png"))
    for fatal in answer["fatal"]:
        told = json.loads(fatal)
        assert told["type"] == "ArtifactError"
        assert "is corrupt: its SHA-256" in told["message"]
    assert not (tmp_path / "masks").exists()


def test_a_mask_that_cannot_be_written_ends_the_run(
    tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "masks").write_bytes(b"a file")
    answer = Worker(task(tiny_bundle, photos, tmp_path / "masks"))(batch_of("plain.png"))
    assert json.loads(answer["fatal"][0])["type"] == "ResourceError"


# --- with one


def test_two_workers_write_the_bytes_of_the_plain_run(
    cluster: None, edgeseg: Any, tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    plain, spread = tmp_path / "plain", tmp_path / "spread"
    model = (tiny_bundle, "--backend", "ort:cpu", "--variant", "int8-cpu")
    (photos / "below" / "cmyk.jpg").rename(photos / "cmyk.jpg")  # the plain run looks at one level
    assert edgeseg("run", *model[:1], photos, "--out", plain, *model[1:]).code == 3
    done = edgeseg(
        "run", *model[:1], photos, "--out", spread, *model[1:], "--ray", "--batch", 2, "--json"
    )
    assert done.code == 3
    document = done.document
    assert (document["segmented"], document["failed"], document["skipped"]) == (5, 1, 0)
    assert done.err.count("edgeseg: error:") == 1
    assert "bad.jpg: file image of 19 bytes is not a readable image" in done.err
    masks = sorted(path.name for path in plain.iterdir())
    assert len(masks) == 5
    assert sorted(path.name for path in spread.iterdir()) == sorted([*masks, INDEX])
    for name in masks:
        assert (spread / name).read_bytes() == (plain / name).read_bytes()


def test_the_index_says_what_became_of_every_picture(
    cluster: None, edgeseg: Any, tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "masks"
    model = (tiny_bundle, "--backend", "ort:cpu", "--variant", "fp32")
    assert edgeseg("run", *model[:1], photos, "--out", out, *model[1:], "--ray").code == 3
    rows = index_of(out)
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)
    bad = rows.pop([row["image"] for row in rows].index("bad.jpg"))
    assert bad["mask"] == ""
    assert "not a readable image" in bad["error"]
    for row in rows:
        assert (row["height"], row["width"]) == (16, 24)
        assert (out / row["mask"]).is_file()
        assert sum(json.loads(row["coverage"]).values()) == pytest.approx(1, abs=1e-4)
        assert set(json.loads(row["timings_ms"])) == {"decode", "pre", "compute", "post"}
        assert row["error"] == ""
    told = pq.read_schema(out / INDEX).metadata
    weights = Bundle.open(tiny_bundle).manifest.model.weights_sha256
    assert told[b"edgeseg_weights_sha256"].decode() == weights
    assert told[b"edgeseg_variant"] == b"fp32"


def test_an_interrupted_run_goes_on_and_mends_what_is_damaged(
    cluster: None, edgeseg: Any, tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    command = ("run", tiny_bundle, photos, "--out", out, "--ray", "--backend", "ort:cpu")
    (photos / "bad.jpg").unlink()
    assert edgeseg(*command).code == 0
    whole = {path: path.read_bytes() for path in out.rglob("*.png")}
    assert edgeseg(*command).code == 2
    (out / "plain.png").unlink()
    (out / "gray.png").write_bytes(b"half")
    kept = (out / "alpha.png").stat().st_mtime_ns
    done = edgeseg(*command, "--skip-existing", "--json")
    assert done.code == 0
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == whole
    assert (out / "alpha.png").stat().st_mtime_ns == kept
    assert [row["error"] for row in index_of(out)] == [""] * 5
    assert all(json.loads(row["coverage"]) for row in index_of(out))


def test_options_that_mean_nothing_together_are_usage_errors(
    edgeseg: Any, tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    run = ("run", tiny_bundle, photos, "--out", tmp_path / "m")
    for words, message in (
        (("--ray", "--overlay"), "--overlay is not for --ray"),
        (("--ray", "--tile", "32x32"), "--tile is not for --ray"),
        (("--workers", "2"), "--workers is for --ray"),
        (("--ray", "--force", "--skip-existing"), "give one of them"),
    ):
        done = edgeseg(*run, *words)
        assert done.code == 2, words
        assert message in done.err
    done = edgeseg("run", tiny_bundle, photos, photos, "--out", tmp_path / "m", "--ray")
    assert done.code == 2
    assert "one folder or address" in done.err
