"""The bundle refuses everything that is not exactly what export wrote."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, UsageError
from edgeseg.manifest import Manifest, Parity, write_manifest_bytes

FILES = ("model.fp32.onnx", "model.int8-cpu.onnx", "reference.npz")
Edit = Callable[[Callable[[dict[str, Any]], object]], None]
Replace = Callable[[str, bytes], None]
Cli = Callable[..., Any]


def refused(path: Path, message: str) -> None:
    """Opening and hashing must fail with one line that matches."""
    with pytest.raises(ArtifactError, match=message) as caught:
        Bundle.open(path).check_files()
    assert "\n" not in str(caught.value)


def test_the_committed_bundle_opens_and_all_its_hashes_hold(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    bundle.check_files()
    assert set(bundle.manifest.files) == set(FILES)
    assert list(bundle.manifest.variants) == ["fp32", "int8-cpu"]
    assert bundle.manifest.labels.num_classes == 150
    assert Bundle.open(str(tiny_bundle)).manifest == bundle.manifest


def test_the_manifest_text_survives_a_round_trip(tiny_bundle: Path) -> None:
    data = (tiny_bundle / "manifest.json").read_bytes()
    manifest = Manifest.model_validate_json(data)
    assert write_manifest_bytes(manifest) == data


def test_the_manifest_is_frozen(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    with pytest.raises(ValidationError, match="frozen"):
        manifest.dynamic_size = True


# --- files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [0, 1000, -1])
def test_one_flipped_bit_is_found(bundle: Path, edgeseg: Cli, name: str, at: int) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[at] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, f"{name}' is corrupt")
    for command in ("info", "verify"):
        done = edgeseg(command, bundle)
        assert done.code == 4
        assert "is corrupt" in done.error_line
        assert done.out == ""


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_longer_file_is_found(bundle: Path, name: str) -> None:
    data = (bundle / name).read_bytes()
    for changed in (data[:-1], data + b"\0", b""):
        (bundle / name).write_bytes(changed)
        refused(bundle, f"{name}' is corrupt")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, edgeseg: Cli, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, f"lacks {name}")
    assert edgeseg("info", bundle).code == 4


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "MODEL.FP32.ONNX"])
def test_an_extra_file_is_named(bundle: Path, edgeseg: Cli, name: str) -> None:
    (bundle / name).touch()
    refused(bundle, f"does not list: '{name}'")
    assert edgeseg("info", bundle).code == 4


@pytest.mark.parametrize("name", FILES)
def test_a_symlink_is_refused_even_to_the_right_bytes(bundle: Path, name: str) -> None:
    moved = bundle.parent / name
    (bundle / name).rename(moved)
    (bundle / name).symlink_to(moved)
    refused(bundle, f"{name}' is not a plain file")


def test_a_folder_in_a_files_place_is_refused(bundle: Path) -> None:
    (bundle / "reference.npz").unlink()
    (bundle / "reference.npz").mkdir()
    refused(bundle, "reference.npz' is not a plain file")


def test_a_file_removed_after_opening_is_an_artifact_error(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    (bundle / "reference.npz").unlink()
    with pytest.raises(ArtifactError, match=r"cannot read bundle file .*No such file"):
        opened.read("reference.npz")


def test_a_file_changed_after_opening_is_found_when_read(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    (bundle / "model.fp32.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="is corrupt"):
        opened.read("model.fp32.onnx")


# --- the folder


def test_a_missing_bundle_is_named(tmp_path: Path, edgeseg: Cli) -> None:
    refused(tmp_path / "none", "none' does not exist")
    assert edgeseg("info", tmp_path / "none").code == 4


def test_a_file_is_no_bundle(tiny_bundle: Path, edgeseg: Cli) -> None:
    refused(tiny_bundle / "model.fp32.onnx", "is a file; expected the folder")
    assert edgeseg("info", tiny_bundle / "model.fp32.onnx").code == 4


def test_an_empty_folder_is_no_bundle(tmp_path: Path) -> None:
    refused(tmp_path, "has no manifest.json")


def test_a_run_folder_says_how_to_export_it(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    refused(tmp_path, "is a run folder, not a bundle; run: edgeseg export")


def test_a_manifest_that_is_a_folder_is_refused(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").mkdir()
    refused(bundle, "has no manifest.json")


def test_a_symlink_to_a_bundle_is_the_bundle(bundle: Path) -> None:
    link = bundle.parent / "link"
    link.symlink_to(bundle)
    Bundle.open(link).check_files()


# --- the manifest


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b'"manifest"',
        b"{'schema_version': 1}",
        b"not json at all",
        bytes(range(256)),
        b"\xff\xfe" + '{"schema_version": 1}'.encode("utf-16-le"),
        b"[" * 100_000,
        b'{"model":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"schema_version": 1',
        b"9" * 100_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_manifest_is_refused(bundle: Path, edgeseg: Cli, text: bytes) -> None:
    (bundle / "manifest.json").write_bytes(text)
    refused(bundle, "is not a manifest this version reads")
    done = edgeseg("info", bundle)
    assert done.code == 4
    assert "is not a manifest" in done.error_line


def test_a_manifest_of_many_megabytes_is_not_even_parsed(bundle: Path) -> None:
    with (bundle / "manifest.json").open("ab") as file:
        file.truncate(17 * 2**20)
    refused(bundle, "is larger than")


def change(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    """Return an edit that sets one value deep in the manifest."""

    def edit(manifest: Any) -> None:
        for step in path[:-1]:
            manifest = manifest[step]
        manifest[path[-1]] = to

    return edit


FP32 = ("variants", "fp32")


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (change("schema_version", to=1), "schema_version"),
        (change("schema_version", to="2"), "schema_version"),
        (change("schema_version", to=None), "schema_version"),
        (change("comment", to="hello"), "comment: Extra inputs"),
        (change("model", "color", to="red"), "model.color"),
        (change("labels", "extra", to=1), "labels.extra"),
        (change("preprocessing", "crop", to=True), "preprocessing.crop"),
        (change(*FP32, "parity", "speed", to=1), "variants.fp32.parity.speed"),
        (change("model", "gflops", to=float("nan")), "model.gflops"),
        (change("model", "gflops", to=float("inf")), "model.gflops"),
        (change("model", "parameters", to=0), "model.parameters"),
        (change(*FP32, "parity", "agreement", to=float("nan")), "parity.agreement"),
        (change(*FP32, "parity", "agreement", to=1.01), "parity.agreement"),
        (change(*FP32, "parity", "max_flip_margin", to=float("inf")), "max_flip_margin"),
        (change("preprocessing", "mean", to=[float("nan"), 0.5, 0.5]), "preprocessing.mean"),
        (change("preprocessing", "std", to=[float("inf"), 0.5, 0.5]), "preprocessing.std"),
        (change("preprocessing", "resize", to="crop"), "preprocessing.resize"),
        (change("preprocessing", "height", to=10**9), "preprocessing.height"),
        (change("preprocessing", "height", to=50), "is not the preprocessing's size"),
        (change("sizes", to=[[48, 64], [64, 64]]), "does not fit the size"),
        (change("sizes", to=[]), "sizes"),
        (change("input", "shape", to=[1]), "does not fit the size"),
        (change("input", "dtype", to="int64"), "input.dtype"),
        (change("outputs", to=[]), "outputs"),
        (change("variants", to={}), "variants"),
        (change(*FP32, "precision", to="fp4"), "variants.fp32.precision"),
        (change(*FP32, "opset", to=23), "variants.fp32.opset"),
        (change(*FP32, "file", to="other.onnx"), "other.onnx.* are used but have no hash"),
        (change("files", "reference.npz", "sha256", to="0" * 63), "files.reference.npz.sha256"),
        (change("files", "reference.npz", "sha256", to="A" * 64), "files.reference.npz.sha256"),
        (change("files", "reference.npz", "bytes", to=-1), "files.reference.npz.bytes"),
        (change("labels", "palette", to=[[0, 0, 0]]), "150 names but 1 colours"),
        (change("labels", "ignore_index", to=0), "labels.ignore_index"),
        (lambda manifest: manifest.pop("toolchain"), "toolchain: Field required"),
        (lambda manifest: manifest["files"].pop("reference.npz"), "reference.npz.* have no hash"),
    ],
)
def test_a_wrong_value_is_refused_and_named(
    bundle: Path, edit_manifest: Edit, edit: Callable[[dict[str, Any]], object], where: str
) -> None:
    edit_manifest(edit)
    refused(bundle, f"is not a manifest this version reads: .*{where}")


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../../secret", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\nb", "-f", "é"],
)
def test_a_file_name_that_could_leave_the_bundle_is_refused(
    bundle: Path, edit_manifest: Edit, name: str
) -> None:
    (bundle.parent / "secret").write_bytes(b"")
    entry = {"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    edit_manifest(change("files", name, to={**entry, "bytes": 0}))
    with pytest.raises(ArtifactError, match="is not a manifest this version reads"):
        Bundle.open(bundle)
    edit_manifest(lambda manifest: manifest["files"].pop(name))
    Bundle.open(bundle)
    edit_manifest(change(*FP32, "file", to=name))
    with pytest.raises(ArtifactError, match="is not a manifest this version reads"):
        Bundle.open(bundle)


def test_the_manifest_cannot_list_itself(bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(change("files", "manifest.json", to={"sha256": "0" * 64, "bytes": 0}))
    refused(bundle, "lacks manifest.json")


@pytest.mark.parametrize("name", ["engines", "more"])
def test_folders_are_no_part_of_a_bundle_and_engines_neither(bundle: Path, name: str) -> None:
    (bundle / name).mkdir()
    refused(bundle, f"does not list: '{name}'")


def test_names_with_control_characters_stay_on_one_line(
    bundle: Path, edit_manifest: Edit, edgeseg: Cli
) -> None:
    edit_manifest(change("evil\n\x1b[31mkey", to=1))
    done = edgeseg("info", bundle)
    assert done.code == 4
    assert "evil\\n\\x1b[31mkey" in done.error_line


# --- variants and parity


def test_an_unknown_variant_is_a_usage_error_that_lists_the_known(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.variant("fp32").file == "model.fp32.onnx"
    with pytest.raises(UsageError, match="has no variant 'int4'; it has: fp32, int8-cpu"):
        bundle.variant("int4")


PARITY: dict[str, Any] = {
    "images": 4,
    "measured_with": "ort:cpu",
    "flips": {
        "pixels": 1000,
        "boundary": 6,
        "interior": 4,
        "wide": 1,
        "by_margin": [5, 3, 1, 1, 0, 0],
    },
    "max_wide_flips": 0.001,
    "miou_interval": {"low": -0.01, "high": 0.001},
    "class_iou_delta": [-0.005, None],
    "logits": {"images": 2, "max": 0.5, "mean": 0.01},
    "agreement": 0.99,
    "reference_agreement": 0.99,
    "min_agreement": 0.98,
    "max_flip_margin": 0.1,
    "torch_miou": 0.40,
    "miou": 0.395,
    "max_miou_drop": 0.01,
}


@pytest.mark.parametrize(
    ("values", "failures"),
    [
        ({}, []),
        ({"agreement": 0.98}, []),
        ({"agreement": 0.9799}, ["agreement with PyTorch 97.9900% is below 98.00%"]),
        ({"reference_agreement": 0.9}, ["agreement with PyTorch 90.0000% is below 98.00%"]),
        (
            {"max_wide_flips": 0.0009},
            [
                "0.1000% of pixels changed class although PyTorch was sure (margin 1 or more), "
                "above 0.09%"
            ],
        ),
        ({"miou": 0.5}, []),
        ({"miou": 0.38}, ["mIoU fell by 0.0200 (0.4000 to 0.3800), more than 0.01"]),
    ],
)
def test_parity_names_the_gates_that_do_not_hold(
    values: dict[str, float], failures: list[str]
) -> None:
    assert Parity.model_validate({**PARITY, **values}).failures == failures


def test_parity_can_fail_on_both_gates() -> None:
    parity = Parity.model_validate({**PARITY, "agreement": 0.1, "miou": 0.1})
    assert len(parity.failures) == 2


# --- the reference


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


GOOD: dict[str, Any] = {
    "images": np.zeros((2, 48, 64, 3), np.uint8),
    "class_maps": np.zeros((2, 48, 64), np.uint8),
    "margins": np.zeros((2, 48, 64), np.float16),
}


class Bomb:
    """An object whose unpickling would leave a trace."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path(self.trace),)


