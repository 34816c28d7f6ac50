"""``edgeseg COMMAND``: find the subcommand by name, load only that one, turn errors into one line.

``edgeseg --help`` imports neither the commands nor what they need, so it answers at once on
a machine with only the base install. ``--json``, ``--quiet`` and ``--debug`` mean the same in
every command and are taken out of the arguments here.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from edgeseg import __version__
from edgeseg.errors import (
    EdgeSegError,
    ResourceError,
    Terminated,
    UsageError,
    first_line,
    needs_extra,
    one_line,
)

INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141
SWITCHES = ("--json", "--quiet", "--debug")

# PyTorch's OpenMP threads spin long at every barrier unless told otherwise before they start; on
# a machine that others use too, a step then takes many times as long. On a quiet one spinning is
# the fastest, so bench leaves it alone: the reference is PyTorch at its best.
SHORT_SPINS = ("train", "demo")

_RESOURCE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EIO,
    errno.EBUSY,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


@dataclass(frozen=True)
class Command:
    """A subcommand: the module whose ``app`` it is, its help line, and its extra."""

    module: str
    help: str
    extra: str


COMMANDS = {
    "train": Command("edgeseg_train.cli", "Train a U-Net; writes a run folder.", "train"),
    "export": Command("edgeseg_export.cli.export", "Export a run to a proven bundle.", "export"),
    "build": Command("edgeseg_export.cli.build", "Build a TensorRT engine.", "tensorrt-rtx"),
    "triton": Command("edgeseg_export.cli.triton", "Make a Triton model repository.", "export"),
    "run": Command("edgeseg.cli.run", "Segment pictures, video or a camera.", "cpu"),
    "serve": Command("edgeseg.cli.serve", "Answer pictures and tensors over HTTP.", "serve"),
    "info": Command("edgeseg.cli.info", "Show what a bundle holds.", "cpu"),
    "verify": Command("edgeseg.cli.verify", "Replay PyTorch's answers on this machine.", "cpu"),
    "bench": Command("edgeseg_benchmarks.cli", "Measure accuracy and latency.", "benchmarks"),
    "doctor": Command("edgeseg.cli.doctor", "What is installed, what works, what to do.", "cpu"),
    "demo": Command("edgeseg_benchmarks.demo", "All stages on synthetic scenes.", "all"),
}

_HELP = """Usage: edgeseg COMMAND [ARGUMENTS]

Train a U-Net for semantic segmentation, export it, run it on a device without
torch, and prove by benchmark that it still segments.

Commands:
{commands}

Every command: --help, --json (one JSON document on stdout), --quiet (errors
only), --debug (tracebacks). edgeseg --version prints the version.

Exit status: 0 ok, 1 internal bug, 2 usage, 3 input or data, 4 run folder or
bundle, 5 gate failed, 6 device or missing extra, 7 memory or disk,
8 measurement invalid, 130 interrupted, 141 output closed, 143 terminated.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented status."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    own, end, rest = _partition(argv)
    switches = {switch for switch in own if switch in SWITCHES}
    argv = [word for word in own if word not in SWITCHES] + end + rest
    _prepare_streams()
    _clean_up_when_terminated()
    try:
        status = _dispatch(argv, as_json="--json" in switches, quiet="--quiet" in switches)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        status = _report_interrupt(interrupt, as_json="--json" in switches)
    except BrokenPipeError:
        _drop_output()
        status = BROKEN_PIPE
    except Exception as error:
        status = _report(error, as_json="--json" in switches, debug="--debug" in switches)
    sys.exit(status)


