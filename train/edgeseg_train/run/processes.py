"""The processes of one training: who starts them, which one this is, and what if one fails.

torchrun and srun start all of them; otherwise the first process of each machine starts the
others, by its own command line. They say nothing on stdout; why one failed is told by the
first process, with the exit status that the error has.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import (
    LightningEnvironment,
    find_free_network_port,
)
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from edgeseg import errors
from edgeseg.errors import EdgeSegError, ResourceError, UsageError, one_line

OURS = "EDGESEG_LAUNCHED"  # set for the processes that we start
ERROR_FILE = "EDGESEG_ERROR_FILE"  # where they write why they failed
SLURM_PORTS = 15000
GRACE = 5.0  # seconds for the first process to notice by itself that another one failed


class World(NamedTuple):
    """Processes per machine, and machines."""

    devices: int
    nodes: int

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes


def started_by_launcher() -> World | None:
    """Return the processes that torchrun or SLURM's srun started, or None."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        local = int(environment["LOCAL_WORLD_SIZE"])
        return World(local, int(environment["WORLD_SIZE"]) // local)
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    if tasks > 1 and "SLURM_STEP_ID" in environment:  # not a batch script's own process
        nodes = int(environment.get("SLURM_NNODES", "1"))
        return World(tasks // nodes, nodes)
    return None


def is_helper_process() -> bool:
    """Whether this process is another than the first of all; it writes and tells nothing."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        return int(environment["RANK"]) > 0
    if started_by_launcher():
        return int(environment.get("SLURM_PROCID", "0")) > 0
    on_another_machine = "MASTER_ADDR" in environment and int(environment.get("NODE_RANK", "0")) > 0
    return on_another_machine or OURS in environment


def cluster(world: World) -> ClusterEnvironment:
    """Return what Fabric needs to know of the processes.

    Raises:
        UsageError: several machines, but neither a launcher nor an address to meet at.
    """
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        return TorchElasticEnvironment()
    if started_by_launcher():
        local, node = int(environment["SLURM_LOCALID"]), int(environment["SLURM_NODEID"])
        first = SLURMEnvironment.resolve_root_node_address(environment["SLURM_NODELIST"])
        port = SLURM_PORTS + int(environment["SLURM_JOB_ID"][-4:])  # the same for all of a job
        return _Environment(
            local,
            node,
            environment.get("MASTER_ADDR", first),
            int(environment.get("MASTER_PORT", port)),
        )
    if world.nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= set(environment):
        raise UsageError(
            f"--nodes {world.nodes} needs torchrun, srun, or MASTER_ADDR, MASTER_PORT and "
            "NODE_RANK set on each machine"
        )
    told = environment.get("MASTER_PORT") if OURS in environment or world.nodes > 1 else None
    return _Environment(
        int(environment["LOCAL_RANK"]) if OURS in environment else 0,
        int(environment["NODE_RANK"]) if world.nodes > 1 else 0,
        environment["MASTER_ADDR"] if world.nodes > 1 else "127.0.0.1",
        int(told) if told else find_free_network_port(),
    )


class _Environment(LightningEnvironment):
    """Processes that are started by us or by srun, not by Lightning."""

    creates_processes_externally = True

    def __init__(self, local_rank: int, node_rank: int, address: str, port: int) -> None:
        super().__init__()
        self._local_rank, self._node_rank = local_rank, node_rank
        self._address, self._main_port = address, port

    @property
    def main_address(self) -> str:
        return self._address

    def local_rank(self) -> int:
        return self._local_rank

    def node_rank(self) -> int:
        return self._node_rank


@contextlib.contextmanager
def helpers(world: World, environment: ClusterEnvironment, folder: Path) -> Iterator[None]:
    """Run this machine's other processes while the body trains; they end with it.

    Args:
        world: all processes.
        environment: from ``cluster``.
        folder: for their error messages.

    Raises:
        EdgeSegError: one of them failed, and that is why the body did.
    """
    ours = isinstance(environment, _Environment) and not started_by_launcher()
    if not ours or OURS in os.environ:
        yield
        return
    processes = [_start(rank, environment, folder) for rank in range(1, world.devices)]
    ended = threading.Event()
    watch = threading.Thread(target=_end_if_one_fails, args=(processes, ended), daemon=True)
    watch.start()
    try:
        yield
        for helper in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.process.wait(60)
    except Exception as error:
        _wait_for_failures(processes)
        cause = _cause(processes)
        if cause is None or (isinstance(error, EdgeSegError) and type(error) is not EdgeSegError):
            raise
        raise cause from error
    finally:
        ended.set()
        for helper in processes:
            helper.process.kill()
            helper.process.wait()
            helper.error_file.unlink(missing_ok=True)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


class _Helper(NamedTuple):
    rank: int
    process: subprocess.Popen[bytes]
    error_file: Path


def _start(rank: int, environment: ClusterEnvironment, folder: Path) -> _Helper:
    error_file = folder / f"process-{rank}.error.json"
    variables = {
        **os.environ,
        OURS: "1",
        ERROR_FILE: str(error_file.absolute()),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": str(environment.node_rank()),
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
    }
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(_command(), env=variables, stdout=quiet, stderr=quiet)
    return _Helper(rank, process, error_file)


def _command() -> list[str]:
    """Return how this program was called."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        return [sys.executable, str(Path(sys.argv[0]).absolute()), *sys.argv[1:]]
    return [sys.executable, "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def end_with_parent() -> None:
    """Let this process, if it is one that we started, end when the one that did so is gone."""
    if OURS in os.environ:
        threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True).start()


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def tell_first_process(error: EdgeSegError) -> None:
    """Leave the reason for this helper's end where the first process looks."""
    path = os.environ.get(ERROR_FILE)
    if path is not None:
        document = {"type": type(error).__name__, "message": str(error)}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps(document), encoding="utf-8")


def _cause(processes: list[_Helper]) -> EdgeSegError | None:
    """Return why a helper failed, if one did by itself."""
    for helper in processes:
        status = helper.process.poll()
        if status is not None and status < 0:
            return ResourceError(
                f"process {helper.rank} was killed by signal {-status}: most likely out of memory"
            )
        with contextlib.suppress(OSError, ValueError, KeyError):
            document = json.loads(helper.error_file.read_text(encoding="utf-8"))
            kind = getattr(errors, document["type"], EdgeSegError)
            if status and kind is not EdgeSegError:
                return kind(document["message"])
    return None


def _wait_for_failures(processes: list[_Helper]) -> None:
    """Give helpers time to end, where the first process was quicker to notice."""
    deadline = time.monotonic() + GRACE
    while processes and time.monotonic() < deadline:
        if any(helper.process.poll() is not None for helper in processes):
            return
        time.sleep(0.05)


def _end_if_one_fails(processes: list[_Helper], ended: threading.Event) -> None:
    """End this process when a helper failed and nothing else does: it may wait for it for ever."""
    while not ended.wait(0.5):
        if any(helper.process.poll() for helper in processes) and not ended.wait(2 * GRACE):
            cause = _cause(processes) or EdgeSegError("another process of the training failed")
            sys.stderr.write(f"edgeseg: error: {one_line(str(cause))}\n")
            sys.stderr.flush()
            for helper in processes:
                helper.process.kill()
            os._exit(cause.exit_code)
