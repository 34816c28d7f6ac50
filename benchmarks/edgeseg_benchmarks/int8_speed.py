"""How much faster 8 bits are on a CPU: PyTorch, ONNX Runtime and OpenVINO on the same picture.

    python -m edgeseg_benchmarks.int8_speed --out DIR

Picture in, class map out, batch 1, for the reference network and for the ``edge`` preset. All
sides take turns, forwards and backwards (A B C, C B A, ...), so that whatever else the machine does
hits them alike: only ratios are meaningful, each with a bootstrap interval over the rounds. The
networks are untrained, because times do not depend on weights; what 8 bits cost in accuracy is
``edgeseg bench``'s to say, on a trained bundle. OpenVINO takes part where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import torch
import typer
from numpy.typing import NDArray

from edgeseg.cpu import cpu_threads
from edgeseg.files import atomic_write
from edgeseg.preprocess import IMAGENET_MEAN, IMAGENET_STD, resize_image
from edgeseg_benchmarks.environment import software_facts, system_facts
from edgeseg_benchmarks.latency import RESAMPLES, Ratio
from edgeseg_export.graph.torch_export import INPUT, to_onnx
from edgeseg_export.precision.calibration import observe
from edgeseg_export.precision.variants import KINDS, make
from edgeseg_train.data import open_source
from edgeseg_train.recipe.presets import preset
from edgeseg_train.unet import SegmentationNetwork, UNet, UNetConfig

CALIBRATION = "synthetic:8+1"
WARMUP = 3
DISTURBED = 1.3
PAUSE_S = 0.02  # PyTorch's threads spin for a while behind a call and would slow the next side

Image = NDArray[np.uint8]
Run = Callable[[], object]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Question:
    """A ratio that is asked for: how many times faster than ``slow`` is ``fast``?"""

    slow: str
    fast: str
    goal: float | None = None


QUESTIONS = (
    Question("seed: onnxruntime fp32", "seed: onnxruntime int8", 2.3),
    Question("seed: torch eager fp32", "seed: onnxruntime int8", 4.5),
    Question("seed: torch channels_last fp32", "seed: onnxruntime int8"),
    Question("seed: openvino int8", "seed: onnxruntime int8", 0.9),
    Question("seed: openvino fp32", "seed: openvino int8"),
    Question("edge: onnxruntime fp32", "edge: onnxruntime int8"),
    Question("edge: openvino int8", "edge: onnxruntime int8"),
    Question("seed: torch eager fp32", "edge: onnxruntime int8", 15),
)


def networks(num_classes: int) -> dict[str, UNetConfig]:
    """Return the reference network and that of the ``edge`` preset."""
    return {
        "seed": UNetConfig(num_classes=num_classes),
        "edge": preset("edge").unet_config(num_classes),
    }


def int8_file(master: bytes, images: Sequence[Image]) -> bytes:
    """Return what the project ships as ``int8-cpu``."""
    (kind,) = (kind for kind in KINDS if kind.name == "int8-cpu")
    return make(kind, master, observe(master, images, "minmax"))


def sides(
    name: str, config: UNetConfig, images: Sequence[Image], threads: int, folder: Path
) -> dict[str, Run]:
    """Return a network's contestants, each a call from picture (1, H, W, 3) to class map."""
    torch.manual_seed(0)
    network = SegmentationNetwork(UNet(config), IMAGENET_MEAN, IMAGENET_STD).eval()
    picture = images[0][np.newaxis]
    master = to_onnx(network, *picture.shape[1:3])
    files = {"fp32": master, "int8": int8_file(master, images)}
    found = {f"{name}: torch eager fp32": torch_run(network, picture)}
    for precision, data in files.items():
        found[f"{name}: onnxruntime {precision}"] = onnxruntime_run(data, picture, threads)
        if importlib.util.find_spec("openvino"):
            path = folder / f"{name}.{precision}.onnx"
            path.write_bytes(data)
            found[f"{name}: openvino {precision}"] = openvino_run(path, picture, threads)
    channels_last = SegmentationNetwork(UNet(config), IMAGENET_MEAN, IMAGENET_STD).eval()
    channels_last.to(memory_format=torch.channels_last)
    found[f"{name}: torch channels_last fp32"] = torch_run(channels_last, picture)
    return found


def torch_run(network: SegmentationNetwork, picture: Image) -> Run:
    """Return a call of PyTorch's eager mode."""
    tensor = torch.tensor(picture)

    def run() -> object:
        with torch.inference_mode():
            return network(tensor).argmax(dim=1).to(torch.uint8)

    return run


