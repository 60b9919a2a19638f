"""The C interface of the kernel in ctypes: field by field as in `kernel/interface.h`."""

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

GELU, GELU_TANH, RELU = range(3)
OUTSIDE_TABLE, NO_MEMORY = 1, 2


class Grid(Structure):
    """What an activation is quantized to."""

    _fields_ = (
        ("dynamic", c_int32),
        ("symmetric", c_int32),
        ("levels", c_float),
        ("step", c_float),
        ("zero", c_float),
    )


BLOCKS, NOWHERE = 64, -1


class Block(Structure):
    """Rows of one precision among stored bit planes."""

    _fields_ = (
        ("planes", c_void_p),
        ("plane", c_int64),
        ("bits", c_int32),
        ("slope", c_int32),
        ("shift", c_int32),
    )


class Planes(Structure):
    """Where levels are stored as bit planes."""

    _fields_ = (("blocks", POINTER(Block)), ("places", c_void_p), ("line", c_int64))


class Matrix(Structure):
    """Levels, or planes of them, and a scale, an offset and a bias per row."""

    _fields_ = (
        ("levels", c_void_p),
        ("scale", c_void_p),
        ("offset", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("input_scale", c_void_p),
        ("input_shift", c_void_p),
        ("planes", Planes),
    )


class Norm(Structure):
    """A layer normalisation."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("eps", c_float))


class Table(Structure):
    """Rows that are looked up."""

    _fields_ = (
        ("floats", c_void_p),
        ("levels", c_void_p),
        ("scale", c_void_p),
        ("offset", c_void_p),
        ("rows", c_int64),
        ("planes", Planes),
    )


class Layer(Structure):
    """An encoder layer."""

    _fields_ = (
        *((name, Matrix) for name in ("query", "key", "value", "output", "up", "down")),
        *((name, Grid) for name in ("attend_grid", "output_grid", "up_grid", "down_grid")),
        ("value_grid", Grid),
        ("value_apart", c_int32),
        ("attention_norm", Norm),
        ("norm", Norm),
        ("heads", c_int64),
        ("activation", c_int32),
        ("gated", c_int32),
        ("scale", c_float),
        ("turn", c_int32),
        ("window", c_int64),
        ("position_key", c_void_p),
        ("position_query", c_void_p),
    )


class Encoder(Structure):
    """A whole encoder."""

    _fields_ = (
        ("width", c_int64),
        ("hidden", c_int64),
        *((name, Table) for name in ("words", "positions", "types")),
        ("embedding_norm", Norm),
        ("projection", Matrix),
        ("projection_grid", Grid),
        ("norm_last", c_int32),
        ("norm_first", c_int32),
        ("final_norm", Norm),
        ("turns", c_void_p),
        ("turn_kinds", c_int64),
        ("turn_positions", c_int64),
        ("places", c_void_p),
        ("distances", c_int64),
        ("place_count", c_int64),
        ("relative", c_void_p),
        ("span", c_int64),
        ("layers", c_int64),
        ("distinct", POINTER(Layer)),
        ("order", POINTER(c_int32)),
        ("distinct_layers", c_int64),
        ("bfloat16", c_int32),
        ("pooler", Matrix),
        ("pooler_grid", Grid),
    )


class Request(Structure):
    """One batch."""

    _fields_ = (
        ("batch", c_int64),
        ("tokens", c_int64),
        *((name, c_void_p) for name in ("ids", "embedded", "mask", "positions", "types", "out", "pooled")),
        ("threads", c_int32),
    )
