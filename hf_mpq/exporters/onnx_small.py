"""Smaller constants in an ONNX graph."""

from collections.abc import Sequence

import numpy as np

from .small_constants import halved, small_integers


def shrink_onnx(graph) -> None:
    """Store integer matrices row by row in the bits that they need, and floats in two bytes where that rounds none of
    them, in place.

    Runtimes undo it once, when they load the file: they compute as before.

    Args:
        graph: `onnx.ModelProto` with its weights inside.
    """
    from onnx import TensorProto, numpy_helper

    build, kept = OnnxBuilder(), []
    for tensor in graph.graph.initializer:
        values, found = numpy_helper.to_array(tensor), None
        if tensor.data_type == TensorProto.INT8:
            found = small_integers(values, build)
        elif tensor.data_type == TensorProto.FLOAT and (half := halved(values)) is not None:
            found = build.cast(build.constant(half), "float32")
        if found is None:
            kept.append(tensor)
        else:
            build.name_last(tensor.name)
    nodes = [*build.nodes, *graph.graph.node]
    del graph.graph.initializer[:], graph.graph.node[:]
    graph.graph.initializer.extend([*kept, *build.tensors])
    graph.graph.node.extend(nodes)


class OnnxBuilder:
    """Nodes and initializers; names stand for tensors."""

    overhead = 512

    def __init__(self):
        self.nodes, self.tensors = [], []
        self._names: dict[tuple, str] = {}

    def constant(self, array: np.ndarray) -> str:
        """Equal ones are stored once."""
        from onnx import numpy_helper

        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = f"small_{len(self.tensors)}"
            self.tensors.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def name_last(self, name: str) -> None:
        """What the last node gives."""
        self.nodes[-1].output[0] = name

    def cast(self, x: str, dtype: str) -> str:
        """To a type by its numpy name."""
        from onnx import helper

        return self._node("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def add(self, x: str, y: str) -> str:
        """Sum."""
        return self._node("Add", x, y)

    def gather(self, x: str, index: str, axis: int) -> str:
        """Rows or columns."""
        return self._node("Gather", x, index, axis=axis)

    def head(self, x: str, count: int) -> str:
        """First values."""
        return self._node("Slice", x, self._numbers(0), self._numbers(count))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """To a shape."""
        return self._node("Reshape", x, self._numbers(*shape))

    def concat(self, parts: Sequence[str], axis: int) -> str:
        """One behind the other."""
        return self._node("Concat", *parts, axis=axis)

    def _numbers(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def _node(self, kind: str, *inputs: str, **attributes) -> str:
        from onnx import helper

        output = f"unpacked_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output
