"""Watch a build and be able to stop it: it may take minutes and is one call into TensorRT.

The call runs in a thread of its own; TensorRT reports phases to a monitor there, which may answer
"stop". The main thread meanwhile draws the phases and hears Ctrl-C.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgeseg.cli.main import INTERRUPTED, TERMINATED
from edgeseg.cli.output import Output
from edgeseg.errors import Terminated

POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 15.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Phase:
    """A phase of the build: ``depth`` 0 is the whole, its parts lie deeper."""

    name: str
    depth: int
    done: int
    total: int


class Phases:
    """The phases that run now. The builder's threads write, the main thread reads."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._running: dict[str, Phase] = {}

    def start(self, name: str, parent: str | None, total: int) -> None:
        """Note that a phase of ``total`` steps begins, within ``parent``."""
        outer = self._running.get(parent or "")
        self._running[name] = Phase(name, outer.depth + 1 if outer else 0, 0, total)

    def step(self, name: str, step: int) -> bool:
        """Note that ``step`` (from 0) is done; return whether to go on."""
        if phase := self._running.get(name):
            self._running[name] = Phase(name, phase.depth, step + 1, phase.total)
        return not self.stop.is_set()

    def finish(self, name: str) -> None:
        """Note that a phase ended."""
        self._running.pop(name, None)

    def now(self) -> list[Phase]:
        """Return what runs now, outermost first."""
        return sorted(self._running.copy().values(), key=lambda phase: phase.depth)


def new_monitor(module: Any, phases: Phases) -> Any:
    """Return a progress monitor for the builder of ``module`` that feeds ``phases``."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # the base is only known at run time
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)  # pybind11 accepts no super().__init__() here

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def watch(
    call: Callable[[], Result],
    phases: Phases,
    draw: Callable[[], None],
    tell: Callable[[str], None],
) -> Result:
    """Run ``call`` in a thread, ``draw`` meanwhile, and return its result.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the call was asked to stop, and waited for.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # it is raised again where the caller waits
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="edgeseg-build", daemon=True)
    try:
        thread.start()
        # Not thread.join(): interrupted, Python 3.11's takes a running thread for an ended one.
        while not done.wait(POLL_SECONDS):
            draw()
    except KeyboardInterrupt:
        phases.stop.set()
        tell("stopping when TensorRT has finished its step; interrupt again to leave at once")
        _wait_or_leave(done)
        thread.join()
        raise
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _wait_or_leave(done: threading.Event) -> None:
    try:
        done.wait()
    except KeyboardInterrupt as again:
        # An ordinary exit ends threads, and one that is inside of TensorRT aborts the process.
        os._exit(TERMINATED if isinstance(again, Terminated) else INTERRUPTED)


@contextmanager
def shown(output: Output, phases: Phases) -> Iterator[Callable[[], None]]:
    """Show the phases on stderr while the body runs; the body calls what it is given.

    A terminal gets a bar per phase, a log file a line now and then.
    """
    console = Console(stderr=True)
    on_screen = console.is_terminal and not output.quiet
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not on_screen, transient=True) as bars:
        yield _bars(bars, phases) if on_screen else _heartbeat(output, phases)


def _bars(bars: Progress, phases: Phases) -> Callable[[], None]:
    tasks: dict[str, Any] = {}

    def draw() -> None:
        running = phases.now()
        for name in tasks.keys() - {phase.name for phase in running}:
            bars.remove_task(tasks.pop(name))
        for phase in running:
            if phase.name not in tasks:
                text = "  " * phase.depth + phase.name
                tasks[phase.name] = bars.add_task(text, total=phase.total)
            bars.update(tasks[phase.name], completed=phase.done)

    return draw


def _heartbeat(output: Output, phases: Phases) -> Callable[[], None]:
    begun = said = time.monotonic()

    def draw() -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= HEARTBEAT_SECONDS:
            said = now
            running = ", ".join(f"{p.name} {p.done} of {p.total}" for p in phases.now())
            output.note(f"building for {now - begun:.0f} s: {running or 'starting'}")

    return draw
