"""The measurements: stages of one picture, start-up, memory, folder mode, installed size."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from edgeseg.segmentation import save_png
from edgeseg.segmenter import Segmenter
from edgeseg_benchmarks.runtime_speed.children import (
    FIRST_MASK,
    IMPORTS_ONLY,
    MEMORY,
    MODEL_ONLY,
    PLAIN_SCRIPT,
    python,
)
from edgeseg_train.data import open_source

PICTURE = (512, 683)  # height, width: a typical ADE20K picture
BACKEND, VARIANT = "ort:cpu", "int8-cpu"
NOT_COUNTED = ("numpy", "pillow", "onnxruntime")  # the runtime itself, and what all need


def picture_bytes(quality: int = 90) -> bytes:
    """Return a JPEG of 683x512: a synthetic scene, enlarged, with the noise of a camera."""
    scene = Image.fromarray(open_source("synthetic:1+1").split("train").image(0))
    pixels = np.asarray(scene.resize(PICTURE[::-1], Image.Resampling.BICUBIC), dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 6, pixels.shape)
    buffer = io.BytesIO()
    noisy = (pixels + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def stages(bundle: Path, picture: bytes, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure CPU and wall milliseconds of each stage of one picture after the other."""
    rows: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("prepare", "network", "finish", "encode")
    }
    with Segmenter.load(bundle, BACKEND, VARIANT) as segmenter:
        for turn in range(rounds + 3):
            clock = _Clock()
            prepared = segmenter.prepare(picture)
            found = {"prepare": clock.lap()}
            (answer,) = segmenter.infer([prepared])
            found["network"] = clock.lap()
            result = segmenter.finish(answer)
            found["finish"] = clock.lap()
            save_png(result.mask(), folder / "mask.png")
            found["encode"] = clock.lap()
            if turn >= 3:  # warm by then
                for name, times in found.items():
                    rows[name].append(times)
    cpu = {name: median(c for c, _ in times) for name, times in rows.items()}
    wall = {name: median(w for _, w in times) for name, times in rows.items()}
    around = [name for name in rows if name != "network"]
    per_round = [
        sum(rows[name][i][1] for name in around) / sum(times[i][1] for times in rows.values())
        for i in range(rounds)
    ]
    return {
        "rounds": rounds,
        "cpu_ms": cpu,
        "wall_ms": wall,
        "around_cpu_ms": sum(cpu[name] for name in around),
        "around_share": median(per_round),
    }


class _Clock:
    """Laps of this thread's CPU time and of wall time, in milliseconds."""

    def __init__(self) -> None:
        self._last = time.thread_time(), time.perf_counter()

    def lap(self) -> tuple[float, float]:
        now = time.thread_time(), time.perf_counter()
        cpu, wall = (1e3 * (n - last) for n, last in zip(now, self._last, strict=True))
        self._last = now
        return cpu, wall


def in_turns(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return what each call gave, once a round, every other round backwards; one to warm up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(calls[name]())
    return found


def seconds_of(code: str, *arguments: object) -> float:
    """Return how long a fresh interpreter takes from start to end."""
    start = time.perf_counter()
    python(code, *arguments)
    return time.perf_counter() - start


def start_up(bundle: Path, picture: Path, rounds: int) -> dict[str, Any]:
    """Measure a process from its start to the first mask, against a plain script and imports."""
    arguments = (bundle, picture, picture.with_suffix(".png"))
    seconds = in_turns(
        {
            "edgeseg": lambda: seconds_of(FIRST_MASK, *arguments),
            "plain script": lambda: seconds_of(PLAIN_SCRIPT, *arguments),
            "imports of onnxruntime, numpy, Pillow": lambda: seconds_of(IMPORTS_ONLY),
            "python -c pass": lambda: seconds_of("pass"),
        },
        rounds,
    )
    ratios = [a / b for a, b in zip(seconds["edgeseg"], seconds["plain script"], strict=True)]
    return {
        "seconds": seconds,
        "first_mask_s": median(seconds["edgeseg"]),
        "over_plain_script": median(ratios),
    }


def memory(bundle: Path, picture: Path) -> dict[str, float]:
    """Return resident and peak megabytes of a process that segmented 20 pictures."""
    resident, peak = python(MEMORY, bundle, picture, picture.with_suffix(".png")).split()
    return {"rss_mb": float(resident), "peak_rss_mb": float(peak)}


def folder_mode(
    bundles: dict[str, Path], picture: bytes, folder: Path, images: int, rounds: int
) -> dict[str, Any]:
    """Compare ``edgeseg run`` over a folder with the network alone, in images per second.

    On a CPU both share the cores: what decoding and encoding take, the network has not.
    """
    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(images):
        (pictures / f"{i:04}.jpg").write_bytes(picture)
    found: dict[str, Any] = {"images": images, "images_per_second": {}}
    for name, bundle in bundles.items():
        alone, run = f"{name}: network alone", f"{name}: edgeseg run"
        speeds = in_turns(
            {
                alone: partial(_network_alone, bundle, pictures / "0000.jpg", images),
                run: partial(_run_folder, bundle, pictures, folder / f"{name}.masks"),
            },
            rounds,
        )
        ratios = [a / b for a, b in zip(speeds[run], speeds[alone], strict=True)]
        found["images_per_second"] |= speeds
        found[f"folder_{name}"] = median(ratios)
    return found


def _network_alone(bundle: Path, picture: Path, images: int) -> float:
    return float(python(MODEL_ONLY, bundle, picture, images))


def _run_folder(bundle: Path, pictures: Path, out: Path) -> float:
    command = ["run", bundle, pictures, "--out", out, "--backend", BACKEND, "--variant", VARIANT]
    done = subprocess.run(
        [sys.executable, "-m", "edgeseg", *map(str, command), "--force", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    document = json.loads(done.stdout)
    return float(document["segmented"] / document["seconds"])


def installed() -> dict[str, Any]:
    """Return the megabytes of the base install, package by package, from their file lists."""
    sizes = {name: _megabytes(name) for name in _base_packages("edgeseg")}
    counted = {name: mb for name, mb in sizes.items() if name not in NOT_COUNTED}
    return {"packages_mb": counted, "installed_mb": sum(counted.values())}


def _base_packages(root: str) -> list[str]:
    """Return the package and all it needs without extras, as they are installed here."""
    from packaging.requirements import Requirement

    found: list[str] = []
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.append(name)
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name.lower().replace("_", "-"))
    return sorted(found)


def _megabytes(package: str) -> float:
    if package == "edgeseg":  # an editable install lists no files
        root = Path(__file__).parents[3]
        paths = [path for stage in ("runtime",) for path in (root / stage).rglob("*.py")]
    else:
        paths = [Path(str(file.locate())) for file in metadata.files(package) or []]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6