def test_the_reference_gives_its_arrays(bundle: Path, replace_file: Replace) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    replace_file("reference.npz", npz(**{**GOOD, "images": images}))
    reference = Bundle.open(bundle).reference()
    assert np.array_equal(reference.images, images)
    assert reference.margins.dtype == np.float16


@pytest.mark.parametrize("inside_npz", [False, True])
def test_a_pickled_reference_is_refused_and_never_executed(
    bundle: Path, replace_file: Replace, tmp_path: Path, inside_npz: bool
) -> None:
    trace = tmp_path / "executed"
    bomb = np.empty(1, object)
    bomb[0] = Bomb(str(trace))
    data = npz(**{**GOOD, "images": bomb}) if inside_npz else pickle.dumps(bomb[0])
    replace_file("reference.npz", data)
    with pytest.raises(ArtifactError, match=r"reference\.npz is not readable"):
        Bundle.open(bundle).reference()
    assert not trace.exists()


def damaged_npz() -> bytes:
    compressed = io.BytesIO()
    np.savez_compressed(compressed, **GOOD)
    data = bytearray(compressed.getvalue())
    data[60:160] = b"\xff" * 100
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not readable"),
        (b"hello", "is not readable"),
        (npz(**GOOD)[:-40], "is not readable"),
        (damaged_npz(), "is not readable"),
        (npy(np.zeros(3)), "is not readable"),
        (npz(images=GOOD["images"]), "is not readable"),
        (npz(**{**GOOD, "images": GOOD["images"].astype(np.float32)}), "do not fit together"),
        (npz(**{**GOOD, "class_maps": GOOD["class_maps"].astype(np.int64)}), "do not fit"),
        (npz(**{**GOOD, "margins": GOOD["margins"].astype("U4")}), "do not fit together"),
        (npz(**{**GOOD, "margins": GOOD["margins"][:1]}), "do not fit together"),
        (npz(**{**GOOD, "class_maps": GOOD["class_maps"][:, :40]}), "do not fit together"),
        (npz(**{name: array[:0] for name, array in GOOD.items()}), "do not fit together"),
        (npz(**{name: array[0] for name, array in GOOD.items()}), "do not fit together"),
        (npz(**{**GOOD, "margins": GOOD["margins"] + np.float16("nan")}), "not finite"),
        (npz(**{**GOOD, "margins": GOOD["margins"] + np.float16("inf")}), "not finite"),
    ],
    ids=range(15),
)
def test_a_bad_reference_is_an_artifact_error(
    bundle: Path, replace_file: Replace, edgeseg: Cli, data: bytes, message: str
) -> None:
    replace_file("reference.npz", data)
    with pytest.raises(ArtifactError, match=message) as caught:
        Bundle.open(bundle).reference()
    assert "\n" not in str(caught.value)
    assert edgeseg("verify", bundle).code == 4
