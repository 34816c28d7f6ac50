"""A double of TensorRT's runtime (10.3, 10.16, 11.4) and TensorRT-RTX's (1.7) that computes.

``runtime_names.json`` lists methods with their parameters, properties and enums of NVIDIA's own
bindings (the wheels tensorrt-cu12-bindings 10.3.0, tensorrt-cu13-bindings 10.16.1.11 and
11.4.0.106, tensorrt-rtx-cu13-bindings 1.7.1.116). The double cannot be made with a name or a
parameter that its version lacks, nor be set a property that it lacks. It answers None and False
and logs where TensorRT does, and wants TensorRT's order of calls.

Its plan is JSON: tensors, profiles and the number of classes. Its network is ``class_of``.
"""

from __future__ import annotations

import enum
import inspect
import json
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

NAMES = json.loads(Path(__file__).with_name("runtime_names.json").read_text())
CLASSES = 150


def class_of(images: np.ndarray, classes: int = CLASSES) -> np.ndarray:
    """Return the double's class map (N, H, W) for images (N, H, W, 3)."""
    red, green, blue = (images[..., i].astype(int) for i in range(3))
    return ((red + 2 * green + 3 * blue) % classes).astype(np.uint8)


def logits_of(images: np.ndarray, classes: int = CLASSES) -> np.ndarray:
    """Return float32 logits (N, C, H, W) whose argmax is ``class_of``."""
    ids = np.arange(classes, dtype=np.float32).reshape(1, -1, 1, 1)
    return -np.abs(ids - class_of(images, classes)[:, None])


@dataclass
class Scenario:
    """What TensorRT will do."""

    failing: dict[str, int] = field(default_factory=dict)  # method: how often it will fail
    says: str = ""  # the error that is logged then
    capturable: bool = True
    loads: bool = True
    validity: tuple[int, int] = (0, 0)
    dla_cores: int = 0
    kernels: bytes | None = b"kernels for this GPU"
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    contexts: int = 0
    during: Any = None  # is called in every kernel

    def fails(self, method: str) -> bool:
        left = self.failing.get(method, 0)
        self.failing[method] = left - 1
        return left > 0


def plan(
    outputs: dict[str, str],
    profiles: list[tuple[tuple[int, ...], tuple[int, ...]]],
    *,
    image: str = "images",
    stripped: bool = False,
) -> bytes:
    """Return an engine's plan: ``outputs`` are names and types, ``profiles`` (min, max) shapes."""
    content = {"image": image, "outputs": outputs, "profiles": profiles, "stripped": stripped}
    return json.dumps(content).encode()


