"""``edgeseg demo``: every stage once, on synthetic scenes, in a few minutes on two CPU cores.

Trains the ``tiny`` preset, exports it, replays the reference, segments a few scenes it has
never seen, benchmarks, and says where everything is. Gates make it a test as well.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from edgeseg.bundle import Bundle
from edgeseg.cli.output import Output, command_app
from edgeseg.errors import GateFailed
from edgeseg.files import atomic_write, refuse_existing
from edgeseg.preprocess import Preprocessing
from edgeseg.segmentation import save_png
from edgeseg.segmenter import Segmenter
from edgeseg.sessions import open_session
from edgeseg.verify import verify
from edgeseg_benchmarks.bench import TORCH, Plan, bench
from edgeseg_benchmarks.cli import show_report
from edgeseg_benchmarks.report import Report
from edgeseg_export.exporting import export
from edgeseg_train.data import open_source
from edgeseg_train.recipe.presets import preset
from edgeseg_train.run.job import Job
from edgeseg_train.run.progress import TerminalReporter
from edgeseg_train.run.training import train

DATA = "synthetic:480+80"
VARIANTS = ("fp32", "int8-cpu")
SCENES = 6
MIN_MIOU = 0.60
MAX_INT8_DROP = 0.02
MARKER = "demo.txt"

_SUMMARY = """
demo finished in {seconds:.0f} s: val mIoU {miou:.4f} over {classes} classes, int8 {drop:+.4f}
  run folder   {out}/run         curves.png, samples.png, metrics.csv
  bundle       {out}/bundle      manifest.json and the ONNX files
  scenes       {out}/scenes      pictures no training has seen
  masks        {out}/masks       masks and overlays for them
  report       {out}/report      report.md, report.json
next:
  edgeseg info {out}/bundle
  edgeseg run {out}/bundle {out}/scenes --out masks --overlay
  edgeseg train --data folder:YOUR_DATA --preset edge --out runs/first
"""


def main(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo"),
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo.")] = False,
) -> int:
    """Train, export, verify, run and benchmark on synthetic scenes; about two to four minutes.

    Exit 5 when the network learns too little or INT8 loses too much.
    """
    output: Output = ctx.obj
    start = time.perf_counter()
    refuse_existing(out, MARKER, force=force)
    shutil.rmtree(out, ignore_errors=True)  # ours or empty, says refuse_existing
    out.mkdir(parents=True)
    atomic_write(out / MARKER, b"Written by 'edgeseg demo'; --force may replace it.\n")
    report = _stages(out, output)
    return _finish(report, out, time.perf_counter() - start, output)


def _stages(folder: Path, output: Output) -> Report:
    output.note("1/5 train: preset tiny on synthetic scenes")
    train(_job(), folder / "run", report=TerminalReporter(output))
    output.note("2/5 export")
    export(folder / "run", folder / "bundle", tell=lambda text: output.note("  " + text))
    output.note("3/5 verify")
    bundle = Bundle.open(folder / "bundle")
    for name in VARIANTS:
        outcome = verify(bundle, open_session(bundle, "ort:cpu", name))
        output.note(f"  {name}: {outcome.agreement:.4%} of pixels as PyTorch")
    output.note(f"4/5 run on {SCENES} unseen scenes")
    _segment(bundle, folder)
    output.note("5/5 bench")
    plan = Plan(
        bundle=folder / "bundle",
        run=folder / "run",
        data=DATA,
        backends=(TORCH, "ort:cpu"),
        variants=VARIANTS,
        max_miou_drop=MAX_INT8_DROP,
        command=("edgeseg", "demo"),
    )
    return bench(plan, folder / "report", output)


def _job() -> Job:
    source, tiny = open_source(DATA), preset("tiny")
    model = tiny.unet_config(source.labels.num_classes)
    height, width = tiny.size
    return Job(source, model, Preprocessing(height=height, width=width), tiny.training)


def _segment(bundle: Bundle, folder: Path) -> None:
    """Write scenes beyond the validation images, then their masks and overlays."""
    (folder / "scenes").mkdir()
    (folder / "masks").mkdir()
    beyond = open_source("synthetic:1+1000").split("val")
    with Segmenter.load(bundle, "ort:cpu") as segmenter:
        for i in range(SCENES):
            name = f"scene-{i + 1}.png"
            picture = folder / "scenes" / name
            picture.write_bytes(beyond.encoded(len(beyond.names) - 1 - i))
            result = segmenter(picture)
            result.save(folder / "masks" / name)
            save_png(result.overlay(), folder / "masks" / f"scene-{i + 1}.overlay.png")


def _finish(report: Report, out: Path, seconds: float, output: Output) -> int:
    reference, int8 = report.rows[0].accuracy, report.rows[-1].accuracy
    show_report(report, out / "report", output)
    if not output.as_json:
        output.result(
            {},
            _SUMMARY.format(
                seconds=seconds,
                miou=reference.miou,
                classes=reference.classes_present,
                drop=-int8.miou_drop,
                out=out,
            ),
        )
    failures = list(report.gate_failures)
    if reference.miou < MIN_MIOU:
        failures.append(f"val mIoU {reference.miou:.4f} is below {MIN_MIOU}")
    for failure in failures:
        output.error(failure)
    return GateFailed.exit_code if failures else 0


app = command_app(main)
