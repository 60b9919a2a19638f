"""Integer products on the CPU, and whole encoder layers around them."""

from ...nn.integers import IntegerMatrix
from .layer import Int8Layer, fuse_layers, restore_layers
from .native import NativeProduct, use_native_products
from .product import Int8Product, unsupported

__all__ = [
    "Int8Layer",
    "Int8Product",
    "IntegerMatrix",
    "NativeProduct",
    "fuse_layers",
    "restore_layers",
    "unsupported",
    "use_native_products",
]
