"""Tables, plots and text about compressed models."""

from .size_report import SizeReport, size_report

__all__ = ["SizeReport", "size_report"]
