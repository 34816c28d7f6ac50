from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from edgeseg.cli.output import Output
from edgeseg_export.tensorrt import progress
from edgeseg_export.tensorrt.progress import Phase, Phases, shown, watch


def nothing() -> None:
    pass


def test_phases_nest_and_end() -> None:
    phases = Phases()
    phases.start("build", None, 2)
    phases.start("optimise", "build", 5)
    assert phases.step("optimise", 0) is True
    assert phases.now() == [Phase("build", 0, 0, 2), Phase("optimise", 1, 1, 5)]
    phases.finish("optimise")
    assert phases.step("optimise", 1) is True  # a step of a phase that is over changes nothing
    assert phases.now() == [Phase("build", 0, 0, 2)]


def test_a_stop_is_the_answer_to_the_next_step() -> None:
    phases = Phases()
    phases.stop.set()
    assert phases.step("anything", 0) is False


def test_watching_returns_the_result_and_runs_elsewhere() -> None:
    assert watch(threading.current_thread, Phases(), nothing, str).name == "edgeseg-build"


def test_errors_in_the_thread_are_raised_here() -> None:
    def fail() -> None:
        raise MemoryError("inside")

    with pytest.raises(MemoryError, match="inside"):
        watch(fail, Phases(), nothing, str)


def test_an_interrupt_stops_and_waits_for_the_thread() -> None:
    phases = Phases()

    def interrupted() -> None:
        raise KeyboardInterrupt

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        watch(lambda: phases.stop.wait(30), phases, interrupted, said.append)
    assert "interrupt again to leave at once" in said[0]
    assert not [t for t in threading.enumerate() if t.name == "edgeseg-build"]


def test_a_second_interrupt_leaves_a_call_that_does_not_stop() -> None:
    code = (
        "import os, signal, time\n"
        "from edgeseg_export.tensorrt.progress import Phases, watch\n"
        "interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "def call():\n"
        "    interrupt(); time.sleep(1); interrupt(); time.sleep(60)\n"
        "watch(call, Phases(), lambda: None, print)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, timeout=30
    )
    assert done.returncode == 130


def test_a_log_file_gets_a_line_now_and_then(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.0)
    phases = Phases()
    with shown(Output(), phases) as draw:
        draw()
        phases.start("Building engine", None, 6)
        phases.step("Building engine", 2)
        draw()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["building for 0 s: starting", "building for 0 s: Building engine 3 of 6"]


def test_quiet_shows_nothing(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.0)
    with shown(Output(quiet=True), Phases()) as draw:
        draw()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_per_phase(capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a pipe for a terminal
    phases = Phases()
    with shown(Output(), phases) as draw:
        phases.start("Building engine", None, 6)
        phases.start("Optimizing graph", "Building engine", 30)
        draw()
        phases.finish("Optimizing graph")
        draw()
    printed = capsys.readouterr().err
    assert "Building engine" in printed
    assert "  Optimizing graph" in printed
