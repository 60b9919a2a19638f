"""Integer products for tensor cores, and products straight from bit planes where there are few tokens."""

from .floats import PlanesProduct
from .integer_rows import IntegerRows
from .product import TensorCoreProduct
from .support import kernels_for, lacking

__all__ = ["IntegerRows", "PlanesProduct", "TensorCoreProduct", "kernels_for", "lacking"]