def _clean_up_when_terminated() -> None:
    """Let SIGTERM end a command as Ctrl-C does, so that nothing half-written stays behind."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise_terminated)


def _raise_terminated(*_: object) -> NoReturn:
    raise Terminated


def _report_interrupt(interrupt: KeyboardInterrupt, *, as_json: bool) -> int:
    terminated = isinstance(interrupt, Terminated)
    word, status = ("terminated", TERMINATED) if terminated else ("interrupted", INTERRUPTED)
    message = f"{word}: {interrupt}" if str(interrupt) else word
    document = {"error": {"type": word.capitalize(), "message": message, "code": status}}
    with contextlib.suppress(OSError):  # nobody reads
        print(f"edgeseg: {one_line(message)}", file=sys.stderr)  # noqa: T201 - the error line
        if as_json:
            print(json.dumps(document), flush=True)  # noqa: T201 - the command's result
    return status


def _prepare_streams() -> None:
    """Let no name make printing fail; a stream that the caller closed becomes the null device."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for good
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send what is still buffered nowhere; Python would complain when it flushes at exit."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # no real stream: nothing to complain about
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _quiet_pillow() -> None:
    """Keep Pillow's remarks on odd files off stderr: a file is good, or our error says why not."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


def _partition(argv: list[str]) -> tuple[list[str], list[str], list[str]]:
    if "--" not in argv:
        return argv, [], []
    at = argv.index("--")
    return argv[:at], ["--"], argv[at + 1 :]


def _dispatch(argv: list[str], *, as_json: bool, quiet: bool) -> int:
    if not argv or argv[0] in ("--help", "-h", "help"):
        lines = (f"  {name:<8} {command.help}" for name, command in COMMANDS.items())
        print(_HELP.format(commands="\n".join(lines)), end="")  # noqa: T201 - the command's result
        return 0
    if argv[0] == "--version":
        print(f"edgeseg {__version__}")  # noqa: T201 - the command's result
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise UsageError(_unknown(name))
    command = COMMANDS[name]
    _quiet_pillow()
    if name in SHORT_SPINS:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    with needs_extra(command.extra):
        app = import_module(command.module).app
        return _invoke(app, name, rest, as_json=as_json, quiet=quiet)


def _invoke(app: Any, name: str, arguments: list[str], *, as_json: bool, quiet: bool) -> int:
    """Run a Typer application; calling it would swallow interrupts and closed pipes."""
    import typer

    from edgeseg.cli.output import Output

    command = typer.main.get_command(app)
    output = Output(as_json=as_json, quiet=quiet)
    try:
        with command.make_context(f"edgeseg {name}", arguments, obj=output) as context:
            result = command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    return result if isinstance(result, int) else 0


def _unknown(name: str) -> str:
    what = "option" if name.startswith("-") else "command"
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
    return f"no {what} {name!r}; {hint}"


def _report(error: Exception, *, as_json: bool, debug: bool) -> int:
    message, code = _explain(error)
    kind = type(error).__name__
    document = {"error": {"type": kind, "message": message, "code": code}}
    hint = "" if code != 1 or debug else " (run with --debug for the traceback)"
    try:
        if debug:
            traceback.print_exception(error)
        print(f"edgeseg: error: {one_line(message)}{hint}", file=sys.stderr)  # noqa: T201 - the error line
        if as_json:
            print(json.dumps(document))  # noqa: T201 - the command's result
        sys.stdout.flush()
    except OSError as closed:  # nobody reads, or the disk behind a redirection is full
        _drop_output()
        return BROKEN_PIPE if isinstance(closed, BrokenPipeError) else code
    return code


def _explain(error: Exception) -> tuple[str, int]:
    """Return the one-line message and the exit status for an exception."""
    if isinstance(error, EdgeSegError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return f"out of memory: {first_line(error)}", ResourceError.exit_code
    if isinstance(error, OSError) and error.errno in _RESOURCE_ERRNOS:
        where = f" ({error.filename!r})" if error.filename else ""
        return f"{error.strerror}{where}", ResourceError.exit_code
    import typer  # only now: --help needs no typer

    if isinstance(error, typer.TyperException):
        return f"{' '.join(error.format_message().split())}; see --help", error.exit_code
    if isinstance(error, typer.Abort):
        return "aborted", INTERRUPTED
    return f"internal error: {type(error).__name__}: {first_line(error)}", 1
