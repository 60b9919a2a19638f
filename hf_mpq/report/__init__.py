"""Tables, plots and text about compressed models."""

from .bit_map import bit_map
from .size_report import SizeReport, size_report

__all__ = ["SizeReport", "bit_map", "size_report"]
