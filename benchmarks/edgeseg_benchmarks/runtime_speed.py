"""What the runtime costs around the network: stages, start-up, memory, folders, installed size.

    python -m edgeseg_benchmarks.runtime_speed --seed BUNDLE --edge BUNDLE --out DIR

Both bundles are of 256x256 with ``int8-cpu``, of the ``seed`` and the ``edge`` preset. What is
compared takes turns, forwards and backwards, and every start-up, memory and folder measurement has
a process of its own; trust the ratios and the CPU times, wall times are this machine's just then.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from edgeseg.files import atomic_write
from edgeseg.segmentation import save_png
from edgeseg.segmenter import Segmenter
from edgeseg_benchmarks.environment import software_facts, system_facts
from edgeseg_train.data import open_source

PICTURE = (512, 683)  # height, width: a typical ADE20K picture
BACKEND, VARIANT = "ort:cpu", "int8-cpu"
GOALS = {
    "around_cpu_ms": 12.0,
    "around_share": 0.10,
    "first_mask_s": 1.0,
    "rss_mb": 300.0,
    "folder_throughput": 0.95,
    "installed_mb": 60.0,
}
NOT_COUNTED = ("numpy", "pillow", "onnxruntime")  # the runtime itself, and what all need

FIRST_MASK = """
import sys
from edgeseg import Segmenter
bundle, picture, mask = sys.argv[1:]
Segmenter.load(bundle, "ort:cpu", "int8-cpu")(picture).save(mask)
"""
PLAIN_SCRIPT = """
import sys
import numpy as np, onnxruntime
from PIL import Image
bundle, picture, mask = sys.argv[1:]
session = onnxruntime.InferenceSession(bundle + "/model.int8-cpu.onnx")
_, height, width, _ = session.get_inputs()[0].shape
image = Image.open(picture)
pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
name = session.get_inputs()[0].name
class_map = session.run(None, {name: pixels[None]})[0][0]
Image.fromarray(class_map).resize(image.size, Image.Resampling.NEAREST).save(mask)
"""
IMPORTS_ONLY = "import numpy, onnxruntime, PIL.Image"
MEMORY = """
import re, sys
from edgeseg import Segmenter
bundle, picture, mask = sys.argv[1:]
segmenter = Segmenter.load(bundle, "ort:cpu", "int8-cpu")
for _ in range(20):
    segmenter(picture).save(mask)
status = open("/proc/self/status").read()
print(*(int(re.search(name + r":\\s+(\\d+)", status)[1]) / 1024 for name in ("VmRSS", "VmHWM")))
"""
MODEL_ONLY = """
import sys, time
from edgeseg import Segmenter
bundle, picture, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
segmenter = Segmenter.load(bundle, "ort:cpu", "int8-cpu")
pixels = segmenter.prepare(picture).pixels[None]
for _ in range(5):
    segmenter.session.infer(pixels)
start = time.perf_counter()
for _ in range(count):
    segmenter.session.infer(pixels)
