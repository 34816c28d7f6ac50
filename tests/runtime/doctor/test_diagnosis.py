"""What doctor says of this machine, and what the command prints."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeseg import __version__, doctor
from edgeseg.cli.doctor import report
from edgeseg.cli.output import Output
from edgeseg.doctor.machine import Machine
from edgeseg.sessions import BACKENDS

Cli = Callable[..., Any]
GIB = 2**30


def printed(found: doctor.Diagnosis, capsys: pytest.CaptureFixture[str]) -> str:
    Output().result({}, report(found, "chosen"))
    return capsys.readouterr().out


def test_it_reports_this_machine() -> None:
    found = doctor.diagnose()
    assert found.edgeseg == __version__
    assert found.packages["numpy"] == np.__version__
    assert set(found.packages) == set(doctor.PACKAGES)
    assert list(found.backends) == list(BACKENDS)
    assert found.backends["ort:cpu"] is None
    assert 1 <= found.cpu_threads <= (os.cpu_count() or 1)
    assert found.free_bytes is None or found.free_bytes > 0
    assert f"Python {sys.version.split()[0]}".endswith(found.python.split()[0])


def test_it_survives_json() -> None:
    found = doctor.diagnose().to_dict()
    assert json.loads(json.dumps(found))["backends"] == found["backends"]
    assert set(found["auto"]) == {"order", "takes"}


def test_auto_takes_the_first_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"tensorrt", "tensorrt-rtx"}
    monkeypatch.setattr(doctor, "problem", lambda name: "broken" if name in broken else None)
    found = doctor.diagnose()
    assert found.auto == next(name for name in BACKENDS if name not in broken)
    assert "no backend works" not in str(found.findings)
    monkeypatch.setattr(doctor, "problem", lambda _: "broken")
    found = doctor.diagnose()
    assert found.auto is None
    assert found.findings[0].what.startswith("no backend works here")


@pytest.mark.parametrize("module", [None, ModuleType("onnxruntime")])
def test_without_a_working_onnxruntime_its_backends_have_a_fix(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType | None
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    found = doctor.diagnose()
    problem = found.backends["ort:cpu"]
    assert problem is not None
    assert 'pip install "edgeseg[cpu]"' in problem
    assert found.backends["ort:cuda"] is not None


def test_engine_builders_work_or_say_how_to_get_them() -> None:
    builders = doctor.diagnose().builders
    assert set(builders) == {"tensorrt", "tensorrt-rtx"}
    for problem in builders.values():
        assert problem is None or "pip install" in problem


def test_missing_packages_are_none_and_no_error(pc: Machine) -> None:
    found = doctor.diagnose(pc)
    assert set(found.packages.values()) == {None}
    assert found.extras == {}
    assert found.findings == ()


def test_a_pc_is_no_jetson(pc: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor.diagnose(pc)
    assert found.jetson is None
    text = printed(found, capsys)
    assert "JetPack " not in text.partition("backend")[0]
    assert text.endswith("nothing to fix\n")


def test_a_jetson_is_shown_with_its_board_and_its_power_mode(
    orin: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(doctor.diagnose(replace(orin(), free_bytes=3 * GIB)), capsys).splitlines()
    facts = {line.split()[0]: line for line in lines if line and not line.startswith(" ")}
    assert "Orin Nano" in facts["board"]
    assert "JetPack 6.2, L4T 36.4.3" in facts["board"]
    assert "10.3.0.30-1+cuda12.5" in facts["TensorRT"]
    assert "2 MAXN_SUPER (modes: 0 15W, 1 25W, 2 MAXN_SUPER, 3 7W)" in facts["power"]
    assert "3.0 GiB of memory free" in facts["machine"]


def test_findings_are_numbered_and_each_has_its_fix(
    orin: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    found = doctor.diagnose(orin(open_to_system=False, **{"var/lib/nvpmodel/status": "pmode:0003"}))
    text = printed(found, capsys)
    assert "\n2 to fix:\n1. " in text
    assert text.count("\n   fix: ") == len(found.findings) == 2
    assert found.to_dict()["findings"][1]["fix"] in text


def test_backends_with_one_problem_share_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "problem", lambda name: None if name == "ort:cpu" else "no GPU")
    text = printed(doctor.diagnose(), capsys)
    assert text.count("no GPU") == 1
    assert "ort:tensorrt, " in text


def test_it_fits_on_a_screen(pc: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(doctor.diagnose(pc), capsys).count("\n") <= 40


def test_the_command_prints_what_auto_takes(edgeseg: Cli, tiny_bundle: Path) -> None:
    taken = doctor.diagnose().auto
    assert f"auto: {taken}, the first of those that work here" in edgeseg("doctor").out
    document = edgeseg("doctor", "--json").document
    assert document["auto"]["takes"] == taken
    assert document["auto"]["why"].startswith(f"{taken}, ")


def test_the_command_says_what_auto_takes_for_a_bundle_as_run_does(
    edgeseg: Cli, tiny_bundle: Path, pictures: Callable[..., Path]
) -> None:
    source = pictures(["a.png"])
    ran = edgeseg("run", tiny_bundle, source, "--out", source.parent / "out").err
    shown = edgeseg("doctor", tiny_bundle, "--json").document["auto"]["why"]
    variant, _, backend = shown.partition(", ")[0].split()
    assert ran.startswith(f"{variant} on {backend} (auto: ")
    assert shown.partition(", ")[2] in ran


def test_where_nothing_works_the_command_says_so_and_succeeds(
    edgeseg: Cli, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("edgeseg.doctor.problem", "edgeseg.sessions.choice.problem"):
        monkeypatch.setattr(place, lambda _: "broken")
    done = edgeseg("doctor")
    assert (done.code, "auto: nothing to take: no backend works here" in done.out) == (0, True)
    done = edgeseg("doctor", tiny_bundle)
    assert (done.code, "auto: no backend works here: broken" in done.out) == (0, True)


def test_a_missing_bundle_is_an_error(edgeseg: Cli) -> None:
    assert edgeseg("doctor", "nowhere").code == 4
