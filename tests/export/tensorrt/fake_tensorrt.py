"""A double of ``tensorrt`` 10.3, 10.16 and 11.4 that only has their names and wants their order.

``tensorrt_names.json`` lists the enum members, methods and properties of NVIDIA's own bindings
(the wheels tensorrt-cu12-bindings 10.3.0, tensorrt-cu13-bindings 10.16.1.11 and 11.4.0.106;
``dir()`` of their modules). The double refuses to be made if it has a name that the version
lacks, to be set a property that it lacks, and calls out of order. It returns None and False and
logs where TensorRT does.
"""

from __future__ import annotations

import enum
import json
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
TIMINGS = b"timings of this GPU"


@dataclass
class Node:
    """A layer of the network that the parser makes: tensors are (name, type)."""

    kind: str
    name: str
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, str]]
    kernel: int = 0  # numbers in a kernel that the layer has itself
    shape: tuple[int, ...] = (1,)  # of a second input


def small_network(precision: str) -> list[Node]:
    """Return the layers of: cast, convolution, deconvolution, topk."""
    half = "HALF" if precision != "fp32" else "FLOAT"
    nodes = [Node("CAST", "cast", [("images", "UINT8")], [("x", half)])]
    if precision in ("int8", "fp8"):
        stored = precision.upper()
        nodes += [
            Node("QUANTIZE", "q", [("x", half)], [("xq", stored)]),
            Node("DEQUANTIZE", "dq", [("xq", stored)], [("xd", half)]),
            Node("CONSTANT", "kernel", [], [("k", stored)]),
            Node("DEQUANTIZE", "kdq", [("k", stored)], [("kd", half)]),
            Node(
                "CONVOLUTION", "conv", [("xd", half), ("kd", half)], [("y", half)], 0, (4, 3, 3, 3)
            ),
        ]
    else:
        nodes.append(Node("CONVOLUTION", "conv", [("x", half)], [("y", half)], 108))
    return [
        *nodes,
        Node("DECONVOLUTION", "up", [("y", half)], [("z", half)], 16),
        Node("TOPK", "argmax", [("z", half)], [("best", half), ("ids", "INT32")]),
    ]


@dataclass
class Scenario:
    """What TensorRT will do."""

    nodes: list[Node] = field(default_factory=lambda: small_network("fp16"))
    plan: bytes | None = b"the plan"
    starts: bool = True
    parse_errors: list[tuple[str, str, str, str]] = field(default_factory=list)
    log: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    inspector: str | None = None  # None: the engine does not load
    dla_cores: int = 0
    input_name: str = "images"
    raises: BaseException | None = None
    steps: int = 3
    calls: list[tuple[Any, ...]] = field(default_factory=list)


class Nameless(enum.IntEnum):
    """As the bindings of 10.3 have it: the ``name`` of an ErrorCode is a method, not its name."""

    def name(self) -> str:  # type: ignore[override]
        return "<bound method PyCapsule.name>"