def onnxruntime_run(model: bytes, picture: Image, threads: int) -> Run:
    """Return a call of ONNX Runtime with the options of ``edgeseg run``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {INPUT: picture})


def openvino_run(path: Path, picture: Image, threads: int) -> Run:
    """Return a call of OpenVINO on the same file; fp32 stays fp32 on CPUs that have bf16."""
    core = importlib.import_module("openvino").Core()
    compiled = core.compile_model(
        str(path),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()
    return lambda: request.infer([picture])


def interleaved(runs: dict[str, Run], rounds: int) -> Times:
    """Return seconds per call, one of each side per round; every other round runs backwards."""
    found: Times = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(WARMUP):
            run()
    for turn in range(rounds):
        for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            runs[name]()
            found[name].append(time.perf_counter() - start)
    return found


def faster(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """Return the ratio of medians, slow over fast, with a 95 % bootstrap interval over rounds."""
    both = np.array([slow, fast])
    draws = np.random.default_rng(0).integers(both.shape[1], size=(RESAMPLES, both.shape[1]))
    medians = np.median(both[:, draws], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    value = np.median(both[0]) / np.median(both[1])
    return Ratio(float(value), float(low), float(high))


def answers(times: Times) -> list[dict[str, Any]]:
    """Return a row for each question whose sides were measured; ``met`` compares the ratio."""
    rows = []
    for question in QUESTIONS:
        if question.slow in times and question.fast in times:
            ratio = faster(times[question.slow], times[question.fast])
            met = None if question.goal is None else ratio.value >= question.goal
            rows.append({**asdict(question), **asdict(ratio), "met": met})
    return rows


def disturbed(times: Times) -> list[str]:
    """Return the sides whose median is far from their fastest call: the machine was not idle."""
    return [name for name, t in times.items() if np.median(t) > DISTURBED * min(t)]


def markdown(document: dict[str, Any]) -> str:
    """Return the report."""
    lines = [
        "# Speed of int8 on a CPU",
        "",
        f"{document['system']['cpu']}, {document['threads']} threads, "
        f"{document['size'][0]}x{document['size'][1]}, batch 1, {document['rounds']} interleaved "
        "rounds. Picture in, class map out. Trust the ratios, not the milliseconds: they come "
        "from one run in which all sides took turns.",
        "",
        "| faster | than | times | 95 % interval | goal |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in document["ratios"]:
        goal = "" if row["goal"] is None else f"{row['goal']} {'met' if row['met'] else 'missed'}"
        interval = f"{row['low']:.2f}-{row['high']:.2f}"
        lines.append(
            f"| {row['fast']} | {row['slow']} | {row['value']:.2f} | {interval} | {goal} |"
        )
    if document["disturbed"]:
        lines += ["", f"DISTURBED, measure again: {', '.join(document['disturbed'])}."]
    lines += ["", "| side | median ms | fastest ms |", "| --- | ---: | ---: |"]
    for name, seconds in document["seconds"].items():
        lines.append(f"| {name} | {1e3 * np.median(seconds):.1f} | {1e3 * min(seconds):.1f} |")
    versions = ", ".join(f"{k} {v}" for k, v in document["software"].items() if v is not None)
    return "\n".join([*lines, "", f"Software: {versions}.", ""])


def measure(
    configs: dict[str, UNetConfig], size: tuple[int, int], threads: int, rounds: int
) -> dict[str, Any]:
    """Build all sides, measure, and return the document that is written as JSON."""
    split = open_source(CALIBRATION).split("train")
    images = [resize_image(split.image(i), *size) for i in range(len(split.names))]
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Run] = {}
        for name, config in configs.items():
            runs |= sides(name, config, images, threads, Path(folder))
        times = interleaved(runs, rounds)
    return {
        "schema": "edgeseg-int8-speed/1",
        "size": list(size),
        "threads": threads,
        "rounds": rounds,
        "calibration": CALIBRATION,
        "ratios": answers(times),
        "disturbed": disturbed(times),
        "seconds": times,
        "system": system_facts(),
        "software": {**software_facts(), "openvino": _openvino_version()},
    }


def _openvino_version() -> str | None:
    return metadata.version("openvino") if importlib.util.find_spec("openvino") else None


def main(
    out: Annotated[Path, typer.Option(help="Folder for int8-speed.json and int8-speed.md.")],
    rounds: Annotated[int, typer.Option(min=3, help="Calls of each side.")] = 40,
    size: Annotated[int, typer.Option(min=16, help="Height and width.")] = 256,
    num_classes: Annotated[int, typer.Option(min=1, max=254)] = 150,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all usable cores.")] = None,
) -> None:
    """Measure, print the report, write it and all samples."""
    document = measure(networks(num_classes), (size, size), threads or cpu_threads(), rounds)
    report = markdown(document)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "int8-speed.json", (json.dumps(document, indent=1) + "\n").encode())
    atomic_write(out / "int8-speed.md", report.encode())
    typer.echo(report)


if __name__ == "__main__":
    typer.run(main)
