"""A double of an onnxruntime-gpu: the CPU computes, and claims of devices and placement are told.

It is as strict as the real one where that matters: memory "on the device" is only reached through
OrtValues, a captured CUDA graph repeats its own addresses whatever is bound later, and two threads
in one captured session are an error. ``test_ort_double.py`` compares it with the real package.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as real

CPU = "CPUExecutionProvider"


@dataclass
class Machine:
    """What the double claims, and what it was asked for."""

    available: list[str]
    used: list[str] | None = None  # by a session, instead of what it asked for
    fallen: list[tuple[str, str]] = field(default_factory=list)  # (op_type, name) on the CPU
    tells: bool = True  # whether sessions tell their placement, as from 1.24 on
    failures: list[Exception] = field(default_factory=list)  # of the next runs
    created: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    preloaded: int = 0


class FakeOrtValue:
    """Memory on the device."""

    def __init__(self, array: np.ndarray, device: str) -> None:
        self.array, self.device = array, device

    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape: list[int], element_type: Any, device_type: str = "cpu", device_id: int = 0
    ) -> FakeOrtValue:
        return cls(np.full(shape, 77, element_type), f"{device_type}:{device_id}")

    def update_inplace(self, data: np.ndarray) -> None:
        assert data.flags.c_contiguous
        assert (data.dtype, data.shape) == (self.array.dtype, self.array.shape)
        self.array[...] = data


class FakeBinding:
    def __init__(self) -> None:
        self.inputs: dict[str, FakeOrtValue] = {}
        self.outputs: dict[str, FakeOrtValue] = {}

    def bind_ortvalue_input(self, name: str, ortvalue: FakeOrtValue) -> None:
        self.inputs[name] = ortvalue

    def bind_ortvalue_output(self, name: str, ortvalue: FakeOrtValue) -> None:
        self.outputs[name] = ortvalue

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [value.array.copy() for value in self.outputs.values()]


class FakeRunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


def machine(claims: Machine) -> SimpleNamespace:
    """Return a module that stands for onnxruntime on such a machine."""

    class InferenceSession:
        def __init__(
            self,
            path_or_bytes: bytes,
            sess_options: Any = None,
            providers: list[tuple[str, dict[str, str]]] | None = None,
            provider_options: Any = None,
            **kwargs: Any,
        ) -> None:
            assert providers
            name, options = providers[0]
            asked = {"provider": name, "options": options, "session": sess_options, **kwargs}
            claims.created.append(asked)
            self._forbidden = _entry(sess_options, "session.disable_cpu_ep_fallback") == "1"
            if claims.fallen and name != CPU:
                if options.get("enable_cuda_graph") == "1":
                    raise RuntimeError("This session cannot use the graph capture feature")
                if self._forbidden:
                    raise RuntimeError("fallback to CPU EP has been explicitly disabled")
            self._graphs = options.get("enable_cuda_graph") == "1"
            self._captured: dict[str, FakeBinding] = {}
            self._inside = threading.Lock()
            self._name = name
            self._session = real.InferenceSession(path_or_bytes, providers=[CPU])

        def get_providers(self) -> list[str]:
            return claims.used or list(dict.fromkeys([self._name, CPU]))

        def get_inputs(self) -> Any:
            return self._session.get_inputs()

        def get_outputs(self) -> Any:
            return self._session.get_outputs()

        def run(
            self, output_names: list[str], input_feed: dict[str, Any], run_options: Any = None
        ) -> Any:
            assert not self._graphs, "a captured session needs fixed addresses"
            return self._session.run(output_names, input_feed)

        def io_binding(self) -> FakeBinding:
            return FakeBinding()

        def run_with_iobinding(self, iobinding: FakeBinding, run_options: Any = None) -> None:
            assert self._inside.acquire(blocking=False), "two threads in one session"
            try:
                claims.runs.append(run_options.entries if run_options else {})
                if claims.failures:
                    raise claims.failures.pop(0)
                self._compute(self._addresses(iobinding, run_options))
            finally:
                self._inside.release()

        def _addresses(self, iobinding: FakeBinding, run_options: Any) -> FakeBinding:
            number = run_options.entries.get("gpu_graph_id", "0") if run_options else "0"
            if not self._graphs or number == "-1":
                return iobinding
            return self._captured.setdefault(number, iobinding)

        def _compute(self, binding: FakeBinding) -> None:
            for value in (*binding.inputs.values(), *binding.outputs.values()):
                assert value.device == "cuda:0"
            feed = {name: value.array for name, value in binding.inputs.items()}
            found = self._session.run(list(binding.outputs), feed)
            for value, array in zip(binding.outputs.values(), found, strict=True):
                assert value.array.shape == array.shape
                value.array[...] = array

    if claims.tells:

        def get_provider_graph_assignment_info(self: Any) -> list[Any]:
            options = claims.created[-1]["session"]
            assert _entry(options, "session.record_ep_graph_assignment_info") == "1"
            return [_part(self._name, [("Conv", "first"), ("Conv", "last")])] + (
                [_part(CPU, claims.fallen)] if claims.fallen else []
            )

        InferenceSession.get_provider_graph_assignment_info = (  # type: ignore[attr-defined] # only some versions have it
            get_provider_graph_assignment_info
        )

    def preload_dlls(
        cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: Any = None
    ) -> None:
        claims.preloaded += 1
        print("Failed to load libcudnn.so.9")  # noqa: T201 - as the real one does, on stdout

    return SimpleNamespace(
        __version__="9.9",
        SessionOptions=real.SessionOptions,
        ExecutionMode=real.ExecutionMode,
        RunOptions=FakeRunOptions,
        OrtValue=FakeOrtValue,
        InferenceSession=InferenceSession,
        preload_dlls=preload_dlls,
        get_available_providers=lambda: claims.available,
    )


def _part(provider: str, nodes: list[tuple[str, str]]) -> Any:
    made = [SimpleNamespace(op_type=kind, name=name, domain="") for kind, name in nodes]
    return SimpleNamespace(ep_name=provider, get_nodes=lambda: made)


def _entry(options: Any, key: str) -> str | None:
    try:
        found: str = options.get_session_config_entry(key)
    except RuntimeError:  # not set
        return None
    return found
