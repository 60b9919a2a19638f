"""What surrounds integer products, and products with bit planes, in Triton. Nothing else imports Triton."""

from .finish import finished
from .quantize import input_codes
from .unpack import float_product, integer_product

__all__ = ["finished", "float_product", "input_codes", "integer_product"]