def make(version: str, cuda: Any, scenario: Scenario) -> types.ModuleType:
    """Return a module like TensorRT's of a version of ``NAMES``, on the GPU ``cuda``."""
    names = NAMES[version]
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = names["version"]
    for name, members in names["enums"].items():
        setattr(trt, name, enum.IntEnum(name, members))
    calls = scenario.calls

    class ILogger:
        Severity = enum.IntEnum(
            "Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}
        )

        def __init__(self) -> None:
            self._initialised = True

    trt.ILogger = ILogger
    loggers: list[Any] = []

    def refuse(answer: Any = False) -> Any:
        loggers[-1].log(ILogger.Severity.ERROR, scenario.says or "Error Code 3: API Usage Error")
        return answer

    class Strict:
        """Has the version's names only, with their parameters; a version may lack a class."""

        def __init_subclass__(cls) -> None:
            real = names["classes"].get(cls.__name__)
            if real is None:
                return
            for name in [name for name in vars(cls) if not name.startswith("_")]:
                assert name in real, f"{version} {cls.__name__} has no {name}"
                if real[name] is not None:
                    own = list(inspect.signature(vars(cls)[name]).parameters)[1:]
                    assert own in real[name], f"{version} {cls.__name__}.{name}{real[name]}"
            cls._real = real
            setattr(trt, cls.__name__, cls)

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_"):
                if name not in self._real:
                    raise AttributeError(f"{type(self).__name__} of {version} has no {name}")
                calls.append(("set", name, getattr(value, "name", value)))
            object.__setattr__(self, name, value)

    class IExecutionContext(Strict):
        def __init__(self, content: dict[str, Any]) -> None:
            scenario.contexts += 1
            self._content = content
            self._profile, self._shape = 0, None
            self._addresses: dict[str, int] = {}
            self._settled = False  # the first run of a shape does what must not be captured

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            calls.append(("profile", profile_index))
            if not 0 <= profile_index < len(self._content["profiles"]):
                return refuse()
            self._profile, self._shape, self._settled = profile_index, None, False
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            calls.append(("shape", shape))
            low, high = self._content["profiles"][self._profile]
            sides = zip(low, shape, high, strict=True)
            fits = all(a <= b <= c for a, b, c in sides)
            if scenario.fails("set_input_shape") or name != self._content["image"] or not fits:
                return refuse()
            self._shape, self._settled = shape, False
            return True

        def infer_shapes(self) -> list[str]:
            known = self._shape and not scenario.fails("infer_shapes")
            return [] if known else [self._content["image"]]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            assert self._shape, "asked before the input's shape was set"
            if name == self._content["image"]:
                return self._shape
            number, height, width, _ = self._shape
            if self._content["outputs"][name] == "FLOAT":
                return (number, CLASSES, height, width)
            return (number, height, width)

        def set_tensor_address(self, name: str, memory: int) -> bool:
            assert isinstance(memory, int)
            self._addresses[name] = memory
            return memory != 0

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert stream_handle, "the default stream"
            capturing = cuda.is_capturing(stream_handle)
            calls.append(("captured" if capturing else "run", self._shape))
            if scenario.fails("execute_async_v3") or not self._shape:
                return refuse()
            if capturing and not (self._settled and scenario.capturable):
                cuda.invalidate_capture(stream_handle)
                return refuse()
            self._settled = True
            addresses, shape = dict(self._addresses), self._shape
            cuda.enqueue(stream_handle, lambda: self._kernel(addresses, shape))
            return True

        def _kernel(self, addresses: dict[str, int], shape: tuple[int, ...]) -> None:
            if scenario.during:
                scenario.during()
            images = self._array(addresses[self._content["image"]], shape, np.uint8)
            for name, kind in self._content["outputs"].items():
                answer = logits_of(images) if kind == "FLOAT" else class_of(images)
                self._array(addresses[name], answer.shape, answer.dtype)[...] = answer

        def _array(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            memory = cuda.memory(address, nbytes, for_gpu=True)
            return np.frombuffer(memory, dtype=dtype).reshape(shape)

    class IRuntimeCache(Strict):
        def __init__(self) -> None:
            self._data = scenario.kernels

        def deserialize(self, blob: bytes) -> bool:
            calls.append(("kernels", bytes(blob)))
            return blob == scenario.kernels

        def serialize(self) -> memoryview | None:
            return None if self._data is None else memoryview(self._data)

    class IRuntimeConfig(Strict):
        if version.startswith("rtx"):  # TensorRT's own has nothing like it

            def create_runtime_cache(self) -> Any:
                return IRuntimeCache()

            def set_runtime_cache(self, cache: Any) -> bool:
                return isinstance(cache, IRuntimeCache)

    class ICudaEngine(Strict):
        def __init__(self, content: dict[str, Any]) -> None:
            self._content = content
            self._names = [content["image"], *content["outputs"]]

        @property
        def num_io_tensors(self) -> int:
            return len(self._names)

        def get_tensor_name(self, index: int) -> str:
            return self._names[index]

        def get_tensor_mode(self, name: str) -> Any:
            is_input = name == self._content["image"]
            return trt.TensorIOMode.INPUT if is_input else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return trt.DataType[self._content["outputs"].get(name, "UINT8")]

        if "IRuntimeConfig" in names["classes"]:

            def create_runtime_config(self) -> Any:
                return IRuntimeConfig()

            def create_execution_context(self, runtime_config: Any = None) -> Any:
                return self._new(runtime_config)

        else:

            def create_execution_context(self, strategy: Any = None) -> Any:
                assert strategy is None
                return self._new(None)

        def _new(self, config: Any) -> Any:
            calls.append(("context", config is not None))
            assert not self._content["stripped"], "the engine has no weights"
            if scenario.fails("create_execution_context"):
                return refuse(None)
            return IExecutionContext(self._content)

    class Refitter(Strict):
        def __init__(self, engine: Any, logger: Any) -> None:
            self._engine, self._given = engine, False

        def refit_cuda_engine(self) -> bool:
            assert self._given, "no weights were given"
            self._engine._content["stripped"] = False
            return not scenario.fails("refit_cuda_engine") or refuse()

    class OnnxParserRefitter(Strict):
        def __init__(self, refitter: Any, logger: Any) -> None:
            self._refitter = refitter

        def refit_from_bytes(self, model: bytes, path: str | None = None) -> bool:
            calls.append(("refit", model))
            self._refitter._given = True
            return True

    class Runtime(Strict):
        def __init__(self, logger: Any) -> None:
            assert logger._initialised
            loggers.append(logger)

        @property
        def num_DLA_cores(self) -> int:  # noqa: N802 - NVIDIA's name
            return scenario.dla_cores

        if version.startswith("rtx"):

            def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
                calls.append(("validity",))
                return trt.EngineValidity(scenario.validity[0]), scenario.validity[1]

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            calls.append(("deserialise",))
            if not scenario.loads:
                return refuse(None)
            return ICudaEngine(json.loads(serialized_engine))

    return trt