print(count / (time.perf_counter() - start))
"""


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


def python(code: str, *arguments: object) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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


def folder_mode(bundle: Path, picture: bytes, folder: Path, images: int, rounds: int) -> Any:
    """Compare ``edgeseg run`` over a folder with the network alone, in images per second."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(images):
        (pictures / f"{i:04}.jpg").write_bytes(picture)
    speeds = in_turns(
        {
            "network alone": lambda: float(
                python(MODEL_ONLY, bundle, pictures / "0000.jpg", images)
            ),
            "edgeseg run": lambda: _run_folder(bundle, pictures, folder / "masks"),
        },
        rounds,
    )
    ratios = [a / b for a, b in zip(speeds["edgeseg run"], speeds["network alone"], strict=True)]
    return {"images": images, "images_per_second": speeds, "folder_throughput": median(ratios)}


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
        root = Path(__file__).parents[2]
        paths = [path for stage in ("runtime",) for path in (root / stage).rglob("*.py")]
    else:
        paths = [Path(str(file.locate())) for file in metadata.files(package) or []]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def verdicts(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per goal: what was measured, the goal, and whether it is met."""
    parts = ("stages", "start_up", "memory", "folder_mode", "installed")
    measured = {key: value for part in parts for key, value in document[part].items()}
    rows = []
    for name, goal in GOALS.items():
        value = measured[name]
        met = value >= goal if name == "folder_throughput" else value <= goal
        rows.append({"what": name, "value": value, "goal": goal, "met": met})
    return rows


WORDS = {
    "around_cpu_ms": "CPU ms around the network, JPEG 683x512 to palette PNG, at 256x256",
    "around_share": "share of the end-to-end time of the seed network in int8",
    "first_mask_s": "seconds from process start to the first mask, edge preset",
    "rss_mb": "MB resident after 20 pictures, edge preset in int8",
    "folder_throughput": "folder mode's images per second over the network's alone",
    "installed_mb": "MB of the base install beyond numpy, Pillow and ONNX Runtime",
}


def markdown(document: dict[str, Any]) -> str:
    """Return the report."""
    system = document["system"]
    lines = [
        "# What the runtime costs around the network",
        "",
        f"{system['cpu']}, {system['usable_threads']} threads, load {system['load_1min']} at the "
        "start. Medians; what is compared took turns. See "
        "`python -m edgeseg_benchmarks.runtime_speed --help`.",
        "",
        "| what | measured | goal | |",
        "| --- | ---: | ---: | --- |",
    ]
    for row in document["goals"]:
        sign = ">=" if row["what"] == "folder_throughput" else "<="
        verdict = "met" if row["met"] else "missed"
        lines.append(
            f"| {WORDS[row['what']]} | {row['value']:.3g} | {sign} {row['goal']:g} | {verdict} |"
        )
    found = document["stages"]
    lines += ["", "| stage | CPU ms | wall ms |", "| --- | ---: | ---: |"]
    for name in found["cpu_ms"]:
        lines.append(f"| {name} | {found['cpu_ms'][name]:.2f} | {found['wall_ms'][name]:.2f} |")
    lines += ["", "| a fresh process | median s | fastest s |", "| --- | ---: | ---: |"]
    for name, seconds in document["start_up"]["seconds"].items():
        lines.append(f"| {name} | {median(seconds):.3f} | {min(seconds):.3f} |")
    ratio = document["start_up"]["over_plain_script"]
    lines += ["", f"From start to first mask edgeseg takes {ratio:.2f} times the plain script."]
    lines += ["", "| package | MB |", "| --- | ---: |"]
    lines += [f"| {k} | {v:.2f} |" for k, v in document["installed"]["packages_mb"].items()]
    versions = ", ".join(f"{k} {v}" for k, v in document["software"].items() if v is not None)
    return "\n".join([*lines, "", f"Software: {versions}.", ""])


def measure(seed: Path, edge: Path, *, rounds: int, images: int) -> dict[str, Any]:
    """Measure all and return the document that is written as JSON."""
    picture = picture_bytes()
    system = system_facts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "picture.jpg"
        path.write_bytes(picture)
        document: dict[str, Any] = {
            "schema": "edgeseg-runtime-speed/1",
            "stages": stages(seed, picture, folder, 4 * rounds),
            "start_up": start_up(edge, path, rounds),
            "memory": memory(edge, path),
            "folder_mode": folder_mode(edge, picture, folder, images, rounds),
            "installed": installed(),
            "system": system,
            "software": software_facts(),
        }
    return {**document, "goals": verdicts(document)}


def main(
    seed: Annotated[Path, typer.Option(help="Bundle of the seed preset.")],
    edge: Annotated[Path, typer.Option(help="Bundle of the edge preset.")],
    out: Annotated[Path, typer.Option(help="Folder for runtime-speed.json and .md.")],
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 9,
    images: Annotated[int, typer.Option(min=1, help="Pictures in the folder.")] = 60,
) -> None:
    """Measure, print the report, write it and all samples."""
    document = measure(seed, edge, rounds=rounds, images=images)
    report = markdown(document)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "runtime-speed.json", (json.dumps(document, indent=1) + "\n").encode())
    atomic_write(out / "runtime-speed.md", report.encode())
    typer.echo(report)


if __name__ == "__main__":
    typer.run(main)
