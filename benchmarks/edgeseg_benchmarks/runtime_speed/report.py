"""The goals, whether they are met, and the page that says so."""

from __future__ import annotations

from statistics import median
from typing import Any

PARTS = ("stages", "start_up", "memory", "folder_mode", "installed")
GOALS = {
    "around_cpu_ms": 12.0,
    "around_share": 0.10,
    "first_mask_s": 1.0,
    "rss_mb": 300.0,
    "folder_seed": 0.95,
    "folder_edge": 0.95,
    "installed_mb": 60.0,
}

AT_LEAST = ("folder_seed", "folder_edge")


def verdicts(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per goal: what was measured, the goal, and whether it is met."""
    measured = {key: value for part in PARTS for key, value in document[part].items()}
    rows = []
    for name, goal in GOALS.items():
        value = measured[name]
        met = value >= goal if name in AT_LEAST else value <= goal
        rows.append({"what": name, "value": value, "goal": goal, "met": met})
    return rows


WORDS = {
    "around_cpu_ms": "CPU ms around the network, JPEG 683x512 to palette PNG, at 256x256",
    "around_share": "share of the end-to-end time of the seed network in int8",
    "first_mask_s": "seconds from process start to the first mask, edge preset",
    "rss_mb": "MB resident after 20 pictures, edge preset in int8",
    "folder_seed": "folder mode's images per second over the network's alone, seed preset in int8",
    "folder_edge": "the same, edge preset",
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
        sign = ">=" if row["what"] in AT_LEAST else "<="
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
    lines += ["", "| images per second | median |", "| --- | ---: |"]
    for name, speeds in document["folder_mode"]["images_per_second"].items():
        lines.append(f"| {name} | {median(speeds):.2f} |")
    ratio = document["start_up"]["over_plain_script"]
    lines += ["", f"From start to first mask edgeseg takes {ratio:.2f} times the plain script."]
    lines += ["", "| package | MB |", "| --- | ---: |"]
    lines += [f"| {k} | {v:.2f} |" for k, v in document["installed"]["packages_mb"].items()]
    versions = ", ".join(f"{k} {v}" for k, v in document["software"].items() if v is not None)
    return "\n".join([*lines, "", f"Software: {versions}.", ""])
