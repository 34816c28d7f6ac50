"""From ONNX bytes to TensorRT's network, always strongly typed: the graph says the precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeseg.engines.library import Library
from edgeseg.engines.log import failure
from edgeseg.errors import ArtifactError, ResourceError, show
from edgeseg.manifest import TensorSpec

_SHOWN_ERRORS = 3


@dataclass(frozen=True)
class Parsed:
    """A parsed network with all that must live as long: the parser owns its weights."""

    builder: Any
    network: Any
    parser: Any
    model: bytes


def parse(library: Library, model: bytes, name: str, *, for_dla: bool = False) -> Parsed:
    """Parse an ONNX file; ``name`` is for messages.

    Raises:
        ArtifactError: this TensorRT does not know an operator, a type or the opset.
        DeviceError: TensorRT cannot start.
        ResourceError: out of memory.
    """
    trt = library.module
    library.log.clear()
    try:
        builder = trt.Builder(library.logger)
    except (RuntimeError, TypeError) as error:  # pybind11's words for "the factory returned null"
        raise failure(library.log, f"{library.title} cannot start") from error
    # Through the enum: the flag's number moved between 10 and 11.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, library.logger)
    if for_dla and (adjust := getattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA", None)) is not None:
        parser.set_flag(adjust)
    if not parser.parse(model):
        raise _refusal(library, parser, name)
    return Parsed(builder, network, parser, model)


def check_input(parsed: Parsed, spec: TensorSpec, name: str) -> None:
    """Check that the network has the one input that the bundle's manifest describes.

    Raises:
        ArtifactError: it has not.
    """
    network = parsed.network
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    found = [(tensor.name, tensor.dtype.name.lower(), len(tensor.shape)) for tensor in inputs]
    expected = (spec.name, spec.dtype, len(spec.shape))
    if found != [expected]:
        raise ArtifactError(
            f"{name} has the inputs {found}; its bundle's manifest says {expected}; export again"
        )


def _refusal(library: Library, parser: Any, name: str) -> ArtifactError | ResourceError:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    said = "; ".join(dict.fromkeys(_describe(error) for error in errors[:_SHOWN_ERRORS]))
    no_memory = library.module.ErrorCode.MEM_ALLOC_FAILED  # compared, as 10.3's has no usable .name
    if any(error.code() == no_memory for error in errors):
        return ResourceError(f"{library.title} ran out of memory reading {name}: {said}")
    more = f" (and {len(errors) - _SHOWN_ERRORS} more)" if len(errors) > _SHOWN_ERRORS else ""
    return ArtifactError(
        f"{library.title} does not take {name}: {said or 'no reason was given'}{more}; "
        "use another variant, or export again"
    )


def _describe(error: Any) -> str:
    where = error.node_name()
    at = f"node {show(where)} ({error.node_operator()}): " if where else ""
    return at + " ".join(error.desc().split())