def make(version: str, scenario: Scenario) -> types.ModuleType:
    """Return a module that behaves like ``tensorrt`` of this version ("10.3", "10.16", "11.4")."""
    names = NAMES[version]
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = names["version"]
    for name, members in names["enums"].items():
        kind = Nameless if (version, name) == ("10.3", "ErrorCode") else enum.IntEnum
        setattr(trt, name, kind(name, members))
    severities = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    calls = scenario.calls

    class Strict:
        """Has the version's names only."""

        def __init_subclass__(cls) -> None:
            if cls.__name__ not in names["classes"]:
                return  # a class of the code under test
            real = set(names["classes"][cls.__name__])
            own = {name for name in vars(cls) if not name.startswith("_")}
            assert own <= real, f"{version} {cls.__name__} has no {own - real}"
            cls._real = real
            setattr(trt, cls.__name__, cls)

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_"):
                if name not in self._real:
                    raise AttributeError(f"{type(self).__name__} of {version} has no {name}")
                calls.append(("set", name, value))
            object.__setattr__(self, name, value)

    def say(logger: Any, stage: str) -> None:
        for severity, text in scenario.log.get(stage, []):
            logger.log(trt.ILogger.Severity[severity], text)

    class ILogger(Strict):
        Severity = enum.IntEnum("Severity", dict(zip(severities, range(5), strict=True)))

        def __init__(self) -> None:
            self._initialised = True

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class IProgressMonitor(Strict):
        def __init__(self) -> None:
            self._initialised = True

    class ITensor(Strict):
        def __init__(self, name: str, kind: str, shape: tuple[int, ...]) -> None:
            for key, value in {"name": name, "dtype": trt.DataType[kind], "shape": shape}.items():
                object.__setattr__(self, key, value)

    class ILayer(Strict):
        def __init__(self, node: Node) -> None:
            self._node = node
            for key, value in {"name": node.name, "type": trt.LayerType[node.kind]}.items():
                object.__setattr__(self, key, value)

        @property
        def num_inputs(self) -> int:
            return len(self._node.inputs)

        @property
        def num_outputs(self) -> int:
            return len(self._node.outputs)

        def get_input(self, index: int) -> Any:
            return ITensor(*self._node.inputs[index], self._node.shape)

        def get_output(self, index: int) -> Any:
            return ITensor(*self._node.outputs[index], (1,))

    class IConvolutionLayer(ILayer):
        @property
        def kernel(self) -> Any:
            return types.SimpleNamespace(size=self._node.kernel)

    class IDeconvolutionLayer(IConvolutionLayer):
        pass

    class INetworkDefinition(Strict):
        def __init__(self, flags: int) -> None:
            strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
            assert flags == strong, "the network is weakly typed"
            self._layers: list[Any] = []

        @property
        def num_layers(self) -> int:
            return len(self._layers)

        @property
        def num_inputs(self) -> int:
            return 1

        def get_layer(self, index: int) -> Any:
            return self._layers[index]

        def get_input(self, index: int) -> Any:
            assert self._layers, "asked before parsing"
            return ITensor(scenario.input_name, "UINT8", (-1, 32, 32, 3))

    class ParserError(Strict):
        def __init__(self, error: tuple[str, str, str, str]) -> None:
            self._error = error

        def code(self) -> Any:
            return trt.ErrorCode[self._error[0]]

        def node_name(self) -> str:
            return self._error[1]

        def node_operator(self) -> str:
            return self._error[2]

        def desc(self) -> str:
            return self._error[3]

    class OnnxParser(Strict):
        def __init__(self, network: Any, logger: Any) -> None:
            self._network, self._logger = network, logger

        def set_flag(self, flag: Any) -> None:
            calls.append(("parser.set_flag", flag.name))

        def parse(self, model: bytes, path: str | None = None) -> bool:
            assert isinstance(model, bytes)
            say(self._logger, "parse")
            if not scenario.parse_errors:
                self._network._layers = [ILayer(node) for node in scenario.nodes]
            return not scenario.parse_errors

        @property
        def num_errors(self) -> int:
            return len(scenario.parse_errors)

        def get_error(self, index: int) -> Any:
            return ParserError(scenario.parse_errors[index])

    class IOptimizationProfile(Strict):
        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - NVIDIA's names
            if not all(low <= best <= high for low, best, high in zip(min, opt, max, strict=True)):
                raise RuntimeError("Shape provided for max is inconsistent with other shapes.")
            self._shapes = (input, min, opt, max)

    class ITimingCache(Strict):
        def __init__(self, data: bytes) -> None:
            self._data = data

        def serialize(self) -> memoryview:
            return memoryview(self._data)

    class IBuilderConfig(Strict):
        def __init__(self) -> None:
            self._flags = {trt.BuilderFlag.TF32}  # on by default
            self._profiles: list[Any] = []
            self._cache: Any = None

        def set_flag(self, flag: Any) -> None:
            self._flags.add(trt.BuilderFlag(flag))

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(trt.BuilderFlag(flag))

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            calls.append(("pool", trt.MemoryPoolType(pool).name, pool_size))

        def add_optimization_profile(self, profile: Any) -> int:
            fits = profile._shapes[0] == scenario.input_name
            self._profiles += [profile] if fits else []
            return len(self._profiles) - 1 if fits else -1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
            data = bytes(serialized_timing_cache)
            return ITimingCache(data) if data in (b"", TIMINGS) else None

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            self._cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._cache

    class Builder(Strict):
        def __init__(self, logger: Any) -> None:
            assert logger._initialised
            self._logger = logger
            say(logger, "start")
            if not scenario.starts:
                raise TypeError("pybind11::init(): factory function returned nullptr")

        @property
        def num_DLA_cores(self) -> int:  # noqa: N802 - NVIDIA's name
            return scenario.dla_cores

        def create_network(self, flags: int = 0) -> Any:
            return INetworkDefinition(flags)

        def create_builder_config(self) -> Any:
            return IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> memoryview | None:
            assert network._layers, "built before parsing"
            assert config._profiles, "built without a profile"
            assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
            calls.append(("build", sorted(flag.name for flag in config._flags)))
            if scenario.raises:
                raise scenario.raises
            monitor = config.progress_monitor
            assert monitor._initialised
            monitor.phase_start("Building engine", None, scenario.steps)
            for step in range(scenario.steps):
                if not monitor.step_complete("Building engine", step):
                    self._logger.log(trt.ILogger.Severity.ERROR, "Error Code 7: BuildCanceled")
                    return None
            monitor.phase_finish("Building engine")
            say(self._logger, "build")
            if config._cache:
                config._cache._data = TIMINGS
            return None if scenario.plan is None else memoryview(scenario.plan)

    class EngineInspector(Strict):
        def get_engine_information(self, format: Any) -> str:  # noqa: A002 - NVIDIA's name
            assert format == trt.LayerInformationFormat.JSON
            assert scenario.inspector
            return scenario.inspector

    class ICudaEngine(Strict):
        def create_engine_inspector(self) -> Any:
            return EngineInspector()

    class Runtime(Strict):
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            assert bytes(serialized_engine) == scenario.plan
            say(self._logger, "load")
            return None if scenario.inspector is None else ICudaEngine()

    return trt
