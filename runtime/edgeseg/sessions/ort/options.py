"""How ONNX Runtime's sessions are tuned: for the latency of one picture, on a shared machine.

Every value that differs from ONNX Runtime's default has its reason here.
"""

from __future__ import annotations

from typing import Any

from edgeseg.cpu import cpu_threads

RECORD = "session.record_ep_graph_assignment_info"
NO_CPU = "session.disable_cpu_ep_fallback"


def session_options(onnxruntime: Any, threads: int | None) -> Any:
    """Return the options of any session; ``threads`` None takes all that are ours.

    * Threads: ONNX Runtime counts the host's cores, also in a container with a quota.
    * No spinning: threads that wait would burn the time of whoever decodes the next picture, and
      the quota of a container. On two cores that others used, too, that halved the latency; alone
      on a machine, spinning would be faster by about a tenth.
    * Nodes one after the other: a U-Net has no branches worth a second pool of threads.
    * Memory planned ahead for each shape, as by default: pictures mostly have the same.
    * Subnormal floats stay: to flush them changed no time here, and ONNX Runtime would do it to
      the caller's own arithmetic, too.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cpu_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # fatal only: what it says of errors, ours say in one line
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
