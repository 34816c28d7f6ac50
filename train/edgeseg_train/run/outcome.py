"""How a training that did not finish ended: the error to raise, and what can be done next."""

from __future__ import annotations

import signal

import torch

from edgeseg.errors import (
    ArtifactError,
    EdgeSegError,
    GateFailed,
    ResourceError,
    Terminated,
    UsageError,
    first_line,
    show,
)
from edgeseg_train.run.loop import Interrupted
from edgeseg_train.run.workspace import Workspace


def ended_early(error: BaseException, workspace: Workspace, stop: int) -> BaseException:
    """Return what to raise.

    Args:
        error: what ended the training.
        workspace: where it worked.
        stop: the number of the signal that had come, or 0.
    """
    kept = workspace.has_checkpoint
    hint = f"continue with --resume {workspace.out}"
    if stop or isinstance(error, Interrupted | KeyboardInterrupt):
        number = error.signal if isinstance(error, Interrupted) else stop
        what = f"the state is saved; {hint}" if kept else "nothing was kept: no step had finished"
        terminated = number == signal.SIGTERM or isinstance(error, Terminated)
        return Terminated(what) if terminated else KeyboardInterrupt(what)
    if not isinstance(error, Exception):
        return error
    explained = explain(error)
    if not kept or isinstance(explained, ArtifactError | UsageError):  # these say what to do
        return explained
    place = f"what was reached before is in {show(workspace.folder)}"
    if isinstance(explained, GateFailed):  # going on would diverge again
        return GateFailed(f"{explained}; start again with --force; {place}")
    return type(explained)(f"{explained}; {place}: {hint}")


def explain(error: Exception) -> EdgeSegError:
    """Return an error of ours for whatever ended the training."""
    out_of_memory = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(
        error
    )
    if out_of_memory:
        return ResourceError(f"out of memory: {first_line(error)}; use a smaller --batch-size")
    if isinstance(error, OSError | MemoryError):
        return ResourceError(first_line(error))
    if "DataLoader timed out" in str(error):
        return ResourceError(
            f"{first_line(error)}: most likely no room in /dev/shm, or very slow storage; use "
            "fewer --workers"
        )
    if "DataLoader worker (pid" in str(error):
        return ResourceError(
            f"{first_line(error)}: most likely out of memory; use fewer --workers or a smaller "
            "--batch-size"
        )
    # A loader's worker wraps the error in its traceback, whose last line says what happened.
    lines = str(error).strip().splitlines()
    from_worker = len(lines) > 1 and "in DataLoader worker process" in lines[0]
    if isinstance(error, EdgeSegError):
        return type(error)(lines[-1].partition(": ")[2]) if from_worker else error
    reason = lines[-1] if from_worker else f"{type(error).__name__}: {first_line(error)}"
    return EdgeSegError(reason)
