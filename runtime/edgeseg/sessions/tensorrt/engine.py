"""A loaded engine: judged, deserialised, refitted if it has no weights, checked, ready to run.

engine = LoadedEngine(found, library)
context = engine.new_context()
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from edgeseg.engines.library import Library
from edgeseg.engines.log import failure
from edgeseg.errors import ArtifactError, DeviceError, EdgeSegError, ResourceError, show
from edgeseg.manifest import TensorSpec
from edgeseg.sessions.tensorrt.lookup import Found, covers

_TYPES = {"UINT8": "uint8", "FLOAT": "float32"}  # TensorRT's words, the manifest's
_OF_DEVICE = {"OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME", "CUDA_ERROR"}


class LoadedEngine:
    """An engine on the GPU; several contexts may run it at once.

    Attributes:
        key: what the engine was built from and for.
        wanted: what the engine is to run.
        input: the network's input, of the bundle's manifest.
        outputs: likewise.
    """

    def __init__(self, found: Found, library: Library) -> None:
        """Load the engine.

        Raises:
            ArtifactError: damaged, not taken by TensorRT, or not of this bundle.
            DeviceError: the GPU or its driver is not usable.
            ResourceError: memory ran out.
        """
        self.library = library
        self.wanted = found.wanted
        manifest = found.wanted.bundle.manifest
        self.input, self.outputs = manifest.input, manifest.outputs
        self.key = found.engine.key
        self._cache = found.cache
        plan = found.read_plan()
        self._runtime = self._new_runtime()
        self._check_validity(plan)
        self._engine = self._deserialise(plan)
        if self.key.flags.strip_weights:
            self._refit()
        self._check_tensors()
        self._kernels: Any = None
        self._config = self._runtime_config()

    @property
    def captures_itself(self) -> bool:
        """Whether the library makes CUDA graphs on its own, as TensorRT-RTX does."""
        return self._config is not None

    def profile_of(self, shape: tuple[int, ...]) -> int | None:
        """Return the number of the first profile that takes an input shape, or None."""
        found = (i for i, profile in enumerate(self.key.profiles) if covers(profile, shape))
        return next(found, None)

    def new_context(self) -> Any:
        """Return a new execution context.

        Raises:
            ResourceError, DeviceError: memory ran out, or the GPU failed.
        """
        self.library.log.clear()
        config = () if self._config is None else (self._config,)
        context = self._engine.create_execution_context(*config)
        if context is None:
            raise self.refusal("made no execution context")
        return context

    def refusal(self, what: str) -> EdgeSegError:
        """Return the error for a call of TensorRT that failed, with TensorRT's own words."""
        error = failure(self.library.log, f"{self.library.title} {what}")
        return DeviceError(str(error)) if isinstance(error, ArtifactError) else error

    def close(self) -> None:
        """Keep the compiled kernels for the next process and free the engine."""
        if self._kernels is not None:
            # The next process compiles again, if the disk is full or read-only.
            with suppress(OSError):
                self._save_kernels()
        self._kernels = self._config = self._engine = self._runtime = None

    def _new_runtime(self) -> Any:
        self.library.log.clear()
        flags = self.key.flags
        try:
            runtime = self.library.module.Runtime(self.library.logger)
        except (RuntimeError, TypeError) as error:  # pybind11's "the factory returned null"
            raise self.refusal("cannot start") from error
        if flags.version_compatible:
            runtime.engine_host_code_allowed = True  # such a plan brings its own runtime
        if flags.dla_core is not None:
            if flags.dla_core >= runtime.num_DLA_cores:
                raise DeviceError(
                    f"the engine is for DLA core {flags.dla_core} and this device has "
                    f"{runtime.num_DLA_cores}; run: {self.wanted.build_command}"
                )
            runtime.DLA_core = flags.dla_core
        return runtime

    def _check_validity(self, plan: bytes) -> None:
        """Ask TensorRT-RTX, which tells from a plan's first bytes; TensorRT cannot be asked."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        module = self.library.module
        self.library.log.clear()
        validity, bits = self._runtime.get_engine_validity(plan)
        if validity != module.EngineValidity.INVALID:
            return
        members = module.EngineInvalidityDiagnostics.__members__
        reasons = {name for name, member in members.items() if int(member) & bits}
        raise self._invalid(reasons)

    def _invalid(self, reasons: set[str]) -> EdgeSegError:
        if not reasons:
            return self.refusal("does not take the engine")
        text = f"{self.library.title} does not take the engine: {', '.join(sorted(reasons))}"
        if "INSUFFICIENT_GPU_MEMORY" in reasons:
            return ResourceError(f"{text}; close what else uses the GPU")
        if reasons & _OF_DEVICE:
            return DeviceError(f"{text}; see nvidia-smi")
        command = f"run: {self.wanted.build_command}"
        if "UNSUPPORTED_CC" in reasons:
            other = "--compute-capability current, or use --backend tensorrt"
            return ArtifactError(f"{text}; {command} {other}")
        return ArtifactError(f"{text}; {command} --rebuild")

    def _deserialise(self, plan: bytes) -> Any:
        self.library.log.clear()
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            error = failure(self.library.log, f"{self.library.title} does not load the engine")
            if isinstance(error, ArtifactError):
                raise ArtifactError(f"{error}; run: {self.wanted.build_command} --rebuild")
            raise error
        return engine

    def _refit(self) -> None:
        """Fill the weights in from the ONNX file that the engine was built from."""
        module, logger = self.library.module, self.library.logger
        bundle = self.wanted.bundle
        model = bundle.read(bundle.variant(self.wanted.variant).file)
        self.library.log.clear()
        refitter = module.Refitter(self._engine, logger)
        parser = module.OnnxParserRefitter(refitter, logger)
        if not parser.refit_from_bytes(model) or not refitter.refit_cuda_engine():
            raise self.refusal("did not fill the weights into the stripped engine")

    def _check_tensors(self) -> None:
        """Check that the engine has the tensors that the manifest describes."""
        engine, module = self._engine, self.library.module
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {
            (
                name,
                _TYPES.get(engine.get_tensor_dtype(name).name),
                engine.get_tensor_mode(name) == module.TensorIOMode.INPUT,
            )
            for name in names
        }
        expected = {_described(self.input, is_input=True)}
        expected |= {_described(spec, is_input=False) for spec in self.outputs}
        if found != expected:
            raise ArtifactError(
                f"the engine has the tensors {show(sorted(names))} and the manifest promises "
                f"others; run: {self.wanted.build_command} --rebuild"
            )

    def _runtime_config(self) -> Any:
        """Return how TensorRT-RTX is to run; None for TensorRT, which has nothing to be set."""
        module = self.library.module
        if not hasattr(module, "CudaGraphStrategy"):
            return None
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Eager: other kernels at first and better ones later would change the answers on the way.
        kernels = module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = kernels
        self._kernels = config.create_runtime_cache()
        with suppress(ArtifactError):  # a file that is not ours: compile again, and replace it
            if (data := self._cache.load_kernels(self.key)) is not None:
                self._kernels.deserialize(data)  # False: of another GPU or version; starts empty
        if not config.set_runtime_cache(self._kernels):
            raise self.refusal("refuses its runtime cache")
        return config

    def _save_kernels(self) -> None:
        kernels = self._kernels.serialize()
        if kernels is None:
            return
        with suppress(ArtifactError):  # a file that is not ours is replaced
            if self._cache.load_kernels(self.key) == bytes(kernels):
                return
        self._cache.store_kernels(self.key, bytes(kernels))


def _described(spec: TensorSpec, *, is_input: bool) -> tuple[str, str, bool]:
    return spec.name, spec.dtype, is_input
