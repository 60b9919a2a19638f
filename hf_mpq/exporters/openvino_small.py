"""Smaller constants in an OpenVINO graph."""

from collections.abc import Sequence

import numpy as np

from .small_constants import halved, small_integers


def shrink_openvino(model) -> None:
    """As `shrink_onnx`, in place; compiling undoes it.

    Args:
        model: `openvino.Model`.
    """
    import openvino

    build = OpenVinoBuilder()
    for node in model.get_ops():
        if node.get_type_name() != "Constant":
            continue
        found = None
        if node.get_element_type() == openvino.Type.i8:
            found = small_integers(node.get_data(), build)
        elif node.get_element_type() == openvino.Type.f32 and (half := halved(node.get_data())) is not None:
            found = build.cast(build.constant(half), "float32")
        if found is not None:
            for reader in list(node.output(0).get_target_inputs()):
                reader.replace_source_output(found.output(0))


class OpenVinoBuilder:
    """Nodes stand for tensors."""

    overhead = 2048

    def __init__(self):
        from openvino import opset13

        self.ops = opset13
        self._constants: dict[tuple, object] = {}

    def constant(self, array: np.ndarray):
        """Equal ones are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        return self._constants.setdefault(key, self.ops.constant(array))

    def cast(self, x, dtype: str):
        """To a type by its numpy name."""
        from openvino import Type

        return self.ops.convert(x, Type(np.dtype(dtype)).get_type_name())

    def add(self, x, y):
        """Sum."""
        return self.ops.add(x, y)

    def gather(self, x, index, axis: int):
        """Rows or columns."""
        return self.ops.gather(x, index, self.constant(np.array(axis)))

    def head(self, x, count: int):
        """First values."""
        return self.ops.slice(x, self._numbers(0), self._numbers(count), self._numbers(1))

    def reshape(self, x, shape: Sequence[int]):
        """To a shape."""
        return self.ops.reshape(x, self._numbers(*shape), False)

    def concat(self, parts: Sequence, axis: int):
        """One behind the other."""
        return self.ops.concat(list(parts), axis)

    def _numbers(self, *numbers: int):
        return self.constant(np.array(numbers, np.int64))
