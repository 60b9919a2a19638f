"""How many bytes one packed matrix takes, part by part: the one rule for the packer, the loader and the cost model."""

from .mask import FLAGS, MaskStorage
from .matrix import MatrixStorage
from .sizes import ITEM_BYTES, plane_bytes

__all__ = ["FLAGS", "ITEM_BYTES", "MaskStorage", "MatrixStorage", "plane_bytes"]
