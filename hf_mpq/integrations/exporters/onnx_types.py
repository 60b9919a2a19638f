"""Smaller types for integers in an ONNX graph."""

import numpy as np

SMALLEST = 1024
"""Tensors with fewer values stay as they are."""
INT4_OPSET, INT4_IR = 21, 10


def halve_small_integers(graph) -> int:
    """Store int8 tensors whose values need four bits as int4, with a cast behind them, in place.

    Runtimes fold the cast when they load the file: they compute with int8 as before.

    Args:
        graph: `onnx.ModelProto` with its weights inside.

    Returns:
        How many tensors.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts, kept = [], []
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.INT8 else None
        if values is None or values.size < SMALLEST or values.min() < -8 or values.max() > 7:
            kept.append(tensor)
            continue
        name = f"{tensor.name}_int4"
        kept.append(helper.make_tensor(name, TensorProto.INT4, values.shape, pairs(values), raw=True))
        casts.append(helper.make_node("Cast", [name], [tensor.name], f"{name}_cast", to=TensorProto.INT8))
    if casts:
        del graph.graph.initializer[:]
        graph.graph.initializer.extend(kept)
        nodes = [*casts, *graph.graph.node]
        del graph.graph.node[:]
        graph.graph.node.extend(nodes)
        next(one for one in graph.opset_import if one.domain in ("", "ai.onnx")).version = INT4_OPSET
        graph.ir_version = max(graph.ir_version, INT4_IR)
    return len(casts)


def pairs(values: np.ndarray) -> bytes:
    """Values from -8 to 7, two in a byte, the first in the lower half."""
    flat = values.astype(np.int8).flatten() & 0xF
    flat = np.append(flat, 0) if flat.size % 2 else flat
    return (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8).tobytes()
