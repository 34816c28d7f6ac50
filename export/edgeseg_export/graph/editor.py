"""Take an ONNX graph apart and put it together again: what the rewrites share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

PLAIN = {"group": 1, "auto_pad": b"NOTSET", "dilations": [1, 1], "strides": [1, 1]}


class Graph:
    """A copy of a model's graph to work on; ``replace`` keeps the nodes' topological order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._nodes = list(self._model.graph.node)
        self._outputs = {value.name for value in model.graph.output}
        self.constants: dict[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self._before = dict(self.constants)

    def of_type(self, op_type: str) -> list[NodeProto]:
        """Return the nodes of a type, in order."""
        return [node for node in self._nodes if node.op_type == op_type]

    def producer(self, name: str, op_type: str | None = None) -> NodeProto | None:
        """Return the node that makes a tensor, if it is of the type."""
        node = next((node for node in self._nodes if name in node.output), None)
        return node if node is None or op_type in (None, node.op_type) else None

    def only_consumer(self, name: str) -> NodeProto | None:
        """Return the node that alone uses a tensor."""
        found = [node for node in self._nodes for used in node.input if used == name]
        return found[0] if len(found) == 1 and name not in self._outputs else None

    def has_own_constants(self, node: NodeProto) -> bool:
        """Return whether weight and bias are constants that no other node uses."""
        return all(name in self.constants and self.only_consumer(name) for name in node.input[1:])

    def head(self) -> NodeProto | None:
        """Return the last convolution, if it is a plain 1x1 one with a bias."""
        last = next(iter(reversed(self.of_type("Conv"))), None)
        if last is None or len(last.input) != 3 or last.input[1] not in self.constants:
            return None
        plain = self.constants[last.input[1]].shape[2:] == (1, 1) and is_plain(last)
        return last if plain else None

    def same_scale(self, one: NodeProto, other: NodeProto) -> bool:
        """Return whether two Q/DQ nodes have equal scales and zero points."""
        pairs = zip(one.input[1:], other.input[1:], strict=True)
        return all(np.array_equal(self.constants[a], self.constants[b]) for a, b in pairs)

    def replace(self, old: NodeProto, *new: NodeProto) -> None:
        """Put nodes, or none, in the place of one."""
        position = next(i for i, node in enumerate(self._nodes) if node is old)
        self._nodes[position : position + 1] = new

    def use_instead(self, old: str, new: str) -> None:
        """Let every node read the tensor ``new`` where it read ``old``."""
        for node in self._nodes:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new

    def to_model(self) -> onnx.ModelProto:
        """Return the model without nodes and constants that nothing uses any more."""
        graph = self._model.graph
        nodes = self._alive()
        used = {name for node in nodes for name in node.input}
        untouched = {
            tensor.name: tensor
            for tensor in graph.initializer
            if self.constants[tensor.name] is self._before[tensor.name]
        }
        tensors = [
            untouched.get(name) or numpy_helper.from_array(np.asarray(values, order="C"), name)
            for name, values in self.constants.items()
            if name in used
        ]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(tensors)
        return self._model

    def _alive(self) -> list[NodeProto]:
        needed, alive = set(self._outputs), []
        for node in reversed(self._nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                alive.append(node)
        return alive[::-1]


def make_node(
    op_type: str, inputs: Iterable[str], output: str, name: str, **attributes: Any
) -> NodeProto:
    """Return a node with one output."""
    return helper.make_node(op_type, list(inputs), [output], name, **attributes)


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def has_only(node: NodeProto, expected: dict[str, Any], *others: str) -> bool:
    """Return whether a node has no attributes but ``others`` and expected values."""
    found = {name: value for name, value in attributes_of(node).items() if name not in others}
    return all(name in expected and expected[name] == value for name, value in found.items())


def is_plain(convolution: NodeProto) -> bool:
    """Return whether a convolution has neither groups, strides, dilation nor padding."""
    return has_only(convolution, {**PLAIN, "pads": [0, 0, 0, 0]}, "kernel_shape")


def inferred_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the inferred shapes; free dimensions are None."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
    }
